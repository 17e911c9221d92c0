"""Contact sheets of renders: every AU at A to E, one-sided movements, faces as they come, and
faces beside photographs of the same size.

    python -m feallm.model.synth.sheet --data ../shared/data --out docs/renders
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from feallm.model.data import archive
from feallm.model.data.pseudo import five_points
from feallm.model.synth import head
from feallm.model.synth.pack import backgrounds
from feallm.model.synth.render import Studio
from feallm.model.synth.sample import Person, Shot, person, rng_for, shot
from feallm.runtime.contract.aus import AU_BY_KEY, AU_INDEX, AU_KEYS, INTENSITY_LETTERS, N_AUS
from feallm.runtime.vision.align import Image, align

_COLUMNS = 8  # at rest, A to E, left, right
_PLAIN = Shot(
    seed=1,
    pattern=-1,
    au_sides=np.zeros((N_AUS, 2)),
    extras={},
    pose_deg=(0.0, 0.0, 0.0),
    gaze_deg=(0.0, 0.0),
    distance=120.0,
    light=1,
    light_turn=(0.0, 0.0),
    contrast=0.6,
    warmth=0.0,
    exposure=1.05,
    background=-1,
    occluder="none",
    eye_px=44.0,
)


def bare(number: int) -> Person:
    """A random person without what would hide the face."""
    found = person(rng_for(77, number, 0))
    hair = replace(found.hair, kind="short", fringe=0.0, side=-1.0)
    look = replace(found.paint, beard=0.0, moustache=0.0, stubble=0.0)
    return replace(found, hair=hair, glasses=None, paint=look)


def crop_of(studio: Studio, who: Person, au_sides: NDArray[np.float64]) -> tuple[Image, str]:
    """The project's crop of a plain shot, and the labels read off it."""
    taken = studio.take(studio.prepare(who), replace(_PLAIN, au_sides=au_sides), [], develop=False)
    points = five_points(taken.points68[None])[0]
    crop, _ = align(taken.picture, points.astype(np.float64))
    return crop, _words(taken.au_sides)


def _words(au_sides: NDArray[np.float32]) -> str:
    """As FACS writes it: 12C on both sides, L12C on one, L12C R12A where they differ."""
    letters = ("", *INTENSITY_LETTERS)
    found = []
    for key, k in AU_INDEX.items():
        left, right = (letters[int(np.round(np.nan_to_num(v)))] for v in au_sides[k])
        if left == right:
            found += [f"{key[2:]}{left}"] if left else []
        else:
            found += [f"{side}{key[2:]}{at}" for side, at in (("L", left), ("R", right)) if at]
    return " ".join(found)


def ladder(studio: Studio, keys: list[str], who: int) -> Image:
    """Rows: AUs; columns: at rest, A … E, then (sided AUs) the left and the right side at D."""
    someone = bare(who)
    rows = []
    for key in keys:
        k = AU_INDEX[key]
        steps: list[tuple[str, NDArray[np.float64]]] = []
        for level, letter in enumerate(("-", *INTENSITY_LETTERS)):
            sides = np.zeros((N_AUS, 2))
            sides[k] = level
            steps.append((f"{key} {letter}", sides))
        for side, letter in enumerate("LR"):
            if AU_BY_KEY[key].sided:
                sides = np.zeros((N_AUS, 2))
                sides[k, side] = 4
                steps.append((f"{letter} {key} D", sides))
        tiles = []
        for name, sides in steps:
            crop, words = crop_of(studio, someone, sides)
            tiles.append(captioned(crop, name, words))
        tiles += [np.full_like(tiles[0], 255)] * (_COLUMNS - len(tiles))
        rows.append(np.hstack(tiles))
    return np.asarray(np.vstack(rows), np.uint8)


def captioned(crop: Image, name: str, words: str) -> Image:
    """A crop at its own size with a line above and one below."""
    out = np.full((crop.shape[0] + 26, crop.shape[1] + 2, 3), 255, np.uint8)
    out[13 : 13 + crop.shape[0], 1:-1] = crop
    font = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(out, name, (3, 10), font, 0.36, (0, 0, 0), 1, cv2.LINE_AA)
    cv2.putText(out, words, (3, out.shape[0] - 4), font, 0.32, (0, 0, 160), 1, cv2.LINE_AA)
    return out


