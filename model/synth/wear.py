"""Hair, headwear, glasses, and what comes between face and camera.

Hair and headwear are a shell over the scalp, drawn with the head. The rest is flat: placed by
projected points of the head, painted over the picture, and known pixel by pixel, so that an AU
whose evidence is hidden can be left without a label.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from feallm.model.synth.draw import HEIGHT, WIDTH, Hair, Pose
from feallm.model.synth.sample import Glasses, HairCut
from feallm.model.synth.skin import tone

Floats = NDArray[np.float32]
Rng = np.random.Generator
_BROW_Y = 6.0  # of the mean head, cm


def shell(mean: Floats, cut: HairCut) -> Hair | None:
    """Hair or headwear over the skin's vertices; `mean` (skin vertices, 3) of the mean head."""
    if cut.kind == "bald":
        return None
    rng = np.random.default_rng(cut.seed)
    x, y, z = mean.T
    wave = _waves(rng, x / 3) * 0.35 * cut.rough
    temple = cut.peak * np.exp(-((np.abs(x) - 4.2) ** 2) / 2.5)
    line = _BROW_Y + cut.line + temple + wave
    if cut.fringe:
        part = rng.uniform(-3, 3)
        reach = np.clip(1 - np.abs(x - part) / rng.uniform(4, 8), 0, 1)
        line = line - cut.fringe * 3.6 * reach * (1 + 0.25 * _waves(rng, x))
    cloth = cut.kind in ("cap", "scarf", "hat")
    if cloth:
        line = _BROW_Y + cut.line - 0.10 * (10 - z) * (1 if cut.kind == "cap" else 0.4)
    top = (y - line) / 0.7
    ear = (np.abs(x) > 7.3) & (z > -2.5) & (z < 4.2) & (y < 5.0) & (y > -3)
    burn = rng.uniform(-0.5, 3.2)
    side = np.minimum((4.6 - z + 0.5 * wave) / 0.6, (y - burn) / 0.8)
    back = np.minimum((-1.5 - z) / 0.6, (y + 5) / 0.8)
    cover = np.maximum(top, np.maximum(side, back))
    if cut.kind in ("cap", "hat"):
        cover = top
    cover = np.where(ear & (cut.kind not in ("long", "scarf")), 0, cover)
    if cut.kind in ("long", "scarf"):
        inner = 7.4 - max(cut.side, 0) * (0.5 + 0.5 * np.clip((2 - y) / 8, 0, 1))
        hang = np.minimum((np.abs(x) - inner + 0.3 * wave) / 0.5, (y + 14) / 1.0)
        cover = np.maximum(cover, hang)
        if cut.kind == "scarf":
            cover = np.maximum(cover, (-7.6 - y + 0.05 * np.abs(x) ** 1.6) / 0.5)
    cover = np.clip(cover, 0, 1)
    rough = 1 + cut.rough * 0.5 * _waves(rng, x * 0.8 + y * 0.6)
    thickness = cut.thickness * np.clip(0.25 + 0.75 * cover, 0, 1) * rough.clip(0.4, 1.8)
    thickness = (
        thickness * (0.25 + 0.75 * np.clip(top / 3, 0, 1)) if cut.kind == "short" else thickness
    )
    if cut.kind in ("cap", "hat"):  # stands off the skull more towards its top
        thickness = cut.thickness * (0.4 + 0.5 * np.clip(top, 0, 4))
    return Hair(
        cover.astype(np.float32),
        (thickness + 0.04).astype(np.float32),
        cut.cloth if cloth else cut.tone,
        cloth,
    )


def _waves(rng: Rng, x: Floats) -> Floats:
    total = np.zeros_like(x)
    for k in (1.0, 2.3, 4.1):
        total += np.sin(k * x + rng.uniform(0, 6.3)) / k
    return total


