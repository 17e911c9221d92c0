"""What a comparison found, line by line, and whether it passes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from feallm.runtime.contract.manifest import Part

Tier = Literal["way", "tensor", "head", "report"]
TIERS: dict[Tier, str] = {
    "way": "From the frame to the crop",
    "tensor": "Numbers",
    "head": "Decisions",
    "report": "Answers",
}
FEW = 2
"""Faces that may always answer otherwise, however few there are: one of thirty is 3 %, and a
decision that stands at its threshold falls to either side."""


@dataclass(frozen=True, slots=True)
class Line:
    """One figure. `limit` None: nothing is asked of it."""

    tier: Tier
    what: str
    value: float
    limit: float | None = None
    least: bool = False  # whether the limit is one that must be reached, not one that is kept under
    of: int = 0  # faces that `value` is a share of; then `FEW` of them are always excused

    @property
    def passed(self) -> bool:
        """NaN passes no limit."""
        if self.limit is None:
            return True
        if np.isnan(self.value):
            return False
        if self.of:
            others = round((1 - self.value) * self.of)
            return others <= max(FEW, int((1 - self.limit) * self.of + 1e-9))
        return bool(self.value >= self.limit if self.least else self.value <= self.limit)

    @property
    def excused(self) -> str:
        """Why one that misses its limit passes, in words; else nothing."""
        if self.limit is None or not self.of or self.value >= self.limit or not self.passed:
            return ""
        return f"{FEW} of {self.of} may differ"


@dataclass(frozen=True, slots=True)
class Worst:
    """A face that is answered most unlike the golden answer."""

    row: int  # of the golden crops
    golden: str  # what each says of it, one line a person reads
    found: str
    apart: float  # largest difference of a probability, or mean divergence of a word


@dataclass(frozen=True, slots=True)
class Result:
    """One part of one artifact."""

    artifact: str
    part: Part
    engine: str
    provider: str  # what really ran it
    threads: int
    faces: int
    seconds: float
    lines: tuple[Line, ...] = ()
    worst: tuple[Worst, ...] = ()
    failure: str | None = None  # it could not answer at all
    causes: tuple[str, ...] = ()  # what is likely to be wrong, of one that does not pass
    layers: tuple[str, ...] = ()  # how far each is off, a line each, where the engine shows them
    judged: bool = True  # False: its manifest states no tolerance

    @property
    def passed(self) -> bool:
        """Whether it answered, and within every limit."""
        return self.failure is None and all(line.passed for line in self.lines)

    @property
    def faults(self) -> tuple[str, ...]:
        """What did not pass, a clause each."""
        if self.failure is not None:
            return (self.failure,)
        return tuple(_told(line) for line in self.lines if not line.passed)


def _told(line: Line) -> str:
    word = "at least" if line.least else "at most"
    found, limit = beside(line)
    return f"{line.what}: {found}, expected {word} {limit}"


def beside(line: Line) -> tuple[str, str]:
    """A line's value and limit as a person reads them, with as many digits as tell them apart."""
    for digits in range(4, 10):
        found, limit = number(line.value, digits), number(line.limit, digits)
        if found != limit or line.value == line.limit:
            break
    return found, limit


@dataclass(frozen=True, slots=True)
class Report:
    """All results of a bundle on this machine."""

    bundle: str  # its name
    digest: str
    golden: dict[str, Any]  # facts of the golden outputs
    faces: int
    machine: dict[str, Any]
    results: tuple[Result, ...]
    skipped: dict[str, str] = field(default_factory=dict)  # artifacts not run here, and why

    @property
    def passed(self) -> bool:
        """Whether something was judged, and all of it holds."""
        judged = any(result.judged for result in self.results)
        return judged and all(result.passed for result in self.results)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: numbers that are none become null."""
        found = asdict(self)
        for one, result in zip(found["results"], self.results, strict=True):
            one["passed"], one["faults"] = result.passed, list(result.faults)
            for line, given in zip(one["lines"], result.lines, strict=True):
                line["passed"] = given.passed
                if not np.isfinite(line["value"]):
                    line["value"] = None
        return {"passed": self.passed, **found}


def number(value: float | None, digits: int = 4) -> str:
    """A figure as a person reads it, with so many digits after the point."""
    if value is None:
        return "–"
    if not np.isfinite(value):
        return "none"
    if value == 0 or 0.001 <= abs(value) < 1000:
        return f"{value:.{digits}f}".rstrip("0").rstrip(".")
    return f"{value:.{max(1, digits - 3)}e}"
