"""llama.cpp behind its seam: what it is given is checked before C code sees it.

The model is the toy's: one layer of random weights. What it says means nothing; that it says the
same each time, and that it follows from what it was shown, does.
"""

from __future__ import annotations

import gc
import json
import sys

import numpy as np
import pytest

from feallm.runtime.backends import llama
from feallm.runtime.backends.llama import LlamaSession
from feallm.runtime.contract.errors import BackendError

CONTEXT = 96

needs_llama = pytest.mark.skipif(llama.available() is not None, reason=str(llama.available()))


@pytest.fixture(scope="module")
def model(toy_bundle_with_words):
    return toy_bundle_with_words / "language.gguf"


@pytest.fixture(scope="module")
def session(model):
    session = LlamaSession(model, width=256, context=CONTEXT)
    yield session
    session.close()


def seen(count=17, seed=3):
    return np.random.default_rng(seed).normal(size=(count, 256)).astype(np.float32)


def say(session, tokens, limit=30, grammar=None):
    session.restart()
    session.see(tokens)
    session.feed(session.tokenize("Why?\n"))
    return b"".join(session.generate(limit, grammar))


def test_without_the_library_the_reason_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    assert "pip install 'feallm-edge[words]'" in (llama.available() or "")
    with pytest.raises(BackendError, match="not installed"):
        LlamaSession(tmp_path / "any.gguf", width=256, context=CONTEXT)


@needs_llama
def test_tokens_are_those_of_the_training(session, toy_bundle_with_words, toy):
    tokens = json.loads((toy_bundle_with_words.parent / toy.TOKENS).read_text())
    assert set(tokens) == set(toy.TEXTS)
    for text, expected in tokens.items():
        found = session.tokenize(text)
        assert found == expected
        assert b"".join(map(session.piece, found)).decode() == text


@needs_llama
def test_special_tokens_have_no_piece(session):
    assert [session.piece(k) for k in range(3)] == [b"", b"", b""]


@needs_llama
def test_a_restart_gives_the_same_text_again(session):
    first = say(session, seen())
    other = say(session, seen(seed=4))
    assert first and other != first
    assert say(session, seen()) == first


@needs_llama
def test_two_sessions_give_the_same_text(session, model):
    other = LlamaSession(model, width=256, context=CONTEXT)
    assert say(other, seen()) == say(session, seen())
    other.close()


@needs_llama
def test_logits_of_one_pass_are_those_of_step_by_step(session):
    tokens = session.tokenize("AUs: AU12 lip corner puller")
    session.restart()
    session.see(seen())
    session.feed(tokens, every_logit=True)
    at_once = np.stack([session.logits(k) for k in range(len(tokens))])
    session.restart()
    session.see(seen())
    for expected, token in zip(at_once, tokens, strict=True):
        session.feed([token])
        assert np.allclose(session.logits(), expected, atol=1e-3)


@needs_llama
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_embeddings_that_are_not_finite_are_refused(session, bad):
    tokens = seen()
    tokens[-1, -1] = bad
    session.restart()
    with pytest.raises(BackendError, match="not finite"):
        session.see(tokens)


@needs_llama
@pytest.mark.parametrize("shape", [(17, 255), (256,), (1, 17, 256)])
def test_visual_tokens_of_another_shape_are_refused(session, shape):
    session.restart()
    with pytest.raises(BackendError, match=r"expected visual tokens \(N, 256\)"):
        session.see(np.zeros(shape, np.float32))


@needs_llama
def test_more_tokens_than_the_context_are_refused_and_the_session_lives_on(session):
    before = say(session, seen())
    session.restart()
    with pytest.raises(BackendError, match=f"more than {CONTEXT} tokens"):
        session.see(np.zeros((CONTEXT, 256), np.float32))  # the opening token is there already
    with pytest.raises(BackendError, match=f"more than {CONTEXT} tokens"):
        session.see(np.zeros((50_000, 256), np.float32))
    with pytest.raises(BackendError, match=f"more than {CONTEXT} tokens"):
        session.feed([10] * 100_000)  # far more than the batch has room for
    with pytest.raises(BackendError, match=f"more than {CONTEXT} tokens"):
        say(session, seen(80), limit=CONTEXT)
    assert say(session, seen()) == before


@needs_llama
@pytest.mark.parametrize("tokens", [[-1], [100_000], []], ids=["negative", "unknown", "none"])
def test_tokens_that_the_model_does_not_know_are_refused(session, tokens):
    session.restart()
    with pytest.raises(BackendError, match="failed with code"):
        session.feed(tokens)


@needs_llama
def test_logits_that_were_not_kept(session):
    session.restart()
    session.feed([10, 11])
    with pytest.raises(BackendError, match="kept no logits"):
        session.logits(0)


@needs_llama
def test_a_grammar_is_kept_to(session):
    text = say(session, seen(), grammar='root ::= "yes" | "no"').decode()
    assert text in {"yes", "no"}


@needs_llama
def test_a_broken_grammar_is_refused(session):
    with pytest.raises(BackendError, match="grammar"):
        say(session, seen(), grammar="root ::= (((")


@needs_llama
def test_files_that_are_no_model(tmp_path, model):
    for name, data in (("text", b"hello"), ("cut", model.read_bytes()[:5000]), ("empty", b"")):
        path = tmp_path / f"{name}.gguf"
        path.write_bytes(data)
        with pytest.raises(BackendError, match="cannot load it"):
            LlamaSession(path, width=256, context=CONTEXT)


@needs_llama
def test_a_model_of_another_width(model):
    with pytest.raises(BackendError, match="256 values instead of 512"):
        LlamaSession(model, width=512, context=CONTEXT)


@needs_llama
def test_the_library_can_still_complain_when_a_younger_session_is_gone(session, model):
    """llama.cpp keeps one pointer to the function that it logs through."""
    younger = LlamaSession(model, width=256, context=CONTEXT)
    younger.close()
    del younger
    gc.collect()
    session.restart()
    with pytest.raises(BackendError):
        session.feed([-1])  # logged by the library


@needs_llama
def test_nothing_is_written_to_stderr(model, capfd):
    session = LlamaSession(model, width=256, context=CONTEXT)
    say(session, seen(), limit=3)
    session.close()
    assert capfd.readouterr() == ("", "")


@needs_llama
def test_closing_twice(model):
    session = LlamaSession(model, width=256, context=CONTEXT)
    session.close()
    session.close()
    with pytest.raises(BackendError, match="closed"):
        session.restart()
