"""Artifacts beside golden outputs: the toy's own answers pass, planted differences do not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from feallm.runtime.backends import choose, llama
from feallm.runtime.backends.base import AU_INTENSITY, AU_PROBABILITY, EXPRESSION, TOKENS
from feallm.runtime.bundle.open import open_bundle
from feallm.runtime.contract.errors import BackendError, BundleError, UsageError
from feallm.runtime.contract.manifest import LayerLimit
from feallm.runtime.verify import trace
from feallm.runtime.verify.causes import KNOWN
from feallm.runtime.verify.check import Doors, machine, verify
from feallm.runtime.verify.lines import MANY

needs_llama = pytest.mark.skipif(llama.available() is not None, reason=str(llama.available()))
PLACES = ((15, 10, 160), (90, 40, 150), (60, 20, 130))


@pytest.fixture(scope="module")
def golden(record, toy_bundle):
    """Of crops alone."""
    return record.of(toy_bundle, record.crops())


@pytest.fixture(scope="module")
def whole(record, toy_bundle, scene):
    """Of three frames and some crops."""
    frames = [scene(224, 272, (*place, k)) for k, place in enumerate(PLACES)]
    return record.of(toy_bundle, record.crops(5), frames=frames)


@pytest.fixture(scope="module")
def bundle(record, toy, toy_bundle, whole, tmp_path_factory):
    folder = tmp_path_factory.mktemp("golden") / "bundle"
    return open_bundle(record.bundle(toy_bundle, folder, toy, whole))


def only(report):
    (found,) = report.results
    return found


def failed(result):
    return {line.what for line in result.lines if not line.passed}


def test_what_was_recorded_passes(bundle, golden, record):
    told = []
    report = verify(bundle, golden, tell=told.append)
    result = only(report)
    assert report.passed and result.passed and result.judged and result.failure is None
    assert (result.artifact, result.part, result.engine) == ("vision", "eyes", "onnx")
    assert "CPUExecutionProvider" in result.provider and result.threads == 1
    assert result.faces == report.faces == len(golden) and told == ["vision: eyes"]
    assert record.value(result, "tokens: SQNR, dB") > 100
    assert record.value(result, "AU decisions that are the same") == 1
    assert record.value(result, "intensity: ICC(A,1) over all AUs") == pytest.approx(1)
    assert record.value(result, "faces whose answer changed") == 0
    assert result.causes == () and len(result.worst) == 6
    assert report.digest == bundle.digest and report.golden["model"] == "toy"


def test_whole_frames_pass(bundle, whole, record):
    result = only(verify(bundle, whole))
    assert result.passed, result.faults
    assert record.value(result, "farthest corner of a crop, pixels of the crop") < 0.01
    assert record.value(result, "same expression first", "way") == 1
    crops_alone = only(verify(bundle, whole, frames=False))
    assert crops_alone.passed and not any(line.tier == "way" for line in crops_alone.lines)


def times(name, factor):
    return lambda found: found | {name: found[name] * np.float32(factor)}


def rolled(found):
    names = (AU_PROBABILITY, AU_INTENSITY)
    return found | {name: np.roll(found[name], 1, 1) for name in names}


def swapped(found):
    return found | {EXPRESSION: found[EXPRESSION][:, ::-1]}


def infinite(found):
    found[TOKENS][1, 2, 3] = np.inf
    return found


PLANTED = {
    "BGR": ({"before": lambda crops: crops[..., ::-1]},
            {"expression: SQNR, dB", "same expression first"}, KNOWN["bgr"]),
    "mirrored": ({"before": lambda crops: crops[:, :, ::-1]},
                 {"au_intensity: SQNR, dB", "tokens: SQNR, dB"}, KNOWN["mirrored"]),
    "AUs one place on": ({"after": rolled}, {"AU decisions that are the same",
                         "au_probability: SQNR, dB", "intensity: ICC(A,1) over all AUs"},
                         "the order of the AUs is shifted: each stands one place later"),
    "expressions backwards": ({"after": swapped}, {"same expression first",
                              "KL of the expression's distribution, nats",
                              "faces no worse than the golden answer"}, None),
    "one output 5 % too strong": ({"after": times(TOKENS, 1.05)}, {"tokens: SQNR, dB"}, None),
    "intensities a tenth too strong": ({"after": times(AU_INTENSITY, 1.1)},
                                       {"au_intensity: SQNR, dB"}, None),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_planted_differences_are_caught_and_named(bundle, golden, record, name):
    altered, lines, cause = PLANTED[name]
    doors = record.Otherwise(bundle, **altered)
    report = verify(bundle, golden, doors=doors)
    result = only(report)
    assert not report.passed and lines <= failed(result)
    assert result.causes == (() if cause is None else (cause,))
    assert result.faults and doors.opened[0].closed
    assert {worst.row for worst in result.worst} <= set(range(len(golden)))


def test_only_what_is_wrong_fails(bundle, golden, record):
    doors = record.Otherwise(bundle, after=times(TOKENS, 1.05))
    wrong = failed(only(verify(bundle, golden, doors=doors)))
    assert wrong == {"tokens: SQNR, dB", "tokens: largest difference"}


def test_values_that_are_not_finite(bundle, golden, record):
    doors = record.Otherwise(bundle, after=infinite)
    result = only(verify(bundle, golden, doors=doors))
    assert not result.passed and "not finite in tokens" in result.failure
    assert len(result.causes) == 1 and "overflow" in result.causes[0]
    assert result.faults == (result.failure,) and doors.opened[0].closed


def test_an_output_that_is_missing(bundle, golden, record):
    def without(found):
        del found[EXPRESSION]
        return found

    result = only(verify(bundle, golden, doors=record.Otherwise(bundle, after=without)))
    assert not result.passed and "gave no expression" in result.failure and result.causes == ()


def test_an_output_of_another_size(bundle, golden, record):
    half = record.Otherwise(bundle, after=lambda found: found | {TOKENS: found[TOKENS][:, :8]})
    result = only(verify(bundle, golden, doors=half))
    assert not result.passed and "no tokens of the golden shape" in result.failure


def test_crops_cut_elsewhere(bundle, whole, record):
    """The golden frames say where crops should be: as if this device cut them 8 % too large."""
    middle = np.array([55.5, 63.5])
    off = whole.frame_matrix / 1.08
    off[:, :, 2] += middle * (1 - 1 / 1.08)
    result = only(verify(bundle, replace(whole, frame_matrix=off)))
    assert failed(result) == {"farthest corner of a crop, pixels of the crop"}
    assert record.value(result, "farthest corner of a crop, pixels of the crop") > 4
    assert result.causes == ("the crop is off: faces stand 1.08 times as large in it",)


def test_a_face_that_is_not_found(bundle, whole, record, monkeypatch):
    monkeypatch.setattr("feallm.runtime.analyze.Analyzer.find", lambda self, frame: [])
    result = only(verify(bundle, whole))
    (line,) = [line for line in result.lines if line.what.startswith("frames whose face")]
    assert not result.passed and line.value == len(PLACES) and not line.passed


def test_eyes_that_are_wrong_on_frames_alone(bundle, whole):
    expression = np.roll(whole.frame_expression, 1, 1)
    result = only(verify(bundle, replace(whole, frame_expression=expression)))
    (line,) = [line for line in result.lines if not line.passed]
    assert (line.tier, line.what, line.value) == ("way", "same expression first", 0)


def test_own_thresholds_count_on_frames_too(record, toy, toy_bundle, whole, tmp_path):
    """With few bits they were fitted again: what is present is told by them."""

    def fitted(fields):
        own = dict.fromkeys(fields["thresholds"], 0.0)
        fields["artifacts"]["vision"]["thresholds"] = own

    folder = record.bundle(toy_bundle, tmp_path / "bundle", toy, whole, fitted)
    everything = np.ones_like(whole.frame_au)
    facts = whole.facts.model_copy(update={"thresholds": dict.fromkeys(toy.THRESHOLDS, 0.0)})
    sure = replace(whole, facts=facts, frame_au=everything)
    result = only(verify(open_bundle(folder), sure))
    same = [line.value for line in result.lines if line.what == "AU decisions that are the same"]
    assert same == [1, 1]


@pytest.mark.parametrize("name", ["vision", "onnx"])
def test_what_is_asked_for(bundle, golden, name):
    assert [one.artifact for one in verify(bundle, golden, only=name).results] == ["vision"]


def test_what_is_not_there(bundle, golden):
    with pytest.raises(UsageError, match="no 'coreml' to verify") as found:
        verify(bundle, golden, only="coreml")
    assert "it has onnx, vision" in found.value.line()
    with pytest.raises(UsageError, match="no words to compare"):
        verify(bundle, golden, parts=("words",))


@pytest.fixture
def two(record, toy, toy_bundle, whole, tmp_path):
    """A bundle whose second vision artifact is of another engine."""

    def second(fields):
        path = tmp_path / "two" / "other.pte"
        path.write_bytes(b"no program")
        record.add(path.parent, fields, path.name, "pte")
        fields["artifacts"][path.name]["tolerance"] = {"eyes": record.EYES.model_dump()}
        fields["vision"].append(path.name)

    return open_bundle(record.bundle(toy_bundle, tmp_path / "two", toy, whole, second))


def absent(monkeypatch):
    monkeypatch.setattr(choose.executorch, "available", lambda: "no executorch here")


def test_what_does_not_run_here_is_told(two, golden, monkeypatch):
    absent(monkeypatch)
    report = verify(two, golden)
    assert [one.artifact for one in report.results] == ["vision"] and report.passed
    assert report.skipped == {"other.pte": "no executorch here"}


def test_nothing_that_runs_here(two, golden, monkeypatch):
    absent(monkeypatch)
    with pytest.raises(BackendError, match="nothing of this bundle runs here: other.pte: no exec"):
        verify(two, golden, only="executorch")


def test_an_artifact_that_breaks_stops_no_other(two, golden):
    class Broken(Doors):
        def missing(self, artifact):
            return None

        def eyes(self, name):
            if name == "other.pte":
                raise BackendError("cannot be loaded")
            return super().eyes(name)

    report = verify(two, golden, doors=Broken(two))
    assert [(one.artifact, one.passed) for one in report.results] == [
        ("vision", True),
        ("other.pte", False),
    ]
    assert report.results[1].failure == "cannot be loaded" and not report.passed


@pytest.fixture
def unjudged(record, toy, toy_bundle, whole, tmp_path):
    folder = record.bundle(toy_bundle, tmp_path / "plain", toy, whole, tolerances=False)
    return open_bundle(folder)


def test_without_tolerances_nothing_is_judged(unjudged, golden, record):
    report = verify(unjudged, golden)
    result = only(report)
    assert not result.judged and result.faults == () and not report.passed
    assert record.value(result, "tokens: SQNR, dB") > 100, "figures are told all the same"
    assert not any(line.limit is not None for line in result.lines)


def test_golden_outputs_of_another_network(bundle, golden):
    small = replace(golden, crops=golden.crops[:, :64])
    with pytest.raises(BundleError, match="112 x 64 pixels, the bundle's are 112 x 128"):
        verify(bundle, small)


def test_labels_of_few_faces_are_told_and_of_many_judged(record, toy, toy_bundle, tmp_path):
    """Answers as right as the golden ones, then worse by more than a point."""

    def held(fields):
        fields["artifacts"]["vision"]["tolerance"] = {"eyes": {"points": 0.5}}

    golden = record.of(toy_bundle, record.crops(MANY))
    classes = golden.outputs[EXPRESSION].argmax(1)
    folder = record.bundle(toy_bundle, tmp_path / "bundle", toy, golden, held)
    bundle = open_bundle(folder)
    worse = record.Otherwise(bundle, after=swapped)
    many = replace(golden, expression=classes)
    few = replace(golden, expression=np.where(np.arange(MANY) % 2, classes, -1))
    for reference, count in ((many, MANY), (few, MANY // 2)):
        assert only(verify(bundle, reference)).passed
        result = only(verify(bundle, reference, doors=worse))
        assert record.value(result, f"expression accuracy on {count} labelled faces") < 0.5
        assert record.value(result, "expression accuracy of the golden answers") == 1
        assert result.passed is (count < MANY)
    assert failed(only(verify(bundle, many, doors=worse))) == {"expression accuracy lost, points"}


class Looking(Doors):
    """Doors that show three layers, the last two of them as they should be times `factor`."""

    def __init__(self, bundle, factor=1.0, error=None):
        super().__init__(bundle)
        self.factor, self.error = factor, error

    def layers(self, part, name, golden, names):
        if self.error is not None:
            raise self.error
        assert names == ["stem", "body", "head"]
        return [
            trace.sample(name, SOUND * (1 if name == "stem" else self.factor)) for name in names
        ]


SOUND = np.random.default_rng(0).normal(0, 1, (4, 100)).astype(np.float32)


@pytest.fixture(scope="module")
def layered(golden):
    layers = [trace.sample(name, SOUND) for name in ("stem", "body", "head")]
    return replace(golden, layers=trace.pack(layers, "eyes"))


@pytest.fixture(scope="module")
def limited(record, toy, toy_bundle, whole, tmp_path_factory):
    """A bundle that states from where on layers drift."""

    def limit(fields):
        own = record.EYES.model_copy(update={"layers": LayerLimit(error=0.01, scale=0.01)})
        fields["artifacts"]["vision"]["tolerance"] = {"eyes": own.model_dump()}

    folder = tmp_path_factory.mktemp("layers") / "bundle"
    return open_bundle(record.bundle(toy_bundle, folder, toy, whole, limit))


def test_a_layer_that_drifts_does_not_pass_though_every_answer_does(limited, layered, record):
    good = only(verify(limited, layered, doors=Looking(limited)))
    assert good.passed and record.value(good, "layers that drift, of 3") == 0
    assert len(good.layers) == 3 and good.causes == ()
    bad = only(verify(limited, layered, doors=Looking(limited, 1.05)))
    assert failed(bad) == {"layers that drift, of 3"}
    assert record.value(bad, "layers that drift, of 3") == 2
    assert len(bad.causes) == 1 and "first layer that drifts: body: 1.05 times" in bad.causes[0]


def test_layers_without_a_limit_are_shown_and_not_judged(bundle, layered):
    result = only(verify(bundle, layered, doors=Looking(bundle, 1.5)))
    assert result.passed and len(result.layers) == 3
    assert not any("layers" in line.what for line in result.lines)


def test_layers_that_cannot_be_looked_at(limited, layered):
    doors = Looking(limited, error=BackendError("no such node"))
    result = only(verify(limited, layered, doors=doors))
    assert result.layers == ("its layers are not shown: no such node",)
    assert result.failure is None and result.lines, "another version of an engine may name them so"


def test_an_overflow_is_followed_to_its_layer(limited, layered, record):
    class Both(Looking, record.Otherwise):
        def __init__(self):
            record.Otherwise.__init__(self, limited, after=infinite)
            self.factor, self.error = np.inf, None

    with np.errstate(invalid="ignore"):
        result = only(verify(limited, layered, doors=Both()))
    assert "not finite in tokens" in result.failure
    assert "overflow" in result.causes[0] and "body: holds values" in result.causes[1]


def test_the_machine_is_told():
    found = machine()
    assert set(found) == {"system", "processor", "cores", "python", "packages"}
    assert {"numpy", "feallm-edge"} <= set(found["packages"])


@pytest.fixture(scope="module")
def spoken(record, toy_bundle_with_words):
    return record.of(toy_bundle_with_words, record.crops(6), answers=3)


@pytest.fixture(scope="module")
def speaking(record, toy, toy_bundle_with_words, spoken, tmp_path_factory):
    folder = tmp_path_factory.mktemp("spoken") / "bundle"
    return open_bundle(record.bundle(toy_bundle_with_words, folder, toy, spoken))


@needs_llama
def test_words_that_were_recorded_pass(speaking, spoken, record):
    report = verify(speaking, spoken)
    eyes, words = report.results
    assert report.passed, (eyes.faults, words.faults)
    assert (words.artifact, words.part, words.engine) == ("language", "words", "llama")
    assert words.provider == "llama.cpp" and words.faces == 3
    assert record.value(words, "texts that changed") == 0
    assert record.value(words, "KL of the next token, nats, mean") < 1e-6
    tokens = sum(map(len, spoken.words.answers))
    assert record.value(words, f"same token first, of {tokens}") == 1
    assert [worst.golden for worst in words.worst] == [worst.found for worst in words.worst]
    one = verify(speaking, spoken, only="llama")
    assert [result.part for result in one.results] == ["words"]


@needs_llama
def test_eyes_that_are_wrong_do_not_make_words_wrong(speaking, spoken, record):
    doors = record.Otherwise(speaking, after=times(TOKENS, 0.5))
    eyes, words = verify(speaking, spoken, doors=doors).results
    assert not eyes.passed and words.passed


@needs_llama
@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda words: {"logit": words.logit * 1.05}, "logits: SQNR, dB"),
        (lambda words: {"logit": words.logit[:, ::-1]}, "KL of the next token, nats, mean"),
        (lambda words: {"top": np.roll(words.top, 1, 1)}, "same token first, of"),
        (lambda words: {"said": ("Why?", *words.said[1:])}, "tokenizer: kinds of text"),
    ],
)
def test_words_that_differ(speaking, spoken, change, line):
    changed = replace(spoken, words=replace(spoken.words, **change(spoken.words)))
    result = verify(speaking, changed, only="language").results[0]
    assert any(what.startswith(line) for what in failed(result)), failed(result)


@needs_llama
def test_another_tokenizer_is_named(speaking, spoken):
    words = replace(spoken.words, question=spoken.words.question[::-1])
    result = verify(speaking, replace(spoken, words=words), only="language").results[0]
    assert not result.passed
    assert result.causes == ("another tokenizer: the question becomes other tokens",)


@needs_llama
@pytest.mark.parametrize("field", ["top", "question", "answers"])
def test_tokens_that_the_artifact_does_not_have(speaking, spoken, field):
    words, beyond = spoken.words, 9999
    changed = {
        "top": np.full_like(words.top, beyond),
        "question": (*words.question, beyond),
        "answers": ((*words.answers[0][:-1], beyond), *words.answers[1:]),
    }
    golden = replace(spoken, words=replace(words, **{field: changed[field]}))
    result = verify(speaking, golden, only="language").results[0]
    assert not result.passed and "vocabulary" in result.failure


@needs_llama
def test_golden_outputs_without_words_leave_words_out(speaking, spoken):
    silent = replace(spoken, words=None)
    assert [result.part for result in verify(speaking, silent).results] == ["eyes"]
    with pytest.raises(UsageError, match="no words to compare language with"):
        verify(speaking, silent, only="language")


@needs_llama
def test_tokens_of_another_width(speaking, spoken):
    outputs = {**spoken.outputs, TOKENS: spoken.outputs[TOKENS][:, :, :128]}
    with pytest.raises(BundleError, match="visual tokens"):
        verify(speaking, replace(spoken, outputs=outputs))
