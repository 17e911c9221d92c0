"""Vision file, float -> int8: static QDQ, weights a channel, activations uint8.

Left in float: products of two activations (attention; ONNX Runtime's fusions answer wrongly with
them in int8, and say nothing), and the last layers, whose output would be cut off at the ranges
that were seen. The last layer of landmarks, pose and gaze is the largest: its weights are int8, and
what comes out of it is not rounded.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from feallm.model.vision import VisionNetwork
from feallm.runtime.backends.base import (
    ALL_OUTPUTS,
    AU_PROBABILITY,
    EXPRESSION,
    IMAGE,
    PLACE_OUTPUTS,
    TOKENS,
)
from feallm.runtime.contract.errors import VerificationError

MOST_APART = 0.02
"""How far AU probabilities may lie from the float network's, on average."""
LEAST_ALIKE = 0.95
"""Share of faces whose first expression must be the float network's."""

if TYPE_CHECKING:
    import onnx

KINDS = ("Conv", "MatMul", "Gemm")
_BATCH = 32


class _Reader:
    """Feeds crops to ONNX Runtime's calibration."""

    def __init__(self, crops: NDArray[np.uint8]) -> None:
        self._parts: Iterator[NDArray[np.uint8]] = iter(
            np.array_split(crops, max(1, len(crops) // _BATCH))
        )

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        part = next(self._parts, None)
        return None if part is None else {IMAGE: part}


def quantize(source: Path, crops: NDArray[np.uint8], out: Path) -> None:
    """Write the int8 form of the float file `source`, with ranges of `crops` (N, H, W, 3)."""
    import onnx
    from onnxruntime.quantization import (
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it advises what is done already
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "ready.onnx"
        quant_pre_process(str(source), str(ready), skip_symbolic_shape=True)
        quantize_static(
            str(ready),
            str(out),
            _Reader(crops),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=list(KINDS),
            nodes_to_exclude=_floats(onnx.load(str(ready))),
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"CalibMovingAverage": True, "CalibMovingAverageConstant": 0.05},
        )
    root.setLevel(level)
    model = onnx.load(str(out))
    _unround(model, PLACE_OUTPUTS)
    model.doc_string = ""
    own = [one for one in model.opset_import if one.domain in ("", "ai.onnx")]
    del model.opset_import[:]
    model.opset_import.extend(own)
    del model.metadata_props[:]
    out.write_bytes(model.SerializeToString(deterministic=True))


def _floats(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes that stay float."""
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    made = {name: node for node in model.graph.node for name in node.output}
    kept: set[str] = set()
    for node in model.graph.node:
        if node.op_type == "MatMul":
            weights = [constants[name] for name in node.input if name in constants]
            # A mirror moves numbers and must not round them.
            if not weights or _moves_only(numpy_helper.to_array(weights[0])):
                kept.add(node.name)
    no_layers = frozenset(kept)
    there = {value.name for value in model.graph.output}
    heads = [name for name in ALL_OUTPUTS if name not in (TOKENS, *PLACE_OUTPUTS)]
    for name in heads:
        if name in there:
            kept |= _last(name, made, no_layers)
    return sorted(kept)


def _unround(model: onnx.ModelProto, outputs: tuple[str, ...]) -> None:
    """Take away what rounds the last layers of these outputs: the nearest pair of QuantizeLinear
    and DequantizeLinear above each."""
    made = {name: node for node in model.graph.node for name in node.output}
    gone: list[onnx.NodeProto] = []
    wanted, seen = [name for name in outputs if name in made], set[str]()
    while wanted:
        name = wanted.pop()
        if name in seen or name not in made:
            continue
        seen.add(name)
        node = made[name]
        above = made.get(node.input[0]) if node.input else None
        if node.op_type == "DequantizeLinear" and above is not None:
            for user in model.graph.node:
                for k, given in enumerate(user.input):
                    if given == name:
                        user.input[k] = above.input[0]
            gone += [node, above]
        elif node.op_type not in KINDS:
            wanted += node.input
    for node in gone:
        if node in model.graph.node:
            model.graph.node.remove(node)


def _moves_only(weight: NDArray[np.float32]) -> bool:
    """Whether a matrix only puts numbers into another order."""
    ones = weight == 1
    return weight.ndim == 2 and bool(
        ((weight == 0) | ones).all() and (ones.sum(0) <= 1).all() and (ones.sum(1) <= 1).all()
    )


def _last(name: str, made: dict[str, onnx.NodeProto], through: frozenset[str]) -> set[str]:
    """The nearest layers with weights before an output; those in `through` are no layers."""
    node = made.get(name)
    if node is None:
        return set()
    if node.op_type in KINDS and node.name not in through:
        return {node.name}
    found: set[str] = set()
    for one in node.input:
        found |= _last(one, made, through)
    return found


def agree(network: VisionNetwork, path: Path, crops: NDArray[np.uint8]) -> dict[str, float]:
    """How far the int8 file's answers lie from torch's on crops (N, H, W, 3) that it was not
    calibrated on; `VerificationError` where that is too far."""
    import torch

    from feallm.runtime.backends.onnx import OnnxVision

    backend = OnnxVision(path)
    found, wanted = [], []
    for part in np.array_split(crops, max(1, len(crops) // _BATCH)):
        answers = backend.run({IMAGE: part})
        found.append((answers[AU_PROBABILITY], answers[EXPRESSION]))
        with torch.no_grad():
            exact = network.eval()(torch.from_numpy(part))
        wanted.append((exact[0].numpy(), exact[2].numpy()))
    aus, words = (np.concatenate(values) for values in zip(*found, strict=True))
    true_aus, true_words = (np.concatenate(values) for values in zip(*wanted, strict=True))
    apart = float(np.abs(aus - true_aus).mean())
    alike = float((words.argmax(1) == true_words.argmax(1)).mean())
    if not (apart <= MOST_APART and alike >= LEAST_ALIKE):
        raise VerificationError(
            f"{path.name}: AU probabilities lie {apart:.3f} from torch's on average (at most"
            f" {MOST_APART}), {alike:.3f} of the expressions are the same (at least {LEAST_ALIKE})"
        )
    return {"au_apart": apart, "expressions_alike": alike}
