"""Painted skin: colour, lips, brows, lashes, stubble and beard, on the head's texture map.

Everything is placed by the landmarks' own places on the map, so that brows, lids and lips move
with the mesh. Colours are sRGB values 0–1 of skin in even light.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from feallm.model.synth import brush
from feallm.model.synth.head import Head

Floats = NDArray[np.float32]
Numbers = NDArray[np.floating[Any]]

SIZE = 320  # pixels of the painted map, square

TONES = np.array(
    [
        (0.93, 0.77, 0.68),
        (0.88, 0.70, 0.58),
        (0.79, 0.60, 0.46),
        (0.66, 0.47, 0.34),
        (0.48, 0.33, 0.24),
        (0.31, 0.21, 0.16),
    ],
    np.float32,
)
"""Skin from lightest to darkest; a person lies between two neighbours."""

HAIR_TONES = np.array(
    [
        (0.05, 0.04, 0.04),
        (0.11, 0.07, 0.05),
        (0.22, 0.14, 0.09),
        (0.38, 0.25, 0.14),
        (0.58, 0.44, 0.26),
        (0.45, 0.20, 0.10),
        (0.55, 0.54, 0.52),
        (0.82, 0.81, 0.79),
    ],
    np.float32,
)
"""Black, dark brown, brown, light brown, blond, red, grey, white."""

IRIS_TONES = np.array(
    [
        (0.13, 0.07, 0.04),
        (0.24, 0.13, 0.07),
        (0.33, 0.28, 0.14),
        (0.28, 0.38, 0.48),
        (0.36, 0.42, 0.45),
    ],
    np.float32,
)
"""Dark brown, brown, hazel, blue, grey."""


@dataclass(frozen=True, slots=True)
class Paint:
    """What is painted on one person. Shares are 0–1 unless said otherwise."""

    seed: int
    tone: float  # 0 … 5, between rows of TONES
    hue: tuple[float, float, float]  # factor of each channel, about 1
    mottle: float  # strength of patches
    red: float  # cheeks and nose
    eye_shade: float  # dark rings
    lip_tone: tuple[float, float, float]  # sRGB factor on the skin
    lipstick: float
    hair: tuple[float, float, float]
    brow_weight: float  # 0.3 thin and light … 1.6 bushy
    brow_lift: float  # cm, above or below the head's own brow line
    brow_arch: float
    brow_length: float
    lash: float
    liner: float
    stubble: float
    moustache: float
    beard: float
    spots: int  # moles and freckles
    age: float


@dataclass(frozen=True, slots=True)
class Guide:
    """Places on the texture map, in pixels of `SIZE`, y downwards, and fixed masks."""

    points: Floats  # (68, 2)
    cm: float  # pixels per centimetre in the middle of the face
    masks: dict[str, Floats]  # (SIZE, SIZE) 0–1
    noise: list[Floats]  # (SIZE, SIZE) about 0, standard deviation 1, coarse to fine
    hairs: Floats  # (SIZE, SIZE) 0–1 short strokes downwards

    @staticmethod
    def of(head: Head) -> Guide:
        """The guide of a head; the same for every call."""
        where = np.zeros(len(head.mean), np.int64)
        where[head.triangles.ravel()] = head.triangles_uv.ravel()
        uv = head.uv[where[head.landmarks68]]
        points = np.stack([uv[:, 0], 1 - uv[:, 1]], 1) * SIZE
        eyes = np.linalg.norm(points[45] - points[36])
        rest = head.mean[head.landmarks68]
        cm = float(eyes / np.linalg.norm(rest[45] - rest[36]))
        rng = np.random.default_rng(7)
        noise = [_noise(rng, cell) for cell in (80, 40, 20, 10, 4, 2)]
        points = points.astype(np.float32)
        return Guide(points, cm, _masks(points, cm), noise, _hairs(rng))


def _noise(rng: np.random.Generator, cell: int) -> Floats:
    """Smooth noise that can be rolled: its edges meet."""
    n = SIZE // cell
    tiled = np.pad(rng.normal(size=(n, n)), 2, mode="wrap")
    big = cv2.resize(tiled, ((n + 4) * cell,) * 2, interpolation=cv2.INTER_CUBIC)
    field = big[2 * cell : -2 * cell, 2 * cell : -2 * cell]
    return np.asarray(field / field.std(), np.float32)


def _hairs(rng: np.random.Generator) -> Floats:
    canvas = np.zeros((SIZE * 2, SIZE * 2), np.uint8)
    for x, y in rng.uniform(0, SIZE * 2, (26000, 2)):
        angle = rng.normal(np.pi / 2 + 0.25 * (1 if x > SIZE else -1), 0.35)
        length = rng.uniform(5, 13)
        end = (int(x + length * np.cos(angle)), int(y + length * np.sin(angle)))
        cv2.line(canvas, (int(x), int(y)), end, int(rng.uniform(90, 255)), 1)
    small = cv2.resize(canvas, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    return np.asarray(small.astype(np.float32) / 255, np.float32)


def _blob(at: Floats, radius: tuple[float, float], blur: float) -> Floats:
    canvas = np.zeros((SIZE, SIZE), np.float32)
    axes = (round(radius[0]), round(radius[1]))
    cv2.ellipse(canvas, (round(float(at[0])), round(float(at[1]))), axes, 0, 0, 360, 1.0, -1)
    return np.asarray(cv2.GaussianBlur(canvas, (0, 0), blur), np.float32)


def _polygon(points: Floats, blur: float) -> Floats:
    canvas = np.zeros((SIZE, SIZE), np.float32)
    brush.fill(canvas, points)
    return np.asarray(cv2.GaussianBlur(canvas, (0, 0), blur), np.float32) if blur else canvas


def _masks(p: Floats, cm: float) -> dict[str, Floats]:
    mouth = p[48:60]
    middle = p[[62, 66]].mean(0)
    lips = _polygon(middle + (mouth - middle) * 1.03, 1.0)
    eyes = [p[36:42].mean(0), p[42:48].mean(0)]
    cheeks = [(p[31] + p[2]) / 2 + (0, 0.2 * cm), (p[35] + p[14]) / 2 + (0, 0.2 * cm)]
    under = [e + np.array([0, 0.75 * cm], np.float32) for e in eyes]
    face = np.clip(_blob(p[30], (7.5 * cm, 9.5 * cm), 20), 0, 1)
    jaw = np.concatenate([p[2:15], [p[35] + (0.6 * cm, 0), p[33], p[31] - (0.6 * cm, 0)]])
    jaw = jaw.astype(np.float32)
    jaw[1:12] += np.array([0, 1.0 * cm], np.float32)
    beard = _polygon(jaw, 7)
    cheek_free = np.clip(
        1 - 1.4 * sum(_blob(c + (0, -0.6 * cm), (2.0 * cm, 2.2 * cm), 9) for c in cheeks), 0, 1
    )
    nose_free = np.clip(1 - _blob(p[33] - (0, 0.9 * cm), (1.7 * cm, 0.9 * cm), 2.5), 0, 1)
    lip_top = (p[33] + p[51]) / 2
    moustache = _blob(lip_top, (3.3 * cm, 0.75 * cm), 4) * nose_free
    return {
        "lips": lips,
        "cheeks": np.clip(sum(_blob(c, (1.5 * cm, 1.3 * cm), 12) for c in cheeks), 0, 1),
        "nose": _blob(p[30], (1.1 * cm, 0.9 * cm), 7),
        "eyes": np.clip(sum(_blob(u, (1.7 * cm, 0.6 * cm), 7) for u in under), 0, 1),
        "lids": np.clip(
            sum(_blob(e - (0, 0.35 * cm), (1.6 * cm, 0.5 * cm), 4) for e in eyes), 0, 1
        ),
        "beard": np.asarray(beard * cheek_free * nose_free * (1 - lips), np.float32),
        "moustache": np.asarray(moustache * (1 - lips), np.float32),
        "brow_bone": np.clip(
            sum(_blob(b, (1.8 * cm, 0.8 * cm), 6) for b in (p[17:22].mean(0), p[22:27].mean(0))),
            0,
            1,
        ),
        "face": np.asarray(face, np.float32),
    }  # fmt: skip


def tone(value: float) -> Floats:
    """Skin colour (3,), sRGB 0–1, of a tone 0 lightest … 5 darkest."""
    k = min(int(value), len(TONES) - 2)
    return np.asarray(TONES[k] + (value - k) * (TONES[k + 1] - TONES[k]), np.float32)


def paint(guide: Guide, how: Paint) -> NDArray[np.uint8]:
    """The texture (SIZE, SIZE, 3) uint8 sRGB of one person, rows downwards."""
    rng = np.random.default_rng(how.seed)
    base = tone(how.tone) * np.array(how.hue, np.float32)
    masks = guide.masks
    coarse = _rolled(guide.noise[int(rng.integers(0, 2))], rng)
    middle = _rolled(guide.noise[int(rng.integers(2, 4))], rng)
    fine = _rolled(guide.noise[4 + int(rng.integers(0, 2))], rng)
    grain = 1 + how.mottle * (0.028 * coarse + 0.018 * middle + 0.022 * fine)
    red = how.red * (masks["cheeks"] + 0.8 * masks["nose"]) + 0.015 * how.mottle * middle
    shade = how.eye_shade * (masks["eyes"] + 0.6 * masks["lids"])
    dark = grain * (1 - 0.28 * shade)
    skin = np.empty((SIZE, SIZE, 3), np.float32)
    for channel, (reddens, rings) in enumerate(((0.05, 0.0), (-0.20, -0.03), (-0.22, 0.02))):
        skin[..., channel] = base[channel] * (dark * (1 + reddens * red) + rings * shade)
    _spots(skin, guide, how, rng)
    lips = np.array(how.lip_tone, np.float32) * (base * (1 - how.lipstick) + 0.55 * how.lipstick)
    _blend(skin, masks["lips"] * 0.85, lips * (1 + 0.06 * fine)[..., None])
    hair = np.array(how.hair, np.float32)
    rough = np.clip(0.65 + 0.25 * middle, 0, 1.2)
    if how.stubble:
        _blend(
            skin,
            (masks["beard"] + masks["moustache"]).clip(0, 1)
            * how.stubble
            * 0.45
            * np.clip(0.6 + 0.5 * fine, 0, 1),
            hair * 0.8 + base * 0.15,
        )
    for name, amount in (("beard", how.beard), ("moustache", how.moustache)):
        if amount:
            cover = np.clip(masks[name] * 1.6 * rough - 0.15, 0, 1) * amount
            strokes = _rolled(guide.hairs, rng) * 0.7 + 0.3
            _blend(skin, cover * (0.55 + 0.45 * strokes), hair * (0.55 + 0.6 * strokes)[..., None])
    _brows(skin, guide, how, rng)
    _lashes(skin, guide, how)
    return np.asarray(skin.clip(0, 1) * 255, np.uint8)


def _rolled(field: Floats, rng: np.random.Generator) -> Floats:
    if rng.random() < 0.5:
        field = field[:, ::-1]
    return np.roll(field, (int(rng.integers(SIZE)), int(rng.integers(SIZE))), (0, 1))


def _blend(skin: Floats, cover: Numbers, colour: Numbers) -> None:
    """Paint a colour (3,) or picture over the skin, in place, where the cover can be seen."""
    ys, xs = np.flatnonzero(cover.max(1) > 0.004), np.flatnonzero(cover.max(0) > 0.004)
    if not len(ys):
        return
    box = (slice(ys[0], ys[-1] + 1), slice(xs[0], xs[-1] + 1))
    part = skin[box]
    part += cover[box][..., None] * ((colour[box] if colour.ndim == 3 else colour) - part)


def _spots(skin: Floats, guide: Guide, how: Paint, rng: np.random.Generator) -> None:
    if not how.spots:
        return
    cover = np.zeros((SIZE, SIZE), np.float32)
    centre = guide.points[30]
    for x, y in rng.normal(centre, (3.6 * guide.cm, 4.2 * guide.cm), (how.spots, 2)):
        radius = 1 if rng.random() < 0.85 else 2
        cv2.circle(cover, (int(x), int(y)), radius, float(rng.uniform(0.2, 0.7)), -1, cv2.LINE_AA)
    soft = np.asarray(cv2.GaussianBlur(cover, (0, 0), 0.7), np.float32)
    _blend(skin, soft, tone(how.tone) * 0.45)


def _brows(skin: Floats, guide: Guide, how: Paint, rng: np.random.Generator) -> None:
    """Hairs along the line of the brow landmarks, fanning up at the inner end."""
    scale = 2
    canvas = np.zeros((SIZE, SIZE), np.float32)
    ys = int(guide.points[19, 1] - 3.2 * guide.cm), int(guide.points[36, 1])
    strip = np.zeros(((ys[1] - ys[0]) * scale, SIZE * scale), np.uint8)
    weight, reach = how.brow_weight, 0.46 * guide.cm * (0.55 + 0.45 * how.brow_weight)
    for k, side in ((slice(17, 22), -1), (slice(26, 21, -1), 1)):
        line = guide.points[k].astype(np.float64)  # from the outer end to the inner end
        t = np.linspace(0, 1, 5)
        line[:, 1] -= how.brow_lift * guide.cm + how.brow_arch * guide.cm * np.sin(np.pi * t) * 0.4
        inner, outer = line[-1], line[0]
        along = np.interp(np.linspace(0, 1, 5), [0, 1], [1 - how.brow_length, 0])
        line[:, 0] += along * (inner[0] - outer[0]) * 0.5
        count = int(70 + 120 * weight)
        s = rng.uniform(0, 1, count) ** 0.8  # denser towards the inner end
        x, y = np.interp(s, t, line[:, 0]), np.interp(s, t, line[:, 1])
        width = reach * np.interp(s, [0, 0.35, 0.85, 1], [0.25, 0.8, 1.0, 0.75])
        y = y + rng.uniform(-1, 1, count) * width * 0.75
        lean = np.interp(s, [0, 0.6, 1], [0.25, 0.55, 1.25]) + rng.normal(0, 0.2, count)
        length = guide.cm * rng.uniform(0.35, 0.75, count)
        dx, dy = side * np.cos(lean) * length, -np.sin(lean) * length * 0.6
        # hairs point outwards and a little up; near the outer end they lie flat
        ends = np.stack([x, y - ys[0], x + dx, y + dy - ys[0]], 1) * scale
        for x0, y0, x1, y1 in np.rint(ends).astype(int).tolist():
            cv2.line(strip, (x0, y0), (x1, y1), int(150 + 105 * min(weight, 1)), 1, cv2.LINE_AA)
    thick = cv2.GaussianBlur(strip, (0, 0), 1.4)
    small = cv2.resize(thick, (SIZE, ys[1] - ys[0]), interpolation=cv2.INTER_AREA)
    canvas[ys[0] : ys[1]] = small.astype(np.float32) / 255
    cover = np.clip(canvas * (0.9 + 0.5 * weight), 0, 0.95)
    _blend(skin, cover, np.array(how.hair, np.float32) * 0.9)


def _lashes(skin: Floats, guide: Guide, how: Paint) -> None:
    """Dark lines on the edges of the lids: lashes above, lighter ones below; liner above."""
    cover = np.zeros((SIZE, SIZE), np.float32)
    p = guide.points
    for upper, lower in (
        ((36, 37, 38, 39), (36, 41, 40, 39)),
        ((45, 44, 43, 42), (45, 46, 47, 42)),
    ):
        above, below = p[list(upper)].copy(), p[list(lower)].copy()
        above[1:3, 1] -= 0.06 * guide.cm
        below[1:3, 1] += 0.06 * guide.cm
        wide = 2 if how.liner > 0.5 else 1
        brush.stroke(cover, above, how.lash * 0.75 + how.liner * 0.25, wide)
        brush.stroke(cover, below, how.lash * 0.3 + how.liner * 0.2, 1)
    soft = np.asarray(cv2.GaussianBlur(cover, (0, 0), 0.8 + 0.6 * how.liner), np.float32)
    _blend(skin, np.clip(soft * 1.5, 0, 0.9), np.array((0.06, 0.045, 0.04), np.float32))
