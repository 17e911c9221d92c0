"""Vision network -> Core ML program (.mlpackage), iOS 17 and macOS 14 on, one face a call.

The picture goes in as the image it is, 8 bits a colour; luma, scale and offset lie inside. What was
written is interpreted here and must answer as torch does: `measure` against the same stored weights
(a wrong operation shows) and against the float network with every result rounded to float16.
"""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from feallm.export.job import Job
from feallm.export.mil import MilProgram, quiet, restored
from feallm.export.onnx import outputs_of
from feallm.model.encoder import ConvUnit, Residual
from feallm.model.pixels import LUMA
from feallm.model.vision import VisionNetwork
from feallm.runtime.backends.base import (
    AU_INTENSITY,
    AU_PROBABILITY,
    AU_SIDES,
    EXPRESSION,
    GAZE,
    IMAGE,
    LANDMARKS,
    POSE,
    TOKENS,
)
from feallm.runtime.contract.errors import UsageError, VerificationError
from feallm.runtime.contract.geometry import CROP

Bars = dict[str, float]


def _bars(probability: float, tokens: float, pixels: float, degrees: float) -> Bars:
    return {
        AU_PROBABILITY: probability,
        AU_SIDES: probability,
        EXPRESSION: probability,
        AU_INTENSITY: 5 * probability,
        TOKENS: tokens,
        LANDMARKS: pixels,
        POSE: degrees,
        GAZE: degrees,
    }


BARS: dict[str, Bars] = {
    "fp16": _bars(3e-3, 0.005, 0.25, 0.25),
    "int8": _bars(0.02, 0.03, 1.0, 1.0),
    "int6": _bars(0.08, 0.08, 3.0, 3.0),
}
"""How far each output may lie from the float network's: the largest difference, of `tokens` the
root mean square beside that of the tokens themselves."""
SAME = _bars(1e-3, 1e-3, 0.02, 0.02)
"""The same against torch with the weights that are stored, nothing rounded on the way."""
STORED = "stored "
"""Begins the names of those differences in `measure`."""
CHECKED = 12
"""Faces that a file is checked on."""

_MODEL, _WEIGHTS = "com.apple.CoreML/model.mlmodel", "com.apple.CoreML/weights"
_MIDDLE = 128.0


class _Picture(nn.Module):
    """What `Pixels` says of a picture (N, 3, H, W) in 0–255, in one product.

    Whole numbers about zero are exact in float16 and a product rounds once, so the picture loses
    a quarter of what it would lose step by step.
    """

    def __init__(self, shrink: int) -> None:
        super().__init__()
        self.shrink = shrink
        weight = torch.tensor(LUMA).reshape(1, 3, 1, 1) * (4 / 255)
        self.register_buffer("weight", weight, persistent=False)
        self.weight: Tensor
        self.register_buffer("bias", torch.tensor([_MIDDLE * 4 / 255 - 2.0]), persistent=False)
        self.bias: Tensor

    def forward(self, picture: Tensor) -> Tensor:
        gray = nn.functional.conv2d(picture - _MIDDLE, self.weight, self.bias)
        return gray if self.shrink == 1 else nn.functional.avg_pool2d(gray, self.shrink)


def portable(network: VisionNetwork) -> VisionNetwork:
    """A copy that takes pictures (1, 3, H, W) in 0–255, its batch norms folded: each of its weights
    is then stored under its own name."""
    network = copy.deepcopy(network).eval().requires_grad_(False)
    network.pixels = _Picture(network.pixels.shrink)  # type: ignore[assignment]  # its stand-in
    for module in network.modules():
        if isinstance(module, ConvUnit):
            convolution, norm = module[0], module[1]
            assert isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
            module[0] = fuse_conv_bn_eval(convolution, norm)
            module[1] = nn.Identity()
        elif isinstance(module, Residual):
            module.second = fuse_conv_bn_eval(module.second, module.norm)
            module.norm = nn.Identity()  # type: ignore[assignment]  # folded
    return network.requires_grad_(False)


