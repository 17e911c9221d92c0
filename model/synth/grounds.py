"""What lies behind a face, and the face laid before it."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from feallm.model.synth.draw import HEIGHT, WIDTH
from feallm.model.synth.sample import Shot


def before(drawn: NDArray[np.uint8], ground: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A drawing (H, W, 4) over a ground (H, W, 3), as far as it covers it."""
    cover = drawn[..., 3:].astype(np.float32) / 255
    return np.clip(ground * (1 - cover) + drawn[..., :3] * cover, 0, 255).astype(np.uint8)


def behind(
    backgrounds: list[NDArray[np.uint8]], shot: Shot, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """A part of a background picture, or a plain ground with a soft slope of light."""
    if shot.background < 0 or not backgrounds:
        base = rng.uniform(20, 235, 3) * 0.3 + rng.uniform(20, 235) * 0.7
        slope = np.linspace(-1, 1, HEIGHT)[:, None, None] * rng.normal(0, 18)
        plain = np.broadcast_to(base + slope, (HEIGHT, WIDTH, 3))
        return np.clip(plain, 0, 255).astype(np.uint8)
    picture = backgrounds[shot.background]
    zoom = rng.uniform(1.15, 2.2)
    size = round(max(HEIGHT, WIDTH) * zoom)
    big = cv2.resize(picture, (size, size), interpolation=cv2.INTER_LINEAR)
    y, x = int(rng.integers(size - HEIGHT + 1)), int(rng.integers(size - WIDTH + 1))
    part = big[y : y + HEIGHT, x : x + WIDTH]
    if rng.random() < 0.5:
        part = cv2.GaussianBlur(part, (0, 0), float(rng.uniform(1, 6)))
    if rng.random() < 0.5:
        part = part[:, ::-1]
    return np.array(part, np.uint8)
