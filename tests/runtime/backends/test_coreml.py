"""Core ML behind its seam, with a stand-in for coremltools that checks what it is given.

No test has met a Mac: what is shown is that the calls are those that coremltools documents, with
the names, shapes and types that the packages ask for. `tests/export/test_coreml_words.py` puts the
interpreter of a real package behind the same session.
"""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from feallm.runtime.backends import coreml
from feallm.runtime.backends.base import ALL_OUTPUTS, IMAGE, VISION_OUTPUTS, LanguageBackend
from feallm.runtime.backends.coreml import CoremlSession, CoremlVision
from feallm.runtime.contract.errors import BackendError

WIDTH, VOCABULARY, ROOM = 8, 300, 12
SHAPES = {
    "au_probability": (1, 20),
    "au_intensity": (1, 20, 2),
    "expression": (1, 8),
    "tokens": (1, 17, 256),
    "landmarks": (1, 68, 2),
    "pose_deg": (1, 3),
    "gaze_deg": (1, 2),
    "au_side_probability": (1, 20, 2),
}


def array(name, shape):
    kind = SimpleNamespace(
        multiArrayType=SimpleNamespace(shape=shape), WhichOneof=lambda _: "multiArrayType"
    )
    return SimpleNamespace(name=name, type=kind)


def picture(width=112, height=128):
    kind = SimpleNamespace(
        imageType=SimpleNamespace(width=width, height=height), WhichOneof=lambda _: "imageType"
    )
    return SimpleNamespace(name=IMAGE, type=kind)


def state(name, room=ROOM):
    kind = SimpleNamespace(stateType=SimpleNamespace(arrayType=SimpleNamespace(shape=(2, room, 4))))
    return SimpleNamespace(name=name, type=kind)


class FakeVision:
    """Answers with the mean of red, so that each face has its own answer."""

    def __init__(self, inputs=None, names=ALL_OUTPUTS, drop=()):
        outputs = [array(name, SHAPES[name]) for name in reversed(names)]
        self.description = SimpleNamespace(input=inputs or [picture()], output=outputs, state=[])
        self.drop, self.calls, self.broken = drop, 0, None

    def predict(self, inputs, *state):
        from PIL import Image

        assert set(inputs) == {IMAGE} and not state
        assert isinstance(inputs[IMAGE], Image.Image)
        assert (inputs[IMAGE].mode, inputs[IMAGE].size) == ("RGB", (112, 128))
        self.calls += 1
        if self.broken:
            raise RuntimeError(self.broken)
        red = np.asarray(inputs[IMAGE])[..., 0].mean()
        return {
            name: np.full(SHAPES[name], red + k, np.float16)
            for k, name in enumerate(sorted(SHAPES))
            if name in [value.name for value in self.description.output] and name not in self.drop
        }


class FakeWords:
    """Counts in its state; wants each place in turn, and says the token after the last one."""

    def __init__(self, width=WIDTH, vocabulary=VOCABULARY, room=ROOM, renamed="logits"):
        self.description = SimpleNamespace(
            input=[
                array("position", (1,)),
                array("embedding", (1, 1, width)),
                array("token", (1, 1)),
                array("seen", (1,)),
            ],
            output=[array(renamed, (1, vocabulary))],
            state=[state("keys_0", room), state("values_0", room)],
        )
        self.vocabulary, self.width, self.says = vocabulary, width, None
        self.broken = None

    def make_state(self):
        return []

    def predict(self, inputs, kept):
        if self.broken:
            raise RuntimeError(self.broken)
        kinds = {name: (value.dtype.name, value.shape) for name, value in inputs.items()}
        assert kinds == {
            "token": ("int32", (1, 1)),
            "embedding": ("float32", (1, 1, self.width)),
            "seen": ("int32", (1,)),
            "position": ("int32", (1,)),
        }
        assert inputs["position"][0] == len(kept)
        kept.append(
            inputs["embedding"][0, 0].copy() if inputs["seen"][0] else int(inputs["token"][0, 0])
        )
        logits = np.zeros((1, self.vocabulary), np.float32)
        logits[0, (len(kept) if self.says is None else self.says)] = 1
        self.kept = kept
        return {"logits": logits}


@pytest.fixture
def mac(monkeypatch):
    """Pretends to be a Mac whose coremltools opens the given stand-in."""
    pytest.importorskip("PIL", reason="Core ML takes pictures of Pillow")
    monkeypatch.setattr(coreml, "platform", SimpleNamespace(system=lambda: "Darwin"))

    def opens(model):
        model.get_spec = lambda: SimpleNamespace(description=model.description)

        def load(path, compute_units):
            assert isinstance(path, str) and compute_units == "all"
            return model

        fake = ModuleType("coremltools")
        fake.ComputeUnit = SimpleNamespace(ALL="all")
        fake.models = SimpleNamespace(MLModel=load)
        monkeypatch.setitem(sys.modules, "coremltools", fake)
        return model

    return opens