def make(job: Job, precision: str, path: Path) -> None:
    """Write the package (a folder) at `path` in fp16, int8 (weights a channel) or int6 (palettes);
    nothing is left there where it does not answer as the network does."""
    if precision not in BARS:
        raise UsageError(f"Core ML vision has no precision {precision}", hint=", ".join(BARS))
    network = job.checkpoint.vision
    with quiet():
        write(_compressed(_converted(network), precision), path, _ABOUT)
    try:
        judge(path, measure(job, path), BARS[precision])
    except VerificationError:
        shutil.rmtree(path)
        raise


_ABOUT = {
    IMAGE: "aligned face crop, 112 wide, 128 high, RGB",
    AU_PROBABILITY: "presence of each action unit, 0-1",
    AU_INTENSITY: "intensity of each action unit on the subject's left and right, 0-5",
    EXPRESSION: "scores of the expressions, sum 1",
    TOKENS: "visual tokens for the language model",
    LANDMARKS: "68 points, pixels of the crop",
    POSE: "pitch, yaw, roll of the head in the crop, degrees",
    GAZE: "gaze up and left in the head, degrees",
    AU_SIDES: "presence on the subject's left and right, 0-1",
}


def _converted(network: VisionNetwork) -> Any:
    import coremltools as ct

    shape = (1, 3, CROP.height_px, CROP.width_px)
    # Traced programs drop writes to states without a word; exported ones keep them.
    program = torch.export.export(portable(network), (torch.zeros(shape),)).run_decompositions({})
    return ct.convert(
        program,
        inputs=[ct.ImageType(IMAGE, shape=shape, color_layout=ct.colorlayout.RGB)],
        outputs=[ct.TensorType(name, dtype=np.float32) for name in outputs_of(network)],
        convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS17,
        compute_precision=ct.precision.FLOAT16,
    )


def _compressed(model: Any, precision: str) -> Any:
    """The model with its large weights in fewer bits. The place head keeps 8 where others get 6:
    landmarks are what a palette costs most."""
    import coremltools.optimize.coreml as cto

    names = large_weights(model)
    places = [name for name in names if "_place_head_" in name]
    linear = cto.OpLinearQuantizerConfig(
        mode="linear_symmetric", dtype="int8", granularity="per_channel"
    )
    if precision == "int6":
        palette = cto.OpPalettizerConfig(mode="kmeans", nbits=6)
        rest = {name: palette for name in names if name not in places}
        model = cto.palettize_weights(model, cto.OptimizationConfig(op_name_configs=rest))
        names = places
    if precision != "fp16":
        chosen = cto.OptimizationConfig(op_name_configs=dict.fromkeys(names, linear))
        model = cto.linear_quantize_weights(model, chosen)
    return model


def large_weights(model: Any) -> list[str]:
    """Names of the trained weights above 2048 numbers. Tables that were computed (what pools,
    mirrors, turns) are none: they are small, and exact."""
    return [
        op.name
        for op in model._mil_program.functions["main"].operations
        if op.op_type == "const" and op.name.startswith("p_") and op.outputs[0].val.size > 2048
    ]


def write(model: Any, path: Path, about: dict[str, str]) -> None:
    """Save a converted model as a package that is the same each time: no date, no random ids, no
    notes of the converter. `about`: a line on each input and output, which Xcode shows."""
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "model.mlpackage"
        model.save(str(saved))
        weights = (saved / "Data" / _WEIGHTS / "weight.bin").read_bytes()
    spec = model.get_spec()
    spec.description.metadata.Clear()
    spec.description.metadata.license = "Apache-2.0"
    for feature in (*spec.description.input, *spec.description.output):
        feature.shortDescription = about[feature.name]
    program = spec.SerializeToString(deterministic=True)
    data = path / "Data"
    (data / _WEIGHTS).mkdir(parents=True)
    (data / _MODEL).write_bytes(program)
    (data / _WEIGHTS / "weight.bin").write_bytes(weights)
    ids = [
        str(uuid.uuid5(uuid.NAMESPACE_OID, hashlib.sha256(part).hexdigest()))
        for part in (program, weights)
    ]
    items = {
        ids[0]: ("Specification", "model.mlmodel", _MODEL),
        ids[1]: ("Weights", "weights", _WEIGHTS),
    }
    manifest = {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": {
            key: {
                "author": "com.apple.CoreML",
                "description": f"CoreML Model {what}",
                "name": name,
                "path": where,
            }
            for key, (what, name, where) in items.items()
        },
        "rootModelIdentifier": ids[0],
    }
    (path / "Manifest.json").write_text(json.dumps(manifest, indent=4, sort_keys=True) + "\n")


