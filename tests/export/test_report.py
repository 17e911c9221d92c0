"""What is measured of finished artifacts: on whom, against what, and how fast."""

import shutil

import pytest

from feallm.export import report, timing
from feallm.export.job import Job
from feallm.model.checkpoint import load
from feallm.runtime.backends import llama
from feallm.runtime.backends.base import AU_PROBABILITY

needs_llama = pytest.mark.skipif(
    llama.available() is not None, reason=llama.available() or "llama.cpp is there"
)


@pytest.fixture
def job(tiny, exported, tmp_path):
    return Job(load(exported[0]), tiny.crops(4), tiny.crops(30, seed=2), tmp_path)


def test_a_float_file_agrees_on_every_set(tiny, exported, job):
    made = {"vision.fp32.onnx": exported[1] / "vision.fp32.onnx"}
    found = report.report({"mine": tiny.crops(40, seed=5)})(job, made, {})
    (row,) = found["artifacts"]
    assert list(row["on"]) == ["mine", report.HELD_OUT] and "words" not in row
    assert (row["on"]["mine"]["faces"], row["on"][report.HELD_OUT]["faces"]) == (40, 30)
    for one in row["on"].values():
        assert one["au_decisions_same"] == one["expression_same"] == 1.0
        assert one["error"][AU_PROBABILITY]["max"] < 1e-5
    assert row["ms"]["1"] > 0 and row["mb"] == pytest.approx(
        made["vision.fp32.onnx"].stat().st_size / 1e6
    )
    assert found["machine"]["packages"]["torch"]


def test_another_networks_file_is_told(tiny, exported, job):
    other = Job(load(exported[0]), job.crops, job.held_out, job.scratch)
    other.checkpoint.vision = tiny.vision(seed=9)
    made = {"vision.fp32.onnx": exported[1] / "vision.fp32.onnx"}
    (row,) = report.report({})(other, made, {})["artifacts"]
    assert row["on"][report.HELD_OUT]["error"][AU_PROBABILITY]["max"] > 0.01


@needs_llama
def test_words_lie_where_float_says(exported, job):
    made = {"language.fp16.gguf": exported[1] / "language.fp16.gguf"}
    (row,) = report.report({})(job, made, {})["artifacts"]
    assert 0 <= row["words"]["mean"] < 1e-4 and row["words"]["share"] > 0.98
    assert row["words"]["tokens"] > 100 and row["tokens_per_s"]["1"] > 0
    assert "on" not in row and "ms" not in row


def test_what_this_machine_cannot_run_is_left_out(exported, tmp_path):
    (tmp_path / "vision.fp16.mlpackage").mkdir()
    files = {
        "vision.fp16.mlpackage": tmp_path / "vision.fp16.mlpackage",
        "vision.fp32.onnx": exported[1] / "vision.fp32.onnx",
    }
    assert set(timing.measure(files, 1, None)) == {"vision.fp32.onnx"}
    assert timing.measure(files, 10_000, None) == {}


def test_timing_that_fails_says_why(tmp_path):
    shutil.copy(__file__, tmp_path / "vision.fp32.onnx")
    with pytest.raises(RuntimeError, match="cannot load it"):
        timing.measure({"a": tmp_path / "vision.fp32.onnx"}, 1, None)
