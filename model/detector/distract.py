"""What is no face, or hides one: shoulders, covers, heads from behind, faces out of order."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]  # (H, W, 3) BGR
Floats = NDArray[np.float64]
Rng = np.random.Generator


def shoulders(rng: Rng) -> Floats:
    """A colour (3,) BGR of clothes."""
    base = rng.uniform(10, 235) * 0.6 + rng.uniform(10, 235, 3) * 0.4
    return np.asarray(base, np.float64)


def body(picture: Picture, marks: Floats, colour: Floats) -> NDArray[np.float32]:
    """Draw shoulders below a head, in place; `marks` (68, 2) its landmarks. The mask (H, W)."""
    chin, brows = marks[8], marks[17:27].mean(0)
    down = chin - brows
    right = np.array([down[1], -down[0]])
    neck = chin + 0.45 * down
    outline = [
        neck - 0.35 * right - 0.2 * down,
        neck - 1.5 * right + 0.25 * down,
        neck - 1.75 * right + 2.6 * down,
        neck + 1.75 * right + 2.6 * down,
        neck + 1.5 * right + 0.25 * down,
        neck + 0.35 * right - 0.2 * down,
    ]
    shape = [np.round(np.array(outline) * 8).astype(np.int32)]
    cv2.fillPoly(picture, shape, tuple(float(v) for v in colour), cv2.LINE_AA, 3)
    mask = np.zeros(picture.shape[:2], np.float32)
    cv2.fillPoly(mask, shape, 1.0, cv2.LINE_8, 3)
    return mask


def before(picture: Picture, box: Floats, rng: Rng) -> None:
    """Lay something over a part of the face in `box` (x0 y0 x1 y1), in place: up to half of it."""
    x0, y0, x1, y1 = box
    wide, tall = x1 - x0, y1 - y0
    kind = rng.random()
    colour = tuple(float(v) for v in shoulders(rng))
    if kind < 0.3:  # a mask, a scarf, a hand before the mouth
        top = y0 + tall * rng.uniform(0.55, 0.8)
        shape = _blob(x0 + wide / 2, (top + y1) / 2 + 0.1 * tall, wide * 0.6, (y1 - top) * 0.7, rng)
    elif kind < 0.5:  # hair, a brim, dark glasses
        low = y0 + tall * rng.uniform(0.15, 0.45)
        shape = _blob(x0 + wide / 2, (y0 + low) / 2, wide * 0.6, (low - y0) * 0.6, rng)
    elif kind < 0.8:  # somebody's shoulder, a pillar
        left = rng.random() < 0.5
        middle = x0 + wide * (rng.uniform(-0.1, 0.2) if left else rng.uniform(0.8, 1.1))
        shape = _blob(middle, y0 + tall * rng.uniform(0.2, 0.8), wide * 0.3, tall * 0.6, rng)
    else:  # a bar, a microphone, a finger
        middle = np.array([x0 + wide * rng.uniform(0.2, 0.8), y0 + tall * rng.uniform(0.3, 1.0)])
        angle = rng.uniform(0, np.pi)
        along = np.array([np.cos(angle), np.sin(angle)]) * rng.uniform(0.6, 1.5) * tall
        across = np.array([-np.sin(angle), np.cos(angle)]) * rng.uniform(0.05, 0.13) * wide
        shape = np.array(
            [middle - along - across, middle - along + across, middle + across, middle - across]
        )
    cv2.fillPoly(picture, [np.round(shape * 8).astype(np.int32)], colour, cv2.LINE_AA, 3)


def _blob(x: float, y: float, wide: float, tall: float, rng: Rng) -> Floats:
    """An outline (N, 2) somewhere between an ellipse and a box."""
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    power = rng.uniform(0.4, 1.0)
    c, s = np.cos(angle), np.sin(angle)
    ring = np.stack([np.sign(c) * np.abs(c) ** power, np.sign(s) * np.abs(s) ** power], 1)
    outline = np.array([x, y]) + ring * np.array([wide, tall])
    return np.asarray(outline + rng.normal(0, 0.02 * wide, (24, 2)), np.float64)


def lay(
    picture: Picture, faces: Floats, head: tuple[NDArray[np.uint8], Floats], rng: Rng
) -> NDArray[np.float32]:
    """Lay something that is no face into the picture, in place, beside the `faces` (N, 4).

    `head`: a cut-out (H, W, 4) and its landmarks, of which some are made. Returns the mask (H, W).
    """
    height, width = picture.shape[:2]
    mask = np.zeros((height, width), np.float32)
    size = float(np.exp(rng.uniform(np.log(14), np.log(0.6 * width))))
    place = rng.uniform(0, 1, 2) * np.array([width, height])
    low, high = place - size * 0.6, place + size * 0.6
    if len(faces):
        apart = (faces[:, 2:] < low).any(1) | (faces[:, :2] > high).any(1)
        if not apart.all():
            return mask
    kind = rng.random()
    if kind < 0.5:
        thing = _faceless(*head, rng) if kind < 0.25 else _shuffled(*head, rng)
        scale = size / thing.shape[0]
        turn = float(rng.normal(0, 20))
        matrix = cv2.getRotationMatrix2D((0.0, 0.0), turn, scale).astype(np.float64)
        matrix[:, 2] += place - matrix[:, :2] @ (np.array(thing.shape[1::-1]) / 2)
        how = cv2.INTER_LINEAR
        laid = cv2.warpAffine(
            cv2.resize(thing, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
            if scale < 0.5
            else thing,
            matrix * np.array([2, 2, 1]) if scale < 0.5 else matrix,
            (width, height),
            flags=how,
        )
        mask = np.asarray(laid[..., 3].astype(np.float32) / 255, np.float32)
        picture[:] = picture * (1 - mask[..., None]) + laid[..., :3] * mask[..., None]
        return mask
    shape = _blob(place[0], place[1], size / 2, size / 2 * rng.uniform(0.6, 1.4), rng)
    skin = np.array([150, 180, 225]) * rng.uniform(0.25, 1.1) + rng.normal(0, 12, 3)
    colour = skin if rng.random() < 0.6 else shoulders(rng)
    cv2.fillPoly(mask, [np.round(shape * 8).astype(np.int32)], 1.0, cv2.LINE_AA, 3)
    shade = 1 + 0.3 * np.linspace(-1, 1, width)[None, :, None] * rng.normal()
    picture[:] = np.clip(picture * (1 - mask[..., None]) + colour * shade * mask[..., None], 0, 255)
    for _ in range(int(rng.integers(0, 5))):  # dots, buttons, lines
        at = place + rng.normal(0, size / 5, 2)
        tone = tuple(float(v) for v in shoulders(rng))
        middle, radius = (round(at[0]), round(at[1])), max(1, round(size * rng.uniform(0.03, 0.12)))
        if rng.random() < 0.6:
            cv2.circle(picture, middle, radius, tone, -1, cv2.LINE_AA)
        else:
            other = at + rng.normal(0, size / 4, 2)
            end = (round(other[0]), round(other[1]))
            cv2.line(picture, middle, end, tone, max(1, radius // 2), cv2.LINE_AA)
    return mask


def _faceless(bgra: NDArray[np.uint8], marks: Floats, rng: Rng) -> NDArray[np.uint8]:
    """A head as from behind: hair, or bare skin, where the face was."""
    thing = bgra.copy()
    outline = np.concatenate([marks[:17], marks[26:16:-1] + (marks[27] - marks[8]) * 0.5])
    middle = outline.mean(0)
    outline = middle + (outline - middle) * 1.15
    tone = thing[thing[..., 3] > 200][:, :3]
    colour = np.median(tone, 0) if len(tone) else np.full(3, 60.0)
    if rng.random() < 0.6:
        colour = colour * rng.uniform(0.1, 0.5)
    mask = np.zeros(thing.shape[:2], np.uint8)
    cv2.fillConvexPoly(mask, cv2.convexHull(np.round(outline).astype(np.int32)), 255)
    mask = np.asarray(cv2.GaussianBlur(mask, (0, 0), 2), np.uint8)
    share = (mask / 255.0)[..., None]
    grain = rng.normal(1, 0.06, (*thing.shape[:2], 1))
    thing[..., :3] = np.clip(thing[..., :3] * (1 - share) + colour * grain * share, 0, 255)
    return thing


def _shuffled(bgra: NDArray[np.uint8], marks: Floats, rng: Rng) -> NDArray[np.uint8]:
    """A face whose parts changed places: its colours and edges, and not a face."""
    low, high = marks.min(0).astype(int), marks.max(0).astype(int)
    x0, y0 = np.clip(low - 4, 0, None)
    x1, y1 = high + 4
    part = bgra[y0:y1, x0:x1].copy()
    n = 3
    tall, wide = part.shape[0] // n * n, part.shape[1] // n * n
    if min(tall, wide) < 2 * n:
        return bgra
    part = part[:tall, :wide]
    tiles = [
        part[i * tall // n : (i + 1) * tall // n, j * wide // n : (j + 1) * wide // n]
        for i in range(n)
        for j in range(n)
    ]
    order = rng.permutation(n * n)
    while (order == np.arange(n * n)).sum() > 2:
        order = rng.permutation(n * n)
    turned = [tiles[k][:: rng.choice([-1, 1]), :: rng.choice([-1, 1])] for k in order]
    return np.ascontiguousarray(
        np.vstack([np.hstack(turned[i * n : (i + 1) * n]) for i in range(n)])
    )
