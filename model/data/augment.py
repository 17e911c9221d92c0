"""Random crops for training: one warp holds alignment and jitter, then light and camera."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from feallm.runtime.contract.geometry import CROP, CropGeometry
from feallm.runtime.vision.align import Image, Matrix, Points, warp

POINT_SIGMA = 0.03
"""Of the eyes' distance: how far two sources of the same landmark lie apart."""
DETECTOR_SHARE = 0.6
"""Of the crops that stand at landmarks: moved to where a detector would put them."""


@dataclass(frozen=True, slots=True)
class Augment:
    """Strength of each disturbance; normal spreads unless said otherwise."""

    flip: float = 0.5  # chance
    turn_deg: float = 6.0
    scale: float = 0.07
    shift: float = 0.035  # of the crop's width
    contrast: float = 0.2
    brightness: float = 20.0
    gamma: float = 0.25
    blur: float = 0.25  # chance
    sharpen: float = 0.25  # chance: photos are sharper than 48-pixel pictures
    noise: float = 0.3  # chance
    erase: float = 0.4  # chance of one erased box


GENTLE = Augment(
    turn_deg=4.0,
    scale=0.05,
    shift=0.025,
    contrast=0.1,
    brightness=8.0,
    gamma=0.1,
    blur=0.05,
    sharpen=0.1,
    noise=0.1,
    erase=0.1,
)
"""For renders: they were drawn with light, blur, noise and hands before the face already, and
networks of this size read those that they learnt from no better than others (mean AUC .906 and .906
of 3,000 each): what is short there is fit, not variety."""


@dataclass(frozen=True, slots=True)
class Jittered:
    """A crop and whether it shows the face mirrored (left and right must then be swapped)."""

    pixels: Image
    mirrored: bool
    matrix: Matrix  # from the picture to the crop before it was mirrored


def jitter(
    matrix: Matrix, rng: np.random.Generator, how: Augment, geometry: CropGeometry
) -> Matrix:
    """The crop's transform, disturbed by a random similarity about the crop's centre."""
    angle = np.deg2rad(rng.normal(0, how.turn_deg))
    factor = float(np.exp(rng.normal(0, how.scale)))
    a, b = factor * np.cos(angle), factor * np.sin(angle)
    centre = np.array([geometry.width_px / 2, geometry.height_px / 2])
    turn = np.array([[a, -b], [b, a]])
    shift = centre - turn @ centre + rng.normal(0, how.shift * geometry.width_px, 2)
    return np.hstack([turn @ matrix[:, :2], (turn @ matrix[:, 2] + shift)[:, None]])


def crop(
    picture: Image,
    matrix: Matrix,
    rng: np.random.Generator,
    how: Augment,
    geometry: CropGeometry = CROP,
) -> Jittered:
    """A random training crop of a picture (H, W) or (H, W, 3) that `matrix` would align."""
    matrix = jitter(matrix, rng, how, geometry)
    pixels = warp(picture, matrix, geometry)
    mirrored = bool(rng.random() < how.flip)
    if mirrored:
        pixels = np.ascontiguousarray(pixels[:, ::-1])
    if rng.random() < how.blur:
        pixels = np.asarray(cv2.GaussianBlur(pixels, (0, 0), rng.uniform(0.6, 2.2)), np.uint8)
    elif rng.random() < how.sharpen:
        soft = cv2.GaussianBlur(pixels, (0, 0), 2.0)
        pixels = np.asarray(cv2.addWeighted(pixels, 1.8, soft, -0.8, 0), np.uint8)
    pixels = cv2.LUT(pixels, _curve(rng, how)).astype(np.uint8, copy=False)
    if rng.random() < how.noise:
        grain = rng.normal(0, rng.uniform(2, 9), pixels.shape[:2]).astype(np.float32)
        grain = grain if pixels.ndim == 2 else grain[..., None]
        pixels = np.clip(pixels + grain, 0, 255).astype(np.uint8)
    if rng.random() < how.erase:
        _erase(pixels, rng)
    return Jittered(pixels, mirrored, matrix)


def _curve(rng: np.random.Generator, how: Augment) -> NDArray[np.uint8]:
    """Contrast, brightness and gamma as one table of 256 values."""
    levels = np.arange(256, dtype=np.float32) / 255
    levels = levels ** float(np.exp(rng.normal(0, how.gamma)))
    levels = (levels - 0.5) * float(np.exp(rng.normal(0, how.contrast))) + 0.5
    return np.clip(levels * 255 + rng.normal(0, how.brightness), 0, 255).astype(np.uint8)


def _erase(pixels: Image, rng: np.random.Generator) -> None:
    height, width = pixels.shape[:2]
    h, w = int(rng.uniform(0.08, 0.3) * height), int(rng.uniform(0.08, 0.35) * width)
    y, x = int(rng.integers(0, height - h)), int(rng.integers(0, width - w))
    pixels[y : y + h, x : x + w] = int(rng.integers(0, 256))


def unsure(points: Points, rng: np.random.Generator) -> Points:
    """Points (5, 2), each moved a little, as another source would have it."""
    apart = float(np.linalg.norm(points[1] - points[0]))
    return points + rng.normal(0, POINT_SIGMA * max(apart, 4.0), (5, 2))


def as_detected(points: Points) -> Points:
    """Landmarks (5, 2) as YuNet tends to place them: measured on London faces, in shares of the
    eyes' distance, the nose tip a tenth lower and the mouth's corners a twentieth higher."""
    across = points[1] - points[0]
    down = np.array([-across[1], across[0]])
    moved = points.copy()
    moved[2] += 0.097 * down
    moved[3:] -= 0.051 * down
    return moved


def frame(picture: Image, points: Points, rng: np.random.Generator) -> tuple[Image, Points]:
    """A square cut close about the face, as collections of faces are, and its corner (2,) in the
    picture: what lies beyond the square is the crop's border then."""
    apart = max(float(np.linalg.norm(points[1] - points[0])), 4.0)
    side = apart * rng.uniform(2.2, 3.6)
    middle = points[2] + rng.normal(0, 0.18 * apart, 2)
    height, width = picture.shape[:2]
    low = np.clip(np.floor(middle - side / 2), 0, [width - 4, height - 4]).astype(int)
    high = np.clip(np.ceil(middle + side / 2), low + 4, [width, height]).astype(int)
    return picture[low[1] : high[1], low[0] : high[0]], low.astype(np.float64)
