"""Faults that are planted before export, so that every hash is right: each is caught, and named.

The golden outputs are those of the shipped bundle, recorded from the checkpoint as it is. Some
faults an exporter refuses on its own; its check is then left out, since what is tried here is
whether the device would notice.
"""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="exports need torch")
pytest.importorskip("onnx", reason="exports need onnx")
pytest.importorskip("llama_cpp", reason="the words are run by llama.cpp")

from feallm.calibration import faces  # noqa: E402
from feallm.export import tolerances  # noqa: E402
from feallm.export.bundle import artifact_of, write_manifest  # noqa: E402
from feallm.export.job import Job  # noqa: E402
from feallm.export.matrix import EXPORTERS  # noqa: E402
from feallm.export.verify import Interpreting  # noqa: E402
from feallm.model.checkpoint import load  # noqa: E402
from feallm.model.encoder import Residual  # noqa: E402
from feallm.runtime.bundle.open import open_bundle, shipped_path  # noqa: E402
from feallm.runtime.contract.manifest import MANIFEST  # noqa: E402
from feallm.runtime.verify import golden, golden_file  # noqa: E402
from feallm.runtime.verify.check import verify  # noqa: E402

CHECKPOINT = Path(__file__).parents[2] / "model" / "checkpoints" / "edge.safetensors"

pytestmark = pytest.mark.filterwarnings("ignore")  # of the exporters' own libraries


@pytest.fixture(scope="module")
def reference():
    return golden_file.read(shipped_path() / golden.FILE)


@pytest.fixture(scope="module")
def held():
    return faces.load()


@pytest.fixture
def checkpoint():
    """A fresh one, to be spoilt."""
    torch.set_num_threads(1)
    return load(CHECKPOINT)


