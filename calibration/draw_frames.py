"""Draws the golden frames and writes `frames.npz`, the same bytes every time.

    python -m feallm.calibration.draw_frames --head ../shared/data/head/ict_head.npz --out FILE

Nothing but the project's own drawing: heads of the renderer before grounds made by code. People
come from random numbers of their own, so nobody here was ever drawn for a training or a test.

Light has two strong colours that give skin the same luma, in patches or bands. Read in the right
order the face is lit evenly; with red and blue exchanged one colour becomes bright, the other dark,
and lines run over the face where the network looks for furrows.
"""

from __future__ import annotations

import argparse
import hashlib
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from feallm.calibration.scenes import COLOURS, SCENES, Lamps, Scene
from feallm.model.data.pseudo import five_points
from feallm.model.detector.places import box_of
from feallm.model.detector.scene import Composition, lay_head
from feallm.model.synth import head as head_file
from feallm.model.synth.action_units import LEFT, RIGHT
from feallm.model.synth.draw import HEIGHT, WIDTH
from feallm.model.synth.render import Prepared, Studio
from feallm.model.synth.sample import LIGHTS, Person, Shot, glasses_for, person, rng_for
from feallm.runtime.contract.aus import AU_INDEX, INTENSITY_LETTERS, N_AUS
from feallm.runtime.contract.errors import LimitError
from feallm.runtime.contract.expressions import EXPRESSION_INDEX

SEED, STREAM = 15, 3
"""Of the people; no other drawing takes from this stream."""
QUALITY = 92
MOST_BYTES = 750_000

Picture = NDArray[np.uint8]
Floats = NDArray[np.float64]

_TILES, _EYES_PX = 3, 100.0  # a head is drawn in parts, as large as leaves it whole
_SKIN_LUMA = 120.0  # unless a colour would then be brighter than white
_SIDES = {"": (LEFT, RIGHT), "L": (LEFT,), "R": (RIGHT,)}
_SHADOW = (24, 14, 12)
_LUMA = np.array([0.299, 0.587, 0.114])


def person_of(scene: Scene) -> Person:
    """The person of a scene, without what would hide an AU."""
    rng = rng_for(SEED, scene.who, STREAM)
    found = person(rng)
    frames = replace(glasses_for(rng), dark=0.0, glare=0.0) if scene.glasses else None
    return replace(found, hair=replace(found.hair, fringe=0.0), glasses=frames)


def au_sides_of(text: str) -> Floats:
    """Intensities (20, 2), left and right, of AUs in FACS notation."""
    sides = np.zeros((N_AUS, 2))
    for side, number, letter in re.findall(r"([LR]?)(\d+)([A-E])", text):
        level = INTENSITY_LETTERS.index(letter) + 1
        for k in _SIDES[side]:
            sides[AU_INDEX[f"AU{number}"], k] = level
    return sides


def shot_of(scene: Scene, number: int) -> Shot:
    """The shot of a scene: eyes at the camera, smiles that part the lips by the upper one."""
    sides = au_sides_of(scene.aus)
    pitch, yaw, _ = scene.pose_deg
    extras = {}
    if sides[AU_INDEX["AU12"]].max() > 1 and sides[AU_INDEX["AU25"]].max() > 0:
        extras = {"mouthUpperUp_L": 0.3, "mouthUpperUp_R": 0.3}
    return Shot(
        seed=number,
        pattern=EXPRESSION_INDEX.get(scene.expression, -1),
        au_sides=sides,
        extras=extras,
        pose_deg=scene.pose_deg,
        gaze_deg=(-0.8 * pitch, -0.8 * yaw),
        distance=110.0,
        light=LIGHTS.index(scene.light),
        light_turn=(0.0, 0.0),
        contrast=0.7,
        warmth=0.0,
        exposure=1.15,
        background=-1,
        occluder="none",
        eye_px=44.0,
    )