def behind(background: NDArray[np.uint8], cut: HairCut, pose: Pose, shade: float) -> None:
    """Long hair and the rest of a body, painted into the background in place."""
    if cut.kind not in ("long", "scarf"):
        return
    rng = np.random.default_rng(cut.seed + 1)
    width = rng.uniform(8.2, 10.5)
    angles = np.linspace(-0.25 * np.pi, 1.25 * np.pi, 26)
    ring = np.stack([width * np.cos(angles), 5 + 9.5 * np.sin(angles), -2 + 0 * angles], 1)
    low = rng.uniform(-24, -12)
    ends = np.array([[-width * 1.05, low, -2], [width * 1.05, low, -2]])
    outline = pose.pixels(np.concatenate([ring, ends]))
    outline += rng.normal(0, 0.8, outline.shape)
    mask = np.zeros((HEIGHT, WIDTH), np.float32)
    cv2.fillPoly(mask, [np.round(outline).astype(np.int32)], 1.0, cv2.LINE_AA)
    streaks = cv2.GaussianBlur(
        rng.normal(size=(HEIGHT, WIDTH)).astype(np.float32), (0, 0), sigmaX=0.9, sigmaY=16
    )
    streaks = 1 + 0.28 * streaks / streaks.std() * (0.2 if cut.kind == "scarf" else 1)
    colour = np.array(cut.cloth if cut.kind == "scarf" else cut.tone) * 255 * shade
    _over(background, mask, np.clip(streaks[..., None] * colour, 0, 255))


def _over(picture: NDArray[np.uint8], mask: Floats, colour: NDArray[np.floating]) -> None:
    """Blend a colour (3,) or picture over a picture, in place, only where the mask is not 0."""
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(ys):
        return
    box = (slice(ys[0], ys[-1] + 1), slice(xs[0], xs[-1] + 1))
    part, m = picture[box].astype(np.float32), mask[box][..., None]
    given = np.asarray(colour, np.float32)
    given = given[box] if given.ndim == 3 else given
    picture[box] = np.clip(part + m * (given - part), 0, 255).astype(np.uint8)


def glasses(
    picture: NDArray[np.uint8],
    frames: Glasses,
    centres: tuple[Floats, Floats],
    points: NDArray[np.float64],
    pose: Pose,
    shade: float,
) -> Floats:
    """Paint glasses; returns how far the lenses hide what is behind them (HEIGHT, WIDTH), 0–1.

    `centres`: of the eyeballs, left and right; `points` (68, 3) landmarks of the head.
    """
    angles = np.linspace(0, 2 * np.pi, 33)
    power = 2 + 3.5 * (1 - frames.round)
    ring = np.stack([np.cos(angles), np.sin(angles)], 1)
    ring = np.sign(ring) * np.abs(ring) ** (2 / power)
    front = float(max(points[27, 2], points[28, 2]) + 0.2)
    outlines, outer = [], []
    for side, centre in enumerate(centres):
        middle = np.array([centre[0] * 1.03, centre[1] - frames.drop, front])
        size = np.array([frames.width / 2, frames.height / 2])
        rim = np.zeros((33, 3))
        rim[:, :2] = middle[:2] + ring * size
        rim[:, 2] = front - 0.035 * (rim[:, 0] ** 2) * 0.7
        outlines.append(rim)
        sign = 1 if side == 0 else -1
        outer.append(rim[np.argmax(sign * rim[:, 0])])
    hidden = np.zeros((HEIGHT, WIDTH), np.float32)
    colour = np.array(frames.tone, np.float32) * 255 * shade
    scale = pose.focal / pose.distance
    thick = max(1, round(frames.thick * scale))
    lens = np.zeros((HEIGHT, WIDTH), np.float32)
    flat = [np.round(pose.pixels(rim) * 8).astype(np.int32) for rim in outlines]
    for rim in flat:
        cv2.fillPoly(lens, [rim], 1.0, cv2.LINE_AA, shift=3)
    if frames.dark > 0.02:
        tint = np.array([22, 20, 20], np.float32) * (0.5 + shade)
        _over(picture, lens * frames.dark, tint)
        hidden = np.maximum(hidden, lens * frames.dark)
    if frames.glare:
        band = np.linspace(-1, 1, HEIGHT)[:, None] + 0.8 * np.linspace(-1, 1, WIDTH)[None]
        shine = np.exp(-((band - frames.tone[0] + 0.4) ** 2) / 0.05).astype(np.float32)
        _over(picture, lens * shine * frames.glare, np.array([235, 238, 242], np.float32))
        hidden = np.maximum(hidden, lens * shine * frames.glare)
    line = np.zeros((HEIGHT, WIDTH), np.float32)
    for rim in flat:
        cv2.polylines(line, [rim], True, 1.0, thick, cv2.LINE_AA, shift=3)
    bridge_y = float(points[27, 1]) - frames.drop * 0.6
    inner = frames.width / 2
    left_x, right_x = centres[0][0] * 1.03 - inner, centres[1][0] * 1.03 + inner
    bridge = np.array(
        [[right_x, bridge_y, front], [0, bridge_y + 0.25, front + 0.3], [left_x, bridge_y, front]]
    )
    cv2.polylines(
        line,
        [np.round(pose.pixels(bridge) * 8).astype(np.int32)],
        False,
        1.0,
        thick,
        cv2.LINE_AA,
        shift=3,
    )
    facing = pose.turn[:, 2]  # the face's forward axis in camera space
    for side, rim_end in enumerate(outer):
        sign = 1 if side == 0 else -1
        if facing[0] * sign > 0.12:  # turned away: the temple is behind the face
            continue
        ear = np.array([sign * 7.7, centres[side][1] - 0.3, 3.2])
        arm = np.stack([rim_end, ear])
        cv2.polylines(
            line,
            [np.round(pose.pixels(arm) * 8).astype(np.int32)],
            False,
            1.0,
            max(1, thick - 1),
            cv2.LINE_AA,
            shift=3,
        )
    _over(picture, np.clip(line, 0, 1), colour)
    return np.maximum(hidden, np.clip(line, 0, 1))


