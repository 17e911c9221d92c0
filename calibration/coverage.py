"""What calibration faces have to cover, and how many of the committed ones do.

python -m feallm.calibration.coverage [--sheet docs/calibration-faces.jpg]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from feallm.calibration.faces import Faces, Labels, load
from feallm.model.synth.sample import LIGHTS
from feallm.runtime.contract.aus import AUS, INTENSITY_LETTERS, INTENSITY_MAX
from feallm.runtime.contract.expressions import EXPRESSIONS

Bools = NDArray[np.bool_]

_SURE = 0.35  # of a step: nearer to the next letter a coder may well write that one
_REST = 0.5  # below this a movement is no trace yet
_ONE_SIDE, _OTHER_SIDE = 2.0, 0.7
_FACE = (slice(24, 108), slice(20, 92))  # of a crop: the face without its surroundings
_GRAIN_PX = 2.0
_DARK, _BRIGHT = 60, 180  # mean gray
_FLAT, _HARD = 18, 55  # standard deviation of the gray values
TONES = (
    "lightest skin",
    "light skin",
    "light brown skin",
    "brown skin",
    "dark skin",
    "darkest skin",
)
_GROUPS = {"light skin": (0, 1), "brown skin": (2, 3), "dark skin": (4, 5)}


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of face, those of N that are of it, and how many are wanted."""

    name: str
    rows: Bools  # (N,)
    wanted: int