def cut_out(studio: Studio, ready: Prepared, shot: Shot) -> tuple[Picture, Floats]:
    """A head (H, W, 4) RGB and cover, larger than one canvas, and its landmarks (68, 2)."""
    marks = np.zeros((68, 2))
    rows = []
    for j in range(_TILES):
        row = []
        for i in range(_TILES):
            at = (WIDTH * ((_TILES - 1) / 2 - i), HEIGHT * ((_TILES - 1) / 2 - j))
            part = studio.cut_out(ready, replace(shot, offset=at), _EYES_PX)
            marks = part.points68 + np.array([WIDTH * i, HEIGHT * j])
            row.append(part.picture)
        rows.append(np.hstack(row))
    return filled(np.asarray(np.vstack(rows), np.uint8)), marks.astype(np.float64)


def filled(head: Picture) -> Picture:
    """A head (H, W, 4) through which no ground shines: open mouths have no back, and hair stands
    off the temples."""
    thin = (head[..., 3] < 255).astype(np.uint8)
    _, parts = cv2.connectedComponents(thin, connectivity=4)
    holes = (thin > 0) & (parts != parts[0, 0])
    cover = head[holes, 3:] / 255
    out = head.copy()
    out[holes, :3] = head[holes, :3] * cover + np.array(_SHADOW) * (1 - cover)
    out[holes, 3] = 255
    return out


def lit(head: Picture, marks: Floats, lamps: Lamps, rng: np.random.Generator) -> Picture:
    """A head (H, W, 4) under two coloured lamps that give its skin the same luma."""
    inner = np.round(marks[17:]).astype(int)
    skin = head[inner[:, 1], inner[:, 0], :3].astype(np.float64)
    middle, bright = np.median(skin, axis=0), np.quantile(skin, 0.9, axis=0)
    colours = np.array([COLOURS[lamps.first], COLOURS[lamps.second]])
    colours /= (colours * middle @ _LUMA)[:, None]  # of luma 1
    colours *= min(_SKIN_LUMA, 255 / float((colours * bright).max()))
    share = 0.5 + 0.5 * lamps.strength * pattern(head.shape[:2], marks, lamps, rng)[..., None]
    out = head.copy()
    out[..., :3] = np.clip(head[..., :3] * (colours[0] * (1 - share) + colours[1] * share), 0, 255)
    return out


def pattern(
    shape: tuple[int, ...], marks: Floats, lamps: Lamps, rng: np.random.Generator
) -> Floats:
    """Where (H, W) most of the first lamp's light falls, -1, and of the second's, 1."""
    wide = float(np.ptp(marks[:17, 0]))
    if lamps.how == "leaves":
        noise = cv2.GaussianBlur(rng.standard_normal(shape), (0, 0), wide / lamps.fine)
        return np.asarray(np.tanh(3 * noise / noise.std()), np.float64)
    turn = np.deg2rad(lamps.turn_deg)
    y, x = np.mgrid[: shape[0], : shape[1]]
    x, y = x - marks[27:, 0].mean(), y - marks[27:, 1].mean()
    along = (x * np.cos(turn) + y * np.sin(turn)) / wide
    return np.asarray(np.tanh(2 * np.sin(np.pi * lamps.fine * along + 1)), np.float64)


def ground_of(scene: Scene, rng: np.random.Generator) -> Picture:
    """A ground (H, W, 3) RGB drawn by code."""
    width, height = scene.size
    kind = scene.ground[0]
    y, x = np.mgrid[:height, :width] / max(scene.size)
    a, b = (np.array(COLOURS[name]) * 215 for name in scene.ground[1:])
    angle = rng.uniform(0, np.pi)
    along = x * np.cos(angle) + y * np.sin(angle)
    if kind == "plain":
        share = np.zeros_like(x)
    elif kind == "slope":
        share = (along - along.min()) / np.ptp(along)
    elif kind == "stripes":
        share = 0.5 + 0.5 * np.tanh(4 * np.sin(along * rng.uniform(18, 34)))
    elif kind == "checks":
        n = rng.uniform(16, 26)
        share = 0.5 + 0.5 * np.tanh(5 * np.sin(x * n) * np.sin(y * n))
    elif kind == "discs":
        share = np.zeros_like(x)
        for _ in range(14):
            cx, cy, r = rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.03, 0.14)
            share = np.maximum(share, 0.5 - 0.5 * np.tanh((np.hypot(x - cx, y - cy) - r) * 120))
    else:  # clouds
        coarse = rng.uniform(0, 1, (5, 5)).astype(np.float32)
        share = cv2.resize(coarse, scene.size, interpolation=cv2.INTER_CUBIC).clip(0, 1)
    colour = a + (b - a) * share[..., None]
    return np.asarray(colour.clip(0, 255).round(), np.uint8)


