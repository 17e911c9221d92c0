"""A bundle of the shipped checkpoint for every engine that runs on Linux, made as a person makes it
and verified as a device does: an exporter that drifts does not land."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="exports need torch")
for library in ("onnx", "executorch", "coremltools", "llama_cpp"):
    pytest.importorskip(library)

from feallm.export import bundle as exporter  # noqa: E402
from feallm.export.plan import Plan  # noqa: E402
from feallm.export.verify import check  # noqa: E402
from feallm.runtime.bundle.open import SHIPPED, open_bundle, shipped_path  # noqa: E402
from feallm.runtime.verify import golden, golden_file  # noqa: E402

CHECKPOINT = Path(__file__).parents[2] / "model" / "checkpoints" / "edge.safetensors"
PLAN = Plan(
    name="agreement",
    memory_mb=4000,
    size_mb=100,
    vision=("vision.int8.onnx", "vision.fp32.onnx", "vision.fp16.mlpackage", "feallm.8da8w.pte"),
    language=("language.q8_0.gguf", "feallm.8da8w.pte"),
)

pytestmark = pytest.mark.filterwarnings("ignore")  # of the exporters' own libraries


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    out = tmp_path_factory.mktemp("agreement") / "bundle"
    return exporter.export(CHECKPOINT, out, PLAN, name="edge")


@pytest.fixture(scope="module")
def report(bundle):
    return check(bundle, golden_file.read(bundle.file(golden.FILE)))


def test_every_artifact_agrees_with_the_checkpoint(report):
    asked = {(name, "eyes") for name in PLAN.vision} | {(name, "words") for name in PLAN.language}
    assert {(one.artifact, one.part) for one in report.results} == asked
    assert not report.skipped
    assert all(one.judged and one.passed for one in report.results), [
        (one.artifact, one.faults) for one in report.results
    ]
    assert report.passed


def test_what_ran_is_told(report):
    providers = {one.artifact: one.provider for one in report.results}
    assert "CPUExecutionProvider" in providers["vision.int8.onnx"]
    assert providers["feallm.8da8w.pte"] == "executorch (XNNPACK)"
    assert providers["vision.fp16.mlpackage"] == "interpreted"
    assert providers["language.q8_0.gguf"] == "llama.cpp"


def test_layers_are_looked_at_where_engines_show_them(report):
    shown = {one.artifact for one in report.results if one.layers}
    assert {"vision.int8.onnx", "vision.fp32.onnx", "language.q8_0.gguf"} <= shown


def test_golden_outputs_are_those_that_ship(bundle):
    """The shipped file was recorded from the committed checkpoint, and nothing else."""
    found, shipped = (golden_file.read(one / golden.FILE) for one in (bundle.root, shipped_path()))
    assert found.facts.checkpoint_sha256 == shipped.facts.checkpoint_sha256
    assert found.frames == shipped.frames
    # Another OpenCV cuts a crop otherwise by a level here and there.
    assert np.abs(found.crops.astype(int) - shipped.crops).mean() < 1
    for name, value in shipped.outputs.items():
        gap = np.abs(found.outputs[name] - value).mean()
        assert gap < 0.02 * np.abs(value).mean(), name
    same = [a == b for a, b in zip(found.words.said, shipped.words.said, strict=True)]
    assert np.mean(same) > 0.8


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_golden_outputs_are_enough_and_small(name):
    path = shipped_path(name) / golden.FILE
    found = golden_file.read(path)
    assert path.stat().st_size <= 2_000_000
    assert len(found.frames) >= 24 and len(found) >= len(found.frames)
    colour = np.ptp(found.crops.astype(int), axis=3).mean((1, 2))
    assert np.median(colour) > 40, "strong colours, or a wrong channel order would not show"
    middles = [
        abs(
            matrix[0, 0] * (frame.shape[1] / 2)
            + matrix[0, 1] * frame.shape[0] / 2
            + matrix[0, 2]
            - 56
        )
        for matrix, frame in (
            (found.frame_matrix[k], found.frame(k)) for k in range(len(found.frames))
        )
    ]
    assert np.nanmedian(middles) > 20, "faces stand off the middle of their frames"
    assert open_bundle(Path(name)).manifest.golden.artifact == golden.FILE


_WITHOUT = """
import sys
for name in ("torch", "onnx", "tokenizers", "safetensors", "scipy"):
    sys.modules[name] = None
sys.argv = ["feallm", "verify", *sys.argv[1:]]
from feallm.edge.cli import main
main()
"""


def test_the_shipped_bundle_verifies_without_torch_and_in_time():
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT, "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["passed"] and report["faces"] >= 24
    assert time.monotonic() - start < 300  # some seconds on a laptop; a hang is what would fail
