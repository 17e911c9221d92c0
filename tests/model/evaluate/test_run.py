"""`feallm evaluate` as a person calls it, on the tiny network's real export."""

import csv
import json

import cv2
import numpy as np
import pytest

from feallm.model.evaluate import run, sets
from feallm.runtime.analyze import Analyzer
from feallm.runtime.backends.base import (
    AU_INTENSITY,
    AU_PROBABILITY,
    EXPRESSION,
    GAZE,
    IMAGE,
    LANDMARKS,
    POSE,
    TOKENS,
)
from feallm.runtime.contract.aus import AU_INDEX, AU_KEYS
from feallm.runtime.contract.expressions import EXPRESSIONS

TRAINED = ("AU1", "AU12", "AU25")


@pytest.fixture
def evaluate(feallm, exported, tmp_path):
    """Call the verb on the tiny bundle; gives code, stderr, figures and the rows of the CSV."""

    def call(data, *words, split="valid", source=None):
        source = ["--bundle", exported[1]] if source is None else source
        out, table = tmp_path / "out.json", tmp_path / "out.csv"
        code, text, err = feallm(
            "evaluate", "--data", data, "--split", split, "--json", out,
            "--predictions", table, *source, *words,
        )  # fmt: skip
        figures = json.loads(out.read_text()) if out.is_file() else None
        rows = list(csv.reader(table.read_text().splitlines())) if table.is_file() else None
        return code, text + err, figures, rows

    return call


@pytest.fixture
def answers(exported):
    """What the bundle answers for a data file, computed here again."""

    def of(path, name="valid"):
        data = sets.read(path, name)
        with Analyzer(exported[1], detect=False) as analyzer:
            (crops,) = sets.crops(data, data.rows, analyzer.bundle.manifest.geometry.crop())
            return analyzer.outputs(crops)

    return of


def test_votes(evaluate, split, votes, answers, exported):
    path = split(count=8, votes=votes(0, 1, -1, 3, 4, 5, 6, 7))
    code, text, figures, rows = evaluate(path)
    assert code == 0 and "accuracy" in text
    found = answers(path)["expression"].argmax(1)
    truth = np.array([0, 1, 3, 4, 5, 6, 7])
    assert figures["n"] == 7 and figures["split"] == "valid" and figures["aus"] == {}
    assert figures["bundle"] == json.loads((exported[1] / "manifest.json").read_text())["digest"]
    assert figures["expression"]["accuracy"] == pytest.approx((found == truth).mean())
    assert 0 <= figures["expression"]["macro_f1"] <= 1
    assert figures["expression"]["classes"]["surprise"]["n"] == 0
    assert [row[0] for row in rows[1:]] == ["0", "1", "3", "4", "5", "6", "7"]
    assert [row[1] for row in rows[1:]] == [EXPRESSIONS[k] for k in found]


def test_the_csv(evaluate, split, votes, answers):
    path = split(count=3, votes=votes(0, 1, 2))
    _, _, _, (head, *rows) = evaluate(path)
    assert head[:10] == ["index", "expression", *EXPRESSIONS] and head[10:30] == list(AU_KEYS)
    outputs = answers(path)
    for k, row in enumerate(rows):
        np.testing.assert_allclose(np.array(row[2:10], float), outputs["expression"][k], atol=1e-5)
        for key, cell in zip(AU_KEYS, row[10:30], strict=True):
            strength = outputs["au_intensity"][k, AU_INDEX[key]].max()
            assert cell == (f"{strength:.4f}" if key in TRAINED else "")


def test_expression_and_aus_with_unknown_ones(evaluate, split, au_labels, answers):
    nan = np.nan
    labels = au_labels(
        6,
        AU12=[0, 3, nan, 1, 0, 5],  # graded
        AU1=[0, 1, 1, 0, nan, nan],  # 0 and 1
        AU25=[nan, nan, nan, nan, nan, 1],
        AU4=[1, 0, 1, 0, 1, 0],  # not trained
    )
    path = split(count=6, expression=np.array([1, -1, 0, 0, 2, -1]), au=labels)
    code, text, figures, _ = evaluate(path)
    assert code == 0 and "AU12" in text
    assert figures["n"] == 6 and figures["expression"]["n"] == 4
    aus = figures["aus"]
    assert set(aus) == set(TRAINED)
    assert (aus["AU12"]["n"], aus["AU12"]["positives"]) == (5, 3)
    assert (aus["AU1"]["n"], aus["AU1"]["positives"]) == (4, 2)
    outputs = answers(path)
    called = outputs["au_probability"][[0, 1, 3, 4, 5], AU_INDEX["AU12"]] >= 0.5
    true = np.array([False, True, True, False, True])
    assert aus["AU12"]["called"] == called.sum()
    hits = (called & true).sum()
    assert aus["AU12"]["f1"] == pytest.approx(2 * hits / (called.sum() + true.sum()))
    strength = outputs["au_intensity"][[0, 1, 3, 4, 5], AU_INDEX["AU12"]].max(1)
    error = np.abs(strength - [0, 3, 1, 0, 5]).mean()
    assert aus["AU12"]["mean_absolute_error"] == pytest.approx(error, rel=1e-5)
    assert aus["AU1"]["mean_absolute_error"] is None
    assert aus["AU25"]["auc"] is None
    assert figures["not_trained"] == {"AU4": {"n": 6, "positives": 3}}
    (row,) = (line for line in text.splitlines() if line.startswith("AU4 "))
    assert row.split() == ["AU4", "6", "3", "not", "trained"]
    low, high = aus["AU12"]["mean_absolute_error_95"]
    assert low <= aus["AU12"]["mean_absolute_error"] <= high
    assert figures["mean_auc"] is None and figures["mean_auc_aus"] == []  # too few faces


