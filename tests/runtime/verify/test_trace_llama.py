"""What llama.cpp shows of its layers. The model is the toy's, of random weights; whether a layer
is the one that the network calls so is tests/export/test_trace.py."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from feallm.runtime.backends import llama
from feallm.runtime.backends.llama import LlamaSession
from feallm.runtime.contract.errors import BackendError
from feallm.runtime.verify import trace_llama
from feallm.runtime.verify.trace import places
from feallm.runtime.verify.trace_llama import EMBED, LOGITS, layers

CONTEXT, WIDTH = 96, 256
QUESTION = [5, 6, 7, 300]

pytestmark = pytest.mark.skipif(llama.available() is not None, reason=str(llama.available()))


@pytest.fixture(scope="module")
def model(toy_bundle_with_words):
    return toy_bundle_with_words / "language.gguf"


def seen(count=17, seed=3):
    return np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(np.float32)


def test_each_part_of_a_block_is_shown_for_every_token(model):
    found = {layer.name: layer for layer in layers(model, seen(), QUESTION, context=CONTEXT)}
    tokens = 1 + 17 + len(QUESTION)
    parts = ["attn_norm", "q", "k", "v", "read", "o", "ffn_norm", "gate", "up", "down"]
    assert set(found) == {EMBED, "blocks.0", "norm", LOGITS, *(f"blocks.0.{p}" for p in parts)}
    assert found[EMBED].shape == (1 + len(QUESTION), WIDTH)
    for name, layer in found.items():
        assert layer.values.dtype == np.float32 and np.isfinite(layer.values).all()
        assert layer.rms > 0
        assert name == EMBED or layer.shape[0] == tokens
    assert list(found)[0] == EMBED and list(found)[-2:] == ["norm", LOGITS]


def test_the_last_layer_is_what_a_session_answers(model):
    session = LlamaSession(model, width=WIDTH, context=CONTEXT)
    session.restart()
    kept = {0: session.logits()}
    session.see(seen())
    kept[17] = session.logits()
    session.feed(QUESTION, every_logit=True)
    kept |= {18 + k: session.logits(k) for k in range(len(QUESTION))}
    session.close()
    shown = layers(model, seen(), QUESTION, context=CONTEXT)[-1]
    tokens = 1 + 17 + len(QUESTION)
    assert shown.shape == (tokens, session.vocabulary)
    at = np.stack(np.unravel_index(places(tokens * session.vocabulary), shown.shape), 1).tolist()
    pairs = [
        (value, kept[row][column])
        for value, (row, column) in zip(shown.values, at, strict=True)
        if row in kept
    ]
    assert len(pairs) > 30
    np.testing.assert_allclose(*zip(*pairs, strict=True), rtol=1e-4, atol=1e-4)


def test_the_same_conversation_shows_the_same(model):
    first, again = (layers(model, seen(), QUESTION, context=CONTEXT) for _ in range(2))
    other = layers(model, seen(seed=4), QUESTION, context=CONTEXT)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a.values, b.values)
    assert not np.array_equal(first[-1].values, other[-1].values)
    np.testing.assert_array_equal(first[0].values, other[0].values)  # the text's embeddings


def test_a_session_beside_it_is_not_disturbed(model):
    session = LlamaSession(model, width=WIDTH, context=CONTEXT)
    session.restart()
    session.see(seen())
    before = session.logits()
    layers(model, seen(seed=5), QUESTION, context=CONTEXT)
    np.testing.assert_array_equal(session.logits(), before)
    session.feed(QUESTION)
    assert np.isfinite(session.logits()).all()
    session.close()


@pytest.mark.parametrize(
    ("visual", "question", "message"),
    [
        (seen(CONTEXT), QUESTION, f"a context of {CONTEXT}"),
        (seen()[:, :128], QUESTION, "embeddings of 256 values instead of 128"),
        (np.full((3, WIDTH), np.nan, np.float32), QUESTION, "not finite"),
        (seen(), [10**6], "failed with code"),
        (seen(), [-4], "failed with code"),
    ],
)
def test_what_does_not_fit_is_told_before_c_code_sees_it(model, visual, question, message):
    with pytest.raises(BackendError, match=message):
        layers(model, visual, question, context=CONTEXT)


@pytest.mark.parametrize("data", [b"", b"GGUF", b"not a model", b"GGUF\x03\0\0\0" + b"\xff" * 64])
def test_what_is_no_model_is_one_clear_line(data, tmp_path):
    path = tmp_path / "odd.gguf"
    path.write_bytes(data)
    with pytest.raises(BackendError, match="odd.gguf: llama.cpp cannot load it"):
        layers(path, seen(), QUESTION, context=CONTEXT)


def test_a_library_with_other_names_is_told(model, monkeypatch):
    monkeypatch.setattr(trace_llama, "NAMES", {})
    monkeypatch.setattr(trace_llama, "_WHOLE", {})
    with pytest.raises(BackendError, match="names its layers in another way"):
        layers(model, seen(), QUESTION, context=CONTEXT)


def test_an_error_inside_the_callback_comes_out(model, monkeypatch):
    """Nothing can be raised through C code: it must be kept, and told."""

    def broken(self, tensor, layer):
        raise ValueError("no such tensor")

    monkeypatch.setattr(trace_llama._Watch, "_values", broken)
    with pytest.raises(BackendError, match="does not show its layers: no such tensor"):
        layers(model, seen(), QUESTION, context=CONTEXT)


def test_without_the_library_the_reason_says_how_to_get_it(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(BackendError, match="not installed"):
        layers(model, seen(), QUESTION, context=CONTEXT)
