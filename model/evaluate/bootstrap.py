"""Percentile bootstrap over faces: B. Efron and R. J. Tibshirani, "An Introduction to the
Bootstrap" (1993), chapters 6 and 13.

A draw of N faces out of N, with replacement, is a column of whole weights: how often each face was
drawn. Every figure of a draw is then a weighted one, so that all draws are computed at once and no
face is copied. All figures of one set are computed from the same draws: that is what gives a mean
over AUs its interval. Where a set holds two pictures of one person, they are drawn as two faces.

Shapes: N faces, D draws. `weights` is (N, D) float64; every figure is (D,) float64, NaN in the
draws where it is not defined.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from feallm.model.evaluate.metrics import Bools, Floats

DRAWS = 1000
SEED = 0
BLOCK = 100  # draws held in memory at a time: 5,000 faces are then 4 MB an array


def weights(count: int, *, seed: int = SEED, draws: int = DRAWS) -> Iterator[Floats]:
    """How often each of `count` faces is drawn, in blocks (count, up to BLOCK) of all draws."""
    rng = np.random.default_rng(seed)
    for start in range(0, draws, BLOCK):
        block = min(BLOCK, draws - start)
        drawn = rng.integers(count, size=(block, count)) if count else np.zeros((block, 0), int)
        flat = (drawn + np.arange(block)[:, None] * count).ravel()
        counted = np.bincount(flat, minlength=block * count).reshape(block, count)
        yield np.ascontiguousarray(counted.T, np.float64)


def auc(score: Floats, true: Bools, weights: Floats) -> Floats:
    """As `metrics.auc`, for each draw."""
    order = np.argsort(score[~true], kind="stable")
    negative = score[~true][order]
    drawn = weights[true]
    below = np.zeros((len(negative) + 1, weights.shape[1]))  # drawn negatives before the k-th
    np.cumsum(weights[~true][order], axis=0, out=below[1:])
    first = below[np.searchsorted(negative, score[true], "left")]
    last = below[np.searchsorted(negative, score[true], "right")]
    return _share((drawn * (first + last)).sum(0), 2 * drawn.sum(0) * below[-1])


def f1(called: Bools, true: Bools, weights: Floats) -> Floats:
    """As `metrics.f1`, for each draw."""
    return _share(2 * weights[called & true].sum(0), weights[called].sum(0) + weights[true].sum(0))


def icc31(truth: Floats, predicted: Floats, weights: Floats) -> Floats:
    """As `metrics.icc31` of two raters, for each draw.

    With two raters and D = truth - predicted, S = truth + predicted, the mean squares are
    BMS = var(S) / 2 and EMS = var(D) / 2, so that ICC(3,1) = 2 cov / (var + var).
    """
    count = weights.sum(0)
    # Centred first: the difference of two large sums would lose what is asked for.
    x, y = truth - _mean(truth), predicted - _mean(predicted)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_x, mean_y = x @ weights / count, y @ weights / count
        both = (x * y) @ weights / count - mean_x * mean_y
        spread = (x * x + y * y) @ weights / count - mean_x**2 - mean_y**2
    spread[spread < 1e-12] = 0  # one face drawn over and over: what is left is rounding
    return _share(2 * both, spread)


def mean(value: Floats, weights: Floats) -> Floats:
    """Mean of a value, for each draw."""
    return _share(value @ weights, weights.sum(0))


def interval(figure: Floats) -> tuple[float, float]:
    """95 % percentile interval over the draws where the figure is defined; else NaN."""
    defined = figure[np.isfinite(figure)]
    if not len(defined):
        return (float("nan"), float("nan"))
    low, high = np.quantile(defined, [0.025, 0.975])
    return (float(low), float(high))


def _mean(value: Floats) -> float:
    return float(value.mean()) if len(value) else 0.0


def _share(above: Floats, below: Floats) -> Floats:
    """`above / below`; NaN where that is 0."""
    share: Floats = np.full(above.shape, np.nan)
    np.divide(above, below, out=share, where=below > 0)
    return share
