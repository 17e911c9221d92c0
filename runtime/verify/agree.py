"""The one judge of how far two sets of answers lie apart: numbers, decisions, words.

Everywhere `found` is the artifact's and `golden` the float model's, rows alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from feallm.runtime.backends.base import AU_SIDES

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Bools = NDArray[np.bool_]

PRESENT_FROM = 1.0
"""Intensity from which an AU is there: FACS A."""
CLEAR = 0.05
"""Difference of two sides' intensities from which it is no rounding."""
MOST_DB = 200.0
"""Told of equal values, whose ratio is infinite."""


@dataclass(frozen=True, slots=True)
class Apart:
    """How far one output lies from the golden one."""

    max: float  # largest absolute difference
    cosine: float  # of all values as one vector
    sqnr_db: float  # power of the golden values over that of the differences, 10 log10


def apart(found: NDArray[np.floating], golden: NDArray[np.floating]) -> Apart:
    """Of two arrays of one shape, finite."""
    a, b = found.astype(np.float64).ravel(), golden.astype(np.float64).ravel()
    noise, power = float(((a - b) ** 2).sum()), float((b**2).sum())
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    if noise == 0:
        sqnr = MOST_DB
    elif power == 0:
        sqnr = -MOST_DB
    else:
        sqnr = float(np.clip(10 * np.log10(power / noise), -MOST_DB, MOST_DB))
    cosine = float(a @ b) / lengths if lengths else float(noise == 0)
    return Apart(float(np.abs(a - b).max(initial=0.0)), cosine, sqnr)


def in_order(name: str, values: Floats) -> Floats:
    """An output as it is compared: presence of the sides by size, since where both sides are nearly
    as strong the last bit decides which of them comes first."""
    return np.sort(values, -1) if name == AU_SIDES else values


def clear_sides(golden: Floats) -> Bools:
    """Which movements (N, AUs) of intensities (N, AUs, 2) are clearly stronger on one side: the
    most one-sided tenth, by `CLEAR` at least."""
    gap = np.abs(golden[..., 0] - golden[..., 1])
    return np.asarray(gap >= max(CLEAR, float(np.quantile(gap, 0.9))) if gap.size else gap > 0)


def same_side(found: Floats, golden: Floats, clear: Bools) -> float:
    """Share of the clear movements whose stronger side is the golden one's; NaN without any."""
    here, there = (one[..., 0] - one[..., 1] for one in (found, golden))
    return float((np.sign(here) == np.sign(there))[clear].mean()) if clear.any() else float("nan")


def f1_of_aus(called: Bools, true: Bools, known: Bools, least: int) -> dict[int, float]:
    """F1 of each AU (column) that is true on at least `least` of the faces on which it is known."""
    found = {}
    for k in range(called.shape[1]):
        rows = known[:, k]
        said, so = called[rows, k], true[rows, k]
        if int(so.sum()) >= least:
            found[k] = 2 * int((said & so).sum()) / (int(said.sum()) + int(so.sum()))
    return found


def mean_kl(found: Floats, golden: Floats) -> float:
    """Mean KL(golden || found) of distributions (N, classes), nats."""
    p = np.clip(golden.astype(np.float64), 1e-12, 1)
    q = np.clip(found.astype(np.float64), 1e-12, 1)
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    return float((p * np.log(p / q)).sum(1).mean())


def correlation(found: Doubles, golden: Doubles) -> float:
    """Pearson's r of values (N,); NaN where one of them is constant."""
    if len(found) < 2 or not np.ptp(found) or not np.ptp(golden):
        return float("nan")
    return float(np.corrcoef(found, golden)[0, 1])


def icc_agreement(found: Doubles, golden: Doubles) -> float:
    """ICC(A,1) of values (N,) by two raters, absolute agreement: a shift counts against it. K. O.
    McGraw and S. P. Wong, "Forming inferences about some intraclass correlation coefficients",
    Psychological Methods 1 (1996): (MSR - MSE) / (MSR + MSE + 2/N (MSC - MSE)). NaN below two
    values, and where nothing varies."""
    count = len(found)
    if count < 2:
        return float("nan")
    table = np.stack([found, golden], 1).astype(np.float64)
    middle = table.mean()
    rows, columns = table.mean(1), table.mean(0)
    msr = 2 * float(((rows - middle) ** 2).sum()) / (count - 1)
    msc = count * float(((columns - middle) ** 2).sum())
    rest = table - rows[:, None] - columns[None] + middle
    mse = float((rest**2).sum()) / (count - 1)
    total = msr + mse + 2 / count * (msc - mse)
    return (msr - mse) / total if total > 1e-12 else float("nan")