def crops(count):
    return np.random.default_rng(2).integers(0, 256, (count, 128, 112, 3), dtype=np.uint8)


@pytest.mark.parametrize("names", [VISION_OUTPUTS, ALL_OUTPUTS], ids=["plain", "with places"])
def test_faces_are_shown_one_by_one_and_answers_zipped_by_name(names, mac, tmp_path):
    mac(FakeVision(names=names))
    backend = CoremlVision(tmp_path / "v.mlpackage", threads=2)
    found, faces = backend.run({IMAGE: crops(3)}), crops(3)
    assert set(found) == set(names) and backend.provider == "CoreML"
    for name, value in found.items():
        assert value.dtype == np.float32 and value.shape == (3, *SHAPES[name][1:])
        expected = faces[..., 0].mean((1, 2)) + sorted(SHAPES).index(name)
        np.testing.assert_allclose(value.reshape(3, -1)[:, 0], expected, atol=0.1)


def test_no_face_gives_empty_answers(mac, tmp_path):
    mac(FakeVision())
    found = CoremlVision(tmp_path / "v.mlpackage").run({IMAGE: crops(3)[:0]})
    assert {name: value.shape for name, value in found.items()} == {
        name: (0, *shape[1:]) for name, shape in SHAPES.items()
    }


@pytest.mark.parametrize(
    "wrong",
    [crops(1).astype(np.float32), crops(1)[:, :100], crops(1)[0], crops(1)[..., :1]],
    ids=["floats", "cut", "one alone", "gray"],
)
def test_crops_of_another_form_are_refused(wrong, mac, tmp_path):
    model = mac(FakeVision())
    backend = CoremlVision(tmp_path / "v.mlpackage")
    before = model.calls
    with pytest.raises(BackendError, match="expected uint8 crops"):
        backend.run({IMAGE: wrong})
    assert model.calls == before


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (FakeVision(inputs=[array(IMAGE, (1, 3, 128, 112))]), "unexpected signature"),
        (FakeVision(names=VISION_OUTPUTS[:3]), "unexpected signature"),
        (FakeVision(inputs=[picture(width=96)]), "pictures of 96 x 128"),
        (FakeVision(drop=("expression",)), "gave no expression"),
    ],
    ids=["array", "outputs missing", "size", "answer missing"],
)
def test_a_package_that_is_not_ours_is_refused(model, said, mac, tmp_path):
    mac(model)
    with pytest.raises(BackendError, match=said):
        CoremlVision(tmp_path / "v.mlpackage")


def test_a_package_that_this_macos_cannot_run_is_refused_at_once(mac, tmp_path):
    """coremltools opens it without a word and only then fails to predict."""
    mac(FakeVision()).broken = "The specification has version 9"
    with pytest.raises(BackendError, match="Core ML failed: The specification has version 9"):
        CoremlVision(tmp_path / "v.mlpackage")


def test_a_package_that_cannot_be_opened(mac, monkeypatch, tmp_path):
    mac(FakeVision())

    def fails(path, compute_units):
        raise Exception("no such folder")

    sys.modules["coremltools"].models.MLModel = fails
    with pytest.raises(BackendError, match="cannot load it: no such folder"):
        CoremlVision(tmp_path / "v.mlpackage")


def test_a_closed_model(mac, tmp_path):
    mac(FakeVision())
    backend = CoremlVision(tmp_path / "v.mlpackage")
    backend.close()
    backend.close()
    with pytest.raises(BackendError, match="closed"):
        backend.run({IMAGE: crops(1)})


@pytest.mark.parametrize(
    ("platform", "library", "said"),
    [
        ("Linux", object(), "macOS alone"),
        ("Windows", object(), "macOS alone"),
        ("Darwin", None, "pip install"),
    ],
)
def test_where_core_ml_is_not_one_line_says_why(platform, library, said, monkeypatch, tmp_path):
    monkeypatch.setattr(coreml, "platform", SimpleNamespace(system=lambda: platform))
    monkeypatch.setitem(sys.modules, "coremltools", library)
    assert said in (coreml.available() or "")
    with pytest.raises(BackendError, match=said):
        CoremlVision(tmp_path / "v.mlpackage")
    with pytest.raises(BackendError, match=said):
        CoremlSession(tmp_path / "w", tokenizer=tmp_path / "t", width=8, context=8)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    pytest.importorskip("tokenizers", reason="the words of Core ML need tokenizers")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<bos>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([f"a text of {k} words, yes or no?" for k in range(200)], trainer)
    made.add_special_tokens([f"<unused{i}>" for i in range(VOCABULARY - made.get_vocab_size())])
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(made.to_str())
    return path


