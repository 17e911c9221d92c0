"""What is likely to be wrong with an artifact that does not pass: known faults, told by name.

The golden outputs hold what the float model answers on the first crops where one thing is done
wrongly (`KNOWN`): answers that lie nearer to those than to the right ones have that fault. This
needs no look into the artifact, so it works for every engine; `trace` looks inside where it can.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from feallm.runtime.backends.base import (
    AU_INTENSITY,
    AU_PROBABILITY,
    AU_SIDES,
    EXPRESSION,
    LanguageBackend,
)
from feallm.runtime.contract.manifest import LayerLimit
from feallm.runtime.verify import agree, trace
from feallm.runtime.verify.golden import Golden, Words, fingerprint
from feallm.runtime.verify.trace import Drift

Floats = NDArray[np.float32]

KNOWN: dict[str, str] = {
    "bgr": "colours are taken as BGR, they come as RGB",
    "mean_std": "mean and standard deviation of the pixels are swapped",
    "unit": "pixels are taken as 0 to 1, they come as 0 to 255",
    "inverted": "black and white are swapped",
    "mirrored": "the picture is mirrored",
    "black_ranges": "ranges of 8 bits were measured on black pictures: larger values are cut off",
    "larger": "the crop is off: the face stands too large in it, as by 8 %",
    "smaller": "the crop is off: the face stands too small in it, as by 8 %",
    "right": "the crop is off: the face stands too far to the right, as by 8 %",
    "left": "the crop is off: the face stands too far to the left, as by 8 %",
    "down": "the crop is off: the face stands too low, as by 8 %",
    "up": "the crop is off: the face stands too high, as by 8 %",
}
"""Faults that are recorded, by their names in the file."""

NEARER = 0.6
"""A fault is named where answers lie so much nearer to it than to the right answers."""
_SHIFTED = 0.3  # the same for an order that is shifted
_EXCHANGED = 0.3  # of clear movements that are on the golden side
_UNLIKE = 0.5  # cosine of a layer that has another order
_SCALE, _SHIFT = 0.02, 0.02  # of a crop, from which it is off


def of_eyes(found: Mapping[str, Floats], golden: Golden) -> tuple[str, ...]:
    """Causes out of the answers alone, the likeliest."""
    if (order := _order(found, golden)) is not None:
        return (order,)
    marks = fingerprint(found)
    right = fingerprint(golden.outputs)
    distances = {
        name: _distance(marks[: len(value)], value)
        for name, value in golden.faults.items()
        if name in KNOWN and value.shape[1:] == marks.shape[1:]
    }
    if distances:
        name = min(distances, key=distances.__getitem__)
        own = _distance(marks[: len(golden.faults[name])], right[: len(golden.faults[name])])
        if distances[name] < NEARER * own:
            return (KNOWN[name],)
    return ("left and right are exchanged",) if _sides_exchanged(found, golden) else ()


def _distance(a: Floats, b: Floats) -> float:
    return float(np.sqrt(np.mean((a.astype(np.float64) - b) ** 2)))


def _order(found: Mapping[str, Floats], golden: Golden) -> str | None:
    """Whether the AUs stand in another order, shifted by a few places."""
    kinds = {AU_PROBABILITY: "AUs", AU_INTENSITY: "AUs", AU_SIDES: "AUs", EXPRESSION: "expressions"}
    for name, what in kinds.items():
        if name not in golden.outputs:
            continue
        here, there = (agree.in_order(name, one[name]) for one in (found, golden.outputs))
        own = _distance(here, there)
        for places in (1, -1, 2, -2):
            if _distance(np.roll(here, -places, 1), there) < _SHIFTED * own:
                way = "later" if places > 0 else "earlier"
                told = (
                    f"the order of the {what} is shifted: each stands {_times(abs(places))} {way}"
                )
                return (
                    told
                    if name in (AU_PROBABILITY, AU_INTENSITY, EXPRESSION)
                    else f"{told} in {name}"
                )
    return None


def _sides_exchanged(found: Mapping[str, Floats], golden: Golden) -> bool:
    """Whether one of the outputs of two sides is the golden one with its sides exchanged."""
    clear = agree.clear_sides(golden.outputs[AU_INTENSITY])
    for name in (AU_INTENSITY, AU_SIDES):
        if name not in golden.outputs:
            continue
        here, there = found[name], golden.outputs[name]
        nearer = _distance(here[..., ::-1], there) < NEARER * _distance(here, there)
        if nearer and agree.same_side(here, there, clear) < _EXCHANGED:
            return True
    return False


def _times(places: int) -> str:
    return "one place" if places == 1 else f"{places} places"


def of_layers(drifts: Sequence[Drift], limit: LayerLimit) -> list[str]:
    """What layers tell where one of them drifts."""
    drift = trace.first(drifts, limit)
    if drift is None:
        return []
    told = f"first layer that drifts: {trace.report(drifts, limit)}"
    if drift.name.endswith((".q", ".k")) and drift.cosine < _UNLIKE:
        told += "; so it looks where q and k are not permuted as llama.cpp's positions want them"
    return [told]


def of_crop(scale: float, right: float, down: float) -> list[str]:
    """Causes where crops lie elsewhere: `way.off_by`."""
    found = []
    if abs(scale - 1) > _SCALE:
        found.append(f"faces stand {scale:.2f} times as large in it")
    for share, words in ((right, ("to the right", "to the left")), (down, ("too low", "too high"))):
        if abs(share) > _SHIFT:
            found.append(f"{abs(share):.0%} {words[0] if share > 0 else words[1]}")
    return [f"the crop is off: {', '.join(found)}"] if found else []


def of_failure(message: str, half: bool = True) -> tuple[str, ...]:
    """Causes of an artifact that did not answer. `half`: whether it computes in float16."""
    if "not finite" in message:
        more = "float16 ends at 65504, and what is beyond it is infinite"
        return (f"overflow: {more if half else 'a number too large, or a division by zero'}",)
    if "tokenizer" in message:
        return ("another tokenizer: it does not fit this model",)
    return ()


def of_tokenizer(session: LanguageBackend, question: str, words: Words) -> list[str]:
    """Texts that the artifact's tokenizer cuts, or puts together, in another way."""
    found = []
    if session.tokenize(f"{question}\n") != list(words.question):
        found.append("another tokenizer: the question becomes other tokens")
    pairs = zip(words.cut, words.said, strict=True) if words.cut else ()
    if other := sum(session.tokenize(said) != list(cut) for cut, said in pairs):
        found.append(f"another tokenizer: {other} golden answers are cut otherwise")
    wrong = sum(
        _text(session, answer) != said
        for answer, said in zip(words.answers, words.said, strict=True)
    )
    if wrong:
        found.append(
            f"another tokenizer: {wrong} of {len(words.said)} golden answers read otherwise"
        )
    return found


def _text(session: LanguageBackend, tokens: Sequence[int]) -> str:
    known = [token for token in tokens if token < session.vocabulary]
    return b"".join(session.piece(token) for token in known).decode("utf-8", "replace")
