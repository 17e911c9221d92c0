"""Faces that clearly have an AU or clearly have it not: figures by hand."""

import json

import numpy as np
import pytest

from feallm.model.evaluate import clear
from feallm.model.evaluate.figures import Answers


def answers(value, probability, rows=None, threshold=0.5):
    value, probability = np.array(value, float), np.array(probability, float)
    rows = np.arange(len(value)) if rows is None else np.array(rows)
    return Answers(rows, value, probability, np.zeros(len(value)), threshold)


def figures(count, slices=None, **given):
    return clear.figures(given, count, slices or {})


def test_what_lies_between_is_left_out():
    one = answers([0, 0.5, 0.51, 1, 1.99, 2, 5], np.arange(7) / 10, rows=range(10, 17))
    found = clear.of(one)
    assert found.value.tolist() == [0, 0.5, 2, 5]
    assert found.rows.tolist() == [10, 11, 15, 16]
    assert found.probability.tolist() == [0, 0.1, 0.5, 0.6]
    assert len(found.intensity) == 4 and found.threshold == 0.5
    assert len(one.rows) == 7


def test_an_au_by_hand():
    """Present .9 and .4, absent .1 and .6: three of four pairs stand right; one hit, one miss, one
    false alarm of two."""
    value = [3, 2, 0, 0.5, 1, 1.5, 0.8]
    probability = [0.9, 0.4, 0.1, 0.6, 0, 0, 1]  # the last three would spoil everything
    found = figures(7, AU12=answers(value, probability))
    line = found["aus"]["AU12"]
    assert (line["n"], line["positives"], line["called"]) == (4, 2, 2)
    assert line["auc"] == 0.75 and line["f1"] == 0.5 and line["false_alarms"] == 0.5
    assert line["auc_95"][0] <= 0.75 <= line["auc_95"][1]
    assert (found["present"], found["absent"]) == (2, 0.5)
    assert found["mean_auc"] is None and found["mean_auc_aus"] == []  # too few faces
    assert found["pairs"] == found["slices"] == {}


def test_where_all_have_it_there_is_no_false_alarm():
    found = figures(3, AU12=answers([2, 3, 1], [0.9, 0.2, 0.9]))
    line = found["aus"]["AU12"]
    assert line["false_alarms"] is None and line["auc"] is None and line["n"] == 2


def test_labels_that_do_not_say_how_strong_have_no_clear_faces():
    coded = answers([0, 1, 1, 0], [0.1, 0.9, 0.8, 0.2])
    assert figures(4, AU1=coded, AU2=coded) == {}
    assert figures(0) == {}
    assert list(figures(4, AU1=coded, AU12=answers([0, 3], [0.1, 0.2]))["aus"]) == ["AU12"]


PAIR = {  # AU6 and AU12 of each face: label and probability
    "AU6 alone": [(3, 0.90, 0, 0.85), (2, 0.20, 0.5, 0.10)],
    "AU12 alone": [(0, 0.80, 4, 0.86), (0, 0.30, 2, 0.40)],
    "both or neither": [(3, 0.01, 3, 0.99), (0, 0.01, 0, 0.99)],
    "not clear": [(3, 0.01, 1, 0.99), (1, 0.01, 3, 0.99)],
}


def pair(*kinds):
    faces = [face for kind in kinds for face in PAIR[kind]]
    value6, p6, value12, p12 = zip(*faces, strict=True)
    return answers(value6, p6), answers(value12, p12)


def test_a_pair_that_only_the_difference_tells_apart():
    """AU6 is always the likelier one where it is alone, and the less likely where AU12 is. By its
    own probability .9 .2 stand against .8 .3: two of four pairs. AU12's .86 .4 against .85 .1:
    three of four."""
    one, other = pair(*PAIR)
    found = figures(8, AU6=one, AU12=other)["pairs"]
    assert list(found) == ["AU6/AU12"]
    assert found["AU6/AU12"] == {"n": [2, 2], "auc": 1, "auc_AU6": 0.5, "auc_AU12": 0.75}


def test_logits_are_what_is_compared():
    """.99 against .90 is further apart than .6 against .45, though the difference is less."""
    one = answers([3, 0], [0.99, 0.60])
    other = answers([0, 3], [0.90, 0.45])
    assert figures(2, AU6=one, AU12=other)["pairs"]["AU6/AU12"]["auc"] == 1


def test_certainties_can_be_compared_too():
    one, other = answers([3, 0], [1, 0]), answers([0, 3], [0, 1])
    assert figures(2, AU6=one, AU12=other)["pairs"]["AU6/AU12"]["auc"] == 1


def test_only_faces_where_both_are_known_make_a_pair():
    one, other = pair("AU6 alone", "AU12 alone")
    moved = answers([0, 5, 0, 4, 2], [0.5, 0.5, 0.1, 0.86, 0.4], rows=[6, 7, 1, 2, 3])
    found = figures(8, AU6=one, AU12=moved)["pairs"]["AU6/AU12"]
    assert found["n"] == [1, 2]  # face 0 has no label of AU12, faces 6 and 7 none of AU6
    assert other.rows.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("kinds", [("AU6 alone",), ("AU12 alone",), ("both or neither",)])
def test_a_pair_needs_faces_of_both_kinds(kinds):
    one, other = pair(*kinds)
    assert figures(2, AU6=one, AU12=other)["pairs"] == {}


def test_slices():
    """Of forty faces half are bright: there AU12 is always right, in the dark always wrong."""
    present = np.arange(40) % 4 < 2
    bright = np.arange(40) % 2 == 0
    value = np.where(present, 3.0, 0.0)
    probability = np.where(present == bright, 0.9, 0.1)
    # Ten more that are in no slice, ten whose AU12 is not clear.
    value = np.concatenate([value, [3.0] * 5, [0.0] * 5, [1.0] * 10])
    probability = np.concatenate([probability, [0.7] * 10, [0.99] * 10])
    light = np.array([*np.where(bright, "bright", "dim"), *[""] * 10, *["dim"] * 10])
    few = answers([3, 0], [0.9, 0.1])  # too few for a mean
    found = figures(60, {"light": light}, AU12=answers(value, probability), AU1=few)
    assert set(found["slices"]) == {"light"}
    assert found["slices"]["light"] == {
        "bright": {
            "n": 20,
            "mean_auc": 1,
            "mean_f1": 1,
            "false_alarms": 0,
            "mean_auc_aus": ["AU12"],
        },
        "dim": {
            "n": 30,
            "mean_auc": 0,
            "mean_f1": 0,
            "false_alarms": 1,
            "mean_auc_aus": ["AU12"],
        },
    }
    assert found["aus"]["AU12"]["n"] == 50 and found["mean_auc_aus"] == ["AU12"]
    json.dumps(found, allow_nan=False)


def test_a_slice_with_too_few_faces_has_no_mean():
    value, sex = [3, 0, 3, 0], np.array(["f", "f", "m", "m"])
    found = figures(4, {"sex": sex}, AU12=answers(value, [0.9, 0.1, 0.9, 0.1]))
    nothing = {"n": 2, "mean_auc": None, "mean_f1": None, "false_alarms": None, "mean_auc_aus": []}
    assert found["slices"]["sex"] == {"f": nothing, "m": nothing}
