"""Contact sheets of renders: every AU at A to E, one-sided movements, and faces as they come."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from feallm.model.data.pseudo import five_points
from feallm.model.synth.render import Studio
from feallm.model.synth.sample import Person, Shot, person, rng_for
from feallm.runtime.contract.aus import AU_BY_KEY, AU_INDEX, INTENSITY_LETTERS, N_AUS
from feallm.runtime.vision.align import Image, align

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
    found = []
    for key, k in AU_INDEX.items():
        left, right = (int(np.round(np.nan_to_num(v))) for v in au_sides[k])
        if max(left, right) >= 1:
            letters = " ABCDE"
            same = left == right
            text = letters[left] if same else f"L{letters[left].strip()}R{letters[right].strip()}"
            found.append(f"{key[2:]}{text}")
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
            sides = np.zeros((N_AUS, 2))
            if AU_BY_KEY[key].sided:
                sides[k, side] = 4
            steps.append((f"{key} D {letter}" if AU_BY_KEY[key].sided else "", sides))
        tiles = []
        for name, sides in steps:
            crop, words = crop_of(studio, someone, sides)
            tiles.append(captioned(crop, name, words if name else ""))
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
