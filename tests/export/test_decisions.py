"""The judge of artifacts, on answers whose agreement is known."""

import numpy as np
import pytest

from feallm.export.decisions import compare
from feallm.runtime.backends.base import AU_PROBABILITY, EXPRESSION, TOKENS
from feallm.runtime.contract.aus import AU_INDEX, N_AUS

THRESHOLDS = {"AU1": 0.5, "AU12": 0.3, "AU25": 0.9}


def outputs(count=100):
    rng = np.random.default_rng(0)
    return {
        AU_PROBABILITY: rng.random((count, N_AUS)).astype(np.float32),
        EXPRESSION: rng.random((count, 8)).astype(np.float32),
        TOKENS: rng.normal(size=(count, 3, 4)).astype(np.float32),
    }


def test_the_same_answers_agree():
    found = compare(outputs(), outputs(), THRESHOLDS)
    assert (found["au_f1"], found["expression_same"], found["au_decisions_same"]) == (1.0, 1.0, 1.0)
    assert found["error"][TOKENS] == {"max": 0.0, "mean": 0.0, "relative": 0.0}
    # AU25 is seen on some ten of a hundred faces: too few to count.
    assert found["aus"] == 2 and found["faces"] == 100


def test_f1_against_sklearns_definition():
    exact, found = outputs(), outputs()
    rng = np.random.default_rng(1)
    found[AU_PROBABILITY] += rng.normal(0, 0.2, found[AU_PROBABILITY].shape).astype(np.float32)
    told = compare(found, exact, THRESHOLDS)
    scores = {}
    for key, threshold in THRESHOLDS.items():
        seen = found[AU_PROBABILITY][:, AU_INDEX[key]] >= threshold
        true = exact[AU_PROBABILITY][:, AU_INDEX[key]] >= threshold
        precision, recall = (seen & true).sum() / seen.sum(), (seen & true).sum() / true.sum()
        if true.sum() >= 20:
            scores[key] = 2 * precision * recall / (precision + recall)
    assert told["au_f1"] == pytest.approx(np.mean(list(scores.values())))
    assert told["worst_au_f1"] == pytest.approx(min(scores.values()))
    assert scores[told["worst_au"]] == min(scores.values()) < 1


def test_untrained_aus_do_not_count():
    exact, found = outputs(), outputs()
    found[AU_PROBABILITY][:, AU_INDEX["AU9"]] = 1.0
    assert compare(found, exact, THRESHOLDS)["au_f1"] == 1.0


def test_own_thresholds_are_the_artifacts_alone():
    exact = outputs()
    found = {**exact, AU_PROBABILITY: exact[AU_PROBABILITY] / 2}
    own = {key: value / 2 for key, value in THRESHOLDS.items()}
    assert compare(found, exact, THRESHOLDS, own)["au_f1"] == 1.0
    assert compare(found, exact, THRESHOLDS)["au_f1"] < 0.9


def test_a_larger_output_has_the_larger_error():
    exact = outputs()
    found = {**exact, TOKENS: exact[TOKENS] * 1.1}
    error = compare(found, exact, THRESHOLDS)["error"]
    assert error[TOKENS]["relative"] == pytest.approx(0.1, rel=1e-4)
    assert error[AU_PROBABILITY]["max"] == 0.0


def test_no_au_is_seen_often_enough():
    exact = outputs(10)
    found = compare(exact, exact, THRESHOLDS)
    assert found["au_f1"] is None and found["worst_au"] is None
