"""Two recordings of golden outputs on the same pictures: how far they lie apart.

Of one checkpoint on two devices, or computed in two ways, they must agree within `LIMITS`; of two
checkpoints they show the distance between those.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feallm.runtime.backends.base import AU_PROBABILITY, EXPRESSION, GAZE, LANDMARKS, POSE
from feallm.runtime.contract.aus import AU_KEYS
from feallm.runtime.contract.errors import InputError
from feallm.runtime.contract.geometry import CROP
from feallm.runtime.contract.manifest import TensorLimit, Tolerance
from feallm.runtime.verify import agree
from feallm.runtime.verify.agree import Doubles, Stated
from feallm.runtime.verify.golden import Golden, Words
from feallm.runtime.verify.lines import answers, numbers
from feallm.runtime.verify.verdict import Line, number
from feallm.runtime.verify.way import corners_apart

_CLOSE = 80.0
LIMITS = Tolerance(
    tensors={
        "au_probability": TensorLimit(sqnr_db=_CLOSE, max=1e-4),
        "au_side_probability": TensorLimit(sqnr_db=_CLOSE, max=1e-4),
        "expression": TensorLimit(sqnr_db=_CLOSE, max=1e-4),
        "au_intensity": TensorLimit(sqnr_db=_CLOSE, max=1e-3),
        "tokens": TensorLimit(sqnr_db=_CLOSE, max=1e-3),
        LANDMARKS: TensorLimit(sqnr_db=_CLOSE, max=1e-2),  # px
        POSE: TensorLimit(sqnr_db=_CLOSE, max=1e-2),
        GAZE: TensorLimit(sqnr_db=_CLOSE, max=1e-2),
        "logits": TensorLimit(sqnr_db=_CLOSE, max=1e-2),
    },
    au_same=0.9999,
    expression_same=0.999,
    kl_mean=1e-7,
    same_top=0.999,
)
"""Of float32 against float64, or of two devices: a float32 sum of a thousand products is off by
some 1e-6, and a GPU adds up in another order."""
CORNER_PX = 0.1
"""Of the crops that are cut of whole frames: their points are rounded by two networks."""
FRAME = 1e-3
"""Of probabilities read on whole frames."""
TEXTS = 0.01
"""Of the texts, so many may change: none of fewer than a hundred."""


@dataclass(frozen=True, slots=True)
class Compared:
    """What a comparison found."""

    judged: bool  # False: of two checkpoints, which nothing asks to agree
    checkpoints: tuple[str, str]  # size and hash of each
    lines: tuple[Line, ...]
    left_out: tuple[str, ...] = ()  # what only one of two checkpoints answers

    @property
    def passed(self) -> bool:
        """Whether all limits hold; of what is not judged, none is set."""
        return all(line.passed for line in self.lines)


def compare(first: Golden, second: Golden) -> Compared:
    """Figures of the second beside the first. InputError where they are of other pictures, or
    where those of one checkpoint do not hold the same things."""
    if first.facts.sha256 != second.facts.sha256:
        raise InputError("the two recordings are of different pictures")
    judged = first.facts.checkpoint_sha256 == second.facts.checkpoint_sha256
    limits = LIMITS if judged else Tolerance()
    left_out: list[str] = []
    lines: list[Line] = [*_frames(first, second, judged)]
    for name in dict.fromkeys((*first.outputs, *second.outputs)):
        value, other = first.outputs.get(name), second.outputs.get(name)
        if value is None or other is None or other.shape != value.shape:
            shapes = [str(one.shape) if one is not None else "none" for one in (value, other)]
            left_out.append(
                f"{name}: {shapes[0]} in the first recording, {shapes[1]} in the second"
            )
            continue
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
    if unlike := _unlike_words(first.words, second.words):
        left_out.append(unlike)
    elif first.words is not None and second.words is not None:
        lines += _words(first.words, second.words, limits, TEXTS if judged else None)
    if judged and left_out:
        raise InputError(
            f"the recordings are of one checkpoint, yet cannot be compared: {'; '.join(left_out)}",
            hint="record both with the same options",
        )
    return Compared(judged, (_checkpoint(first), _checkpoint(second)), (*lines,), (*left_out,))


def _checkpoint(one: Golden) -> str:
    return f"{one.facts.model} {one.facts.checkpoint_sha256[:12]}…"


def _frames(first: Golden, second: Golden, judged: bool) -> list[Line]:
    """The way from whole frames, where there are any."""
    if not first.frames:
        return []
    found = [np.isfinite(one.frame_matrix).all((1, 2)) for one in (first, second)]
    gaps = corners_apart(second.frame_matrix, first.frame_matrix, CROP)
    au = np.abs(second.frame_au.astype(np.float64) - first.frame_au)
    expression = np.abs(second.frame_expression.astype(np.float64) - first.frame_expression)
    limits = (0.0, CORNER_PX, FRAME, FRAME) if judged else (None,) * 4
    figures = (
        ("frames in which one alone finds a face", (found[0] != found[1]).sum()),
        ("frames: crop's corner, px", gaps[np.isfinite(gaps)].max(initial=0.0)),
        ("frames: AU probability, largest difference", au.max(initial=0.0)),
        ("frames: expression, largest difference", expression.max(initial=0.0)),
    )
    return [
        Line("way", what, float(value), limit)
        for (what, value), limit in zip(figures, limits, strict=True)
    ]


def _stated(one: Golden) -> Stated:
    least = agree.shares(one.facts.thresholds, AU_KEYS)
    return Stated(one.outputs[AU_PROBABILITY] >= least, one.outputs[EXPRESSION].argmax(1))


def _unlike_words(first: Words | None, second: Words | None) -> str:
    """Why the answers cannot be compared; nothing where they can, or where neither has any."""
    if first is None or second is None:
        if first is second:
            return ""
        with_words, without = ("second", "first") if first is None else ("first", "second")
        return f"words: the {with_words} recording holds answers, the {without} none"
    if not np.array_equal(first.spoken, second.spoken):
        counts = f"{len(first.spoken)} in the first recording, {len(second.spoken)} in the second"
        return f"words: the answers are about other faces ({counts})"
    if first.question != second.question:
        return "words: the question is other tokens"
    return ""


def _words(a: Words, b: Words, limits: Tolerance, most_changed: float | None) -> list[Line]:
    """Texts, and logits at all places up to the first token that was chosen otherwise: what comes
    after it follows other words."""
    texts = zip(a.answers, b.answers, a.said, b.said, strict=True)
    changed = np.array([one != other or x != y for one, other, x, y in texts])
    rows = _places(a, b)
    top = a.top[rows[0]], b.top[rows[1]]
    logit = a.logit[rows[0]].astype(np.float64), b.logit[rows[1]].astype(np.float64)
    log_p = logit[0] - a.total[rows[0], None], logit[1] - b.total[rows[1], None]
    there = _of_the_other(top[0], logit[0], top[1], logit[1])
    # Each token's own divergence: where a sum of 16 is all that is known, p log(p/q) alone can
    # fall below zero, and the rest up to 1 is smaller than the rounding of its parts.
    kl = _each(log_p[0], _of_the_other(top[0], log_p[0], top[1], log_p[1])).sum(1)
    unknown = ~(top[1][:, :, None] == top[0][:, None, :]).any(2)  # of which the first kept none
    most_p = _of_the_other(top[1], log_p[1], top[0], log_p[0])
    kl += np.where(unknown, _each(most_p, log_p[1]), 0.0).sum(1)
    likeliest = [
        np.take_along_axis(tokens, values.argmax(1)[:, None], 1)[:, 0]
        for tokens, values in zip(top, logit, strict=True)
    ]
    same = likeliest[0] == likeliest[1]
    figures = agree.next_tokens(kl, same)
    return [
        *numbers("logits", agree.apart(there, logit[0]), limits),
        Line("report", "KL of the next token, nats, mean", figures.mean, limits.kl_mean),
        Line("report", "same token first", figures.same_top, limits.same_top, True),
        Line("report", f"texts that changed, of {len(changed)}", float(changed.mean()),
             most_changed),
    ]  # fmt: skip


def _places(a: Words, b: Words) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the places that follow the same words in both."""
    rows: tuple[list[int], list[int]] = [], []
    starts = zip(a.begins.tolist(), b.begins.tolist(), strict=True)
    for (start, other), one, two in zip(list(starts)[:-1], a.answers, b.answers, strict=True):
        shorter = min(len(one), len(two))
        alike = next((k for k in range(shorter) if one[k] != two[k]), shorter)
        for k in range(min(alike + 1, shorter)):
            rows[0].append(start + k)
            rows[1].append(other + k)
    return np.array(rows[0], np.int64), np.array(rows[1], np.int64)