def occlude(
    picture: NDArray[np.uint8],
    kind: str,
    flat: NDArray[np.float64],
    rng: Rng,
    skin_tone: float,
    shade: float,
) -> Floats:
    """Paint an occluder in place; returns its mask (HEIGHT, WIDTH). `flat` (68, 2) pixels."""
    draw: dict[str, Callable[..., Floats]] = {
        "hand": _hand,
        "finger": _finger,
        "mask": _mask,
        "mug": _mug,
        "microphone": _microphone,
        "bar": _bar,
        "lock": _lock,
    }
    return draw[kind](picture, flat, rng, skin_tone, shade)


def _capsule(mask: Floats, a: Floats, b: Floats, width: float) -> None:
    cv2.line(
        mask,
        tuple(int(v * 8) for v in a),
        tuple(int(v * 8) for v in b),
        1.0,
        max(2, round(width)),
        cv2.LINE_AA,
        shift=3,
    )


def _shaded(mask: Floats, colour: Floats, rng: Rng) -> Floats:
    """A rounded look: darker towards the edge of the mask."""
    depth = cv2.GaussianBlur(mask, (0, 0), 5)
    light = np.clip(0.45 + 0.75 * depth, 0, 1.1)
    grain = rng.normal(1, 0.02, mask.shape)
    return np.asarray((light * grain)[..., None] * colour, np.float32)


def _size(flat: NDArray[np.float64]) -> float:
    """Pixels of one centimetre."""
    return (
        float(np.linalg.norm(flat[45] - flat[36]) / 8.9 + np.linalg.norm(flat[27] - flat[8]) / 11.5)
        / 2
    )


