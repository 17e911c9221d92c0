"""ExecuTorch behind its seam: files are checked before they run, and what they are given too.

The eyes are a few sums with the contract's signature; the words are a language model of one layer
with random weights, written as the project writes its own.
"""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="ExecuTorch's Python door needs torch")
pytest.importorskip("executorch", reason="needs executorch")
pytest.importorskip("tokenizers", reason="words need tokenizers")

from feallm.export import executorch as writer  # noqa: E402
from feallm.export.cached import CachedDecoder, TokenTable  # noqa: E402
from feallm.export.executorch_words import traced  # noqa: E402
from feallm.model.config import LanguageConfig  # noqa: E402
from feallm.model.language import LanguageModel  # noqa: E402
from feallm.runtime.backends import executorch  # noqa: E402
from feallm.runtime.backends.base import (  # noqa: E402
    ALL_OUTPUTS,
    IMAGE,
    PLACE_OUTPUTS,
    TOKENS,
    VISION_OUTPUTS,
)
from feallm.runtime.backends.executorch import ExecutorchSession, ExecutorchVision  # noqa: E402
from feallm.runtime.backends.guide import Guide  # noqa: E402
from feallm.runtime.contract.errors import BackendError  # noqa: E402
from feallm.runtime.language.grammar import answer_grammar  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # the exporter's own libraries, of each other

WIDTH, CONTEXT = 256, 96
SHAPES = dict(
    zip(
        ALL_OUTPUTS,
        [(20,), (20, 2), (8,), (17, WIDTH), (68, 2), (3,), (2,), (20, 2)],
        strict=True,
    )
)


class Eyes(torch.nn.Module):
    """Outputs of these names, each number another mix of the crop's mean colours."""

    def __init__(self, names, scale=1 / 255):
        super().__init__()
        self.shapes, self.scale = [SHAPES[name] for name in names], scale
        self.counts = [int(np.prod(shape)) for shape in self.shapes]
        torch.manual_seed(1)
        self.mix = torch.nn.Linear(3, sum(self.counts))

    def forward(self, crops):
        flat = self.mix(crops.float().mean((1, 2)) * self.scale).split(self.counts, 1)
        return tuple(
            part.unflatten(1, shape) for part, shape in zip(flat, self.shapes, strict=True)
        )


def write(path, eyes, method="forward", crop=(1, 128, 112, 3), kind=torch.uint8):
    eyes = eyes.eval().requires_grad_(False)
    program = torch.export.export(eyes, (torch.ones(crop, dtype=kind),))
    path.write_bytes(writer.lower({method: program}))
    return path


WHOLE = (TOKENS, *(name for name in ALL_OUTPUTS if name != TOKENS))
PLACES = (*VISION_OUTPUTS, *PLACE_OUTPUTS)


@pytest.fixture(scope="module")
def eyes(tmp_path_factory):
    """A file with all outputs; not to be changed."""
    return write(tmp_path_factory.mktemp("eyes") / "eyes.pte", Eyes(ALL_OUTPUTS))


def crops(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 128, 112, 3), dtype=np.uint8)


def same(path, module, names):
    given = crops(3)
    found = ExecutorchVision(path).run({IMAGE: given})
    expected = dict(zip(names, module(torch.from_numpy(given)), strict=True))
    assert set(found) == set(names)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value.numpy(), atol=1e-4, err_msg=name)


@torch.no_grad()
def test_outputs_get_the_names_that_their_places_stand_for(eyes, tmp_path):
    same(eyes, Eyes(ALL_OUTPUTS), ALL_OUTPUTS)
    whole = Eyes(WHOLE)
    same(write(tmp_path / "whole.pte", whole, "vision_encoder"), whole, WHOLE)


@pytest.mark.parametrize(
    ("method", "names", "good"),
    [
        ("forward", ALL_OUTPUTS, True),
        ("forward", VISION_OUTPUTS, True),
        ("forward", PLACES, True),
        ("vision_encoder", WHOLE, True),
        ("vision_encoder", (TOKENS, *VISION_OUTPUTS[:3]), True),
        ("vision_encoder", WHOLE[:7], True),
        ("vision_encoder", ALL_OUTPUTS, False),
        ("forward", WHOLE, False),
        ("forward", VISION_OUTPUTS[::-1], False),
        ("forward", VISION_OUTPUTS[:3], False),
        ("forward", (*PLACES[:5], *PLACES[:4:-1]), False),  # pose and gaze swapped
        ("forward", (), False),
    ],
)
def test_an_order_is_known_by_its_shapes_or_refused(method, names, good):
    shapes = [(1, *SHAPES[name]) for name in names]
    assert executorch.names_of(method, shapes) == (names if good else None)


