"""Figures of merit, in plain numpy. All but a share get their 95 % intervals from `bootstrap`."""

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


def icc31(ratings: Floats) -> float:
    """ICC(3,1) of ratings (N faces, k raters): how far fixed raters agree, each rater's own shift
    left out. P. E. Shrout and J. L. Fleiss, "Intraclass correlations: uses in assessing rater
    reliability", Psychological Bulletin 86 (1979): (BMS - EMS) / (BMS + (k - 1) EMS).

    Here the raters are truth and prediction. NaN below two faces, and where no rating differs from
    its rater's mean.
    """
    count, raters = ratings.shape
    if count < 2 or raters < 2:
        return float("nan")
    centred = ratings - ratings.mean(0)  # no rater's shift
    faces = centred.mean(1, keepdims=True)
    between = raters * float((faces**2).sum()) / (count - 1)
    residual = float(((centred - faces) ** 2).sum()) / ((count - 1) * (raters - 1))
    total = between + (raters - 1) * residual
    # Not > 0: what rounding leaves of equal ratings is no spread.
    return (between - residual) / total if total > 1e-12 else float("nan")


def cohen_kappa(a: NDArray[np.generic], b: NDArray[np.generic]) -> float:
    """Agreement of two readers' classes (N,) beyond chance, (po - pe) / (1 - pe): J. Cohen, "A
    coefficient of agreement for nominal scales", Educational and Psychological Measurement 20
    (1960). NaN for no face, and where both gave one and the same class to all."""
    if not len(a):
        return float("nan")
    agreed = float((a == b).mean())
    chance = sum(float((a == k).mean() * (b == k).mean()) for k in np.union1d(a, b))
    return float("nan") if chance == 1 else (agreed - chance) / (1 - chance)


def interval(correct: Bools, *, seed: int = 0, draws: int = 1000) -> tuple[float, float]:
    """95 % bootstrap interval of a share."""
    if not len(correct):
        return (float("nan"), float("nan"))
    rng = np.random.default_rng(seed)
    share = rng.binomial(len(correct), correct.mean(), draws) / len(correct)
    low, high = np.quantile(share, [0.025, 0.975])
    return (float(low), float(high))
