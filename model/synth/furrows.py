"""Wrinkles and furrows that action units make: height maps on the head's texture map.

The mesh is too coarse for them (2.5 mm between vertices), so they are bumps and shade in the
shader. Twelve maps, each tied to one AU per side by `AU_OF_MAP`; a person has one of `VARIANTS`
layouts, and an age that says how deep they are and how much of them stays at rest.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from feallm.model.synth import brush
from feallm.model.synth.skin import SIZE as PAINT
from feallm.model.synth.skin import Guide
from feallm.runtime.contract.aus import AU_INDEX

Floats = NDArray[np.float32]

SIZE = 512
VARIANTS = 6
AU_OF_MAP: tuple[dict[str, float], ...] = (
    {"AU1": 1.0, "AU2": 0.45},  # 0 middle of the forehead
    {"AU2": 1.0, "AU1": 0.1},  # 1 its sides
    {"AU4": 1.0, "AU9": 0.35},  # 2 between the brows
    {"AU9": 1.0},  # 3 root and sides of the nose
    {"AU6": 1.0, "AU12": 0.15},  # 4 crow's feet
    {"AU7": 0.7, "AU6": 0.8, "AU43": 0.15},  # 5 under the eye
    {"AU12": 0.8, "AU10": 0.75, "AU9": 0.6, "AU6": 0.2},  # 6 nasolabial fold
    {"AU12": 0.45, "AU14": 1.0, "AU20": 0.35},  # 7 brackets beside the corners
    {"AU15": 1.0},  # 8 below the corners
    {"AU17": 1.0},  # 9 chin
    {"AU18": 0.9, "AU23": 0.8, "AU24": 0.6},  # 10 lines across the lips
    {"AU17": 0.7, "AU24": 0.5, "AU15": 0.3},  # 11 hollow under the lower lip
)
"""How much each AU's share of movement (0–1) deepens each map; the sum stops at 1."""


def maps(guide: Guide, variant: int) -> NDArray[np.uint8]:
    """Height maps (12, SIZE, SIZE) in the order of `AU_OF_MAP`: 128 = flat, below = grooves.

    `variant` 0 … VARIANTS - 1; rows downwards, as the guide's.
    """
    rng = np.random.default_rng((42, variant))
    p = guide.points * (SIZE / PAINT)
    cm = guide.cm * SIZE / PAINT
    drawings = [
        _forehead(p, cm, rng, 0.0, 2.4),
        _forehead(p, cm, rng, 2.4, 5.6),
        _glabella(p, cm, rng),
        _nose(p, cm, rng),
        _crow(p, cm, rng),
        _under_eye(p, cm, rng),
        _nasolabial(p, cm, rng),
        _brackets(p, cm, rng),
        _below_corners(p, cm, rng),
        _chin(p, cm, rng),
        _lips(p, cm, rng),
        _under_lip(p, cm),
    ]
    return np.stack([np.clip(128 + 127 * d, 0, 255).astype(np.uint8) for d in drawings])


def _groove(lines: list[Floats], depths: list[float], width: float) -> Floats:
    """Grooves with a soft bulge beside them; deepest about -1."""
    canvas = np.zeros((SIZE, SIZE), np.float32)
    for line, depth in zip(lines, depths, strict=True):
        single = np.zeros_like(canvas)
        brush.stroke(single, line, depth, max(1, round(width)))
        canvas = np.maximum(canvas, single)
    sharp = cv2.GaussianBlur(canvas, (0, 0), 0.75 * width)
    wide = cv2.GaussianBlur(canvas, (0, 0), 2.4 * width)
    return np.asarray(-1.5 * sharp + 1.3 * wide, np.float32)


def _curve(points: list[tuple[float, float]], n: int = 24) -> Floats:
    """A smooth line through a few points."""
    given = np.array(points, np.float64)
    t = np.linspace(0, 1, len(given))
    degree = min(len(given) - 1, 3)
    s = np.linspace(0, 1, n)
    x, y = (np.polyval(np.polyfit(t, given[:, k], degree), s) for k in (0, 1))
    return np.stack([x, y], 1).astype(np.float32)


def _forehead(p: Floats, cm: float, rng: np.random.Generator, near: float, far: float) -> Floats:
    """Horizontal lines above the brows, between `near` and `far` cm from the middle."""
    middle, top = p[27, 0], p[19:21, 1].mean()
    lines, depths = [], []
    count = int(rng.integers(3, 5))
    for k in range(count):
        y = top - (1.0 + (0.95 + rng.uniform(-0.1, 0.15)) * k) * cm
        wave = rng.normal(0, 0.1, 6) * cm
        for side in (-1, 1):
            xs = np.linspace(near, far, 6)
            dip = 0.35 * (1 - np.cos(xs / 5.6 * np.pi)) * (0.4 if near else -0.3)
            x = middle + side * xs * cm
            ys = y + wave + dip * cm + rng.normal(0, 0.05, 6) * cm
            lines.append(_curve(list(zip(x.tolist(), ys.tolist(), strict=True))))
            depths.append(float(rng.uniform(0.65, 1.0)) * (1 - 0.12 * k))
    return _groove(lines, depths, 0.17 * cm)


