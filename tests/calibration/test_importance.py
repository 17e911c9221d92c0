"""Importance is the mean square of what enters each layer, whoever computes it."""

import numpy as np
import pytest
import torch

from feallm.calibration import importance
from feallm.calibration.answers import answers, sequences
from feallm.export.gguf import export_language
from feallm.model.checkpoint import load
from feallm.runtime.contract.errors import InputError


@pytest.fixture(scope="module")
def checkpoint(tiny, tmp_path_factory):
    return load(tiny.checkpoint(tmp_path_factory.mktemp("importance")))


@pytest.fixture(scope="module")
def conversations(tiny, checkpoint):
    return list(sequences(checkpoint, answers(checkpoint, tiny.crops(6), limit=30)))


@pytest.fixture(scope="module")
def measured(checkpoint, conversations):
    return importance.measure(checkpoint.language, conversations)


@torch.no_grad()
def test_it_is_the_mean_square_over_all_positions(checkpoint, conversations, measured):
    """The first layer's inputs and the last one's, computed without hooks."""
    language = checkpoint.language
    everything = torch.cat(conversations)
    first = language.blocks[0].attn_norm(everything).square().mean(0).numpy()
    for name in ("attn_q", "attn_k", "attn_v"):
        np.testing.assert_allclose(measured[f"blk.0.{name}.weight"], first, rtol=2e-3)
    for block in language.blocks:
        assert not block._forward_pre_hooks and not block.q._forward_pre_hooks
    last = []
    for one in conversations:
        language.blocks[-1].register_forward_hook(lambda *seen: last.append(seen[2][0]))
        language(one[None])
        language.blocks[-1]._forward_hooks.clear()
    wanted = language.norm(torch.cat(last)).square().mean(0).numpy()
    np.testing.assert_allclose(measured["token_embd.weight"], wanted, rtol=2e-3)
    assert not language.norm._forward_hooks


def test_visual_tokens_count(checkpoint, conversations, measured):
    """Left out, as a tool that feeds text alone would, the figures are others."""
    visual = checkpoint.config.vision.tokens + 1
    texts = [torch.cat([one[:1], one[1 + visual :]]) for one in conversations]
    other = importance.measure(checkpoint.language, texts)["blk.0.attn_q.weight"]
    assert np.abs(other / measured["blk.0.attn_q.weight"] - 1).max() > 0.1


def test_names_are_the_files_matrices(tiny, checkpoint, measured, tmp_path):
    gguf = pytest.importorskip("gguf")
    export_language(checkpoint.language, checkpoint.tokenizer, tmp_path / "language.gguf")
    matrices = {
        tensor.name: int(tensor.shape[0])
        for tensor in gguf.GGUFReader(tmp_path / "language.gguf").tensors
        if len(tensor.shape) > 1
    }
    assert {name: len(values) for name, values in measured.items()} == matrices


def test_the_file_gives_it_back_and_is_the_same_twice(measured, tmp_path):
    importance.save(measured, tmp_path / "a.npz")
    importance.save(dict(reversed(measured.items())), tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    found = importance.read(tmp_path / "a.npz")
    assert set(found) == set(measured)
    for name, values in measured.items():
        np.testing.assert_array_equal(found[name], values)
        assert found[name].dtype == np.float32


def test_what_is_no_file_of_its_kind_is_told(tmp_path):
    for name, data in (("text.npz", b"not an archive"), ("cut.npz", b"PK\x03\x04")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match="not a readable importance matrix"):
            importance.read(tmp_path / name)


def test_the_number_of_threads_does_not_reach_the_file(checkpoint, conversations, measured):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        again = importance.measure(checkpoint.language, conversations)
    finally:
        torch.set_num_threads(before)
    for name, values in measured.items():
        np.testing.assert_array_equal(again[name], values)


def test_nothing_to_measure_on_is_told(checkpoint):
    with pytest.raises(InputError, match="no conversation"):
        importance.measure(checkpoint.language, [])
