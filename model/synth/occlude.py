"""What comes between face and camera: hands, masks, mugs, microphones, bars, locks of hair.

Flat, placed by projected points of the head, and known pixel by pixel, so that an AU whose
evidence is hidden can be left without a label.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from feallm.model.synth import brush
from feallm.model.synth.draw import HEIGHT, WIDTH
from feallm.model.synth.skin import tone

Floats = NDArray[np.float32]
Points = NDArray[np.float64]  # (2,) or (N, 2) x y, pixels of the canvas

_CLOTHS = ((150, 190, 215), (225, 228, 230), (35, 35, 40), (180, 120, 120))  # of face masks, sRGB


@dataclass(frozen=True, slots=True)
class _Scene:
    """What an occluder is painted into, and what it is drawn from."""

    picture: NDArray[np.uint8]  # (HEIGHT, WIDTH, 3) RGB, painted in place
    flat: Points  # (68, 2) landmarks
    cm: float  # pixels of one centimetre of the face
    rng: np.random.Generator
    skin: Floats  # (3,) the person's, sRGB 0–1
    shade: float  # of the light, about 1

    def rounded(self, mask: Floats, colour: Floats) -> Floats:
        """A colour (3,) 0–255 as a picture with grain, darker towards the edge of the mask."""
        depth = cv2.GaussianBlur(mask, (0, 0), 5)
        light = np.clip(0.45 + 0.75 * depth, 0, 1.1)
        grain = self.rng.normal(1, 0.02, mask.shape)
        return np.asarray((light * grain)[..., None] * colour, np.float32)

    def lay(self, mask: Floats, colour: Floats) -> None:
        """Paint a colour (3,) 0–255 where the mask is, with a rounded look."""
        brush.cover(self.picture, mask, self.rounded(mask, colour))


def occlude(
    picture: NDArray[np.uint8],
    kind: str,
    flat: Points,
    rng: np.random.Generator,
    skin_tone: float,
    shade: float,
) -> Floats:
    """Paint an occluder in place; returns its mask (HEIGHT, WIDTH), 0–1.

    `picture` (HEIGHT, WIDTH, 3) RGB; `kind`: as `sample.occluder_for` names it; `flat` (68, 2)
    landmarks; `skin_tone` 0–5; `shade`: brightness of the light, about 1.
    """
    scene = _Scene(picture, flat, _size(flat), rng, tone(skin_tone), shade)
    return _PAINTERS[kind](scene)


def _size(flat: Points) -> float:
    """Pixels of one centimetre."""
    eyes, nose_to_chin = flat[45] - flat[36], flat[27] - flat[8]
    return float(np.linalg.norm(eyes) / 8.9 + np.linalg.norm(nose_to_chin) / 11.5) / 2


def _blank() -> Floats:
    return np.zeros((HEIGHT, WIDTH), np.float32)


def _capsule(mask: Floats, a: Points, b: Points, width: float) -> None:
    """A thick line with round ends from `a` to `b`."""
    start, end = (int(a[0] * 8), int(a[1] * 8)), (int(b[0] * 8), int(b[1] * 8))
    cv2.line(mask, start, end, 1.0, max(2, round(width)), cv2.LINE_AA, shift=3)


def _hand(scene: _Scene) -> Floats:
    cm, rng = scene.cm, scene.rng
    colour = scene.skin * 255 * scene.shade * rng.uniform(0.9, 1.1)
    target = scene.flat[int(rng.choice([8, 57, 3, 13, 48, 54, 30, 36, 45, 66]))]
    angle = rng.uniform(-0.9, 0.9) + (0 if rng.random() < 0.85 else np.pi)
    up = np.array([np.sin(angle), -np.cos(angle)])
    across = np.array([up[1], -up[0]])
    palm = target - up * rng.uniform(-1.0, 6.5) * cm + across * rng.normal(0, 1.0) * cm
    base = _blank()
    x, y = palm - up * 2.2 * cm
    size, turn = (8.4 * cm, 9.5 * cm), float(np.rad2deg(angle))
    cv2.ellipse(base, ((float(x), float(y)), size, turn), 1.0, -1, cv2.LINE_AA)
    _capsule(base, palm - up * 3 * cm, palm - up * 18 * cm, 6.0 * cm)
    layers = [base]
    spread = rng.uniform(0.0, 0.14)
    for k in range(4):
        finger = _blank()
        lean = (k - 1.5) * spread
        way = np.cos(lean) * up + np.sin(lean) * across
        root = palm + across * (k - 1.5) * 1.95 * cm + up * 1.5 * cm
        length = (6.4, 7.3, 6.9, 5.4)[k] * cm * rng.uniform(0.55, 1.0)
        _capsule(finger, root, root + way * length, 1.75 * cm)
        layers.append(finger)
    thumb = _blank()
    side = 1 if rng.random() < 0.5 else -1
    root = palm + across * side * 3.6 * cm - up * 2.5 * cm
    _capsule(thumb, root, root + (up * 0.75 + across * side * 0.65) * 5.2 * cm, 2.0 * cm)
    layers.append(thumb)
    whole = _blank()
    for layer in layers:
        scene.lay(layer, colour)
        whole = np.maximum(whole, layer)
    return whole


def _finger(scene: _Scene) -> Floats:
    cm, rng = scene.cm, scene.rng
    tip = scene.flat[int(rng.choice([51, 57, 48, 54, 33, 30, 19, 24]))] + rng.normal(0, 0.5 * cm, 2)
    angle = rng.uniform(-0.8, 0.8)
    down = np.array([np.sin(angle), np.cos(angle)])
    mask = _blank()
    _capsule(mask, tip, tip + down * 8 * cm, 1.7 * cm)
    _capsule(mask, tip + down * 6 * cm, tip + down * 14 * cm, 6 * cm)
    scene.lay(mask, scene.skin * 255 * scene.shade)
    return mask


def _mask(scene: _Scene) -> Floats:
    """A face mask from the nose's bridge to the jaw, with horizontal folds."""
    flat, rng = scene.flat, scene.rng
    top = flat[[28, 29]][int(rng.integers(2))]
    left, right = flat[35] * 0.5 + flat[14] * 0.5, flat[31] * 0.5 + flat[2] * 0.5
    outline = np.concatenate([flat[1:16], [flat[15], left, top, right, flat[1]]])
    outline[1:14] += (outline[1:14] - flat[51]) * 0.04
    mask = _blank()
    brush.fill(mask, outline)
    colour = (np.array(_CLOTHS[int(rng.integers(4))]) * scene.shade).astype(np.float32)
    y = np.linspace(0, 26, HEIGHT)[:, None]
    folds = 1 + 0.06 * np.sin(y + rng.uniform(0, 6)) + 0 * np.linspace(0, 1, WIDTH)[None]
    cloth = scene.rounded(mask, colour) * folds[..., None].astype(np.float32)
    brush.cover(scene.picture, mask, cloth)
    return mask