@pytest.mark.parametrize(
    ("names", "crop", "kind"),
    [
        (WHOLE, (1, 128, 112, 3), torch.uint8),
        (VISION_OUTPUTS, (1, 128, 112, 3), torch.float32),
    ],
)
def test_a_file_of_another_signature_is_refused(tmp_path, names, crop, kind):
    path = write(tmp_path / "eyes.pte", Eyes(names), crop=crop, kind=kind)
    with pytest.raises(BackendError, match=r"eyes.pte: unexpected signature \[\(1, 1"):
        ExecutorchVision(path)


def test_no_faces_give_empty_outputs_and_each_face_its_own(eyes):
    backend = ExecutorchVision(eyes)
    none = backend.run({IMAGE: crops(0)})
    assert {name: value.shape for name, value in none.items()} == {
        name: (0, *shape) for name, shape in SHAPES.items()
    }
    given = crops(4) // np.arange(1, 5, dtype=np.uint8)[:, None, None, None]
    together = backend.run({IMAGE: given})
    for k in range(4):
        alone = backend.run({IMAGE: given[k : k + 1]})
        assert all((alone[name][0] == together[name][k]).all() for name in SHAPES)
    assert (together[TOKENS][0] != together[TOKENS][1]).any()


@pytest.mark.parametrize(
    "bad", [crops(1).astype(np.float32), crops(1)[0], crops(1)[:, :100], crops(1)[..., :1]]
)
def test_other_crops_are_refused(eyes, bad):
    with pytest.raises(BackendError, match=r"expected uint8 crops \(N, 128, 112, 3\)"):
        ExecutorchVision(eyes).run({IMAGE: bad})


def test_what_runs_the_file_is_told(eyes, tmp_path, monkeypatch):
    assert ExecutorchVision(eyes).provider == "executorch (XNNPACK)"
    monkeypatch.setattr(writer, "_partitioners", lambda: [])
    slow = write(tmp_path / "slow.pte", Eyes(VISION_OUTPUTS))
    assert ExecutorchVision(slow).provider == "executorch (portable kernels)"


def test_after_close_nothing_runs(eyes):
    backend = ExecutorchVision(eyes)
    backend.close()
    backend.close()
    with pytest.raises(BackendError, match="closed"):
        backend.run({IMAGE: crops(1)})


def test_threads_are_those_asked_for(eyes):
    from executorch.extension.pybindings import portable_lib

    for threads in (2, 1):
        ExecutorchVision(eyes, threads=threads)
        assert portable_lib._threadpool_get_thread_count() == threads


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"not a program",
        lambda data: data[:20],
        lambda data: data[:100],
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1000],
        lambda data: bytes(64) + data[64:],
        lambda data: data[:64] + bytes([255]) * 400 + data[464:],
    ],
)
def test_a_damaged_file_is_one_clear_line(eyes, tmp_path, damage, capfd):
    path = tmp_path / "damaged.pte"
    path.write_bytes(damage(eyes.read_bytes()))
    with pytest.raises(BackendError, match=r"damaged\.pte: ") as caught:
        ExecutorchVision(path)
    assert "\n" not in caught.value.line()
    assert capfd.readouterr() == ("", "")


def test_a_missing_file_or_library_is_named(tmp_path, monkeypatch):
    with pytest.raises(BackendError, match=r"none\.pte"):
        ExecutorchVision(tmp_path / "none.pte")
    assert executorch.available() is None
    monkeypatch.setattr(executorch, "find_spec", lambda name: None)
    assert "pip install 'feallm-edge[executorch]'" in executorch.available()
    with pytest.raises(BackendError, match="torch is not installed"):
        ExecutorchVision(tmp_path / "none.pte")


@pytest.fixture(scope="module")
def words(tiny, tmp_path_factory):
    """A file with the methods of the words, its language model, and a tokenizer's file."""
    folder = tmp_path_factory.mktemp("words")
    tokenizer = folder / "tokenizer.json"
    tokenizer.write_text(tiny.tokenizer_json(), encoding="utf-8")
    torch.manual_seed(5)
    config = LanguageConfig(WIDTH, 1, 4, 256, tiny.CONFIG.language.vocabulary, CONTEXT)
    model = LanguageModel(config).eval().requires_grad_(False)
    programs = traced(CachedDecoder(model), TokenTable(model.embed.weight))
    facts = {"get_vocab_size": config.vocabulary, "get_max_context_len": CONTEXT}
    path = folder / "words.pte"
    path.write_bytes(writer.lower(programs, facts))
    return path, model, tokenizer


def opened(words, *, width=WIDTH, context=CONTEXT, tokenizer=None):
    return ExecutorchSession(
        words[0], tokenizer=tokenizer or words[2], width=width, context=context
    )


@pytest.fixture(scope="module")
def session(words):
    session = opened(words)
    yield session
    session.close()


def seen(count=17, seed=3):
    return np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(np.float32)


def say(session, visual, limit=30, grammar=None):
    session.restart()
    session.see(visual)
    session.feed(session.tokenize("Why?\n"))
    return list(session.generate(limit, grammar))


