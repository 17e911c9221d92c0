"""The figures of one split: expression, action units, and the same over slices of the faces.

What is here becomes JSON as it stands: a figure that is not defined is None.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feallm.model.evaluate import bootstrap, metrics
from feallm.model.evaluate.metrics import Bools, Floats
from feallm.runtime.backends.base import AU_INTENSITY, AU_PROBABILITY, EXPRESSION
from feallm.runtime.contract.aus import AU_KEYS
from feallm.runtime.contract.expressions import EXPRESSIONS, N_EXPRESSIONS

Outputs = dict[str, NDArray[np.float32]]

OUTSIDE_MEANS = ("AU23",)
"""AUs that no mean counts. AU23: the renderer's head has no shape of its own for tightened lips, so
its labels are approximate."""

ENOUGH = 10
"""A mean counts AUs with at least so many faces that have it and so many that do not: below, one
face moves the AUC by more than the intervals that it is compared with."""


@dataclass(frozen=True, slots=True)
class Answers:
    """Labels and answers of one trained AU. M of the split's N faces: those where it is known."""

    rows: NDArray[np.int64]  # (M,) among the N
    value: Floats  # (M,) intensity 0–5, or 0 and 1
    probability: Floats  # (M,) 0–1
    intensity: Floats  # (M,) 0–5, the stronger side
    threshold: float

    @property
    def true(self) -> Bools:
        """Where it is present: at least a trace (A = 1)."""
        return self.value >= 1

    @property
    def called(self) -> Bools:
        """Where the answer says present."""
        return self.probability >= self.threshold

    @property
    def graded(self) -> bool:
        """Whether the labels say how strong: some are neither 0 nor 1."""
        return bool(((self.value > 0) & (self.value != 1)).any())

    @property
    def enough(self) -> bool:
        """Whether a mean may count it."""
        positives = int(self.true.sum())
        return min(positives, len(self.rows) - positives) >= ENOUGH

    def within(self, chosen: Bools) -> Answers:
        """The same over the faces (N,) that are chosen."""
        kept = chosen[self.rows]
        return Answers(
            self.rows[kept],
            self.value[kept],
            self.probability[kept],
            self.intensity[kept],
            self.threshold,
        )


def expression_figures(outputs: Outputs, truth: NDArray[np.int64]) -> dict[str, Any]:
    """Accuracy with its interval, macro F1, and F1 and count of each class."""
    there = truth >= 0
    predicted, truth = outputs[EXPRESSION][there].argmax(1), truth[there]
    correct = predicted == truth
    classes = {
        word: {
            "n": int((truth == k).sum()),
            "f1": _plain(metrics.f1(predicted == k, truth == k)),
            "recall": _plain(float(correct[truth == k].mean())) if (truth == k).any() else None,
        }
        for k, word in enumerate(EXPRESSIONS)
    }
    return {
        "n": len(truth),
        "accuracy": _plain(float(correct.mean())) if len(truth) else None,
        "accuracy_95": [_plain(v) for v in metrics.interval(correct)],
        "macro_f1": metrics.macro_f1(predicted, truth, N_EXPRESSIONS),
        "classes": classes,
    }


def answers(
    outputs: Outputs, au: Floats, thresholds: Mapping[str, float]
) -> tuple[dict[str, Answers], dict[str, dict[str, int]]]:
    """What was answered for each trained AU that is known somewhere in `au` (N, 20); and how many
    faces were labelled for each AU that was not trained."""
    trained: dict[str, Answers] = {}
    untrained: dict[str, dict[str, int]] = {}
    for k, key in enumerate(AU_KEYS):
        rows = np.flatnonzero(np.isfinite(au[:, k]))
        if not len(rows):
            continue
        value = au[rows, k]
        if key not in thresholds:
            untrained[key] = {"n": len(rows), "positives": int((value >= 1).sum())}
            continue
        trained[key] = Answers(
            rows,
            value,
            outputs[AU_PROBABILITY][rows, k].astype(np.float64),
            outputs[AU_INTENSITY][rows, k].max(1).astype(np.float64),
            thresholds[key],
        )
    return trained, untrained