def _glabella(p: Floats, cm: float, rng: np.random.Generator) -> Floats:
    x, y = p[27, 0], (p[21, 1] + p[22, 1]) / 2
    lines, depths = [], []
    for side in (-1, 1):
        gap = rng.uniform(0.42, 0.62) * cm
        lean = rng.uniform(0.0, 0.22) * cm
        up, down = rng.uniform(0.8, 1.3) * cm, rng.uniform(0.8, 1.2) * cm
        lines.append(
            _curve(
                [
                    (x + side * (gap + lean), y - up),
                    (x + side * gap, y),
                    (x + side * (gap + 0.1 * cm), y + down),
                ]
            )
        )
        depths.append(float(rng.uniform(0.8, 1.0)))
        bulge_x = gap + 1.1 * cm
        lines.append(
            _curve(
                [
                    (x + side * bulge_x, y - 0.75 * cm),
                    (x + side * (bulge_x + 0.25 * cm), y - 1.25 * cm),
                ]
            )
        )
        depths.append(0.45)
    if rng.random() < 0.4:
        lines.append(_curve([(x, y - 0.6 * cm), (x, y + 0.5 * cm)]))
        depths.append(0.6)
    return _groove(lines, depths, 0.17 * cm)


def _nose(p: Floats, cm: float, rng: np.random.Generator) -> Floats:
    x = p[27, 0]
    lines, depths = [], []
    for k in range(3):  # across the root
        y = p[27, 1] + (-0.35 + 0.45 * k) * cm
        lines.append(
            _curve(
                [(x - 0.75 * cm, y + 0.1 * cm), (x, y - 0.12 * cm), (x + 0.75 * cm, y + 0.1 * cm)]
            )
        )
        depths.append(float(rng.uniform(0.6, 0.95)))
    for side in (-1, 1):  # down its sides, "bunny lines"
        for k in range(4):
            y = p[28, 1] + (-0.5 + 0.42 * k) * cm
            lines.append(
                _curve(
                    [
                        (x + side * 0.7 * cm, y),
                        (x + side * 1.25 * cm, y + 0.3 * cm),
                        (x + side * 1.8 * cm, y + 0.85 * cm),
                    ]
                )
            )
            depths.append(float(rng.uniform(0.7, 1.0)))
    return _groove(lines, depths, 0.15 * cm)


def _crow(p: Floats, cm: float, rng: np.random.Generator) -> Floats:
    lines, depths = [], []
    for corner, side in ((p[36], -1), (p[45], 1)):
        for k in range(int(rng.integers(3, 6))):
            angle = np.deg2rad(-32 + 19 * k + rng.normal(0, 4))
            start, end = rng.uniform(0.35, 0.6) * cm, rng.uniform(1.3, 2.1) * cm
            bend = rng.normal(0, 0.08) * cm
            at = [
                (corner[0] + side * r * np.cos(angle), corner[1] + r * np.sin(angle) + b)
                for r, b in ((start, 0.0), ((start + end) / 2, bend), (end, 0.0))
            ]
            lines.append(_curve(at))
            depths.append(float(rng.uniform(0.6, 1.0)))
    return _groove(lines, depths, 0.14 * cm)


def _under_eye(p: Floats, cm: float, rng: np.random.Generator) -> Floats:
    lines, depths = [], []
    for inner, outer, side in ((p[39], p[36], -1), (p[42], p[45], 1)):
        for drop, depth in ((0.42, 0.7), (0.95, 1.0)):
            middle = (inner + outer) / 2
            lines.append(
                _curve(
                    [
                        (inner[0] + side * 0.1 * cm, inner[1] + 0.35 * drop * cm),
                        (middle[0], middle[1] + drop * cm),
                        (outer[0] + side * 0.15 * cm, outer[1] + 0.55 * drop * cm),
                    ]
                )
            )
            depths.append(depth * float(rng.uniform(0.8, 1.0)))
    return _groove(lines, depths, 0.17 * cm)


