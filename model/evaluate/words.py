"""How the words do, read out of the model's raw text before any check or replacement."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from feallm.runtime.contract.expressions import EXPRESSIONS
from feallm.runtime.contract.reading import Reading
from feallm.runtime.language import check

Say = Callable[[NDArray[np.float32]], str]  # visual tokens -> free text, without the grammar


def score(
    say: Say,
    tokens: NDArray[np.float32],
    readings: list[Reading],
    truth: NDArray[np.int64],
    *,
    seed: int = 0,
    step: Callable[[], None] = lambda: None,
) -> dict[str, object]:
    """Accuracy of the expression in the text for faces with a class; unparsed is wrong.

    `swapped`: the same with the visual tokens of another face, which shows how much the words
    follow from what is seen. `replaced`: share of texts that the check would not let through.
    """
    rows = np.flatnonzero(truth >= 0)
    other = np.roll(np.random.default_rng(seed).permutation(rows), 1)
    order = np.random.default_rng(seed).permutation(rows)
    swapped_with = dict(zip(order.tolist(), other.tolist(), strict=True))
    right = unparsed = replaced = swapped = 0
    faults: dict[str, int] = {}
    for i in rows.tolist():
        text = say(tokens[i])
        claims = check.parse(text)
        unparsed += int(claims is None)
        right += _says(claims, truth[i])
        if (fault := check.fault(text, readings[i])) is not None:
            replaced += 1
            kind = _kind(fault)
            faults[kind] = faults.get(kind, 0) + 1
        strange = check.parse(say(tokens[swapped_with[i]]))
        swapped += _says(strange, truth[i])
        step()
    count = max(len(rows), 1)
    return {
        "n": len(rows),
        "accuracy": right / count,
        "unparsed": unparsed / count,
        "replaced": replaced / count,
        "replaced_by": {kind: number / count for kind, number in sorted(faults.items())},
        "accuracy_swapped_tokens": swapped / count,
    }


def _says(claims: check.Claims | None, truth: int) -> int:
    """1 where the text names the true class."""
    return int(claims is not None and EXPRESSIONS.index(claims.expression) == truth)


def _kind(fault: str) -> str:
    """Faults of one kind under one name."""
    for word, kind in (
        ("not the form", "form"),
        ("measured present", "au_not_present"),
        ("the heads", "expression"),
        ("called", "degree"),
    ):
        if word in fault:
            return kind
    return "reason"