def test_aus_alone(evaluate, split, au_labels):
    path = split(count=4, au=au_labels(4, AU12=[0, 1, 0, 1]))
    code, _, figures, _ = evaluate(path)
    assert code == 0 and figures["n"] == 4 and "expression" not in figures


def test_a_split_whose_every_class_is_left_out(evaluate, split, votes, au_labels):
    path = split(count=2, votes=votes(-1, -1), au=au_labels(2, AU12=[0, 1]))
    code, _, figures, _ = evaluate(path)
    assert code == 0 and figures["n"] == 2
    assert figures["expression"]["n"] == 0 and figures["expression"]["accuracy"] is None


def test_a_split_without_a_labelled_row(evaluate, split, votes):
    code, _, figures, rows = evaluate(split(count=2, votes=votes(-1, -1)))
    assert code == 0 and figures["n"] == 0 and len(rows) == 1


def test_a_folder_and_a_name(evaluate, split, votes, tmp_path):
    split("one", count=2, votes=votes(0, 1))
    split("two", count=3, votes=votes(0, 1, 2))
    code, _, figures, _ = evaluate(tmp_path, split="two")
    assert code == 0 and figures["n"] == 3 and figures["split"] == "two"


def test_points_in_the_file_are_used(evaluate, split, votes):
    plain = evaluate(split("plain", count=4, votes=votes(0, 1, 2, 3)))[3]
    points = np.tile([[10, 20], [25, 19], [18, 25], [12, 33], [24, 33]], (4, 1, 1)).astype(float)
    points[2] = np.nan
    _, _, figures, placed = evaluate(
        split("placed", count=4, votes=votes(0, 1, 2, 3), points5=points)
    )
    assert figures["points_missing"] == 1
    assert [a == b for a, b in zip(plain[1:], placed[1:], strict=True)] == [0, 0, 1, 0]


def test_a_checkpoint_scores_as_its_bundle(evaluate, split, votes, au_labels, exported):
    labels = au_labels(6, AU12=[0, 3, 0, 1, 0, 5])
    path = split(count=6, votes=votes(0, 1, 2, 3, 4, 5), au=labels)
    _, _, expected, rows = evaluate(path)
    source = ["--bundle", exported[1], "--checkpoint", exported[0]]
    code, _, figures, again = evaluate(path, source=source)
    assert code == 0
    assert figures["artifact"] == exported[0].name and figures["bundle"] is None
    assert figures["expression"] == expected["expression"]
    assert figures["aus"]["AU12"]["f1"] == expected["aus"]["AU12"]["f1"]
    numbers = [np.array([row[2:10] for row in table[1:]], float) for table in (rows, again)]
    np.testing.assert_allclose(numbers[0], numbers[1], atol=1e-3)


def test_a_checkpoint_has_its_own_thresholds(evaluate, split, au_labels, exported, tmp_path):
    import shutil

    for file in exported[0].parent.glob("nano.*"):
        shutil.copy(file, tmp_path)
    facts = json.loads((tmp_path / "nano.json").read_text())
    facts["thresholds"]["AU12"] = 0.0
    facts["aus_trained"].remove("AU1")
    del facts["thresholds"]["AU1"]
    (tmp_path / "nano.json").write_text(json.dumps(facts))
    path = split(count=4, au=au_labels(4, AU12=[0, 1, 0, 1], AU1=[0, 1, 0, 1]))
    source = ["--bundle", exported[1], "--checkpoint", tmp_path / "nano.safetensors"]
    _, _, figures, _ = evaluate(path, source=source)
    assert figures["aus"]["AU12"]["called"] == 4 and "AU1" not in figures["aus"]


@pytest.mark.parametrize("words", [["--words"], ["--artifact", "vision"]])
def test_a_checkpoint_alone(evaluate, split, votes, exported, words):
    path = split(count=1, votes=votes(0))
    source = ["--bundle", exported[1], "--checkpoint", exported[0]]
    code, text, _, _ = evaluate(path, *words, source=source)
    assert code == 2 and "--checkpoint" in text