def draw(studio: Studio, scene: Scene, number: int) -> tuple[Picture, dict[str, Any]]:
    """The picture (H, W, 3) RGB of a scene and its labels."""
    rng = rng_for(SEED, 1000 + number, STREAM)
    ready, shot = studio.prepare(person_of(scene)), shot_of(scene, number)
    labels = studio.take(ready, shot, [], develop=False).au_sides
    head, marks = cut_out(studio, ready, shot)
    head = lit(head, marks, scene.lamps, rng)
    width, height = scene.size
    board = Composition(np.ascontiguousarray(ground_of(scene, rng)[..., ::-1]))
    clothes = np.array(COLOURS[scene.lamps.second])[::-1] * 110
    bgra = np.ascontiguousarray(head[..., [2, 1, 0, 3]])
    place = np.array(scene.place) * scene.size
    lay_head(board, bgra, marks, size=scene.face_px, turn=0.0, place=place, shoulders=clothes)
    box = box_of(marks)
    scale = scene.face_px / (box[3] - box[1])
    marks = (marks - (box[:2] + box[2:]) / 2) * scale + place
    return np.asarray(board.picture[..., ::-1]), {
        "names": name_of(scene),
        "points5": five_points(marks[None])[0],
        "boxes": board.boxes[0],
        "au_sides": labels,
        "expression": shot.pattern,
        "pose_deg": shot.pose_deg,
    }


def name_of(scene: Scene) -> str:
    """Light, place and AUs in a few words."""
    across = "left" if scene.place[0] < 0.45 else "right" if scene.place[0] > 0.55 else "middle"
    sides = {"": "", "L": " left", "R": " right"}
    aus = [f"AU{number}{sides[side]}" for side, number in re.findall(r"([LR]?)(\d+)", scene.aus)]
    colours = " and ".join(dict.fromkeys((scene.lamps.first, scene.lamps.second)))
    return f"{colours} light, {across}, {' '.join(aus) or 'no AU'}"


def encode(picture: Picture) -> bytes:
    """JPEG with colour at every pixel: at every second one the bands would run into each other."""
    how = [
        cv2.IMWRITE_JPEG_QUALITY, QUALITY,
        cv2.IMWRITE_JPEG_OPTIMIZE, 1,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]  # fmt: skip
    return cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), how)[1].tobytes()


def write(drawn: Iterator[tuple[Picture, dict[str, Any]]], out: Path) -> None:
    """Encode and write; `LimitError` where the file grows too large to be committed."""
    found = list(drawn)
    encoded = [encode(picture) for picture, _ in found]
    columns = {name: np.array([labels[name] for _, labels in found]) for name in found[0][1]}
    arrays: dict[str, Any] = {
        "images": np.frombuffer(b"".join(encoded), np.uint8),
        "offsets": np.cumsum([0, *map(len, encoded)]).astype(np.int32),
        "names": columns["names"],
        "expression": columns["expression"].astype(np.int8),
    }
    for name in ("points5", "boxes", "au_sides", "pose_deg"):
        arrays[name] = columns[name].astype(np.float32)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.stem}.partial.npz")
    np.savez(partial, **arrays)
    if (size := partial.stat().st_size) > MOST_BYTES:
        partial.unlink()
        raise LimitError(f"{out}: {size} bytes, at most {MOST_BYTES}", hint="make frames smaller")
    partial.replace(out)


def main() -> None:
    """Draw, encode, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--head", type=Path, default=Path("../shared/data/head/ict_head.npz"))
    parser.add_argument("--out", required=True, type=Path)
    asked = parser.parse_args()
    with Studio(head_file.read(asked.head)) as studio:
        write((draw(studio, scene, k) for k, scene in enumerate(SCENES)), asked.out)
    digest = hashlib.sha256(asked.out.read_bytes()).hexdigest()
    print(f'{asked.out}  {asked.out.stat().st_size} bytes\nSHA256 = "{digest}"')


if __name__ == "__main__":
    main()
