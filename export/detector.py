"""Detector -> ONNX in the layout of YuNet, written node by node, and into a bundle.

    python -m feallm.export.detector --bundle edge --score 0.5 --out NEW \\
        --checkpoint model/checkpoints/detector.safetensors

FaceDetectorYN asks for twelve outputs by name and feeds pictures of any size, so no shape may be
baked in: the exporter's dynamic shapes would leave nodes that OpenCV 4 cannot read. Weights lie in
the file as float16 and are cast where they are used: half the size, the same boxes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from feallm.export.bundle import artifact_of, checkpoint_sha256, write_manifest
from feallm.export.workplace import copy
from feallm.model.detector.checkpoint import load_weights, read_page
from feallm.model.detector.network import PARTS, STRIDES, Detector, Unit
from feallm.runtime.bundle.open import Bundle, open_bundle
from feallm.runtime.contract.errors import LimitError, UsageError, VerificationError
from feallm.runtime.contract.manifest import MANIFEST
from feallm.runtime.vision.detect import DetectorFile, Search

FILE = "detector.onnx"
SIDE_PX = 320
"""The size that the file states. OpenCV runs it at any; with free sizes its importer gives up."""

MOST_APART = 0.02
"""How far an answer of the file may lie from torch's: cells, or of a probability."""

OPSET = 13
"""The oldest that says all this; the newest that OpenCV 4.10 and 5 both read whole."""


def write(network: Detector, path: Path) -> None:
    """Write the network to `path`."""
    path.write_bytes(to_onnx(network).SerializeToString(deterministic=True))


def fused(network: Detector) -> nn.Module:
    """A copy without normalisations: each is folded into the convolution before it."""
    copy = Detector(network.config)
    copy.load_state_dict(network.state_dict())
    copy.eval()
    for module in copy.modules():
        if isinstance(module, Unit):
            convolution = fuse_conv_bn_eval(module.convolution, module.normal)
            module.convolution, module.normal = convolution, nn.Identity()  # type: ignore[assignment]  # the place is typed for training
    return copy


def to_onnx(network: Detector) -> onnx.ModelProto:
    """The file's contents."""
    return _Writer(fused(network)).model()


class _Writer:
    """Walks the traced network; each kind of node becomes one of ONNX."""

    def __init__(self, network: nn.Module) -> None:
        self.traced = fx.symbolic_trace(network)
        self.modules = dict(self.traced.named_modules())
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def model(self) -> onnx.ModelProto:
        """All of it, checked."""
        self._constant("scales", np.array([1, 1, 2, 2], np.float32))
        for count in set(PARTS.values()):
            self._constant(f"cells_{count}", np.array([1, -1, count], np.int64))
        name: dict[fx.Node, str] = {}
        for node in self.traced.graph.nodes:
            name[node] = self._node(node, name)
        outputs = [
            helper.make_tensor_value_info(f"{part}_{stride}", TensorProto.FLOAT, [1, None, count])
            for part, count in PARTS.items()
            for stride in STRIDES
        ]
        shape = [1, 3, SIDE_PX, SIDE_PX]
        picture = helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)
        graph = helper.make_graph(
            self.nodes, "detector", [picture], outputs, initializer=self.constants
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
        model.ir_version = 8
        onnx.checker.check_model(model)
        return model

    def _node(self, node: fx.Node, name: dict[fx.Node, str]) -> str:
        inputs = [name[argument] for argument in node.all_input_nodes]
        if node.op == "placeholder":
            return "input"
        if node.op == "output":
            for stride, level in zip(STRIDES, inputs, strict=True):
                self._outputs(level, stride)
            return ""
        if node.op == "call_module":
            module = self.modules[str(node.target)]
            if isinstance(module, nn.Identity):
                return inputs[0]
            if isinstance(module, nn.Conv2d):
                return self._convolution(node.name, module, inputs[0])
        elif getattr(node.target, "__name__", "") == "relu":
            return self._add("Relu", inputs, node.name)
        elif getattr(node.target, "__name__", "") == "add":
            return self._add("Add", inputs, node.name)
        elif getattr(node.target, "__name__", "") == "interpolate":
            return self._add(
                "Resize",
                [inputs[0], "", "scales"],
                node.name,
                mode="nearest",
                nearest_mode="floor",
                coordinate_transformation_mode="asymmetric",
            )
        raise NotImplementedError(f"{node.op} {node.target}")

    def _convolution(self, name: str, module: nn.Conv2d, source: str) -> str:
        assert module.bias is not None
        half = module.weight.detach().numpy().astype(np.float16)
        self._constant(f"{name}_half", half)
        weight = self._add("Cast", [f"{name}_half"], f"{name}_weight", to=TensorProto.FLOAT)
        self._constant(f"{name}_bias", module.bias.detach().numpy())
        pad = int(module.padding[0])
        return self._add(
            "Conv",
            [source, weight, f"{name}_bias"],
            name,
            kernel_shape=list(module.kernel_size),
            strides=list(module.stride),
            pads=[pad] * 4,
            group=module.groups,
        )

    def _outputs(self, level: str, stride: int) -> None:
        """[1, 16, h, w] to four outputs [1, h w, n]."""
        flat = self._add("Transpose", [level], f"{level}_last", perm=[0, 2, 3, 1])
        self._constant(f"parts_{stride}", np.array(list(PARTS.values()), np.int64))
        names = [f"{level}_{part}" for part in PARTS]
        self.nodes.append(
            helper.make_node("Split", [flat, f"parts_{stride}"], names, f"{level}_split", axis=3)
        )
        for (part, count), name in zip(PARTS.items(), names, strict=True):
            wanted = f"{part}_{stride}"
            if count > 1:
                self._add("Reshape", [name, f"cells_{count}"], wanted)
            else:
                cells = self._add("Reshape", [name, f"cells_{count}"], f"{wanted}_logit")
                self._add("Sigmoid", [cells], wanted)

    def _add(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], output, **attributes))
        return output

    def _constant(self, name: str, values: NDArray[Any]) -> None:
        self.constants.append(numpy_helper.from_array(values, name))


