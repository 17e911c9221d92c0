"""How an answer is worded: AUs first, then the expression, then why.

One place for the words, so that the language model's training texts, the template that stands in
for it and the check of its claims agree. A sentence names only what it is given.

    AUs: AU12 lip corner puller (strong), AU25 lips part (clear)
    Expression: happiness
    Why: The lip corners are pulled up (AU12) and the lips are parted (AU25); this is the pattern
    called happiness.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

from feallm.runtime.contract.aus import AU_BY_KEY, AU_INDEX
from feallm.runtime.contract.expressions import EXPRESSIONS, PATTERNS, speaking_for
from feallm.runtime.contract.reading import AUReading

DEGREES = ("slight", "clear", "strong")
_CLEAR, _STRONG = 2.0, 3.5  # intensities at which a word begins
_ONE_SIDED = 2.0  # difference of the sides' intensities

QUESTIONS = (
    "Action units, expression, and why?",
    "Which action units are active, which expression is this, and why?",
    "What moves in this face, and what is it called?",
    "Name the action units and the expression, and explain it by them.",
)
"""Questions of the whole answer; the first is the one that a bundle asks."""

AU_QUESTIONS = ("Which action units are active?", "List the action units of this face.")
EXPRESSION_QUESTIONS = ("Which expression is this?", "Name the expression.")

CARE = {
    "small": "small",
    "blurred": "blurred",
    "dark": "badly lit",
    "turned": "turned",
    "occluded": "partly covered",
    "cut": "cut-off",
}
"""What kind of face each mark of `contract.quality.BELOW` is."""

NONE = "none"
_MOST_WORDINGS = 2  # of one fact
Pick = Callable[[Sequence[str]], str]


@dataclass(frozen=True, slots=True)
class Named:
    """An action unit that a text names, and how strongly it is seen."""

    key: str
    degree: str
    one_sided: bool = False


def degree(intensity: float) -> str:
    """The word for an intensity 0–5."""
    return DEGREES[int(intensity >= _CLEAR) + int(intensity >= _STRONG)]


def one_sided(left: float | None, right: float | None) -> bool:
    """Whether an AU is seen on one side of the face only, by its intensities there."""
    return left is not None and right is not None and abs(left - right) >= _ONE_SIDED


def named(readings: Sequence[AUReading]) -> tuple[Named, ...]:
    """What a text may name of these readings: those present, in FACS order."""
    present = sorted((r for r in readings if r.present), key=lambda r: AU_INDEX[r.au])
    return tuple(Named(r.au, degree(r.intensity), one_sided(r.left, r.right)) for r in present)


def au_line(aus: Sequence[Named]) -> str:
    """The first line of an answer."""
    words = [f"{au.key} {AU_BY_KEY[au.key].name} ({au.degree})" for au in aus]
    return f"AUs: {', '.join(words) or NONE}"


def expression_line(expression: str) -> str:
    """The second line of an answer."""
    return f"Expression: {expression}"


def why_line(aus: Sequence[Named], expression: str, pick: Pick) -> str:
    """The third line: the expression explained by the AUs that speak for it, or their absence."""
    keys = [au.key for au in aus]
    if expression == "neutral":
        return f"Why: {_neutral(keys, pick)}"
    core, support = speaking_for(expression, keys, [au.key for au in aus if au.one_sided])
    others = [key for key in keys if key not in core and key not in support]
    if not core and not support:
        return f"Why: {_unsupported(expression, others, pick)}"
    makes = len(core) >= PATTERNS[expression].enough
    options = _MAKES if makes else _SPEAKS if core else _GOES
    reason = _capital(_clauses((*core, *support)))
    sentence = pick(options).format(reason=reason, expression=expression)
    if others:
        sentence += " " + pick(_BESIDE).format(others=_capital(_clauses(others)))
    return f"Why: {sentence}"


def why_lines(aus: Sequence[Named], expression: str) -> frozenset[str]:
    """Every third line that these AUs and this expression may have."""
    return frozenset(
        why_line(aus, expression, _picks(choices))
        for choices in product(range(_MOST_WORDINGS), repeat=2)  # a line picks at most twice
    )


def _picks(choices: Sequence[int]) -> Pick:
    """A `Pick` that takes these places, one after the other."""
    left = list(choices)

    def pick(wordings: Sequence[str]) -> str:
        return wordings[left.pop(0) % len(wordings)]

    return pick


def answer(aus: Sequence[Named], expression: str, pick: Pick) -> str:
    """The whole answer. `pick` chooses among wordings."""
    lines = (au_line(aus), expression_line(expression), why_line(aus, expression, pick))
    return "\n".join(lines)


def care_line(below: Sequence[str]) -> str:
    """The line before an answer about a face that could not be read well: why, and what follows
    from it. `below` as `contract.quality.BELOW` has it."""
    return f"{_capital(', '.join(CARE[reason] for reason in below))} face: read with care."


def first(wordings: Sequence[str]) -> str:
    """The `Pick` of the template: always the same words."""
    return wordings[0]


_MAKES = (
    "{reason}; this is the pattern called {expression}.",
    "{reason}; together this reads as {expression}.",
)
_SPEAKS = (
    "{reason}, which speaks for {expression}.",
    "{reason}; this points to {expression}.",
)
_GOES = (
    "{reason}, which can go with {expression}; the word rests on the face as a whole.",
    "{reason}, as can be in {expression}; the word rests on the face as a whole.",
)
_BESIDE = (
    "{others} as well, which is not part of that pattern.",
    "{others} too, beside that pattern.",
)
_NEUTRAL_NONE = (
    "No measured action unit stands out, so the face reads as neutral.",
    "None of the measured action units is active; this reads as neutral.",
)
_NEUTRAL_SOME = (
    "{reason}, but that alone makes no pattern, so the face reads as neutral.",
    "{reason}; nothing else is seen, which reads as neutral.",
)
_NEUTRAL_AGAINST = ("{reason}, yet the face as a whole reads as neutral.",)
_UNSUPPORTED_NONE = (
    "No measured action unit belongs to the pattern of {expression}; the word rests on the face"
    " as a whole.",
    "The measured action units do not show {expression}; it is read from the face as a whole.",
)
_UNSUPPORTED_SOME = (
    "{reason}, which is not part of the pattern of {expression}; the word rests on the face as a"
    " whole.",
    "{reason}, but {expression} is read from the face as a whole.",
)


def _neutral(keys: Sequence[str], pick: Pick) -> str:
    if not keys:
        return pick(_NEUTRAL_NONE)
    made = any(
        len(speaking_for(word, keys)[0]) >= PATTERNS[word].enough
        for word in EXPRESSIONS
        if PATTERNS[word].core and not PATTERNS[word].one_sided
    )
    options = _NEUTRAL_AGAINST if made else _NEUTRAL_SOME
    return pick(options).format(reason=_capital(_clauses(keys)))


def _unsupported(expression: str, others: Sequence[str], pick: Pick) -> str:
    if not others:
        return pick(_UNSUPPORTED_NONE).format(expression=expression)
    reason = _capital(_clauses(others))
    return pick(_UNSUPPORTED_SOME).format(reason=reason, expression=expression)


def _clauses(keys: Sequence[str]) -> str:
    """Clauses joined: "the lip corners are pulled up (AU12) and the lips are parted (AU25)"."""
    clauses = [f"{AU_BY_KEY[key].movement} ({key})" for key in keys]
    if len(clauses) == 1:
        return clauses[0]
    return f"{', '.join(clauses[:-1])} and {clauses[-1]}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