@torch.no_grad()
def measure(job: Job, path: Path) -> dict[str, float]:
    """How far each output of the package lies from the float network's with every result rounded
    to float16, and (names after `STORED`) from torch's with the same weights, nothing rounded; on
    held-out faces."""
    program = MilProgram(path)
    _check_picture(program)
    network = portable(job.checkpoint.vision)
    faces = job.held_out[np.linspace(0, len(job.held_out) - 1, CHECKED).astype(int)]
    pictures = np.ascontiguousarray(faces.transpose(0, 3, 1, 2)).astype(np.float32)
    names = outputs_of(job.checkpoint.vision)
    exact = job.checkpoint.vision.eval()(torch.from_numpy(faces))
    result = _apart(_answers(program, pictures, True), dict(zip(names, exact, strict=True)))
    restored(network, program)
    same = [network(torch.from_numpy(picture[None])) for picture in pictures]
    wanted = {name: torch.cat([one[i] for one in same]) for i, name in enumerate(names)}
    plain = _apart(_answers(program, pictures, False), wanted)
    return result | {STORED + name: value for name, value in plain.items()}


def _check_picture(program: MilProgram) -> None:
    """The interpreter is given planes of red, green and blue whatever the file asks an app for."""
    (feature,) = program.spec.description.input
    picture = feature.type.imageType
    found = (feature.type.WhichOneof("Type"), picture.width, picture.height, picture.colorSpace)
    wanted = ("imageType", CROP.width_px, CROP.height_px, picture.RGB)
    if found != wanted:
        raise VerificationError(f"{program.path.name}: takes {found} instead of {wanted}")


def _answers(
    program: MilProgram, pictures: NDArray[np.float32], half: bool
) -> dict[str, NDArray[np.float32]]:
    found = [program.run({IMAGE: picture[None]}, half=half) for picture in pictures]
    return {name: np.concatenate([one[name] for one in found]) for name in found[0]}


def _apart(found: dict[str, NDArray[np.float32]], wanted: dict[str, Tensor]) -> dict[str, float]:
    if set(found) != set(wanted):
        raise VerificationError(f"outputs {sorted(found)} instead of {sorted(wanted)}")
    exact = {name: value.numpy() for name, value in wanted.items()}
    result = {name: float(np.abs(found[name] - exact[name]).max()) for name in exact}
    gap = found[TOKENS] - exact[TOKENS]
    result[TOKENS] = float(np.sqrt(np.square(gap).mean() / np.square(exact[TOKENS]).mean()))
    if AU_SIDES in exact:
        # The stronger side gets the larger presence: where both are as strong, either may.
        left, right = np.moveaxis(exact[AU_INTENSITY], 2, 0)
        tied = np.abs(left - right) <= 2 * result[AU_INTENSITY]
        sides = np.where(
            tied[..., None],
            np.sort(found[AU_SIDES], 2) - np.sort(exact[AU_SIDES], 2),
            found[AU_SIDES] - exact[AU_SIDES],
        )
        result[AU_SIDES] = float(np.abs(sides).max())
    return result


def judge(path: Path, found: dict[str, float], bars: Bars) -> None:
    """`VerificationError` that names every difference above its bar."""
    bars = bars | {STORED + name: value for name, value in SAME.items()}
    wrong = [f"{n} by {v:.2g} (at most {bars[n]:g})" for n, v in found.items() if not v <= bars[n]]
    if wrong:
        raise VerificationError(f"{path.name}: differs from torch in {', '.join(wrong)}")