def agree(network: Detector, path: Path) -> None:
    """`VerificationError` where the file's answers on noise and on flat gray are not torch's."""
    import onnxruntime

    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (2, 3, SIDE_PX, SIDE_PX)).astype(np.float32)
    pictures[1] = 128.0
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    for picture in pictures:
        found = dict(zip(names, session.run(None, {"input": picture[None]}), strict=True))
        with torch.no_grad():
            levels = network.eval()(torch.from_numpy(picture[None]))
        for stride, level in zip(STRIDES, levels, strict=True):
            flat = level.permute(0, 2, 3, 1).reshape(1, -1, sum(PARTS.values()))
            parts = flat.split(list(PARTS.values()), -1)
            for (part, count), value in zip(PARTS.items(), parts, strict=True):
                wanted = value.sigmoid() if count == 1 else value
                gap = float(np.abs(found[f"{part}_{stride}"] - wanted.numpy()).max())
                if not gap <= MOST_APART:
                    raise VerificationError(
                        f"{path.name}: {part}_{stride} differs from torch by {gap:.2g},"
                        f" at most {MOST_APART:g} is allowed"
                    )


def put(bundle: Path, checkpoint: Path, out: Path, search: Search) -> Bundle:
    """A copy of a bundle, in the new folder `out`, with the detector of a checkpoint in it.

    `BundleError`, `InputError` where one of them is broken, `UsageError` where `out` exists or
    cannot be made, `VerificationError` where the file does not answer as the checkpoint does.
    """
    old = open_bundle(bundle)
    if os.path.lexists(out):
        raise UsageError(f"{out}: exists already", hint="choose another folder, or remove it")
    network, page = load_weights(checkpoint), read_page(checkpoint)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise UsageError(f"{out}: cannot be written: {error.strerror or error}") from error
    try:
        fields = json.loads((old.root / MANIFEST).read_text())
        stated = fields.get("detector")
        if stated is not None:  # it makes room
            del fields["artifacts"][stated["artifact"]]
        for artifact in fields["artifacts"].values():
            copy(old.root / artifact["file"], work / artifact["file"])
        write(network, work / FILE)
        agree(network, work / FILE)
        fields["artifacts"][FILE] = artifact_of(work, FILE, "onnx", "fp16")
        fields["detector"] = {
            "artifact": FILE,
            "score": search.score,
            "overlap": search.overlap,
            "still_px": search.still_px,
            "video_px": search.video_px,
            "training": {
                "size": "detector",
                "command": page["command"],
                "seed": page["seed"],
                "checkpoint_sha256": checkpoint_sha256(checkpoint),
                "sources": page["sources"],
            },
        }
        write_manifest(work, fields)
        open_bundle(work)
        DetectorFile(work / FILE, search)
        work.chmod(0o755)
        os.rename(work, out)
    except OSError as error:
        raise LimitError(f"{out}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return open_bundle(out)


def main() -> None:
    """Put a detector into a bundle."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True, help="a folder, edge or clean")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--score", type=float, required=True, help="from which a face counts")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    made = put(asked.bundle, asked.checkpoint, asked.out, Search(asked.score))
    size = made.manifest.artifacts[FILE].size_bytes
    print(f"{made.root}  detector {size / 1000:.0f} kB  digest {made.digest}")


if __name__ == "__main__":
    main()