def au_figures(
    given: Mapping[str, Answers],
    count: int,
    *,
    seed: int = bootstrap.SEED,
    draws: int = bootstrap.DRAWS,
) -> dict[str, Any]:
    """`aus`: figures of each AU over a split of `count` faces, each with its 95 % interval; and the
    means over those that `means` counts, with theirs.

    F1 stands at the given threshold. ICC(3,1) and absolute error are of the intensity, where the
    labels are more than 0 and 1.
    """
    drawn = _drawn(list(given.values()), count, seed, draws)
    aus: dict[str, dict[str, Any]] = {}
    for k, (key, one) in enumerate(given.items()):
        true, called = one.true, one.called
        ratings = np.stack([one.value, one.intensity], 1)
        figures = {
            "auc": metrics.auc(one.probability, true),
            "f1": metrics.f1(called, true),
            "icc31": metrics.icc31(ratings) if one.graded else float("nan"),
            "mean_absolute_error": (
                float(np.abs(one.intensity - one.value).mean()) if one.graded else float("nan")
            ),
        }
        aus[key] = {
            "n": len(one.rows),
            "positives": int(true.sum()),
            "called": int(called.sum()),
            "accuracy": float((called == true).mean()),
        }
        for name, figure in figures.items():
            aus[key] |= _with_interval(name, figure, drawn[name][k])
    means = means_of(given)
    counted = [k for k, key in enumerate(given) if key in means["mean_auc_aus"]]
    for name in ("auc", "f1"):
        low_high = bootstrap.interval(drawn[name][counted].mean(0)) if counted else (np.nan,) * 2
        means[f"mean_{name}_95"] = [_plain(v) for v in low_high]
    graded = [aus[key] for key in means["mean_auc_aus"] if given[key].graded]
    for name, under in (("icc31", "mean_icc31"), ("mean_absolute_error",) * 2):
        values = [line[name] for line in graded]
        means[under] = float(np.mean(values)) if values and None not in values else None
    return {"aus": aus, **means}


def means_over(given: Mapping[str, Answers]) -> list[str]:
    """The AUs that a mean counts."""
    return [key for key, one in given.items() if one.enough and key not in OUTSIDE_MEANS]


def means_of(given: Mapping[str, Answers]) -> dict[str, Any]:
    """Mean AUC and mean F1, and over which AUs; None where there are none."""
    keys = means_over(given)
    aucs = [metrics.auc(given[key].probability, given[key].true) for key in keys]
    f1s = [metrics.f1(given[key].called, given[key].true) for key in keys]
    return {
        "mean_auc": float(np.mean(aucs)) if keys else None,
        "mean_f1": float(np.mean(f1s)) if keys else None,
        "mean_auc_aus": keys,
    }


def slice_figures(
    given: Mapping[str, Answers],
    outputs: Outputs,
    expression: NDArray[np.int64] | None,
    slices: Mapping[str, NDArray[np.str_]],
) -> dict[str, dict[str, dict[str, Any]]]:
    """Figures of the faces that share a value of a slice; those whose value is "" are in none.

    The means count the AUs with enough faces in the slice: two slices are compared by the AUC of
    one AU, or where both name the same `mean_auc_aus`.
    """
    return {
        name: {
            str(value): _slice(given, outputs, expression, values == value)
            for value in _ordered(values)
        }
        for name, values in slices.items()
    }


def _slice(
    given: Mapping[str, Answers],
    outputs: Outputs,
    expression: NDArray[np.int64] | None,
    chosen: Bools,
) -> dict[str, Any]:
    inside = {key: one.within(chosen) for key, one in given.items()}
    figures: dict[str, Any] = {"n": int(chosen.sum()), **means_of(inside)}
    figures["auc"] = {
        key: _plain(metrics.auc(one.probability, one.true)) for key, one in inside.items()
    }
    if expression is not None:
        there = chosen & (expression >= 0)
        correct = outputs[EXPRESSION][there].argmax(1) == expression[there]
        figures["accuracy"] = float(correct.mean()) if len(correct) else None
    return figures


def _ordered(values: NDArray[np.str_]) -> Sequence[str]:
    """The values that occur, in the order of the alphabet."""
    return [str(value) for value in np.unique(values) if value]


def _drawn(given: Sequence[Answers], count: int, seed: int, draws: int) -> dict[str, Floats]:
    """Each figure (AUs, draws) over the same draws of faces; NaN where it is not defined."""
    figures: dict[str, list[Floats]] = {
        name: [] for name in ("auc", "f1", "icc31", "mean_absolute_error")
    }
    for weights in bootstrap.weights(count, seed=seed, draws=draws):
        unknown = np.full(weights.shape[1], np.nan)
        block: dict[str, list[Floats]] = {name: [] for name in figures}
        for one in given:
            own, true = weights[one.rows], one.true
            block["auc"].append(bootstrap.auc(one.probability, true, own))
            block["f1"].append(bootstrap.f1(one.called, true, own))
            if one.graded:
                error = np.abs(one.intensity - one.value)
                block["icc31"].append(bootstrap.icc31(one.value, one.intensity, own))
                block["mean_absolute_error"].append(bootstrap.mean(error, own))
            else:
                block["icc31"].append(unknown)
                block["mean_absolute_error"].append(unknown)
        for name, rows in block.items():
            figures[name].append(np.array(rows).reshape(len(given), weights.shape[1]))
    return {name: np.concatenate(blocks, 1) for name, blocks in figures.items()}


def _with_interval(name: str, figure: float, drawn: Floats) -> dict[str, Any]:
    """A figure and its interval; neither where the figure is not defined."""
    if np.isnan(figure):
        return {name: None, f"{name}_95": [None, None]}
    return {name: figure, f"{name}_95": [_plain(v) for v in bootstrap.interval(drawn)]}


def _plain(value: float) -> float | None:
    """JSON knows no NaN."""
    return None if np.isnan(value) else value
