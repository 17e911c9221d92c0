"""Figures of merit, in plain numpy, with 95 % bootstrap intervals."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def f1(called: Bools, true: Bools) -> float:
    """2 TP / (2 TP + FP + FN); NaN where nothing is true and nothing called."""
    total = int(called.sum()) + int(true.sum())
    return float("nan") if total == 0 else 2 * int((called & true).sum()) / total


def macro_f1(predicted: NDArray[np.int64], truth: NDArray[np.int64], classes: int) -> float:
    """Mean F1 over the classes that occur in `truth`."""
    there = [k for k in range(classes) if (truth == k).any()]
    return float(np.mean([f1(predicted == k, truth == k) for k in there])) if there else 0.0


def auc(score: Floats, true: Bools) -> float:
    """Area under the ROC curve, as the Mann–Whitney statistic with half a point for ties; NaN
    where one class is missing."""
    positive, negative = score[true], np.sort(score[~true])
    if not len(positive) or not len(negative):
        return float("nan")
    below = np.searchsorted(negative, positive, "left")
    upto = np.searchsorted(negative, positive, "right")
    return float((below + upto).sum() / 2 / len(positive) / len(negative))


def interval(correct: Bools, *, seed: int = 0, draws: int = 1000) -> tuple[float, float]:
    """95 % bootstrap interval of a share."""
    if not len(correct):
        return (float("nan"), float("nan"))
    rng = np.random.default_rng(seed)
    share = rng.binomial(len(correct), correct.mean(), draws) / len(correct)
    low, high = np.quantile(share, [0.025, 0.975])
    return (float(low), float(high))
