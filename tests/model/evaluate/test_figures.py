"""Figures per AU, their means, and slices: by hand on few faces."""

import json

import numpy as np
import pytest

from feallm.model.evaluate import figures, metrics
from feallm.runtime.contract.aus import AU_INDEX, AU_KEYS, N_AUS

EVERY = dict.fromkeys(AU_KEYS, 0.5)


def outputs(probability, intensity=None):
    """Answers of N faces, probability (N, 20); intensities left 0 and right as given."""
    count = len(probability)
    sides = np.zeros((count, N_AUS, 2), np.float32)
    if intensity is not None:
        sides[..., 1] = intensity
    expression = np.tile(np.eye(8, dtype=np.float32)[0], (count, 1))
    return {
        "au_probability": np.asarray(probability, np.float32),
        "au_intensity": sides,
        "expression": expression,
    }


def random(count=200, seed=0):
    """Graded labels and answers of `count` faces that know something of them."""
    rng = np.random.default_rng(seed)
    there = rng.random((count, N_AUS)) < 0.3
    au = np.where(there, rng.uniform(1, 5, there.shape), rng.uniform(0, 0.9, there.shape))
    answers = outputs((0.1 * au + rng.random(au.shape)).clip(0, 1), au + rng.normal(0, 1, au.shape))
    return au, answers


def of(au, answers, thresholds=EVERY, **options):
    given, untrained = figures.answers(answers, au, thresholds)
    return figures.au_figures(given, len(au), **options), untrained


def test_each_figure_of_an_au():
    au = np.full((6, N_AUS), np.nan)
    au[:5, 0] = [0, 0.5, 1, 3, 5]
    probability = np.zeros((6, N_AUS))
    probability[:, 0] = [0.1, 0.6, 0.4, 0.6, 0.9, 0.9]
    intensity = np.zeros((6, N_AUS))
    intensity[:, 0] = [0, 1, 1, 2, 4, 4]
    found, _ = of(au, outputs(probability, intensity))
    line = found["aus"]["AU1"]
    assert set(found["aus"]) == {"AU1"}
    assert (line["n"], line["positives"], line["called"]) == (5, 3, 3)
    assert line["auc"] == pytest.approx((3 + 0.5 + 1) / 6)  # .6 ties with .6, .4 lies below it
    assert line["f1"] == pytest.approx(4 / 6)
    assert line["mean_absolute_error"] == pytest.approx((0 + 0.5 + 0 + 1 + 1) / 5)
    pair = np.array([[0, 0], [0.5, 1], [1, 1], [3, 2], [5, 4]])
    assert line["icc31"] == pytest.approx(metrics.icc31(pair))
    for name in ("auc", "f1", "icc31", "mean_absolute_error"):
        low, high = line[f"{name}_95"]
        assert low <= line[name] <= high


def test_labels_of_0_and_1_have_no_intensity():
    au = np.tile([0.0, 1.0, 1.0, 0.0], (N_AUS, 1)).T
    found, _ = of(au, outputs(np.full((4, N_AUS), 0.7)))
    line = found["aus"]["AU12"]
    assert line["icc31"] is line["mean_absolute_error"] is None
    assert line["icc31_95"] == line["mean_absolute_error_95"] == [None, None]
    assert line["auc"] == 0.5 and line["auc_95"] == [0.5, 0.5]


def test_one_class_alone_has_no_auc():
    found, _ = of(np.ones((4, N_AUS)), outputs(np.full((4, N_AUS), 0.7)))
    line = found["aus"]["AU12"]
    assert line["auc"] is None and line["auc_95"] == [None, None] and line["f1"] == 1
    assert found["mean_auc"] is None and found["mean_auc_aus"] == []
    assert found["mean_auc_95"] == found["mean_f1_95"] == [None, None]


def test_intervals_are_those_of_copied_faces():
    au, answers = random()
    found, _ = of(au, answers)
    rng = np.random.default_rng(9)
    k = AU_INDEX["AU12"]
    aucs = []
    for _ in range(1500):
        rows = rng.integers(0, 200, 200)
        aucs.append(metrics.auc(answers["au_probability"][rows, k].astype(float), au[rows, k] >= 1))
    expected = np.quantile(aucs, [0.025, 0.975])
    np.testing.assert_allclose(found["aus"]["AU12"]["auc_95"], expected, atol=0.02)