@pytest.mark.parametrize("name", ["vision.fp32.onnx"])
def test_an_artifact_by_its_name(evaluate, split, votes, name):
    path = split(count=2, votes=votes(0, 1))
    code, _, figures, _ = evaluate(path, "--artifact", name)
    assert code == 0 and figures["artifact"] == name


def test_an_unknown_artifact(evaluate, split, votes):
    code, text, figures, _ = evaluate(split(count=1, votes=votes(0)), "--artifact", "ears")
    assert code == 4 and "'ears'" in text and figures is None


def test_words(evaluate, split, votes):
    from feallm.runtime.backends import llama

    if (reason := llama.available()) is not None:
        pytest.skip(reason)
    code, text, figures, _ = evaluate(split(count=2, votes=votes(0, 1)), "--words")
    assert code == 0 and "words" in text
    assert figures["words"]["n"] == 2
    assert figures["words"]["unparsed"] == 1  # random weights say no answer
    assert figures["words"]["accuracy"] == 0 and figures["words"]["replaced"] == 1


def test_bad_input_is_one_line(evaluate, split, votes, tmp_path):
    cases = {
        tmp_path / "none.npz": 3,
        split("bad", count=2, votes=np.zeros((2, 3))): 3,
        split("broken", count=1, pictures=[b"no picture"], votes=votes(1)): 3,
    }
    for path, expected in cases.items():
        code, text, figures, _ = evaluate(path)
        assert (code, text.count("\n"), figures) == (expected, 1, None), text
        assert path.name in text
    code, text, _, _ = evaluate(split(count=1, votes=votes(0)), source=["--bundle", tmp_path])
    assert code == 4 and text.count("\n") == 1


def test_a_place_that_cannot_be_written(feallm, split, votes, exported, tmp_path):
    code, _, err = feallm(
        "evaluate", "--data", split(count=1, votes=votes(0)), "--split", "valid",
        "--bundle", exported[1], "--json", tmp_path / "none" / "out.json",
    )  # fmt: skip
    assert code == 2 and err.count("\n") == 1 and "cannot be written" in err


def test_progress_counts_every_face(split, votes, exported):
    counts = []
    data = sets.read(split(count=5, votes=votes(0, 1, 2, 3, 4)), "valid")
    with Analyzer(exported[1], detect=False) as analyzer:
        run.run(analyzer, data, "valid", step=counts.append)
    assert sum(counts) == 5


def test_a_picture_of_another_size(evaluate, split, votes, tiny):
    """Crops follow the picture's own sides, not those of FER."""
    small = tiny.pictures(1)[0]
    large = cv2.resize(small, (144, 144), interpolation=cv2.INTER_LINEAR)
    images = [cv2.imencode(".png", p)[1].tobytes() for p in (small, large)]
    _, _, _, rows = evaluate(split(count=2, pictures=images, votes=votes(0, 0)))
    numbers = np.array([row[2:10] for row in rows[1:]], float)
    np.testing.assert_allclose(numbers[0], numbers[1], atol=0.05)


class Spread:
    """Answers at random, with landmarks that are a face's size; counts the crops that it saw."""

    provider = "fake"

    def __init__(self):
        self.seen, self.rng = 0, np.random.default_rng(0)

    def run(self, inputs):
        count = len(inputs[IMAGE])
        self.seen += count
        marks = self.rng.uniform(0, 10, (count, 68, 2)) + [50, 60]
        marks[:, 36:42, 0] -= 20
        marks[:, 42:48, 0] += 20
        shapes = {AU_PROBABILITY: (20,), AU_INTENSITY: (20, 2), TOKENS: (17, 256), POSE: (3,)}
        shapes |= {EXPRESSION: (8,), GAZE: (2,)}
        found = {name: self.rng.random((count, *shape)) for name, shape in shapes.items()}
        found[LANDMARKS] = marks
        return {name: values.astype(np.float32) for name, values in found.items()}

    def close(self):
        pass


@pytest.mark.parametrize("looks", [1, 2])
def test_one_look_as_at_a_video_or_two_as_at_photographs(split, votes, exported, looks):
    data = sets.read(split(count=6, votes=votes(0, 1, 2, 3, 4, 5)), "valid")
    vision = Spread()
    with Analyzer(exported[1], detect=False, vision=vision) as analyzer:
        scored = run.run(analyzer, data, "valid", looks=looks)
    assert vision.seen == 6 * looks
    assert scored.figures["looks"] == looks


def test_a_network_without_landmarks_looks_once(evaluate, split, votes):
    _, _, figures, _ = evaluate(split(count=2, votes=votes(0, 1)))
    assert figures["looks"] == 1


def test_one_look_and_a_detector_are_two_ways_of_reading(evaluate, split, votes, tmp_path):
    words = ("--looks", 1, "--detector", tmp_path / "d.onnx")
    code, text, figures, _ = evaluate(split(count=2, votes=votes(0, 1)), *words)
    assert code == 2 and "two looks" in text and figures is None
