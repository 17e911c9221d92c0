"""Frames, faces and crops: geometry with its frame of reference.

Pixels are RGB from `capture` onward. Boxes and points are in pixels of the full frame, x to the
right and y down; left and right of a face are the subject's.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]  # (H, W, 3) RGB
Box = tuple[float, float, float, float]  # x0 y0 x1 y1


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture, or one frame of a video."""

    pixels: Image
    source: str  # what the rows call it
    index: int = 0  # counts from 0
    time_s: float = 0.0
    still: bool = False  # a photograph: somebody is in it, and there is time to look twice


@dataclass(frozen=True, slots=True)
class Face:
    """A face that was found. `points` (5, 2) in YuNet's order; None where only the box is known."""

    box: Box
    points: NDArray[np.float64] | None
    score: float  # 0–1; 1 for a detector that gives none
    track: int = 0


@dataclass(frozen=True, slots=True)
class Crop:
    """A face as the network sees it, with its own way back to the frame."""

    pixels: Image  # (height, width, 3) of the bundle's geometry
    to_crop: NDArray[np.float64] = field(repr=False)  # (2, 3): crop pixel = to_crop @ (x, y, 1)