def _nasolabial(p: Floats, cm: float, rng: np.random.Generator) -> Floats:
    lines, depths = [], []
    for wing, corner, side in ((p[31], p[48], -1), (p[35], p[54], 1)):
        out = rng.uniform(0.75, 1.05) * cm
        lines.append(
            _curve(
                [
                    (wing[0] + side * 0.75 * cm, wing[1] - 0.75 * cm),
                    (wing[0] + side * (0.75 * cm + 0.5 * out), wing[1] + 0.55 * cm),
                    (corner[0] + side * out, corner[1] - 0.35 * cm),
                    (corner[0] + side * (out + 0.1 * cm), corner[1] + 0.55 * cm),
                ]
            )
        )
        depths.append(1.0)
    return _groove(lines, depths, 0.3 * cm)


def _brackets(p: Floats, cm: float, rng: np.random.Generator) -> Floats:
    lines, depths = [], []
    for corner, side in ((p[48], -1), (p[54], 1)):
        for k in range(2):
            out = (0.5 + 0.5 * k + rng.uniform(0, 0.15)) * cm
            lines.append(
                _curve(
                    [
                        (corner[0] + side * out * 0.8, corner[1] - 0.75 * cm),
                        (corner[0] + side * out * 1.1, corner[1]),
                        (corner[0] + side * out * 0.8, corner[1] + 0.75 * cm),
                    ]
                )
            )
            depths.append(1.0 - 0.35 * k)
    return _groove(lines, depths, 0.2 * cm)


def _below_corners(p: Floats, cm: float, rng: np.random.Generator) -> Floats:
    lines, depths = [], []
    for corner, side in ((p[48], -1), (p[54], 1)):
        lean = rng.uniform(0.2, 0.5) * cm
        lines.append(
            _curve(
                [
                    (corner[0] + side * 0.15 * cm, corner[1] + 0.15 * cm),
                    (corner[0] + side * 0.5 * lean, corner[1] + 0.9 * cm),
                    (corner[0] + side * lean, corner[1] + 1.7 * cm),
                ]
            )
        )
        depths.append(1.0)
    return _groove(lines, depths, 0.22 * cm)


def _chin(p: Floats, cm: float, rng: np.random.Generator) -> Floats:
    """Dimples of a bunched chin, and the furrow above it."""
    centre = (p[57] + p[8]) / 2
    canvas = np.zeros((SIZE, SIZE), np.float32)
    for x, y in rng.normal(0, (0.95, 0.6), (46, 2)):
        at = (round(float(centre[0] + x * cm)), round(float(centre[1] + 0.25 * cm + y * cm)))
        cv2.circle(canvas, at, round(0.14 * cm), float(rng.uniform(0.5, 1)), -1, cv2.LINE_AA)
    dimples = -0.8 * cv2.GaussianBlur(canvas, (0, 0), 0.1 * cm)
    bow = _curve(
        [
            (centre[0] - 1.6 * cm, centre[1] - 0.05 * cm),
            (centre[0], centre[1] - 0.85 * cm),
            (centre[0] + 1.6 * cm, centre[1] - 0.05 * cm),
        ]
    )
    return np.asarray(dimples + _groove([bow], [1.0], 0.25 * cm), np.float32)


def _lips(p: Floats, cm: float, rng: np.random.Generator) -> Floats:
    lines, depths = [], []
    for top, bottom in ((p[51, 1] - 0.45 * cm, p[62, 1]), (p[66, 1], p[57, 1] + 0.45 * cm)):
        for x in np.linspace(p[48, 0] + 0.5 * cm, p[54, 0] - 0.5 * cm, 11):
            shift = rng.normal(0, 0.08) * cm
            lines.append(_curve([(x + shift, top), (x, (top + bottom) / 2), (x - shift, bottom)]))
            depths.append(float(rng.uniform(0.15, 0.4)))
    return _groove(lines, depths, 0.1 * cm)


def _under_lip(p: Floats, cm: float) -> Floats:
    y = p[57, 1] + 0.35 * cm
    x = p[57, 0]
    line = _curve([(x - 1.3 * cm, y - 0.25 * cm), (x, y), (x + 1.3 * cm, y - 0.25 * cm)])
    return _groove([line], [1.0], 0.35 * cm)


def depths(
    labels: NDArray[np.float64], at_rest: NDArray[np.float32], age: float
) -> NDArray[np.float32]:
    """Depth 0–1 of the twelve furrow maps, left and right (2, 12), for intensities (20, 2) 0–5.

    `at_rest` (12,) depths that stay; `age` 0 young … 1 old.
    """
    moved = np.nan_to_num(labels) / 5
    deep = np.zeros((2, 12), np.float32)
    for k, makers in enumerate(AU_OF_MAP):
        for key, weight in makers.items():
            deep[:, k] += weight * moved[AU_INDEX[key]] ** 0.8
    strength = 0.75 + 0.25 * age
    return np.asarray((at_rest + (1 - at_rest) * deep.clip(0, 1) * strength), np.float32)
