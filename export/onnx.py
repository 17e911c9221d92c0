"""Vision network -> ONNX, opset 20 (OpenCV's own engine crashes on 18): float32, float16, int8.

Nodes are named after the layer that they are of, so that what drifts, or is left out of a
quantization, can be said by name.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import io
import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from feallm.export.job import Job
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
MOST_APART = {"fp32": 1e-3, "fp16": 1e-2}
"""How far a probability of the file may lie from torch's. ONNX Runtime on aarch64 also adds up in
float16, which it does not on x86: there ten times as much was measured."""


def make(job: Job, precision: str, path: Path) -> None:
    """The vision file in fp32, fp16 or int8."""
    from feallm.export import int8

    network = job.checkpoint.vision
    if precision == "int8":
        source = job.scratch / "vision.fp32.onnx"
        if not source.is_file():
            make(job, "fp32", source)
        int8.quantize(source, job.crops, path)
        int8.agree(network, path, job.held_out)
        return
    export_vision(network if precision == "fp32" else half(network), path)
    if precision == "fp16":
        _pool_without_kernel(path)
    agree(network, path, MOST_APART[precision])


def _pool_without_kernel(path: Path) -> None:
    """Poolings as means over an axis, in the file: ONNX Runtime on aarch64 (1.31) lays float16
    pooling out in a way that it has no kernel for, and then cannot load the file."""
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(str(path))
    graph = model.graph
    known = {value.name: value.type.tensor_type.shape.dim for value in graph.value_info}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type != "AveragePool":
            nodes.append(node)
            continue
        rows, columns = next(a.ints for a in node.attribute if a.name == "kernel_shape")
        _, channels, height, width = (size.dim_value for size in known[node.input[0]])
        cells = [-1, channels, height // rows, rows, width // columns, columns]
        for suffix, values in (("/cells", cells), ("/axes", [3, 5])):
            array = numpy_helper.from_array(np.array(values, np.int64), node.name + suffix)
            graph.initializer.append(array)
        cut, name = f"{node.name}/cut", node.name
        nodes += [
            helper.make_node("Reshape", [node.input[0], f"{name}/cells"], [cut], cut),
            helper.make_node("ReduceMean", [cut, f"{name}/axes"], node.output, name, keepdims=0),
        ]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString(deterministic=True))


class _Half(nn.Module):
    """The network in float16, but for what needs more: 255 levels of three colours are added up,
    and answers are given, in float32."""

    def __init__(self, network: VisionNetwork) -> None:
        super().__init__()
        pixels = network.pixels
        self.network = copy.deepcopy(network).half()
        self.network.pixels = _Then(copy.deepcopy(pixels).float())  # type: ignore[assignment]  # stands in for it
        self.sided = network.sided

    def forward(self, crops: Tensor) -> tuple[Tensor, ...]:
        return tuple(value.float() for value in self.network(crops))


class _Then(nn.Module):
    def __init__(self, pixels: nn.Module) -> None:
        super().__init__()
        self.pixels = pixels

    def forward(self, crops: Tensor) -> Tensor:
        picture: Tensor = self.pixels(crops).half()
        return picture


def half(network: VisionNetwork) -> VisionNetwork:
    """A copy that computes in float16, with the same inputs and outputs."""
    return _Half(network)  # type: ignore[return-value]  # what an exporter asks of a network, it has


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
    model = _bare(_named(program.model_proto))
    if model.opset_import[0].version != OPSET:
        raise VerificationError(f"asked for opset {OPSET}, got {model.opset_import[0].version}")
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString(deterministic=True))


def outputs_of(network: VisionNetwork) -> tuple[str, ...]:
    """Names of the network's outputs, in its own order."""
    return ALL_OUTPUTS if network.sided else VISION_OUTPUTS


def _named(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with each node named `layer/Kind`, and counted where a layer has more of a kind."""
    seen: dict[str, int] = {}
    for node in model.graph.node:
        scopes = [p.value for p in node.metadata_props if p.key == "pkg.torch.onnx.name_scopes"]
        inside = [str(name) for name in ast.literal_eval(scopes[0])] if scopes else []
        layer = inside[-2] if len(inside) > 1 else ""
        name = f"{layer.removeprefix('network.') or 'network'}/{node.op_type}"
        seen[name] = seen.get(name, 0) + 1
        node.name = name if seen[name] == 1 else f"{name}_{seen[name]}"
    return model


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


def agree(network: VisionNetwork, path: Path, most: float = MOST_APART["fp32"]) -> None:
    """`VerificationError` where the file's probabilities are not the network's, on 8 crops."""
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (8, CROP.height_px, CROP.width_px, 3), dtype=np.uint8)
    crops[::2] = crops[::2, :1, :1]  # flat ones, beside pure noise
    worst = difference(network, path, crops)
    for name in (AU_PROBABILITY, EXPRESSION):
        if not worst[name] <= most:
            raise VerificationError(
                f"{path.name}: {name} differs from torch by {worst[name]:.2g},"
                f" at most {most:g} is allowed"
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
