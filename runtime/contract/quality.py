"""How well a face could be read: the measures, and the gate that marks a reading below them.

A mark takes nothing away: every value stays in the row. `python -m feallm.model.studies.quality`
prints the table that the defaults of `Gate` were chosen by.
"""

from __future__ import annotations

from dataclasses import dataclass

BELOW = ("small", "blurred", "dark", "turned", "occluded", "cut")
"""Every reason that a reading can be below the gate for, in the order in which they are told."""

MEASURES = ("size_px", "blur", "yaw_deg", "pitch_deg", "occluded")


@dataclass(frozen=True, slots=True)
class Quality:
    """The measures of one face. `docs/rows.md` says what each of them means."""

    size_px: float  # distance of the eyes in the frame, as if the face looked into the camera
    blur: float  # 0 sharp … 1 blurred
    yaw_deg: float | None  # to the head's own left; None where neither network nor points tell
    pitch_deg: float | None  # up
    occluded: float | None  # 0–1 of the face; None where the bundle has no read-out for it
    below: tuple[str, ...] = ()  # some of `BELOW`


@dataclass(frozen=True, slots=True)
class Gate:
    """Limits; a face on a limit is still good enough."""

    least_size_px: float = 10.0
    most_blur: float = 0.5
    least_light: float = 15.0  # mean gray of the face, 0–255
    most_yaw_deg: float = 40.0
    most_pitch_deg: float = 25.0
    most_occluded: float = 0.15
    most_cut: float = 0.2  # share of the face beyond the frame's edge

    def below(self, quality: Quality, *, light: float, cut: float) -> tuple[str, ...]:
        """Why a face with these measures should be read with care; () where nothing is wrong."""
        found = {
            "small": quality.size_px < self.least_size_px,
            "blurred": quality.blur > self.most_blur,
            "dark": light < self.least_light,
            "turned": _beyond(quality.yaw_deg, self.most_yaw_deg)
            or _beyond(quality.pitch_deg, self.most_pitch_deg),
            "occluded": _beyond(quality.occluded, self.most_occluded),
            "cut": cut > self.most_cut,
        }
        return tuple(reason for reason in BELOW if found[reason])


def _beyond(value: float | None, limit: float) -> bool:
    return value is not None and abs(value) > limit
