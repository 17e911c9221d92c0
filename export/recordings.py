"""Two recordings of golden outputs on the same pictures: how far they lie apart.

Of one checkpoint on two devices, or computed in two ways, they must agree within `LIMITS`; of two
checkpoints they show the distance between those.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from feallm.runtime.backends.base import AU_PROBABILITY, EXPRESSION
from feallm.runtime.contract.aus import AU_KEYS
from feallm.runtime.contract.errors import InputError
from feallm.runtime.contract.manifest import TensorLimit, Tolerance
from feallm.runtime.verify import agree
from feallm.runtime.verify.agree import Stated
from feallm.runtime.verify.golden import Golden
from feallm.runtime.verify.lines import answers, numbers
from feallm.runtime.verify.verdict import Line, number

_CLOSE = 80.0
LIMITS = Tolerance(
    tensors={
        "au_probability": TensorLimit(sqnr_db=_CLOSE, max=1e-4),
        "au_side_probability": TensorLimit(sqnr_db=_CLOSE, max=1e-4),
        "expression": TensorLimit(sqnr_db=_CLOSE, max=1e-4),
        "au_intensity": TensorLimit(sqnr_db=_CLOSE, max=1e-3),
        "tokens": TensorLimit(sqnr_db=_CLOSE, max=1e-3),
        "logits": TensorLimit(sqnr_db=_CLOSE, max=1e-2),
    },
    au_same=0.9999,
    expression_same=0.999,
    kl_mean=1e-7,
    same_top=0.999,
)
"""Of float32 against float64, or of two devices: a float32 sum of a thousand products is off by
some 1e-6, and a GPU adds up in another order."""


def compare(first: Golden, second: Golden) -> list[Line]:
    """Figures of the second beside the first; InputError where they are of other pictures.

    Limits hold only where both are of one checkpoint.
    """
    if first.facts.sha256 != second.facts.sha256:
        raise InputError("the two recordings are of different pictures")
    same_model = first.facts.checkpoint_sha256 == second.facts.checkpoint_sha256
    limits = LIMITS if same_model else Tolerance()
    lines: list[Line] = []
    for name, value in first.outputs.items():
        other = second.outputs.get(name)
        if other is None or other.shape != value.shape:
            continue  # of another network
        gap = agree.apart(agree.in_order(name, other), agree.in_order(name, value))
        lines += numbers(name, gap, limits)
    here, there = _stated(second), _stated(first)
    same = here.present == there.present
    alike = here.expression == there.expression
    lines += [
        Line("head", "AU decisions that are the same", float(same.mean()), limits.au_same, True),
        Line("head", "same expression first", float(alike.mean()), limits.expression_same, True),
        *answers(here, there, first, Tolerance(), None),
    ]
    return lines + _words(first, second, limits)


def _stated(one: Golden) -> Stated:
    least = agree.shares(one.facts.thresholds, AU_KEYS)
    return Stated(one.outputs[AU_PROBABILITY] >= least, one.outputs[EXPRESSION].argmax(1))


def _words(first: Golden, second: Golden, limits: Tolerance) -> list[Line]:
    a, b = first.words, second.words
    if a is None or b is None or not np.array_equal(a.spoken, b.spoken):
        return []
    changed = np.array([x != y for x, y in zip(a.said, b.said, strict=True)])
    lines = [Line("report", f"texts that changed, of {len(changed)}", float(changed.mean()))]
    alike = [m for m, (x, y) in enumerate(zip(a.answers, b.answers, strict=True)) if x == y]
    if not alike:  # logits after other words answer another question
        return lines
    begins = a.begins, b.begins
    rows = [np.concatenate([np.arange(at[m], at[m + 1]) for m in alike]) for at in begins]
    here, there = (
        one.logit[row].astype(np.float64) - one.total[row, None]
        for one, row in zip((a, b), rows, strict=True)
    )
    same = (a.top[rows[0]] == b.top[rows[1]]).all(1)
    p = np.exp(here[same])
    kl = np.maximum((p * (here[same] - there[same])).sum(1), 0)
    figures = agree.next_tokens(kl, np.ones(len(kl), bool))
    first_same = float((a.top[rows[0], 0] == b.top[rows[1], 0]).mean())
    return [
        *numbers("logits", agree.apart(b.logit[rows[1]][same], a.logit[rows[0]][same]), limits),
        Line("report", "KL of the next token, nats, mean", figures.mean, limits.kl_mean),
        Line("report", "same token first", first_same, limits.same_top, True),
        *lines,
    ]


def as_dict(lines: list[Line]) -> dict[str, Any]:
    """For JSON."""
    rows = [
        {"what": one.what, "value": one.value if np.isfinite(one.value) else None,
         "limit": one.limit, "passed": one.passed}
        for one in lines
    ]  # fmt: skip
    return {"passed": all(line.passed for line in lines), "lines": rows}


def markdown(lines: list[Line]) -> str:
    """A table."""
    head = ["| figure | found | limit | |", "|---|---|---|---|"]
    body = [
        f"| {one.what} | {number(one.value)} | {number(one.limit)} |"
        f" {'' if one.limit is None else 'holds' if one.passed else '**does not hold**'} |"
        for one in lines
    ]
    return "\n".join(head + body)