def _hand(picture, flat, rng, skin_tone, shade):  # type: ignore[no-untyped-def]
    cm = _size(flat)
    colour = tone(skin_tone) * 255 * shade * rng.uniform(0.9, 1.1)
    target = flat[int(rng.choice([8, 57, 3, 13, 48, 54, 30, 36, 45, 66]))]
    angle = rng.uniform(-0.9, 0.9) + (0 if rng.random() < 0.85 else np.pi)
    up = np.array([np.sin(angle), -np.cos(angle)])
    across = np.array([up[1], -up[0]])
    palm = target - up * rng.uniform(-1.0, 6.5) * cm + across * rng.normal(0, 1.0) * cm
    whole = np.zeros((HEIGHT, WIDTH), np.float32)
    layers = []
    base = np.zeros((HEIGHT, WIDTH), np.float32)
    cv2.ellipse(
        base,
        (
            tuple(float(v) for v in palm - up * 2.2 * cm),
            (8.4 * cm, 9.5 * cm),
            float(np.rad2deg(angle)),
        ),
        1.0,
        -1,
        cv2.LINE_AA,
    )
    _capsule(base, palm - up * 3 * cm, palm - up * 18 * cm, 6.0 * cm)
    layers.append(base)
    spread = rng.uniform(0.0, 0.14)
    for k in range(4):
        finger = np.zeros((HEIGHT, WIDTH), np.float32)
        lean = (k - 1.5) * spread
        way = np.cos(lean) * up + np.sin(lean) * across
        root = palm + across * (k - 1.5) * 1.95 * cm + up * 1.5 * cm
        length = (6.4, 7.3, 6.9, 5.4)[k] * cm * rng.uniform(0.55, 1.0)
        _capsule(finger, root, root + way * length, 1.75 * cm)
        layers.append(finger)
    thumb = np.zeros((HEIGHT, WIDTH), np.float32)
    side = 1 if rng.random() < 0.5 else -1
    root = palm + across * side * 3.6 * cm - up * 2.5 * cm
    _capsule(thumb, root, root + (up * 0.75 + across * side * 0.65) * 5.2 * cm, 2.0 * cm)
    layers.append(thumb)
    for layer in layers:
        _over(picture, layer, _shaded(layer, colour, rng))
        whole = np.maximum(whole, layer)
    return whole


def _finger(picture, flat, rng, skin_tone, shade):  # type: ignore[no-untyped-def]
    cm = _size(flat)
    colour = tone(skin_tone) * 255 * shade
    tip = flat[int(rng.choice([51, 57, 48, 54, 33, 30, 19, 24]))] + rng.normal(0, 0.5 * cm, 2)
    angle = rng.uniform(-0.8, 0.8)
    down = np.array([np.sin(angle), np.cos(angle)])
    mask = np.zeros((HEIGHT, WIDTH), np.float32)
    _capsule(mask, tip, tip + down * 8 * cm, 1.7 * cm)
    _capsule(mask, tip + down * 6 * cm, tip + down * 14 * cm, 6 * cm)
    _over(picture, mask, _shaded(mask, colour, rng))
    return mask


def _mask(picture, flat, rng, skin_tone, shade):  # type: ignore[no-untyped-def]
    top = flat[[28, 29]][int(rng.integers(2))]
    outline = np.concatenate(
        [
            flat[1:16],
            [
                flat[15],
                flat[35] * 0.5 + flat[14] * 0.5,
                top,
                flat[31] * 0.5 + flat[2] * 0.5,
                flat[1],
            ],
        ]
    )
    outline[1:14] += (outline[1:14] - flat[51]) * 0.04
    mask = np.zeros((HEIGHT, WIDTH), np.float32)
    cv2.fillPoly(mask, [np.round(outline).astype(np.int32)], 1.0, cv2.LINE_AA)
    colour = (
        np.array(
            [(150, 190, 215), (225, 228, 230), (35, 35, 40), (180, 120, 120)][int(rng.integers(4))]
        )
        * shade
    ).astype(np.float32)
    y = np.linspace(0, 26, HEIGHT)[:, None]
    folds = 1 + 0.06 * np.sin(y + rng.uniform(0, 6)) + 0 * np.linspace(0, 1, WIDTH)[None]
    _over(picture, mask, _shaded(mask, colour, rng) * folds[..., None].astype(np.float32))
    return mask