@pytest.fixture
def session(mac, tokenizer, tmp_path):
    model = mac(FakeWords())
    made: LanguageBackend = CoremlSession(
        tmp_path / "w.mlpackage", tokenizer=tokenizer, width=WIDTH, context=ROOM
    )
    return made, model


def test_tokens_and_sights_go_in_one_by_one_in_their_order(session):
    made, model = session
    assert model.kept == [1]  # the opening token
    made.see(np.arange(2 * WIDTH, dtype=np.float64).reshape(2, WIDTH))
    made.feed([7, 9])
    assert [value if isinstance(value, int) else list(value) for value in model.kept] == [
        1,
        list(range(WIDTH)),
        list(range(WIDTH, 2 * WIDTH)),
        7,
        9,
    ]
    logits = made.logits()
    assert (logits.shape, logits.dtype, logits.argmax()) == ((VOCABULARY,), np.float32, 5)
    logits[:] = 0
    assert made.logits().any()  # what is given away is a copy


def test_a_new_answer_begins_with_a_new_state(session):
    made, model = session
    made.feed([5, 6])
    before = model.kept
    made.restart()
    assert model.kept == [1] and model.kept is not before


def test_what_does_not_fit_is_refused_before_anything_is_read(session):
    made, model = session
    before = list(model.kept)
    for call, said in [
        (lambda: made.feed([5] * ROOM), f"more than {ROOM} tokens"),
        (lambda: made.see(np.zeros((ROOM, WIDTH), np.float32)), f"more than {ROOM} tokens"),
        (lambda: made.feed([5, VOCABULARY]), f"no token {VOCABULARY}"),
        (lambda: made.feed([-1]), "no token -1"),
        (lambda: made.feed([]), "no tokens"),
        (lambda: made.see(np.zeros((2, WIDTH + 1), np.float32)), r"found \(2, 9\)"),
        (lambda: made.see(np.full((1, WIDTH), np.nan, np.float32)), "not finite"),
    ]:
        with pytest.raises(BackendError, match=said):
            call()
    assert model.kept == before
    made.feed([5] * (ROOM - 1))  # exactly full


def test_text_is_cut_and_joined_by_the_tokenizer(session):
    made, _ = session
    ids = made.tokenize("yes, <bos> é")
    assert 1 not in ids and b"".join(map(made.piece, ids)).decode() == "yes, <bos> é"
    assert (made.vocabulary, made.width, made.context) == (VOCABULARY, WIDTH, ROOM)


def test_the_greedy_answer_keeps_to_the_grammar(session):
    made, _ = session
    assert b"".join(made.generate(8, 'root ::= "yes" | "no"')) in (b"yes", b"no")


def test_the_answer_ends_with_the_end_token_or_at_the_limit(session):
    made, model = session
    model.says = made.tokenize("a")[0]
    made.feed([5])
    assert list(made.generate(3)) == [b"a"] * 3
    model.says = 2  # <eos>
    made.feed([5])
    assert list(made.generate(3)) == []


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (FakeWords(width=16), "embeddings of 16 values instead of 8"),
        (FakeWords(room=ROOM - 1), f"no room for {ROOM} tokens"),
        (FakeWords(vocabulary=VOCABULARY + 1), f"{VOCABULARY + 1} tokens, but tokenizer.json"),
        (FakeWords(renamed="scores"), "unexpected signature"),
    ],
    ids=["width", "room", "vocabulary", "names"],
)
def test_words_that_are_not_ours_are_refused(model, said, mac, tokenizer, tmp_path):
    mac(model)
    with pytest.raises(BackendError, match=said):
        CoremlSession(tmp_path / "w", tokenizer=tokenizer, width=WIDTH, context=ROOM)


def test_a_failure_of_the_library_is_one_of_ours(session):
    made, model = session
    model.broken = "out of memory"
    with pytest.raises(BackendError, match="Core ML failed: out of memory"):
        made.feed([5])


def test_a_macos_without_states(mac, tokenizer, tmp_path):
    model = mac(FakeWords())

    def refuses():
        raise Exception("State functionality is only supported on macOS 15+")

    model.make_state = refuses
    with pytest.raises(BackendError, match="macOS 15"):
        CoremlSession(tmp_path / "w", tokenizer=tokenizer, width=WIDTH, context=ROOM)


def test_a_closed_session(session):
    made, _ = session
    made.close()
    made.close()
    for call in (made.restart, made.logits, lambda: made.feed([5])):
        with pytest.raises(BackendError, match="closed"):
            call()