def _mug(scene: _Scene) -> Floats:
    cm, rng = scene.cm, scene.rng
    at = scene.flat[57] + np.array([rng.normal(0, 1.0), rng.uniform(0.5, 4.5)]) * cm
    mask = _blank()
    half = rng.uniform(3.2, 4.4) * cm
    body = np.array([[-half, 0], [half, 0], [half * 0.9, 9 * cm], [-half * 0.9, 9 * cm]]) + at
    brush.fill(mask, body)
    middle, axes = (round(at[0]), round(at[1])), (round(half), round(half * 0.25))
    cv2.ellipse(mask, middle, axes, 0, 0, 360, 1.0, -1, cv2.LINE_AA)
    scene.lay(mask, (rng.uniform(30, 240, 3) * scene.shade).astype(np.float32))
    return mask


def _microphone(scene: _Scene) -> Floats:
    cm, rng = scene.cm, scene.rng
    at = scene.flat[57] + np.array([rng.normal(0, 2.5), rng.uniform(0.8, 6.0)]) * cm
    lean = rng.normal(0, 0.5)
    mask = _blank()
    radius = rng.uniform(1.4, 2.6) * cm
    cv2.circle(mask, (round(at[0]), round(at[1])), round(radius), 1.0, -1, cv2.LINE_AA)
    _capsule(mask, at, at + np.array([np.sin(lean), np.cos(lean)]) * 16 * cm, radius * 1.1)
    scene.lay(mask, np.full(3, rng.uniform(15, 90), np.float32) * scene.shade)
    return mask


def _bar(scene: _Scene) -> Floats:
    """A straight bar across the picture: a strap, a pole, a rope."""
    cm, rng = scene.cm, scene.rng
    at = scene.flat[int(rng.integers(68))] + rng.normal(0, 2 * cm, 2)
    angle = rng.uniform(0, np.pi)
    way = np.array([np.cos(angle), np.sin(angle)]) * 40 * cm
    mask = _blank()
    _capsule(mask, at - way, at + way, rng.uniform(0.8, 4.0) * cm)
    scene.lay(mask, (rng.uniform(10, 240, 3) * scene.shade).astype(np.float32))
    return mask


def _lock(scene: _Scene) -> Floats:
    """Strands of hair that fall from the forehead past one eye."""
    cm, rng, flat = scene.cm, scene.rng, scene.flat
    side = 1 if rng.random() < 0.5 else -1
    start = flat[27] + np.array([side * rng.uniform(-2, 4), -rng.uniform(7, 9)]) * cm
    end = flat[14 if side > 0 else 2] + rng.normal(0, 1.5 * cm, 2)
    bend = (start + end) / 2 + np.array([side * rng.uniform(-1.0, 3.5), 0]) * cm
    mask = _blank()
    t = np.linspace(0, 1, 20)[:, None]
    for _ in range(int(rng.integers(5, 22))):
        shift = rng.normal(0, 0.7 * cm, 2)
        from_start = (1 - t) ** 2 * (start + shift)
        line = from_start + 2 * t * (1 - t) * (bend + shift * 1.4) + t**2 * (end + shift * 0.6)
        brush.stroke(mask, line, 1.0, max(1, round(0.22 * cm)))
    colour = rng.uniform(0.03, 0.5) * np.array([255, 190, 130], np.float32) * scene.shade
    mask = mask.clip(0, 1)
    brush.cover(scene.picture, mask, colour)
    return mask


_PAINTERS: dict[str, Callable[[_Scene], Floats]] = {
    "hand": _hand,
    "finger": _finger,
    "mask": _mask,
    "mug": _mug,
    "microphone": _microphone,
    "bar": _bar,
    "lock": _lock,
}
