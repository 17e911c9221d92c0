"""Strokes, filled outlines and colours on a canvas: what painted skin and painted things share."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Outline = NDArray[np.floating[Any]]  # (N, 2) x y, pixels


def stroke(
    canvas: Floats, line: Outline, value: float, width: int, *, closed: bool = False
) -> None:
    """Draw a line through points, to an eighth of a pixel, into a canvas (H, W) in place."""
    at = np.round(line * 8).astype(np.int32)
    cv2.polylines(canvas, [at], closed, value, width, cv2.LINE_AA, shift=3)


def fill(canvas: Floats, outline: Outline) -> None:
    """Set a canvas (H, W) to 1 inside an outline of whole pixels, in place."""
    cv2.fillPoly(canvas, [np.round(outline).astype(np.int32)], 1.0, cv2.LINE_AA)


def cover(picture: NDArray[np.uint8], mask: Floats, colour: NDArray[np.floating[Any]]) -> None:
    """Paint over a picture (H, W, 3) in place, only where the mask (H, W), 0–1, is not 0.

    `colour` 0–255: one (3,), or a picture (H, W, 3).
    """
    # Of what is never below 0, the largest tells whether there is any, and is found faster.
    ys, xs = (np.flatnonzero(cv2.reduce(mask, axis, cv2.REDUCE_MAX)) for axis in (1, 0))
    if not len(ys):
        return
    box = (slice(ys[0], ys[-1] + 1), slice(xs[0], xs[-1] + 1))
    part, m = picture[box].astype(np.float32), mask[box][..., None]
    given = np.asarray(colour, np.float32)
    given = given[box] if given.ndim == 3 else given
    picture[box] = np.clip(part + m * (given - part), 0, 255).astype(np.uint8)