@dataclass(frozen=True, slots=True)
class Stated:
    """What is said of N faces: by heads, or in words."""

    present: Bools  # (N, 20)
    expression: NDArray[np.int64]  # (N,), -1 for an answer that has not the form of one


@dataclass(frozen=True, slots=True)
class Truth:
    """What is known of N faces."""

    au: Floats  # (N, 20) intensities 0–5, NaN = unknown
    expression: NDArray[np.int64]  # (N,), -1 = unknown

    @property
    def known(self) -> Bools:
        """(N, 20)"""
        return np.isfinite(self.au)

    @property
    def present(self) -> Bools:
        """(N, 20); False also where it is not known."""
        return np.nan_to_num(self.au, nan=0.0) >= PRESENT_FROM


@dataclass(frozen=True, slots=True)
class Told:
    """The report's tier."""

    no_worse: Bools  # (N,) faces on which the answer is as good as the golden one, or better
    changed: Bools  # (N,) faces on which it is another
    judged: bool  # whether any label was known: else every face is no worse that is not changed
    accuracy: tuple[float, float] | None  # of expressions where known: found, golden
    labelled: int  # faces whose expression is known
    f1: tuple[float, float] | None  # mean over AUs: found, golden
    aus: int  # that were counted


def told(found: Stated, golden: Stated, truth: Truth, least: int) -> Told:
    """A face is no worse where the stated expression is right wherever the golden one is, and no
    more AUs are wrong. What has no label is held against nothing; a face that has none at all
    must be told as the golden answer tells it. `least`: positives of an AU that is counted."""
    changed = (found.present != golden.present).any(1) | (found.expression != golden.expression)
    classes = truth.expression >= 0
    right = [classes & (one.expression == truth.expression) for one in (found, golden)]
    wrong = [((one.present != truth.present) & truth.known).sum(1) for one in (found, golden)]
    no_worse = ~(right[1] & ~right[0]) & (wrong[0] <= wrong[1])
    labelled = classes | truth.known.any(1)
    no_worse = np.where(labelled, no_worse, ~changed)
    accuracy = f1 = None
    if classes.any():
        accuracy = (float(right[0][classes].mean()), float(right[1][classes].mean()))
    scores = [f1_of_aus(one.present, truth.present, truth.known, least) for one in (found, golden)]
    if scores[0]:
        f1 = (float(np.mean([*scores[0].values()])), float(np.mean([*scores[1].values()])))
    return Told(
        no_worse, changed, bool(labelled.any()), accuracy, int(classes.sum()), f1, len(scores[0])
    )


def log_softmax(logits: NDArray[np.floating]) -> Doubles:
    """Of logits (places, vocabulary)."""
    lowered = logits.astype(np.float64) - logits.max(1, keepdims=True)
    result: Doubles = lowered - np.log(np.exp(lowered).sum(1, keepdims=True))
    return result


def divergence(golden: NDArray[np.floating], found: NDArray[np.floating]) -> Doubles:
    """KL(golden || found) (places,) in nats between logits (places, vocabulary)."""
    p, q = log_softmax(golden), log_softmax(found)
    result: Doubles = (np.exp(p) * (p - q)).sum(1)
    return result


def divergence_of_likeliest(
    top: NDArray[np.int64], logit: Floats, total: Floats, found: Floats
) -> Doubles:
    """The same where only the likeliest K tokens of the golden side are known, (places, K), and the
    log of the sum of all exponentials, (places,): all others count as one. Never more than the
    true divergence, since joining outcomes loses none that was not there."""
    p = logit.astype(np.float64) - total[:, None].astype(np.float64)
    q = np.take_along_axis(log_softmax(found), top, 1)
    rest_p = np.clip(1 - np.exp(p).sum(1), 1e-12, 1)
    rest_q = np.clip(1 - np.exp(q).sum(1), 1e-12, 1)
    result: Doubles = (np.exp(p) * (p - q)).sum(1) + rest_p * np.log(rest_p / rest_q)
    return np.maximum(result, 0.0)


@dataclass(frozen=True, slots=True)
class NextTokens:
    """Divergences of the next token over all places, as llama.cpp tells them."""

    tokens: int
    mean: float
    median: float
    tail: float  # 99.9 % of the places lie below
    same_top: float  # share of places where both put the same token first


def next_tokens(kl: Doubles, same: Bools) -> NextTokens:
    """Of divergences (places,) and whether both put the same token first."""
    return NextTokens(
        len(kl),
        float(kl.mean()),
        float(np.median(kl)),
        float(np.quantile(kl, 0.999)),
        float(same.mean()),
    )


def shares(thresholds: Mapping[str, float], keys: tuple[str, ...]) -> Doubles:
    """Thresholds (20,) of AU probabilities; one that no probability reaches where an AU was not
    trained."""
    return np.array([thresholds.get(key, np.inf) for key in keys])
