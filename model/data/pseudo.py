"""AU targets from MediaPipe's blendshapes, for the AUs where they can be trusted.

docs of the shared data measured each blendshape against faces coded by eye; AUs whose blendshape
was found dead, weak or poor there get no target here, and so stay untrained (`UNKNOWN`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from feallm.model.data import archive
from feallm.runtime.contract.aus import AU_INDEX, INTENSITY_MAX, N_AUS
from feallm.runtime.contract.landmarks import FIVE

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Scale:
    """Straight line from a source's value to an intensity: `present` is 1 (A), `full` is 5 (E)."""

    left: tuple[str, ...]  # blendshapes of the subject's left side, averaged
    right: tuple[str, ...]
    present: float
    full: float


def _sides(name: str, present: float, full: float) -> Scale:
    return Scale((f"{name}Left",), (f"{name}Right",), present, full)


def _middle(name: str, present: float, full: float) -> Scale:
    return Scale((name,), (name,), present, full)


LIP_GAP = "lip_gap"
"""Gap of the inner lips (points 62 and 66) over the distance of the eyes."""

SCALES: dict[str, Scale] = {
    "AU1": _middle("browInnerUp", 0.55, 0.95),
    "AU2": _sides("browOuterUp", 0.62, 0.95),
    "AU5": _sides("eyeWide", 0.14, 0.45),
    "AU12": _sides("mouthSmile", 0.40, 0.95),
    "AU17": _middle("mouthShrugLower", 0.18, 0.60),
    "AU25": _middle(LIP_GAP, 0.12, 0.55),
    "AU26": _middle("jawOpen", 0.20, 0.75),
    "AU43": _sides("eyeBlink", 0.60, 0.80),
}
"""Where presence begins was set by eye on sheets of `train` faces sorted by each value
(`feallm data sheet`); `full` is about the 99th percentile."""


@dataclass(frozen=True, slots=True)
class Pseudo:
    """Pseudo-labels of N pictures."""

    found: NDArray[np.bool_]  # (N,)
    points5: Array  # (N, 5, 2) pixels of the picture, YuNet's order; NaN where not found
    intensity: Array  # (N, 20, 2) left and right, 0–5 and below 0; NaN = unknown
    points68: Array  # (N, 68, 2) pixels, whole numbers at pixel centres; NaN where not found


def five_points(points68: Array) -> Array:
    """YuNet's five points (N, 5, 2) from iBUG's 68 (N, 68, 2)."""
    return np.stack([points68[:, list(chosen)].mean(1) for chosen in FIVE], 1)


def read(path: Path) -> Pseudo:
    """Pseudo-labels as the shared data folder holds them (`mediapipe_*.npz`)."""
    arrays = archive.read(path, "names", "blendshapes", "points68", "found")
    found = arrays["found"].astype(bool)
    points68 = arrays["points68"].astype(np.float32)
    points68[~found] = np.nan
    values = {
        str(name): column
        for name, column in zip(
            arrays["names"], arrays["blendshapes"].T.astype(np.float32) / 255, strict=True
        )
    }
    points5 = five_points(points68)
    eyes = np.linalg.norm(points5[:, 0] - points5[:, 1], axis=1)
    values[LIP_GAP] = np.linalg.norm(points68[:, 62] - points68[:, 66], axis=1) / eyes
    intensity = np.full((len(found), N_AUS, 2), np.nan, np.float32)
    for key, scale in SCALES.items():
        for side, names in enumerate((scale.left, scale.right)):
            value = np.mean([values[name] for name in names], axis=0)
            step = (value - scale.present) / (scale.full - scale.present)
            intensity[:, AU_INDEX[key], side] = 1 + step * (INTENSITY_MAX - 1)
    intensity[~found] = np.nan
    return Pseudo(found, points5, intensity, points68 - np.float32(0.5))
