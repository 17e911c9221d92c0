"""Figures over faces that clearly show an AU, or clearly do not: where labels say how strong, an
AU counts as present from B on (2) and as absent up to 0.5, and what lies between is left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feallm.model.evaluate import metrics
from feallm.model.evaluate.figures import Answers, au_figures, means_over
from feallm.model.evaluate.metrics import Bools, Floats

PRESENT, ABSENT = 2.0, 0.5

PAIRS = (
    ("AU6", "AU12"),
    ("AU6", "AU7"),
    ("AU10", "AU9"),
    ("AU25", "AU26"),
    ("AU1", "AU2"),
    ("AU15", "AU17"),
    ("AU23", "AU24"),
)
"""AUs that are taken for each other."""


def of(one: Answers) -> Answers:
    """The same over the faces that clearly have the AU or clearly have it not."""
    kept = (one.value >= PRESENT) | (one.value <= ABSENT)
    return replace(
        one,
        rows=one.rows[kept],
        value=one.value[kept],
        probability=one.probability[kept],
        intensity=one.intensity[kept],
    )


def figures(
    given: Mapping[str, Answers], count: int, slices: Mapping[str, NDArray[np.str_]]
) -> dict[str, Any]:
    """AUC, F1 and false alarms of each AU over a split of `count` faces, their means, the pairs
    that get confused, and the same by slices; {} where no label says how strong."""
    chosen = {key: of(one) for key, one in given.items() if one.graded}
    if not chosen:
        return {}
    found = au_figures(chosen, count)
    names = ("n", "positives", "called", "auc", "auc_95", "f1", "f1_95")
    return {
        "present": PRESENT,
        "absent": ABSENT,
        "aus": {
            key: {name: line[name] for name in names} | {"false_alarms": _alarms(chosen[key])}
            for key, line in found["aus"].items()
        },
        **{
            name: found[name]
            for name in ("mean_auc", "mean_auc_95", "mean_f1", "mean_f1_95", "mean_auc_aus")
        },
        "pairs": {f"{a}/{b}": line for a, b in PAIRS if (line := _pair(chosen, a, b, count))},
        "slices": {
            name: {
                str(value): _slice(chosen, values == value) for value in np.unique(values) if value
            }
            for name, values in slices.items()
        },
    }


def _alarms(one: Answers) -> float | None:
    """Share of the faces without the AU that are said to have it."""
    absent = ~one.true
    return float(one.called[absent].mean()) if absent.any() else None


def _slice(chosen: Mapping[str, Answers], inside: Bools) -> dict[str, Any]:
    here = {key: one.within(inside) for key, one in chosen.items()}
    keys = means_over(here)
    alarms = [rate for key in keys if (rate := _alarms(here[key])) is not None]
    return {
        "n": int(inside.sum()),
        "mean_auc": _mean([metrics.auc(here[k].probability, here[k].true) for k in keys]),
        "mean_f1": _mean([metrics.f1(here[k].called, here[k].true) for k in keys]),
        "false_alarms": _mean(alarms),
        "mean_auc_aus": keys,
    }


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _pair(chosen: Mapping[str, Answers], a: str, b: str, count: int) -> dict[str, Any] | None:
    """Of the faces that clearly have one of two AUs and clearly lack the other: how well the
    difference of their logits, and each one's own probability, says which it is."""
    if a not in chosen or b not in chosen:
        return None
    true = np.full((2, count), np.nan)
    p = np.full((2, count), np.nan)
    for k, one in enumerate((chosen[a], chosen[b])):
        true[k, one.rows], p[k, one.rows] = one.true, one.probability
    alone = np.flatnonzero(true.sum(0) == 1)  # NaN is no 1
    if not 0 < true[0, alone].sum() < len(alone):
        return None
    first: Bools = true[0, alone] == 1
    share = p[:, alone].clip(1e-7, 1 - 1e-7)
    odds: Floats = np.log(share) - np.log1p(-share)
    return {
        "n": [int(first.sum()), int((~first).sum())],
        "auc": metrics.auc(odds[0] - odds[1], first),
        f"auc_{a}": metrics.auc(odds[0], first),
        f"auc_{b}": metrics.auc(odds[1], ~first),
    }
