"""What was read from a face. `None` means "not measured" or "not asked", never "failed"."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from feallm.runtime.contract.aus import AU_KEYS
from feallm.runtime.contract.expressions import EXPRESSIONS
from feallm.runtime.contract.frame import Box
from feallm.runtime.contract.quality import Quality

ExplanationSource = Literal["model", "template"]


@dataclass(frozen=True, slots=True)
class AUReading:
    """One action unit. Intensities 0–5 (A = 1 … E = 5), `probability` 0–1 of being present."""

    au: str
    intensity: float  # the larger of the two sides
    present: bool  # probability at or above the bundle's threshold
    probability: float
    left: float | None  # the subject's left; None where the sides cannot be told apart
    right: float | None
    left_present: bool | None = None  # presence on each side; None as for the intensities, and
    right_present: bool | None = None  # where the bundle does not tell it


@dataclass(frozen=True, slots=True)
class ExpressionReading:
    """Scores over the eight expressions, summing to 1."""

    scores: dict[str, float]

    @property
    def top(self) -> str:
        """The expression with the highest score."""
        return max(EXPRESSIONS, key=self.scores.__getitem__)


@dataclass(frozen=True, slots=True)
class PlaceReading:
    """Where the face is and where it turns. Angles and signs as `contract.landmarks` has them."""

    landmarks: tuple[tuple[float, float], ...]  # 68, pixels of the frame
    pose_deg: tuple[float, float, float]  # pitch, yaw, roll before the camera
    gaze_deg: tuple[float, float]  # up, left, in the head


@dataclass(frozen=True, slots=True)
class Explanation:
    """Words for a reading. Every AU in `aus` was measured present."""

    text: str
    aus: tuple[str, ...]
    source: ExplanationSource
    why_template: str | None = None  # what kept the model's own words back


@dataclass(frozen=True, slots=True)
class Reading:
    """One face of one frame."""

    track: int
    box: Box
    score: float
    aus: dict[str, AUReading | None]  # all 20; None where the bundle was not trained for the AU
    expression: ExpressionReading | None  # None where it was not asked for
    explanation: Explanation | None = None
    place: PlaceReading | None = None  # None where the bundle does not measure it
    quality: Quality | None = None  # None only where nobody measured it: `Analyzer` always does

    @property
    def present(self) -> tuple[str, ...]:
        """The AUs that were measured present, in FACS order."""
        found = ((key, self.aus.get(key)) for key in AU_KEYS)
        return tuple(key for key, au in found if au is not None and au.present)


@dataclass(frozen=True, slots=True)
class FrameReport:
    """Everything read from one frame."""

    source: str
    index: int
    time_s: float
    readings: tuple[Reading, ...]
    bundle: str  # digest of the manifest
    timings_ms: dict[str, float] = field(default_factory=dict)