def _mug(picture, flat, rng, skin_tone, shade):  # type: ignore[no-untyped-def]
    cm = _size(flat)
    at = flat[57] + np.array([rng.normal(0, 1.0), rng.uniform(0.5, 4.5)]) * cm
    mask = np.zeros((HEIGHT, WIDTH), np.float32)
    half = rng.uniform(3.2, 4.4) * cm
    body = np.array([[-half, 0], [half, 0], [half * 0.9, 9 * cm], [-half * 0.9, 9 * cm]]) + at
    cv2.fillPoly(mask, [np.round(body).astype(np.int32)], 1.0, cv2.LINE_AA)
    cv2.ellipse(
        mask,
        (round(at[0]), round(at[1])),
        (round(half), round(half * 0.25)),
        0,
        0,
        360,
        1.0,
        -1,
        cv2.LINE_AA,
    )
    _over(picture, mask, _shaded(mask, (rng.uniform(30, 240, 3) * shade).astype(np.float32), rng))
    return mask


def _microphone(picture, flat, rng, skin_tone, shade):  # type: ignore[no-untyped-def]
    cm = _size(flat)
    at = flat[57] + np.array([rng.normal(0, 2.5), rng.uniform(0.8, 6.0)]) * cm
    lean = rng.normal(0, 0.5)
    mask = np.zeros((HEIGHT, WIDTH), np.float32)
    radius = rng.uniform(1.4, 2.6) * cm
    cv2.circle(mask, (round(at[0]), round(at[1])), round(radius), 1.0, -1, cv2.LINE_AA)
    _capsule(mask, at, at + np.array([np.sin(lean), np.cos(lean)]) * 16 * cm, radius * 1.1)
    colour = np.full(3, rng.uniform(15, 90), np.float32) * shade
    _over(picture, mask, _shaded(mask, colour, rng))
    return mask


def _bar(picture, flat, rng, skin_tone, shade):  # type: ignore[no-untyped-def]
    cm = _size(flat)
    at = flat[int(rng.integers(68))] + rng.normal(0, 2 * cm, 2)
    angle = rng.uniform(0, np.pi)
    way = np.array([np.cos(angle), np.sin(angle)]) * 40 * cm
    mask = np.zeros((HEIGHT, WIDTH), np.float32)
    _capsule(mask, at - way, at + way, rng.uniform(0.8, 4.0) * cm)
    _over(picture, mask, _shaded(mask, (rng.uniform(10, 240, 3) * shade).astype(np.float32), rng))
    return mask


def _lock(picture, flat, rng, skin_tone, shade):  # type: ignore[no-untyped-def]
    cm = _size(flat)
    side = 1 if rng.random() < 0.5 else -1
    start = flat[27] + np.array([side * rng.uniform(-2, 4), -rng.uniform(7, 9)]) * cm
    end = flat[14 if side > 0 else 2] + rng.normal(0, 1.5 * cm, 2)
    bend = (start + end) / 2 + np.array([side * rng.uniform(-1.0, 3.5), 0]) * cm
    mask = np.zeros((HEIGHT, WIDTH), np.float32)
    t = np.linspace(0, 1, 20)[:, None]
    for _ in range(int(rng.integers(5, 22))):
        shift = rng.normal(0, 0.7 * cm, 2)
        line = (
            (1 - t) ** 2 * (start + shift)
            + 2 * t * (1 - t) * (bend + shift * 1.4)
            + t**2 * (end + shift * 0.6)
        )
        cv2.polylines(
            mask,
            [np.round(line * 8).astype(np.int32)],
            False,
            1.0,
            max(1, round(0.22 * cm)),
            cv2.LINE_AA,
            shift=3,
        )
    colour = rng.uniform(0.03, 0.5) * np.array([255, 190, 130], np.float32) * shade
    _over(picture, np.clip(mask, 0, 1), colour)
    return np.clip(mask, 0, 1)