def test_intervals_are_seeded():
    au, answers = random()
    first, again, other = (of(au, answers, seed=s, draws=200)[0] for s in (0, 0, 1))
    assert first == again
    assert first["mean_auc"] == other["mean_auc"] and first["mean_auc_95"] != other["mean_auc_95"]


def test_an_au_of_no_meaning_to_the_mean():
    """Ten faces with it and ten without are needed; AU23 is approximate in renders."""
    au, answers = random(60, seed=1)
    au[:, AU_INDEX["AU1"]] = 0
    au[:9, AU_INDEX["AU1"]] = 2  # nine have it
    au[:, AU_INDEX["AU2"]] = 3
    au[:10, AU_INDEX["AU2"]] = 0  # ten do not
    au[12:, AU_INDEX["AU4"]] = np.nan  # few are known
    found, _ = of(au, answers)
    rest = [key for key in AU_KEYS if key not in ("AU1", "AU4", "AU23")]
    assert found["mean_auc_aus"] == [key for key in rest if found["aus"][key]["positives"] >= 10]
    assert "AU2" in found["mean_auc_aus"] and found["aus"]["AU23"]["positives"] >= 10
    for name in ("auc", "f1"):
        values = [found["aus"][key][name] for key in found["mean_auc_aus"]]
        assert found[f"mean_{name}"] == pytest.approx(np.mean(values))
        low, high = found[f"mean_{name}_95"]
        assert low < found[f"mean_{name}"] < high


def test_a_mean_is_steadier_than_its_parts():
    """It is drawn face by face with all AUs at once, not put together of single intervals."""
    found, _ = of(*random(300))
    widths = [np.ptp(found["aus"][key]["auc_95"]) for key in found["mean_auc_aus"]]
    assert np.ptp(found["mean_auc_95"]) < np.mean(widths) / 2


def test_what_was_not_trained_is_named():
    au, answers = random(40)
    au[:, 5:] = np.nan
    found, untrained = of(au, answers, {"AU1": 0.5, "AU43": 0.5})
    assert list(found["aus"]) == ["AU1"]
    assert list(untrained) == ["AU2", "AU4", "AU5", "AU6"]
    positives = int((au[:, 1] >= 1).sum())
    assert untrained["AU2"] == {"n": 40, "positives": positives}


def test_no_face_at_all():
    found, untrained = of(np.zeros((0, N_AUS)), outputs(np.zeros((0, N_AUS))))
    assert found["aus"] == untrained == {} and found["mean_auc"] is None


def test_slices():
    au, answers = random(80, seed=2)
    au[:, 3:] = np.nan
    given, _ = figures.answers(answers, au, EVERY)
    light = np.array(["dim", "sun", "", "dim"] * 20)
    found = figures.slice_figures(given, answers, None, {"light": light})
    assert set(found) == {"light"} and list(found["light"]) == ["dim", "sun"]
    for value, line in found["light"].items():
        rows = light == value
        expected, _ = of(au[rows], {name: array[rows] for name, array in answers.items()})
        assert line["n"] == rows.sum() and "accuracy" not in line
        assert line["auc"] == {key: one["auc"] for key, one in expected["aus"].items()}
        for name in ("mean_auc", "mean_f1", "mean_auc_aus"):
            assert line[name] == expected[name]
    assert found["light"]["sun"]["mean_auc_aus"] != found["light"]["dim"]["mean_auc_aus"]


def test_slices_of_expressions():
    answers = outputs(np.zeros((6, N_AUS)))  # says neutral of all
    truth = np.array([0, 0, 1, -1, 1, -1])
    sex = np.array(["f", "f", "f", "f", "m", "x"])
    found = figures.slice_figures({}, answers, truth, {"sex": sex})["sex"]
    assert [line["n"] for line in found.values()] == [4, 1, 1]
    assert [line["accuracy"] for line in found.values()] == [pytest.approx(2 / 3), 0, None]
    assert found["f"]["auc"] == {} and found["f"]["mean_auc"] is None


def test_json_knows_no_nan():
    au, answers = random(12)
    given, untrained = figures.answers(answers, au, {"AU1": 0.5, "AU2": 2.0})
    every = figures.au_figures(given, 12)
    every["slices"] = figures.slice_figures(given, answers, None, {"a": np.array(["b"] * 12)})
    json.dumps(every | untrained, allow_nan=False)
