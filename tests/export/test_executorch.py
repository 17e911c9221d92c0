"""The .pte files against torch, as they lie on the disk: values, what is int8, what XNNPACK got."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

pytest.importorskip("executorch", reason="writing .pte files needs executorch")
pytest.importorskip("torchao", reason="quantizing needs torchao")

from feallm.export import executorch as writer  # noqa: E402
from feallm.export.job import Job  # noqa: E402
from feallm.export.run import answers, float_answers  # noqa: E402
from feallm.model.checkpoint import load  # noqa: E402
from feallm.runtime.backends.base import (  # noqa: E402
    AU_INTENSITY,
    AU_PROBABILITY,
    VISION_OUTPUTS,
)
from feallm.runtime.contract.errors import UsageError, VerificationError  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # the libraries' own, of each other


@pytest.fixture(scope="module")
def job(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pte")
    made = load(tiny.checkpoint(folder))
    return Job(made, tiny.crops(24, seed=1), tiny.crops(24, seed=2), folder)


@pytest.fixture(scope="module")
def files(job):
    """The file of each precision; not to be changed."""
    made = {name: job.scratch / f"vision.{name}.pte" for name in writer.PRECISIONS}
    for precision, path in made.items():
        writer.make(job, precision, path)
    return made


def test_every_output_of_the_float_file_is_torchs(tiny, job, files):
    crops = tiny.crops(6, seed=5)
    found = answers(files["fp32"], crops)
    exact = float_answers(job.checkpoint.vision, crops)
    assert tuple(found) == VISION_OUTPUTS
    for name, value in exact.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-4, err_msg=name)


def test_int8_lies_near_and_is_int8(tiny, job, files):
    crops = tiny.crops(16, seed=6)
    found = answers(files["int8"], crops)
    exact = float_answers(job.checkpoint.vision, crops)
    gap = np.abs(found[AU_PROBABILITY] - exact[AU_PROBABILITY]).mean()
    assert 1e-5 < gap < writer.MOST_APART_INT8
    sizes = {name: path.stat().st_size for name, path in files.items()}
    expected = {p: writer.expected_bytes(job.checkpoint.vision, p) for p in sizes}
    saved = expected["fp32"] - expected["int8"]
    assert sizes["fp32"] - sizes["int8"] > 0.6 * saved > 10_000


def test_answers_beyond_the_calibrated_range_are_not_cut_off(tiny, job, files):
    """Ranges were measured on the crops of `job`; heads that answered no more than they did there
    would fall short on stronger faces (row 5 of the toolchain's table)."""
    crops = tiny.crops(64, seed=7)
    seen = float_answers(job.checkpoint.vision, job.crops)[AU_INTENSITY].max((0, 2))
    exact = float_answers(job.checkpoint.vision, crops)[AU_INTENSITY].max((0, 2))
    found = answers(files["int8"], crops)[AU_INTENSITY].max((0, 2))
    beyond = (exact > seen + 0.1) & (exact < 4.9)
    assert beyond.sum() >= 3
    assert (found[beyond] > seen[beyond]).all()
    assert np.abs(found - exact)[beyond].max() < 0.15


def test_xnnpack_gets_all_that_is_heavy(files):
    for path in files.values():
        found = writer.delegated(path)
        assert not found.heavy and found.calls > 3, path
        assert found.share > writer.LEAST_DELEGATED


def test_a_file_without_a_partitioner_is_caught(job, files, monkeypatch):
    """It answers rightly, a hundred times slower (row 8)."""
    writer.check_delegated(files["fp32"])
    monkeypatch.setattr(writer, "_partitioners", lambda: [])
    planted = job.scratch / "slow.pte"
    with pytest.raises(VerificationError, match=r"XNNPACK holds 0% .*aten::convolution"):
        writer.make(job, "fp32", planted)
    assert not planted.exists()


def test_weights_that_stayed_float_are_caught_by_their_size(job, files):
    expected = writer.expected_bytes(job.checkpoint.vision, "int8")
    writer.check_size(files["int8"], expected)
    with pytest.raises(VerificationError, match=r"vision.fp32.pte: \d+ bytes, at most"):
        writer.check_size(files["fp32"], expected - writer.ROOM_BYTES)


@pytest.mark.parametrize("precision", writer.PRECISIONS)
def test_another_networks_file_does_not_agree(tiny, job, files, precision):
    writer.agree(job.checkpoint.vision, files[precision], job.held_out, precision)
    with pytest.raises(VerificationError, match=f"vision.{precision}.pte: "):
        writer.agree(tiny.vision(seed=9), files[precision], job.held_out, precision)


def test_ranges_measured_on_nothing_are_not_shipped(job, tmp_path):
    """Gray crops show the network nothing: what it sees in faces is cut off."""
    gray = dataclasses.replace(job, crops=np.full_like(job.crops, 128))
    with pytest.raises(VerificationError, match="AU probabilities lie"):
        writer.make(gray, "int8", tmp_path / "gray.pte")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("precision", writer.PRECISIONS)
def test_the_same_input_gives_the_same_bytes_and_no_paths(job, files, precision):
    traced = writer.traced(job.checkpoint.vision, precision, job.crops)
    data = files[precision].read_bytes()
    assert writer.lower({"forward": traced}) == data
    for trace in (b"/home", b"/root", b"/work", b"/tmp", b"site-packages", b".py", b"Traceback"):
        assert trace not in data, trace


def test_the_network_is_left_as_it_was(job, files):
    assert all(one.requires_grad for one in job.checkpoint.vision.parameters())
    assert isinstance(job.checkpoint.vision.au_head, torch.nn.Linear)


def test_another_precision_is_refused(job, tmp_path):
    with pytest.raises(UsageError, match="no precision int4") as caught:
        writer.make(job, "int4", tmp_path / "x.pte")
    assert caught.value.hint == "fp32, int8"
