"""From a clean picture to what a camera, a scaler and a codec leave of it."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
Rng = np.random.Generator


def develop(picture: Picture, rng: Rng) -> Picture:
    """Tone, focus, grain and codec of a finished picture (H, W, 3) RGB; the size stays.

    Nearly half of the pictures come out gray, as most photographs are that a network learns from.
    """
    out = picture.astype(np.float32)
    if rng.random() < 0.45:
        gray = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
        out = np.repeat(gray[..., None], 3, 2)
    out = _tone(out, rng)
    side = max(picture.shape[:2])
    if rng.random() < 0.35:
        sigma = float(rng.uniform(0.3, 1.4) * side / 160)
        out = np.asarray(cv2.GaussianBlur(out, (0, 0), sigma), np.float32)
    elif rng.random() < 0.10:
        out = _motion(out, rng, side)
    if rng.random() < 0.3:
        soft = cv2.GaussianBlur(out, (0, 0), 1.2)
        out = out + rng.uniform(0.3, 1.2) * (out - soft)
    if rng.random() < 0.65:
        spread = rng.uniform(0.8, 7.0)
        grain = rng.standard_normal(out.shape[:2], np.float32)[..., None] * spread
        if rng.random() < 0.4:
            grain = cv2.GaussianBlur(grain[..., 0], (0, 0), 0.7)[..., None] * 1.6
        out = out + grain * np.sqrt(np.clip(out, 12, 255) / 128)
    return np.clip(out, 0, 255).astype(np.uint8)


def _tone(out: NDArray[np.float32], rng: Rng) -> NDArray[np.float32]:
    """Brightness and contrast, bent as a film or a phone bends them."""
    levels = np.arange(256, dtype=np.float32) / 255
    levels = levels ** float(np.exp(rng.normal(0, 0.22)))
    levels = 0.5 + (levels - 0.5) * float(np.exp(rng.normal(0.05, 0.2)))
    if rng.random() < 0.5:  # film and phones both bend the ends
        levels = levels + rng.uniform(0, 0.12) * np.sin((levels - 0.5) * 2 * np.pi) / 2
    table = np.clip(levels + rng.normal(0, 0.05), 0, 1) * 255
    low = np.clip(out, 0, 255).astype(np.uint8)
    return np.asarray(table[low], np.float32)


def _motion(out: NDArray[np.float32], rng: Rng, side: int) -> NDArray[np.float32]:
    """Blurred along a line, as by a shaken camera."""
    n = max(3, int(rng.uniform(0.015, 0.04) * side) | 1)
    kernel = np.zeros((n, n), np.float32)
    angle = rng.uniform(0, np.pi)
    middle, reach = n / 2, n / 2
    a = (round(middle - reach * np.cos(angle)), round(middle - reach * np.sin(angle)))
    b = (round(middle + reach * np.cos(angle)), round(middle + reach * np.sin(angle)))
    cv2.line(kernel, a, b, 1.0, 1, cv2.LINE_AA)
    return np.asarray(cv2.filter2D(out, -1, kernel / max(kernel.sum(), 1e-6)), np.float32)


def encode(picture: Picture, rng: Rng) -> bytes:
    """JPEG bytes of a picture (H, W, 3) RGB; some pictures were a worse JPEG before."""
    bgr = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), np.uint8)
    if rng.random() < 0.3:
        quality = int(rng.uniform(25, 75))
        _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
        bgr = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 88])
    return data.tobytes()