def random_faces(studio: Studio, grounds: list[Image], count: int, seed: int) -> list[Image]:
    """Crops of random renders, as a training sees them before it disturbs them."""
    crops = []
    for k in range(count):
        rng = rng_for(seed, k, 0)
        someone = person(rng)
        taken = shot(rng, int(rng.integers(2**62)), len(grounds))
        face = studio.take(studio.prepare(someone), taken, grounds)
        points = five_points(face.points68[None])[0]
        crops.append(align(face.picture, points.astype(np.float64))[0])
    return crops


def photographs(data: Path, count: int, seed: int) -> list[Image]:
    """Crops of London (odd ids) and CC0 portraits, the two sets that may be shown."""
    detector = cv2.FaceDetectorYN.create(
        str(data / "detector" / "face_detection_yunet_2023mar.onnx"), "", (320, 320), 0.6
    )
    pictures = [
        np.asarray(cv2.imread(str(path)), np.uint8)
        for path in sorted((data / "london").glob("*.webp"))
        if int(path.name[:3]) % 2 == 1
    ]
    path = data / "cc0" / "portraits.npz"
    images = archive.encoded(path, archive.read(path, "images", "offsets"))
    pictures += [archive.picture(path, i, b, cv2.IMREAD_COLOR) for i, b in enumerate(images)]
    crops: list[Image] = []
    for i in np.random.default_rng(seed).permutation(len(pictures)):
        picture = pictures[int(i)]
        detector.setInputSize((picture.shape[1], picture.shape[0]))
        found = detector.detect(picture)[1]
        if found is None or len(crops) == count:
            continue
        points = found[0, 4:14].reshape(5, 2).astype(np.float64)
        rgb = np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)
        crops.append(align(rgb, points)[0])
    return crops


def grid(crops: list[Image], columns: int) -> Image:
    """Crops of one size, row by row."""
    blank = np.full_like(crops[0], 255)
    tiles = crops + [blank] * (-len(crops) % columns)
    rows = [np.hstack(tiles[k : k + columns]) for k in range(0, len(tiles), columns)]
    return np.asarray(np.vstack(rows), np.uint8)


def main() -> None:
    """Write every sheet of docs/renders.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    data, out = arguments.data, arguments.out
    out.mkdir(parents=True, exist_ok=True)
    grounds = backgrounds(data / "backgrounds" / "backgrounds.npz", False)
    with Studio(head.read(data / "head" / "ict_head.npz")) as studio:
        for number, first in enumerate(range(0, len(AU_KEYS), 7)):
            keys = list(AU_KEYS[first : first + 7])
            _save(out / f"action-units-{number + 1}.jpg", ladder(studio, keys, 2 + 3 * number))
        faces = random_faces(studio, grounds, 64, 11)
        _save(out / "random.jpg", grid(faces, 8))
        _save(out / "one-sided.jpg", one_sided(studio, 5))
    photos = photographs(data, 64, 12)
    beside = np.hstack([grid(faces, 8), np.full((1024, 16, 3), 255, np.uint8), grid(photos, 8)])
    _save(out / "beside-photographs.jpg", beside)


def one_sided(studio: Studio, who: int) -> Image:
    """Sided AUs of one person: left side at D, right side at D."""
    keys = [key for key in AU_KEYS if AU_BY_KEY[key].sided]
    tiles = []
    for key in keys:
        for side, letter in ((0, "left"), (1, "right")):
            sides = np.zeros((N_AUS, 2))
            sides[AU_INDEX[key], side] = 4
            crop, words = crop_of(studio, bare(who), sides)
            tiles.append(captioned(crop, f"{key} {letter}", words))
    return grid(tiles, 8)


def _save(path: Path, sheet: Image) -> None:
    bgr = cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR)
    cv2.imwrite(str(path), bgr, [cv2.IMWRITE_JPEG_QUALITY, 86])
    print(path)


if __name__ == "__main__":
    main()
