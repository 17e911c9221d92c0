"""Figures of merit against slow references written from their definitions."""

import math

import numpy as np
import pytest

from feallm.model.evaluate import metrics


def naive_auc(score, true):
    """Share of pairs in the right order; a tie is half a pair."""
    points = [
        1.0 if score[i] > score[j] else 0.5 if score[i] == score[j] else 0.0
        for i in range(len(score))
        for j in range(len(score))
        if true[i] and not true[j]
    ]
    return sum(points) / len(points) if points else math.nan


def naive_f1(called, true):
    pairs = [(bool(a), bool(b)) for a, b in zip(called, true, strict=True)]
    hits = pairs.count((True, True))
    if hits == 0:
        return 0.0 if any(a or b for a, b in pairs) else math.nan
    precision = hits / (hits + pairs.count((True, False)))
    recall = hits / (hits + pairs.count((False, True)))
    return 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("levels", [4, 1000])  # many ties, hardly any
def test_auc(seed, levels):
    rng = np.random.default_rng(seed)
    true = rng.random(70) < 0.3
    score = rng.integers(0, levels, 70) / levels + 0.2 * true * (levels > 4)
    assert metrics.auc(score, true) == pytest.approx(naive_auc(score, true))


def test_auc_of_one_class_is_not_known():
    assert math.isnan(metrics.auc(np.array([0.1, 0.2]), np.array([True, True])))
    assert math.isnan(metrics.auc(np.array([0.1]), np.array([False])))
    assert metrics.auc(np.array([0.9, 0.1]), np.array([True, False])) == 1


@pytest.mark.parametrize("seed", range(6))
def test_f1(seed):
    rng = np.random.default_rng(seed)
    called, true = rng.random(40) < 0.4, rng.random(40) < 0.2 * seed
    assert metrics.f1(called, true) == pytest.approx(naive_f1(called, true), nan_ok=True)


def test_f1_of_nothing_is_not_known():
    nothing, all_of = np.zeros(3, bool), np.ones(3, bool)
    assert math.isnan(metrics.f1(nothing, nothing))
    assert metrics.f1(all_of, nothing) == metrics.f1(nothing, all_of) == 0


def test_macro_f1_is_the_mean_over_classes_that_occur():
    rng = np.random.default_rng(0)
    truth, predicted = rng.choice([0, 1, 2, 6], 200), rng.integers(0, 8, 200)
    expected = np.mean([naive_f1(predicted == k, truth == k) for k in (0, 1, 2, 6)])
    assert metrics.macro_f1(predicted, truth, 8) == pytest.approx(expected)
    nobody = np.zeros(0, np.int64)
    assert metrics.macro_f1(nobody, nobody, 8) == 0


def test_the_interval_is_that_of_resampled_faces():
    rng = np.random.default_rng(1)
    correct = rng.random(400) < 0.8
    shares = [correct[rng.integers(0, 400, 400)].mean() for _ in range(4000)]
    low, high = metrics.interval(correct, draws=4000)
    assert low == pytest.approx(np.quantile(shares, 0.025), abs=0.006)
    assert high == pytest.approx(np.quantile(shares, 0.975), abs=0.006)
    assert metrics.interval(correct) == metrics.interval(correct)
    assert all(math.isnan(v) for v in metrics.interval(correct[:0]))


SHROUT_FLEISS = np.array(
    [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float
)
"""Their Table 2: six targets, four judges; ICC(3,1) = .71 in their Table 4."""


def naive_icc31(ratings):
    """Out of the two-way table of squares, as the paper writes it."""
    n, k = ratings.shape
    total = ((ratings - ratings.mean()) ** 2).sum()
    targets = k * ((ratings.mean(1) - ratings.mean()) ** 2).sum()
    judges = n * ((ratings.mean(0) - ratings.mean()) ** 2).sum()
    bms, ems = targets / (n - 1), (total - targets - judges) / ((n - 1) * (k - 1))
    return (bms - ems) / (bms + (k - 1) * ems)


def test_icc31_of_shrout_and_fleiss():
    assert round(metrics.icc31(SHROUT_FLEISS), 2) == 0.71
    assert metrics.icc31(SHROUT_FLEISS) == pytest.approx(naive_icc31(SHROUT_FLEISS))


@pytest.mark.parametrize("seed", range(4))
def test_icc31_of_two_raters(seed):
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0, 5, 30)
    pair = np.stack([truth, truth * 0.5 + rng.normal(1, 1, 30)], 1)
    assert metrics.icc31(pair) == pytest.approx(naive_icc31(pair))
    shift = pair + [[0, 7]]  # a rater's own shift does not count
    assert metrics.icc31(shift) == pytest.approx(metrics.icc31(pair))


def test_icc31_at_its_ends():
    truth = np.array([0.0, 1, 2, 5])
    assert metrics.icc31(np.stack([truth, truth + 1], 1)) == pytest.approx(1)
    assert metrics.icc31(np.stack([truth, -truth], 1)) == pytest.approx(-1)
    assert metrics.icc31(np.stack([truth, np.ones(4)], 1)) == pytest.approx(0)
    for unknown in (np.full((4, 2), 0.1), np.zeros((1, 2)), np.zeros((0, 2)), truth[:, None]):
        assert math.isnan(metrics.icc31(unknown))


def square(table):
    """Two readers' classes out of a table of counts: row = the first's class."""
    table = np.array(table)
    a, b = np.indices(table.shape).reshape(2, -1)
    return np.repeat(a, table.ravel()), np.repeat(b, table.ravel())


def test_kappa_of_two_classes():
    """The common example of 50 grant proposals: po = .7, pe = .5."""
    assert metrics.cohen_kappa(*square([[20, 5], [10, 15]])) == pytest.approx(0.4)


def test_kappa_of_three_classes():
    """By hand: po = (30 + 20 + 5) / 80 = .6875; pe = (40 * 38 + 30 * 30 + 10 * 12) / 6400
    = .396875; (.6875 - .396875) / .603125 = .48187."""
    a, b = square([[30, 8, 2], [5, 20, 5], [3, 2, 5]])
    assert metrics.cohen_kappa(a, b) == pytest.approx(0.481865, abs=1e-6)
    assert metrics.cohen_kappa(b, a) == pytest.approx(metrics.cohen_kappa(a, b))


def test_kappa_at_its_ends():
    a = np.array([0, 1, -1, 1])
    assert metrics.cohen_kappa(a, a) == 1
    assert metrics.cohen_kappa(np.array([0, 1]), np.array([1, 0])) == -1
    assert metrics.cohen_kappa(np.array([0, 1]), np.array([0, 0])) == 0  # chance would do as well
    assert math.isnan(metrics.cohen_kappa(a[:0], a[:0]))
    assert math.isnan(metrics.cohen_kappa(np.zeros(3), np.zeros(3)))
