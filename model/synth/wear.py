"""Hair, headwear and glasses.

Hair and headwear are a shell over the scalp, drawn with the head. Long hair behind it and glasses
are flat: placed by projected points of the head and painted into the picture.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from feallm.model.synth import brush
from feallm.model.synth.draw import HEIGHT, WIDTH, Hair, Pose
from feallm.model.synth.sample import Glasses, HairCut

Floats = NDArray[np.float32]
Points = NDArray[np.float64]
Rng = np.random.Generator
_BROW_Y = 6.0  # of the mean head, cm


def shell(mean: Floats, cut: HairCut) -> Hair | None:
    """Hair or headwear over the skin's vertices, or None for a bald head.

    `mean`: the skin's vertices (N, 3) of the mean head, cm: a hair cut is the same on every face.
    """
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
    if cut.kind == "short":
        thickness = thickness * (0.25 + 0.75 * np.clip(top / 3, 0, 1))
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
    """Paint the long hair or scarf that hangs behind the head into a background, in place.

    `background` (HEIGHT, WIDTH, 3) RGB; `shade`: brightness of the light, about 1.
    """
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
    brush.fill(mask, outline)
    noise = rng.normal(size=mask.shape).astype(np.float32)
    streaks = np.asarray(cv2.GaussianBlur(noise, (0, 0), sigmaX=0.9, sigmaY=16), np.float32)
    streaks = 1 + 0.28 * streaks / streaks.std() * (0.2 if cut.kind == "scarf" else 1)
    colour = np.array(cut.cloth if cut.kind == "scarf" else cut.tone) * 255 * shade
    brush.cover(background, mask, np.clip(streaks[..., None] * colour, 0, 255))


def glasses(
    picture: NDArray[np.uint8],
    frames: Glasses,
    centres: tuple[Floats, Floats],
    points: Points,
    pose: Pose,
    shade: float,
) -> Floats:
    """Paint glasses in place; returns how far they hide what is behind them (HEIGHT, WIDTH), 0–1.

    `picture` (HEIGHT, WIDTH, 3) RGB; `centres` (3,) of the eyeballs, left and right, and `points`
    (68, 3) landmarks: of the head, cm; `shade`: brightness of the light, about 1.
    """
    front = float(max(points[27, 2], points[28, 2]) + 0.2)
    rims = _rims(frames, centres, front)
    hidden = _lenses(picture, frames, [pose.pixels(rim) for rim in rims], shade)
    thick = max(1, round(frames.thick * pose.focal / pose.distance))
    line = np.zeros((HEIGHT, WIDTH), np.float32)
    for rim in rims:
        brush.stroke(line, pose.pixels(rim), 1.0, thick, closed=True)
    bridge_y = float(points[27, 1]) - frames.drop * 0.6
    inner = frames.width / 2
    left_x, right_x = centres[0][0] * 1.03 - inner, centres[1][0] * 1.03 + inner
    bridge = np.array(
        [[right_x, bridge_y, front], [0, bridge_y + 0.25, front + 0.3], [left_x, bridge_y, front]]
    )
    brush.stroke(line, pose.pixels(bridge), 1.0, thick)
    facing = pose.turn[:, 2]  # the face's forward axis in camera space
    for rim, centre, sign in zip(rims, centres, (1, -1), strict=True):
        if facing[0] * sign > 0.12:  # turned away: the temple is behind the face
            continue
        ear = np.array([sign * 7.7, centre[1] - 0.3, 3.2])
        arm = np.stack([rim[np.argmax(sign * rim[:, 0])], ear])
        brush.stroke(line, pose.pixels(arm), 1.0, max(1, thick - 1))
    line = line.clip(0, 1)
    brush.cover(picture, line, np.array(frames.tone, np.float32) * 255 * shade)
    return np.maximum(hidden, line)


def _rims(frames: Glasses, centres: tuple[Floats, Floats], front: float) -> list[Points]:
    """Outline (33, 3) cm of the left and right lens, bent back towards the temples."""
    angles = np.linspace(0, 2 * np.pi, 33)
    power = 2 + 3.5 * (1 - frames.round)
    ring = np.stack([np.cos(angles), np.sin(angles)], 1)
    ring = np.sign(ring) * np.abs(ring) ** (2 / power)
    size = np.array([frames.width / 2, frames.height / 2])
    rims = []
    for centre in centres:
        rim = np.zeros((33, 3))
        rim[:, :2] = np.array([centre[0] * 1.03, centre[1] - frames.drop]) + ring * size
        rim[:, 2] = front - 0.035 * (rim[:, 0] ** 2) * 0.7
        rims.append(rim)
    return rims


def _lenses(
    picture: NDArray[np.uint8], frames: Glasses, outlines: list[Points], shade: float
) -> Floats:
    """Paint dark glass and glare inside outlines (33, 2); returns how far they hide, 0–1."""
    hidden, lens = np.zeros((2, HEIGHT, WIDTH), np.float32)
    for outline in outlines:
        at = np.round(outline * 8).astype(np.int32)
        cv2.fillPoly(lens, [at], 1.0, cv2.LINE_AA, shift=3)
    if frames.dark > 0.02:
        hidden = lens * frames.dark
        brush.cover(picture, hidden, np.array([22, 20, 20], np.float32) * (0.5 + shade))
    if frames.glare:
        band = np.linspace(-1, 1, HEIGHT)[:, None] + 0.8 * np.linspace(-1, 1, WIDTH)[None]
        shine = np.exp(-((band - frames.tone[0] + 0.4) ** 2) / 0.05).astype(np.float32)
        glare = lens * shine * frames.glare
        brush.cover(picture, glare, np.array([235, 238, 242], np.float32))
        hidden = np.maximum(hidden, glare)
    return hidden