def _of_the_other(
    top: NDArray[np.int64], own: Doubles, others: NDArray[np.int64], values: Doubles
) -> Doubles:
    """(places, K) what the other side says of these tokens: its value where it kept the token, else
    what is nearest to ours that its least kept value allows."""
    alike = top[:, :, None] == others[:, None, :]
    kept = np.take_along_axis(values, alike.argmax(2), 1)
    result: Doubles = np.where(alike.any(2), kept, np.minimum(own, values.min(1, keepdims=True)))
    return result


def _each(log_p: Doubles, log_q: Doubles) -> Doubles:
    """p log(p/q) - p + q: nowhere below zero, and over all tokens the sum is KL(p || q)."""
    p, q = np.exp(log_p), np.exp(log_q)
    return np.asarray(p * (log_p - log_q) - p + q)


def as_dict(found: Compared) -> dict[str, Any]:
    """For JSON. `passed` is null where nothing is judged."""
    rows = [
        {"what": one.what, "value": one.value if np.isfinite(one.value) else None,
         "limit": one.limit, "passed": one.passed}
        for one in found.lines
    ]  # fmt: skip
    return {
        "judged": found.judged,
        "passed": found.passed if found.judged else None,
        "checkpoints": list(found.checkpoints),
        "left_out": list(found.left_out),
        "lines": rows,
    }


def markdown(found: Compared) -> str:
    """A table."""
    head = ["| figure | found | limit | |", "|---|---|---|---|"]
    body = [
        f"| {one.what} | {number(one.value)} | {number(one.limit)} |"
        f" {'' if one.limit is None else 'holds' if one.passed else '**does not hold**'} |"
        for one in found.lines
    ]
    before, after = [], []
    if not found.judged:
        two = " and ".join(found.checkpoints)
        before = [f"**Nothing is judged: two checkpoints, {two}.**", ""]
    if found.left_out:
        after = ["", *(f"Left out: {one}." for one in found.left_out)]
    return "\n".join(before + head + body + after)
