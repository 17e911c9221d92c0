"""Hold an answer's claims against the readings: words may name only what was measured."""

from __future__ import annotations

import re
from dataclasses import dataclass

from feallm.runtime.contract.aus import AU_BY_KEY, AU_KEYS, AUS
from feallm.runtime.contract.expressions import EXPRESSIONS
from feallm.runtime.contract.reading import Reading
from feallm.runtime.language import wording
from feallm.runtime.language.wording import DEGREES, NONE, degree

_ANSWER = re.compile(
    r"AUs: (?P<aus>[^\n]+)\nExpression: (?P<expression>[a-z]+)\nWhy: (?P<why>.+)", re.S
)
_AU = re.compile(rf"(?P<key>AU\d+) (?P<name>[a-z ]+) \((?P<degree>{'|'.join(DEGREES)})\)")


@dataclass(frozen=True, slots=True)
class Claims:
    """What an answer says."""

    aus: tuple[tuple[str, str], ...]  # (AU12, "strong"), as listed
    expression: str
    why: str


def parse(text: str) -> Claims | None:
    """The claims of an answer, or None where it has not the form of one."""
    match = _ANSWER.fullmatch(text.strip())
    if match is None or match["expression"] not in EXPRESSIONS:
        return None
    aus = []
    for item in [] if match["aus"] == NONE else match["aus"].split(", "):
        au = _AU.fullmatch(item)
        if au is None or au["key"] not in AU_BY_KEY or AU_BY_KEY[au["key"]].name != au["name"]:
            return None
        aus.append((au["key"], au["degree"]))
    return Claims(tuple(aus), match["expression"], match["why"].strip())


def spoken(why: str) -> set[str]:
    """AUs that a sentence speaks of: by number, by FACS name, or by their movement in words."""
    words = why.lower()
    found = {f"AU{number}" for number in re.findall(r"au ?(\d+)", words)}
    for au in AUS:
        if au.movement in words or au.name in words:
            found.add(au.key)
    return found


def fault(text: str, reading: Reading) -> str | None:
    """The first claim that the reading does not bear out, as a clause; None where all hold."""
    claims = parse(text)
    if claims is None:
        return "the model's answer had not the form of one"
    if reading.expression is None:
        return "expressions were not asked for"
    if claims.expression != reading.expression.top:
        return f"the model said {claims.expression}, the heads {reading.expression.top}"
    present = set(reading.present)
    listed = [key for key, _ in claims.aus]
    for key in (*listed, *sorted(spoken(claims.why))):
        if key not in present:
            return f"the model named {key}, which was not measured present"
    if present and not listed:
        return f"the model saw none, yet {reading.present[0]} was measured"
    if len(set(listed)) != len(listed) or listed != [k for k in AU_KEYS if k in listed]:
        return "the model listed action units twice or out of order"
    if extra := spoken(claims.why) - set(listed):
        return f"the model's reason named {sorted(extra)[0]}, which its list does not"
    for word in EXPRESSIONS:
        if word != claims.expression and re.search(rf"\b{word}\b", claims.why, re.I):
            return f"the model's reason spoke of {word}"
    return _reason_fault(claims, reading) or _degree_fault(claims, reading)


def _reason_fault(claims: Claims, reading: Reading) -> str | None:
    """A reason must be one that the listed AUs bear out, word for word: "lips part" is true and
    "nothing else is seen" false as soon as more was measured than the list says."""
    measured = [reading.aus[key] for key, _ in claims.aus]
    aus = wording.named([au for au in measured if au is not None])
    if f"Why: {claims.why}" not in wording.why_lines(aus, claims.expression):
        return "the model's reason does not follow from its list"
    if claims.expression == "neutral" and len(aus) < len(reading.present):
        return "the model's reason passed over what was measured"
    return None


def _degree_fault(claims: Claims, reading: Reading) -> str | None:
    """A degree may be one step off: the borders between the words are thin."""
    for key, word in claims.aus:
        au = reading.aus[key]
        if au is not None:
            measured = degree(au.intensity)
            if abs(DEGREES.index(word) - DEGREES.index(measured)) > 1:
                return f"the model called {key} {word}, it was measured {measured}"
    return None
