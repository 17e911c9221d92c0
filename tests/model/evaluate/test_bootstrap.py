"""Draws of faces as weights, against the plain figures of faces that were really copied."""

import time

import numpy as np
import pytest

from feallm.model.evaluate import bootstrap, metrics


def drawn(count, draws=40, seed=0):
    return np.concatenate(list(bootstrap.weights(count, seed=seed, draws=draws)), 1)


@pytest.fixture(params=["many ties", "no ties"])
def faces(request):
    """Score, truth, answer, intensities of 60 faces."""
    rng = np.random.default_rng(3)
    true = rng.random(60) < 0.3
    score = (0.3 * true + rng.random(60)).round(1 if request.param == "many ties" else 9)
    value = np.where(true, rng.uniform(1, 5, 60), 0)
    return score, true, score > 0.7, value, value * 0.6 + rng.normal(0.5, 0.7, 60)


def test_each_draw_has_as_many_faces_as_the_set():
    weights = drawn(30, draws=250)
    assert weights.shape == (30, 250) and (weights.sum(0) == 30).all()
    assert (weights == weights.round()).all() and weights.min() == 0
    # A face is left out of a draw with a chance of (1 - 1 / 30) ** 30.
    assert (weights == 0).mean() == pytest.approx((29 / 30) ** 30, abs=0.02)


def test_blocks_are_no_larger_than_said():
    blocks = [block.shape for block in bootstrap.weights(5, draws=230)]
    assert blocks == [(5, 100), (5, 100), (5, 30)]


def test_seeds():
    np.testing.assert_array_equal(drawn(20), drawn(20))
    assert (drawn(20) != drawn(20, seed=1)).any()


def test_weights_are_copies(faces):
    """Every figure of a draw is the plain figure over the faces as often as they were drawn."""
    score, true, called, value, guess = faces
    weights = drawn(60)
    found = {
        "auc": bootstrap.auc(score, true, weights),
        "f1": bootstrap.f1(called, true, weights),
        "icc31": bootstrap.icc31(value, guess, weights),
        "mean": bootstrap.mean(np.abs(value - guess), weights),
    }
    for k, weight in enumerate(weights.T.astype(int)):
        rows = np.repeat(np.arange(60), weight)
        assert found["auc"][k] == pytest.approx(metrics.auc(score[rows], true[rows]))
        assert found["f1"][k] == pytest.approx(metrics.f1(called[rows], true[rows]))
        ratings = np.stack([value[rows], guess[rows]], 1)
        assert found["icc31"][k] == pytest.approx(metrics.icc31(ratings))
        assert found["mean"][k] == pytest.approx(np.abs(value - guess)[rows].mean())


def test_draws_without_a_class_are_not_known():
    score, true = np.array([0.1, 0.9, 0.5]), np.array([False, True, False])
    weights = np.array([[1.0, 2, 0], [1, 0, 3], [1, 1, 0]])
    np.testing.assert_array_equal(bootstrap.auc(score, true, weights), [1, np.nan, np.nan])
    np.testing.assert_array_equal(bootstrap.f1(score > 1, true, weights), [0, np.nan, 0])
    np.testing.assert_array_equal(bootstrap.mean(score, weights * [[1, 0, 1]])[1], np.nan)


def test_one_face_drawn_over_and_over_has_no_icc():
    weights = np.array([[3.0, 0], [0, 3], [0, 0]])
    found = bootstrap.icc31(np.array([0.1, 2, 4]), np.array([0.3, 1, 5]), weights)
    assert np.isnan(found).all()


def test_icc_does_not_lose_its_digits_far_from_zero():
    rng = np.random.default_rng(0)
    value = rng.uniform(0, 5, 50)
    guess = value + rng.normal(0, 1, 50)
    near = bootstrap.icc31(value, guess, drawn(50))
    np.testing.assert_allclose(bootstrap.icc31(value + 1e6, guess, drawn(50)), near, rtol=1e-6)


def test_nobody():
    nothing = np.zeros(0)
    (weights,) = bootstrap.weights(0, draws=7)
    assert weights.shape == (0, 7)
    none = nothing.astype(bool)
    for found in (
        bootstrap.auc(nothing, none, weights),
        bootstrap.f1(none, none, weights),
        bootstrap.icc31(nothing, nothing, weights),
        bootstrap.mean(nothing, weights),
    ):
        assert found.shape == (7,) and np.isnan(found).all()


def test_the_interval_is_the_percentiles_of_what_is_defined():
    values = np.append(np.arange(1001.0), [np.nan] * 50)
    assert bootstrap.interval(values) == (25, 975)
    assert np.isnan(bootstrap.interval(np.full(4, np.nan))).all()


def test_the_interval_covers_the_truth():
    """AUC of two normal distributions one deviation apart is Phi(1 / sqrt 2) = .7602."""
    hits = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        true = np.arange(200) < 80
        score = rng.normal(0, 1, 200) + true
        low, high = bootstrap.interval(bootstrap.auc(score, true, drawn(200, 300, seed)))
        hits += low <= 0.7602 <= high
    assert 52 <= hits <= 60  # 57 expected


def test_a_thousand_draws_of_five_thousand_faces_take_seconds():
    rng = np.random.default_rng(0)
    true = rng.random(5000) < 0.2
    score = rng.random(5000)
    start = time.perf_counter()
    for weights in bootstrap.weights(5000):
        bootstrap.auc(score, true, weights)
        bootstrap.f1(score > 0.5, true, weights)
        bootstrap.icc31(score, score**2, weights)
    assert time.perf_counter() - start < 3  # for one AU; measured 0.15 s
