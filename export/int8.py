"""Vision file, float -> int8: static QDQ, weights a channel, activations uint8.

In int8: the encoder's convolutions, which take most of the time, and the three widest matrices,
which take most of the bytes. In float: the first convolution, which sees every level of gray; the
matrices of LCA and MPP (docs/calibration.md: in int8 that of the LCA alone changes more decisions
than all convolutions, and they were no faster); products of two activations (ONNX Runtime's fusions
answer wrongly with them in int8, and say nothing); and the heads, whose output would be cut off at
the ranges that were seen. What comes out of the layer of landmarks, pose and gaze is not rounded.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from feallm.calibration import ranges
from feallm.model.vision import VisionNetwork
from feallm.runtime.backends.base import (
    AU_PROBABILITY,
    EXPRESSION,
    IMAGE,
    PLACE_OUTPUTS,
)
from feallm.runtime.contract.errors import VerificationError

MOST_APART = 0.01
"""How far AU probabilities may lie from the float network's, on average."""
LEAST_ALIKE = 0.95
"""Share of faces whose first expression must be the float network's."""

if TYPE_CHECKING:
    import onnx

MOST_MOVED = 0.005
"""How much ONNX Runtime's fusions may change AU probabilities on average: they round in another
order, which moves them by .0017."""
KINDS = ("Conv", "MatMul", "Gemm")
WIDE = ("place_head", "token_mlp", "local_token")
_BATCH = 32


def quantize(source: Path, crops: NDArray[np.uint8], out: Path) -> None:
    """Write the int8 form of the float file `source`, with ranges of `crops` (N, H, W, 3)."""
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder, _unadvised():
        ready = Path(folder) / "ready.onnx"
        quant_pre_process(str(source), str(ready), skip_symbolic_shape=True)
        found = ranges.measure(ready, crops)
        model = onnx.load(str(ready))
        _cut_at_relu(model, found)
        ends = {
            name: TensorData(lowest=np.float32(low), highest=np.float32(high))
            for name, (low, high) in found.items()
        }
        quantizer = QDQQuantizer(
            model,
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=TensorsData(CalibrationMethod.MinMax, ends),
            nodes_to_quantize=chosen(model),
            nodes_to_exclude=[],
            op_types_to_quantize=list(KINDS),
            extra_options={},
        )
        quantizer.quantize_model()
    model = quantizer.model.model
    _unround(model, PLACE_OUTPUTS)
    model.doc_string = ""
    own = [one for one in model.opset_import if one.domain in ("", "ai.onnx")]
    del model.opset_import[:]
    model.opset_import.extend(own)
    del model.metadata_props[:]
    out.write_bytes(model.SerializeToString(deterministic=True))


@contextlib.contextmanager
def _unadvised() -> Iterator[None]:
    """Without ONNX Runtime's advice, which goes to the root logger, to do what is done already."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def _cut_at_relu(model: onnx.ModelProto, found: dict[str, tuple[float, float]]) -> None:
    """A convolution that a ReLU alone reads is rounded before it: half of the steps would be spent
    on what the ReLU throws away. Its range becomes the ReLU's."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for node in model.graph.node:
        if node.op_type == "Conv":
            after = readers.get(node.output[0], [])
            if [one.op_type for one in after] == ["Relu"]:
                found[node.output[0]] = found[after[0].output[0]]


def chosen(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes that become int8. Nodes are named after the layer that they are of
    (`export.onnx`)."""
    constants = {tensor.name for tensor in model.graph.initializer}
    convolutions = [
        node
        for node in model.graph.node
        if node.op_type == "Conv" and node.name.startswith("encoder.")
    ]
    wide = [
        node
        for node in model.graph.node
        if node.op_type in ("Gemm", "MatMul")
        and node.name.startswith(WIDE)
        and any(name in constants for name in node.input)
    ]
    names = [node.name for node in (*convolutions[1:], *wide)]
    if len(convolutions) < 2 or not wide:
        raise VerificationError("this graph's layers have lost their names")
    return names


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
    read = {name for node in model.graph.node for name in node.input}
    unread = [tensor for tensor in model.graph.initializer if tensor.name not in read]
    for tensor in unread:  # ONNX Runtime would warn of each, at every load
        model.graph.initializer.remove(tensor)


def agree(network: VisionNetwork, path: Path, crops: NDArray[np.uint8]) -> dict[str, float]:
    """`gaps`; `VerificationError` where they are too wide, or where fusions change the answers."""
    found = gaps(network, path, crops)
    apart, alike = found["au_apart"], found["expressions_alike"]
    if not (apart <= MOST_APART and alike >= LEAST_ALIKE):
        raise VerificationError(
            f"{path.name}: AU probabilities lie {apart:.3f} from torch's on average (at most"
            f" {MOST_APART}), {alike:.3f} of the expressions are the same (at least {LEAST_ALIKE})"
        )
    moved = fusions_move(path, crops[:_BATCH])
    if not moved <= MOST_MOVED:
        raise VerificationError(
            f"{path.name}: ONNX Runtime's fusions move AU probabilities by {moved:.3f},"
            f" at most {MOST_MOVED} is allowed"
        )
    return found


def gaps(network: VisionNetwork, path: Path, crops: NDArray[np.uint8]) -> dict[str, float]:
    """How far the int8 file's answers lie from torch's on crops (N, H, W, 3) that it was not
    calibrated on: mean |difference| of AU probabilities, share of expressions alike."""
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
    return {
        "au_apart": float(np.abs(aus - true_aus).mean()),
        "expressions_alike": float((words.argmax(1) == true_words.argmax(1)).mean()),
    }


def fusions_move(path: Path, crops: NDArray[np.uint8]) -> float:
    """Mean change of AU probabilities between the graph as ONNX Runtime fuses it and as it stands.
    Fused int8 attention has been seen to answer wrongly, and nothing else told."""
    fused, plain = (answers_at(path, crops, f"ORT_ENABLE_{level}") for level in ("ALL", "BASIC"))
    return float(np.abs(fused - plain).mean())


def answers_at(path: Path, crops: NDArray[np.uint8], level: str) -> NDArray[np.float32]:
    """AU probabilities (N, 20) with ONNX Runtime's optimizations of this level."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    found: NDArray[np.float32] = session.run([AU_PROBABILITY], {IMAGE: crops})[0]
    return found
