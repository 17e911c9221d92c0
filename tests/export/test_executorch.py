"""The .pte files against torch, as they lie on the disk: values, what is int8, what XNNPACK got.

Lowering takes long for every piece that XNNPACK gets, so most tests ask a network of few layers
with the names of the real one; the real one at a small size is asked once, and in the slow tests.
"""

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
from feallm.model.checkpoint import Checkpoint, load  # noqa: E402
from feallm.model.encoder import PlainEncoder  # noqa: E402
from feallm.runtime.backends.base import (  # noqa: E402
    AU_INTENSITY,
    AU_PROBABILITY,
    VISION_OUTPUTS,
)
from feallm.runtime.contract.errors import UsageError, VerificationError  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # the libraries' own, of each other


class Small(torch.nn.Module):
    """The vision network's names and outputs: an encoder, a matrix, the heads."""

    sided = False

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.encoder = PlainEncoder((8, 16, 16, 16), (1, 0, 0, 0), rows=64, columns=56)
        for module in self.encoder.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(module.running_var, 0.1, 0.4)
        self.token_mlp = torch.nn.Linear(16, 128)
        self.mix = torch.nn.Linear(256, 2048)
        torch.nn.init.normal_(self.mix.weight, std=0.1)
        heads = {"au_head": (20, 0.15), "intensity_head": (40, 0.08), "expression_head": (8, 0.15)}
        for name, (count, strength) in heads.items():
            setattr(self, name, torch.nn.Linear(256, count))
            torch.nn.init.normal_(getattr(self, name).weight, std=strength)

    def forward(self, crops):
        gray = crops.float().mean(3).unsqueeze(1) * (4 / 255) - 2
        deep = self.encoder(torch.nn.functional.avg_pool2d(gray, 2))[3].flatten(1)
        tokens = torch.tanh(self.mix(deep)).unflatten(1, (128, 16))
        flat = tokens.flatten(1)[:, :256]
        return (
            self.au_head(flat).sigmoid(),
            (self.intensity_head(flat) + 1).clamp(0, 5).unflatten(1, (20, 2)),
            self.expression_head(flat).softmax(1),
            self.token_mlp(tokens),
        )


@pytest.fixture(scope="module")
def real(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    made = load(tiny.checkpoint(folder))
    return Job(made, tiny.crops(24, seed=1), tiny.crops(24, seed=2), folder)


@pytest.fixture(scope="module")
def job(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pte")
    made = Checkpoint(tiny.CONFIG, Small().eval())
    return Job(made, tiny.crops(24, seed=1), tiny.crops(24, seed=2), folder)


@pytest.fixture(scope="module")
def files(job):
    """The file of each precision; not to be changed."""
    made = {name: job.scratch / f"vision.{name}.pte" for name in writer.PRECISIONS}
    for precision, path in made.items():
        writer.make(job, precision, path)
    return made


def test_every_output_of_the_real_networks_float_file_is_torchs(tiny, real, tmp_path):
    path, crops = tmp_path / "vision.pte", tiny.crops(6, seed=5)
    writer.make(real, "fp32", path)
    found, exact = answers(path, crops), float_answers(real.checkpoint.vision, crops)
    assert tuple(found) == VISION_OUTPUTS
    for name, value in exact.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-4, err_msg=name)
    assert all(one.requires_grad for one in real.checkpoint.vision.parameters())
    assert not writer.delegated(path).heavy


@pytest.mark.slow
def test_the_real_network_in_int8(tiny, real, tmp_path):
    for path in (tmp_path / "vision.pte", tmp_path / "again.pte"):
        writer.make(real, "int8", path)
    assert path.read_bytes() == (tmp_path / "vision.pte").read_bytes()
    crops = tiny.crops(16, seed=6)
    found, exact = answers(path, crops), float_answers(real.checkpoint.vision, crops)
    gap = np.abs(found[AU_PROBABILITY] - exact[AU_PROBABILITY]).mean()
    assert 1e-5 < gap < writer.MOST_APART_INT8


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
        assert not found.heavy and found.calls > 0, path
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
        writer.agree(Small(seed=9).eval(), files[precision], job.held_out, precision)


@pytest.mark.slow
def test_ranges_measured_on_nothing_are_not_shipped(job, tmp_path):
    """Gray crops show the network nothing: what it sees in faces is cut off."""
    gray = dataclasses.replace(job, crops=np.full_like(job.crops, 128))
    with pytest.raises(VerificationError, match="AU probabilities lie"):
        writer.make(gray, "int8", tmp_path / "gray.pte")
    assert list(tmp_path.iterdir()) == []


def test_the_same_input_gives_the_same_bytes_and_no_paths(job, files):
    traced = writer.traced(job.checkpoint.vision, "int8", job.crops)
    data = files["int8"].read_bytes()
    assert writer.lower({"forward": traced}) == data
    for trace in (b"/home", b"/root", b"/work", b"/tmp", b"site-packages", b".py", b"Traceback"):
        assert trace not in data, trace


def test_another_precision_is_refused(job, tmp_path):
    with pytest.raises(UsageError, match="no precision int4") as caught:
        writer.make(job, "int4", tmp_path / "x.pte")
    assert caught.value.hint == "fp32, int8"