class Planted:
    """Makes one file of a checkpoint, puts it into a bundle whose hashes hold, and verifies it."""

    def __init__(self, folder: Path, reference: golden.Golden, held: faces.Faces) -> None:
        self.folder, self.reference, self.held = folder, reference, held

    def verify(self, checkpoint, file, *, crops=None, change=None):
        """The result of the file's last part, and the report."""
        scratch = self.folder / "scratch"
        scratch.mkdir()
        given = self.held.crops[::4] if crops is None else crops
        job = Job(checkpoint, given, self.held.held_out[::3], scratch)
        path = scratch / f"made.{file}"
        EXPORTERS[file].make(job, path)
        return self.bundled(path, file, checkpoint.tokenizer, change)

    def bundled(self, path, file, tokenizer, change=None):
        root = self.folder / "bundle"
        shutil.copytree(shipped_path(), root)
        fields = json.loads((root / MANIFEST).read_bytes())
        part = EXPORTERS[file].parts[-1]
        names = fields["vision"] if part == "vision" else fields["language"]["artifacts"]
        for name in names:
            del fields["artifacts"][name]
            (root / name).unlink()
        (shutil.copytree if path.is_dir() else shutil.copy)(path, root / file)
        fields["artifacts"][file] = {
            **artifact_of(root, file, EXPORTERS[file].format, EXPORTERS[file].precision),
            "tolerance": {part: one.model_dump() for part, one in tolerances.of(file).items()},
        }
        names[:] = [file]
        (root / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
        fields["artifacts"]["tokenizer.json"] = artifact_of(root, "tokenizer.json", "json", "text")
        if change is not None:
            change(fields)
        write_manifest(root, fields)
        bundle = open_bundle(root)
        report = verify(bundle, self.reference, only=file, doors=Interpreting(bundle))
        return report.results[-1]


@pytest.fixture
def planted(tmp_path, reference, held):
    return Planted(tmp_path, reference, held)


def unchecked(monkeypatch, module):
    """Leave out the check that an exporter makes of its own file."""
    monkeypatch.setattr(importlib.import_module(module), "agree", lambda *_, **__: None)


def caught(result, cause):
    """Whether a result does not pass, in figures, and says why."""
    assert not result.passed and result.faults
    assert any(cause in one for one in result.causes), result.causes
    return True


class Swapped(torch.nn.Module):
    """Pixels less the standard deviation, over the mean."""

    def __init__(self, pixels):
        super().__init__()
        self.shrink = pixels.shrink
        self.register_buffer("luma", pixels.luma.clone(), persistent=False)

    def forward(self, crop):
        gray = torch.matmul(crop.float(), self.luma).squeeze(-1).unsqueeze(1) / 255
        picture = (gray - 0.25) / 0.5
        return torch.nn.functional.avg_pool2d(picture, self.shrink)


def as_bgr(checkpoint):
    luma = checkpoint.vision.pixels.luma
    luma.copy_(luma.flip(0))


def with_mean_and_std_swapped(checkpoint):
    checkpoint.vision.pixels = Swapped(checkpoint.vision.pixels)


def with_aus_shifted(checkpoint):
    for head in (checkpoint.vision.au_head, checkpoint.vision.intensity_head):
        with torch.no_grad():
            head.weight.copy_(head.weight.roll(2, 0))  # two sides an AU
            head.bias.copy_(head.bias.roll(2, 0))


def with_sides_exchanged(checkpoint):
    """Left and right of every AU, in presence and in intensity."""
    for head in (checkpoint.vision.au_head, checkpoint.vision.intensity_head):
        with torch.no_grad():
            for value in (head.weight, head.bias):
                pairs = value.unflatten(0, (-1, 2))
                value.copy_(pairs.flip(1).flatten(0, 1).clone())


def strengthened(part, name):
    """Scales a layer of the eyes or the words by 1.05."""

    def plant(checkpoint):
        layer = dict(getattr(checkpoint, part).named_modules())[name]
        with torch.no_grad():
            layer.weight.mul_(1.05)
            if getattr(layer, "bias", None) is not None:
                layer.bias.mul_(1.05)

    return plant


BGR = "colours are taken as BGR"
SWAPPED = "mean and standard deviation of the pixels are swapped"
SHIFTED = "the order of the AUs is shifted: each stands one place later"


def drifts(layer):
    return f"first layer that drifts: {layer}: 1.05 times what it should be"


FAULTS = {
    "as it is": ("vision.fp32.onnx", lambda checkpoint: None, None),
    "as it is, words": ("language.q8_0.gguf", lambda checkpoint: None, None),
    "BGR": ("vision.fp32.onnx", as_bgr, BGR),
    "mean and std": ("vision.fp32.onnx", with_mean_and_std_swapped, SWAPPED),
    "order of AUs": ("vision.fp32.onnx", with_aus_shifted, SHIFTED),
    "sides": ("vision.fp32.onnx", with_sides_exchanged, "left and right are exchanged"),
    **{
        f"1.05, {layer}, {precision}": (
            f"vision.{precision}.onnx",
            strengthened("vision", layer),
            drifts(layer),
        )
        for layer, precision in (
            ("encoder.stages.3.1.norm", "fp32"),
            ("near_conv", "fp32"),
            ("mpp.deep", "fp16"),
            ("near_conv", "fp16"),
        )
    },
    **{
        f"1.05, {layer}, q8_0": (
            "language.q8_0.gguf",
            strengthened("language", layer),
            drifts(layer),
        )
        for layer in ("blocks.0.o", "blocks.1.down", "blocks.2.up")
    },
}
SLOW = {
    "BGR, .pte": ("vision.fp32.pte", as_bgr, BGR),
    "mean and std, .pte": ("vision.int8.pte", with_mean_and_std_swapped, SWAPPED),
    "order of AUs, Core ML": ("vision.fp16.mlpackage", with_aus_shifted, SHIFTED),
    "BGR, int8": ("vision.int8.onnx", as_bgr, BGR),
    "sides, int8": ("vision.int8.onnx", with_sides_exchanged, "left and right are exchanged"),
    **{
        f"1.05, {layer}, {precision}": (
            f"vision.{precision}.onnx",
            strengthened("vision", layer),
            drifts(layer),
        )
        for layer in ("place_conv", "token_mlp.2", "expression_head", "lca.attention.out")
        for precision in ("fp32", "fp16")
    },
}


@pytest.mark.parametrize(
    "name", [*FAULTS, *(pytest.param(one, marks=pytest.mark.slow) for one in SLOW)]
)
def test_a_planted_fault_is_caught_and_named(planted, checkpoint, name):
    file, plant, cause = {**FAULTS, **SLOW}[name]
    if file.endswith(".pte"):
        pytest.importorskip("executorch")
    if file.endswith(".mlpackage"):
        pytest.importorskip("coremltools")
    plant(checkpoint)
    result = planted.verify(checkpoint, file)
    if cause is None:
        assert result.passed, result.faults
    else:
        assert caught(result, cause)


def test_ranges_of_black_pictures_are_caught(planted, checkpoint, held, monkeypatch):
    unchecked(monkeypatch, "feallm.export.int8")
    black = np.zeros_like(held.crops[:64])
    result = planted.verify(checkpoint, "vision.int8.onnx", crops=black)
    assert caught(result, "measured on black pictures")


def test_overflow_of_float16_is_caught(planted, checkpoint, monkeypatch):
    """A unit a million times as strong and the next as much weaker: in float32 nothing changes."""
    unchecked(monkeypatch, "feallm.export.onnx")
    blocks = [m for m in checkpoint.vision.encoder.modules() if isinstance(m, Residual)]
    with torch.no_grad():
        norm = blocks[-1].first[1]
        norm.weight.mul_(1e6)
        norm.bias.mul_(1e6)
        blocks[-1].second.weight.mul_(1e-6)
    assert caught(planted.verify(checkpoint, "vision.fp16.onnx"), "overflow: float16")


def test_unpermuted_q_and_k_are_caught(planted, checkpoint, monkeypatch):
    unchecked(monkeypatch, "feallm.export.gguf")
    gguf = importlib.import_module("feallm.export.gguf")
    monkeypatch.setattr(gguf, "permuted", lambda weight, heads: weight)
    result = planted.verify(checkpoint, "language.q8_0.gguf")
    assert caught(result, "q and k are not permuted")


def test_another_tokenizer_is_caught(planted, checkpoint):
    """Of the same size: pairs of its entries have changed places."""
    fields = json.loads(checkpoint.tokenizer)
    vocabulary = fields["model"]["vocab"]
    words = [word for word in vocabulary if len(word) > 3 and "<" not in word][:60]
    for one, other in zip(words[::2], words[1::2], strict=True):
        vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    checkpoint.tokenizer = json.dumps(fields)
    assert caught(planted.verify(checkpoint, "language.q8_0.gguf"), "another tokenizer")


CROPS = {
    "too large": (lambda x, y: ((x - 56) * 1.08 + 56, (y - 64) * 1.08 + 64), "times as large"),
    "too small": (lambda x, y: ((x - 56) / 1.08 + 56, (y - 64) / 1.08 + 64), "times as large"),
    "right": (lambda x, y: (x + 0.08 * 112, y), "8% to the right"),
    "up": (lambda x, y: (x, y - 0.08 * 128), "8% too high"),
}


@pytest.mark.parametrize("name", CROPS)
def test_a_crop_that_is_off_by_8_percent_is_caught(planted, name):
    move, cause = CROPS[name]

    def change(fields):
        points = fields["geometry"]["points_px"]
        fields["geometry"]["points_px"] = [[float(v) for v in move(*point)] for point in points]

    file = "vision.int8.onnx"
    tokenizer = (shipped_path() / "tokenizer.json").read_text(encoding="utf-8")
    result = planted.bundled(shipped_path() / file, file, tokenizer, change)
    assert caught(result, "the crop is off") and any(cause in one for one in result.causes)