def tone(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Mean and standard deviation (N, 2) of the gray values of faces (N, H, W), without grain."""
    found = []
    for crop in crops:
        face = cv2.GaussianBlur(crop, (0, 0), _GRAIN_PX)[_FACE]
        found.append((float(face.mean()), float(face.std())))
    return np.array(found, np.float32).reshape(-1, 2)


def kinds(labels: Labels, tones: NDArray[np.float32]) -> Iterator[Kind]:
    """Every kind of face that calibration must have seen; `tones` as `tone` gives them."""
    sides = np.nan_to_num(labels.au_sides)
    most = sides.max(2)
    steps = np.round(most)
    sure = (np.abs(most - steps) <= _SURE) | (most >= INTENSITY_MAX - _SURE)
    even = np.abs(sides[..., 0] - sides[..., 1]) < 1
    skins = {name: np.isin(labels.skin, numbers) for name, numbers in _GROUPS.items()}
    for k, au in enumerate(AUS):
        for step, letter in enumerate(INTENSITY_LETTERS, 1):
            rows = (steps[:, k] == step) & sure[:, k] & even[:, k]
            yield Kind(f"{au.key} {letter}", rows, 4)
        if au.sided:
            for side, word in enumerate(("left", "right")):
                one = (sides[:, k, side] >= _ONE_SIDE) & (sides[:, k, 1 - side] < _OTHER_SIDE)
                yield Kind(f"{au.key} {word} only", one, 2)
        for name, skin in skins.items():
            yield Kind(f"{au.key} C and more, {name}", skin & (most[:, k] >= 2.5), 3)
    hidden = np.isnan(labels.au_sides)
    rest: Bools = ((labels.au_sides < _REST) & ~hidden).all((1, 2))
    yield Kind("at rest", rest, 30)
    for name, skin in skins.items():
        yield Kind(f"at rest, {name}", rest & skin, 8)
    for k, name in enumerate(EXPRESSIONS):
        yield Kind(f"pattern of {name}", labels.pattern == k, 14)
    for k, name in enumerate(TONES):
        yield Kind(name, labels.skin == k, 40)
    for k, name in enumerate(LIGHTS):
        yield Kind(f"light {name}", labels.light == k, 25)
    yield from _turns("up", "down", labels.pose_deg[:, 0], (10, 20), 8)
    yield from _turns("turned left", "turned right", labels.pose_deg[:, 1], (15, 30, 45), 8)
    yield from _turns("leaning one way", "the other way", labels.pose_deg[:, 2], (8, 16), 8)
    yield from _turns("gaze up", "gaze down", labels.gaze_deg[:, 0], (10,), 8)
    yield from _turns("gaze left", "gaze right", labels.gaze_deg[:, 1], (15,), 8)
    mean, spread = tones.T
    yield Kind("low light", mean < _DARK, 25)
    yield Kind("low light, dark skin", (mean < _DARK) & skins["dark skin"], 10)
    yield Kind("low light, light skin", (mean < _DARK) & skins["light skin"], 4)
    yield Kind("bright", mean > _BRIGHT, 15)
    yield Kind("low contrast", spread < _FLAT, 25)
    yield Kind("high contrast", spread > _HARD, 20)
    yield Kind("partly covered", (labels.occluded > 0.1) & (labels.occluded <= 0.35), 25)
    yield Kind("half covered", labels.occluded > 0.35, 12)
    yield Kind("clear glasses", labels.glasses == 1, 25)
    yield Kind("dark glasses", labels.glasses == 2, 12)
    yield Kind("small, under 36 px", labels.face_px < 36, 20)
    yield Kind("large, over 80 px", labels.face_px > 80, 20)


def _turns(
    more: str, less: str, degrees: NDArray[np.float32], edges: tuple[int, ...], wanted: int
) -> Iterator[Kind]:
    for start, end in zip(edges, (*edges[1:], 360), strict=True):
        for name, turn in ((more, degrees), (less, -degrees)):
            span = f"{start}° and more" if end == 360 else f"{start}° to {end}°"
            yield Kind(f"{name} {span}", (turn >= start) & (turn < end), wanted)


def table(faces: Faces) -> str:
    """A Markdown table: kinds of faces, how many to calibrate on, how many held out."""
    seen = list(kinds(faces.labels, tone(faces.crops[..., 0])))
    held = list(kinds(faces.held_out_labels, tone(faces.held_out[..., 0])))
    count = {
        one.name: (int(one.rows.sum()), int(other.rows.sum()))
        for one, other in zip(seen, held, strict=True)
    }
    lines = [
        "| AU | A | B | C | D | E | left only | right only | C and more: light, brown, dark skin |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for au in AUS:
        steps = " | ".join(str(count[f"{au.key} {letter}"][0]) for letter in INTENSITY_LETTERS)
        one = [str(count.get(f"{au.key} {side} only", ("–",))[0]) for side in ("left", "right")]
        skin = ", ".join(str(count[f"{au.key} C and more, {name}"][0]) for name in _GROUPS)
        lines.append(f"| {au.key} | {steps} | {one[0]} | {one[1]} | {skin} |")
    lines += ["", "| kind | to calibrate on | held out |", "|---|---|---|"]
    lines.append(f"| all | {len(faces.crops)} | {len(faces.held_out)} |")
    lines += [
        f"| {name} | {a} | {b} |" for name, (a, b) in count.items() if not name.startswith("AU")
    ]
    return "\n".join(lines)


def sheet(crops: NDArray[np.uint8], columns: int) -> NDArray[np.uint8]:
    """Faces (N, H, W) side by side in one picture, the last row filled with black."""
    rows = -(-len(crops) // columns)
    height, width = crops.shape[1:3]
    full = np.zeros((rows * columns, height, width), np.uint8)
    full[: len(crops)] = crops
    return full.reshape(rows, columns, height, width).swapaxes(1, 2).reshape(rows * height, -1)


def main() -> None:
    """Print the table; draw the faces."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sheet", type=Path)
    asked = parser.parse_args()
    faces = load()
    print(table(faces))
    if asked.sheet:
        gray = np.concatenate([faces.crops, faces.held_out])[..., 0]
        small = np.stack([cv2.resize(one, (42, 48), interpolation=cv2.INTER_AREA) for one in gray])
        small = np.asarray(small, np.uint8)
        asked.sheet.write_bytes(
            cv2.imencode(".jpg", sheet(small, 26), [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()
        )


if __name__ == "__main__":
    main()