@torch.no_grad()
def test_logits_are_those_of_the_language_model_at_every_step(session, words):
    model, ids = words[1], session.tokenize("AUs: AU12 lip corner puller (strong)")
    session.restart()
    session.see(seen())
    texts = model.embed(torch.tensor([1, *ids]))
    whole = torch.cat([texts[:1], torch.from_numpy(seen()), texts[1:]])
    expected = model(whole[None])[0].numpy()
    for k, token in enumerate(ids):
        session.feed([token])
        np.testing.assert_allclose(session.logits(), expected[18 + k], atol=1e-3)
    session.restart()
    session.see(seen())
    session.feed(ids)  # all at once
    np.testing.assert_allclose(session.logits(), expected[-1], atol=1e-3)


def test_a_restart_forgets_and_sessions_do_not_disturb_each_other(session, words):
    first = say(session, seen())
    other = opened(words)
    assert say(other, seen(seed=4)) != first
    assert say(session, seen()) == first == say(other, seen())
    other.close()


def test_an_answer_keeps_to_a_grammar(session):
    grammar = answer_grammar(("AU1", "AU12"))
    pieces = say(session, seen(), 60, grammar)
    assert b"".join(pieces).startswith(b"AUs: ")
    assert Guide(grammar).begin.advance(b"".join(pieces)) is not None


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_embeddings_that_are_not_finite_are_refused(session, bad):
    tokens = seen()
    tokens[-1, -1] = bad
    session.restart()
    with pytest.raises(BackendError, match="not finite"):
        session.see(tokens)


def test_numbers_that_overflow_leave_nothing_behind(session):
    before = say(session, seen())
    session.restart()
    session.see(seen() * np.float32(3e37))
    assert say(session, seen()) == before


def test_logits_that_are_not_finite_are_told(session, monkeypatch):
    """As a file with damaged weights gives them."""
    session.restart()
    monkeypatch.setattr(session, "_logits", np.full(session.vocabulary, np.nan, np.float32))
    with pytest.raises(BackendError, match=r"executorch \(XNNPACK\) gave logits that are not"):
        next(session.generate(5))


@pytest.mark.parametrize("shape", [(17, WIDTH - 1), (WIDTH,), (1, 17, WIDTH)])
def test_visual_tokens_of_another_shape_are_refused(session, shape):
    session.restart()
    with pytest.raises(BackendError, match=rf"expected visual tokens \(N, {WIDTH}\)"):
        session.see(np.zeros(shape, np.float32))


def test_more_tokens_than_the_context_are_refused_and_the_session_lives_on(session):
    before = say(session, seen())
    session.restart()
    with pytest.raises(BackendError, match=f"more than {CONTEXT} tokens"):
        session.see(seen(CONTEXT))
    session.see(seen(CONTEXT - 1))  # with the opening token, all there is room for
    with pytest.raises(BackendError, match=f"more than {CONTEXT} tokens"):
        session.feed([5])
    assert say(session, seen()) == before


@pytest.mark.parametrize(("tokens", "message"), [([-1], "no token -1"), ([9999], "no token 9999")])
def test_ids_beyond_the_table_are_refused(session, tokens, message):
    session.restart()
    with pytest.raises(BackendError, match=message):
        session.feed(tokens)


def test_nothing_to_read_is_refused(session):
    session.restart()
    for call in (lambda: session.feed([]), lambda: session.see(seen(0))):
        with pytest.raises(BackendError, match="no tokens"):
            call()


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"width": 512}, "embeddings of 256 values instead of 512"),
        ({"context": 512}, "room for 96 tokens instead of 512"),
    ],
)
def test_a_file_of_another_model_is_refused(words, facts, message):
    with pytest.raises(BackendError, match=f"words.pte: {message}"):
        opened(words, **facts)


def test_another_models_tokenizer_is_refused(words, tiny, tmp_path):
    from feallm.model import tokenizer

    path = tmp_path / "other.json"
    path.write_text(tokenizer.train(tiny.texts(), 300).to_str(), encoding="utf-8")
    with pytest.raises(BackendError, match="400 tokens, but other.json has 300"):
        opened(words, tokenizer=path)


def test_eyes_have_no_words_and_words_no_eyes(eyes, words):
    with pytest.raises(BackendError, match="eyes.pte: no method token_embedding, only forward"):
        ExecutorchSession(eyes, tokenizer=words[2], width=WIDTH, context=CONTEXT)
    with pytest.raises(BackendError, match="words.pte: no method vision_encoder, only"):
        ExecutorchVision(words[0])


def test_a_closed_session_says_so(words):
    session = opened(words)
    session.close()
    session.close()
    for call in (session.restart, session.logits, lambda: session.feed([1])):
        with pytest.raises(BackendError, match="this ExecuTorch session is closed"):
            call()
