"""Vision network -> ONNX, float32, opset 20 (OpenCV's own engine crashes on 18)."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from feallm.model.vision import VisionNetwork
from feallm.runtime.backends.base import (
    ALL_OUTPUTS,
    AU_PROBABILITY,
    EXPRESSION,
    IMAGE,
    VISION_OUTPUTS,
)
from feallm.runtime.contract.errors import VerificationError
from feallm.runtime.contract.geometry import CROP

if TYPE_CHECKING:
    import onnx

OPSET = 20
MOST_APART = 1e-3
"""How far a probability of the file may lie from torch's."""


def export_vision(network: VisionNetwork, path: Path) -> None:
    """Write the network as ONNX with a free batch axis; its opset is asserted, since the exporter
    only logs when it cannot give the one asked for."""
    import onnx

    network = network.eval()
    example = torch.zeros((2, CROP.height_px, CROP.width_px, 3), dtype=torch.uint8)
    batch = torch.export.Dim("faces", min=1, max=4096)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[IMAGE],
            output_names=list(outputs_of(network)),
            dynamic_shapes={"crops": {0: batch}},
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise VerificationError("the ONNX exporter gave nothing")
    model = _bare(program.model_proto)
    if model.opset_import[0].version != OPSET:
        raise VerificationError(f"asked for opset {OPSET}, got {model.opset_import[0].version}")
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString(deterministic=True))


def outputs_of(network: VisionNetwork) -> tuple[str, ...]:
    """Names of the network's outputs, in its own order."""
    return ALL_OUTPUTS if network.sided else VISION_OUTPUTS


def _bare(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without the exporter's notes on source lines, which name paths of the machine."""
    model.doc_string = ""
    del model.metadata_props[:]
    for part in (model.graph, *model.functions):
        part.doc_string = ""
        del part.metadata_props[:]
        for node in part.node:
            node.doc_string = ""
            del node.metadata_props[:]
        for value in part.value_info:
            del value.metadata_props[:]
    return model


def agree(network: VisionNetwork, path: Path) -> None:
    """`VerificationError` where the file's probabilities are not the network's, on 8 crops."""
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (8, CROP.height_px, CROP.width_px, 3), dtype=np.uint8)
    crops[::2] = crops[::2, :1, :1]  # flat ones, beside pure noise
    worst = difference(network, path, crops)
    for name in (AU_PROBABILITY, EXPRESSION):
        if not worst[name] <= MOST_APART:
            raise VerificationError(
                f"{path.name}: {name} differs from torch by {worst[name]:.2g},"
                f" at most {MOST_APART:g} is allowed"
            )


def difference(network: VisionNetwork, path: Path, crops: NDArray[np.uint8]) -> dict[str, float]:
    """Largest absolute difference of each output between the file and torch, on uint8 crops."""
    from feallm.runtime.backends.onnx import OnnxVision

    backend = OnnxVision(path)
    worst = dict.fromkeys(outputs_of(network), 0.0)
    for k in range(0, len(crops), 64):
        part = crops[k : k + 64]
        found = backend.run({IMAGE: part})
        with torch.no_grad():
            expected = dict(zip(worst, network(torch.from_numpy(part)), strict=True))
        for name, value in expected.items():
            gap = float(np.abs(found[name] - value.numpy()).max())
            worst[name] = max(worst[name], gap)
    return worst
