"""The eight expressions, in the order of the FER+ votes, and the AUs that speak for each.

The patterns are the prototypes and major variants of the FACS Investigator's Guide (P. Ekman,
W. V. Friesen, J. C. Hager, 2002, table of emotion predictions), reduced to the project's 20 AUs;
AU43 beside sadness is our own addition;
contempt's one-sided AU12 or AU14 follows P. Ekman and W. V. Friesen, "A new pan-cultural facial
expression of emotion", Motivation and Emotion 10 (1986). They say which movements are *called* by
a word. They do not say what a person feels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from feallm.runtime.contract.aus import AU_INDEX


@dataclass(frozen=True, slots=True)
class Pattern:
    """AUs that make up one expression."""

    core: tuple[str, ...]  # any of these speaks for it
    support: tuple[str, ...]  # often there too, as in other expressions
    enough: int = 1  # this many of the core make the pattern
    one_sided: bool = False  # the core counts when it is on one side of the face only


EXPRESSIONS: tuple[str, ...] = (
    "neutral",
    "happiness",
    "surprise",
    "sadness",
    "anger",
    "disgust",
    "fear",
    "contempt",
)
N_EXPRESSIONS = len(EXPRESSIONS)
EXPRESSION_INDEX: dict[str, int] = {name: i for i, name in enumerate(EXPRESSIONS)}

PATTERNS: dict[str, Pattern] = {
    "neutral": Pattern((), ()),
    "happiness": Pattern(("AU6", "AU12"), ("AU25",)),
    "surprise": Pattern(("AU1", "AU2", "AU5", "AU26"), ("AU25",), enough=2),
    "sadness": Pattern(("AU1", "AU4", "AU15"), ("AU17", "AU43"), enough=2),
    "anger": Pattern(
        ("AU4", "AU5", "AU7", "AU23"), ("AU10", "AU17", "AU24", "AU25", "AU26"), enough=2
    ),
    "disgust": Pattern(("AU9", "AU10"), ("AU15", "AU17", "AU25", "AU26")),
    "fear": Pattern(("AU1", "AU2", "AU4", "AU5", "AU20"), ("AU7", "AU25", "AU26"), enough=3),
    "contempt": Pattern(("AU12", "AU14"), (), one_sided=True),
}


def speaking_for(
    expression: str, present: Iterable[str], one_sided: Iterable[str] = ()
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Those of `present` that belong to the expression's core and to its support, in FACS order.

    `one_sided`: AUs seen on one side only. A pattern that asks for one side takes no others.
    """
    pattern, found = PATTERNS[expression], set(present)
    if pattern.one_sided:
        found &= set(one_sided)
    core = sorted(found.intersection(pattern.core), key=AU_INDEX.__getitem__)
    support = sorted(found.intersection(pattern.support), key=AU_INDEX.__getitem__)
    return tuple(core), tuple(support)
