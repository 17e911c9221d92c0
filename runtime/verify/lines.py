"""Lines that eyes and words have in common."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from feallm.runtime.contract.manifest import Tolerance
from feallm.runtime.verify import agree
from feallm.runtime.verify.agree import Stated, Truth
from feallm.runtime.verify.golden import Golden
from feallm.runtime.verify.verdict import Line

MANY = 200
"""Labelled faces from which accuracy and F1 are held to a limit: of fewer they are told alone."""
LEAST_POSITIVES = 10
"""Faces that an AU must be on to have an F1."""
WORST = 6
"""Faces that are shown."""
NO_LIMITS = Tolerance()


def numbers(name: str, gap: agree.Apart, limits: Tolerance) -> list[Line]:
    """How far one output lies from the golden one."""
    limit = limits.tensors.get(name)
    return [
        Line("tensor", f"{name}: largest difference", gap.max, limit.max if limit else None),
        Line("tensor", f"{name}: cosine", gap.cosine),
        Line("tensor", f"{name}: SQNR, dB", gap.sqnr_db, limit.sqnr_db if limit else None, True),
    ]


def answers(
    said: Stated,
    wanted: Stated,
    golden: Golden,
    limits: Tolerance,
    rows: NDArray[np.int64] | None,
) -> list[Line]:
    """Labels, and how answers changed. `rows`: of the golden crops, where not all were asked."""
    chosen = slice(None) if rows is None else rows
    truth = Truth(golden.au[chosen], golden.expression[chosen])
    told = agree.told(said, wanted, truth, LEAST_POSITIVES)
    count = len(told.no_worse)
    lines = [
        Line("report", "faces no worse than the golden answer", float(told.no_worse.mean()),
             limits.no_worse, True, of=count),
        Line("report", "faces whose answer changed", float(told.changed.mean())),
    ]  # fmt: skip
    most = limits.points
    for what, pair, faces in (
        ("expression accuracy", told.accuracy, told.labelled),
        ("mean AU F1", told.f1, int(truth.known.any(1).sum())),
    ):
        if pair is None:
            continue
        judged = most if faces >= MANY else None
        lines += [
            Line("report", f"{what} on {faces} labelled faces", pair[0]),
            Line("report", f"{what} of the golden answers", pair[1]),
            Line("report", f"{what} lost, points", 100 * (pair[1] - pair[0]), judged),
        ]
    return lines


def mean(values: Iterable[float]) -> float:
    """Of those that are numbers; NaN where none is."""
    kept = [value for value in values if np.isfinite(value)]
    return float(np.mean(kept)) if kept else float("nan")
