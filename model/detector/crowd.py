"""Rendered crowds whose boxes are known exactly: what the detector is measured on.

People of the test stream before backgrounds of the test part, neither of which any training sees;
four kinds of scenes: plain, turned, dark and occluded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from feallm.model.detector import distract
from feallm.model.detector.compose import darken
from feallm.model.detector.scene import Composition, Picture, lay_head
from feallm.model.detector.sources import Heads
from feallm.model.synth.pack import backgrounds
from feallm.runtime.contract.errors import InputError

KINDS = ("plain", "turned", "dark", "occluded")
WIDTH, HEIGHT = 640, 480
SCENES = 60  # of each kind
FACES = 9  # wanted in a scene; some find no room
_SIZES_PX = (24.0, 170.0)  # height of a face's box
_WHOLE = 0.05  # of a head's face that may be hidden by what it wears


@dataclass(frozen=True, slots=True)
class Scene:
    """A crowd."""

    kind: str
    picture: Picture  # (480, 640, 3) BGR
    faces: Composition


def scenes(
    heads: Path, data: Path | None, *, count: int = SCENES, seed: int = 4242
) -> Iterator[Scene]:
    """`count` crowds of each kind, the same for the same seed. `heads`: a file of `material`;
    without `data` they stand before plain colours. Raises InputError."""
    people = Heads.read(heads)
    if not (people.occluded < _WHOLE).any():
        raise InputError(f"{heads}: no whole head in it")
    behind = None if data is None else data / "backgrounds" / "backgrounds.npz"
    grounds = backgrounds(behind, True)
    for number, kind in enumerate(KINDS):
        for k in range(count):
            rng = np.random.default_rng((seed, number, k))
            yield _crowd(kind, Composition(_ground(grounds, rng)), people, rng)


def _ground(grounds: list[Picture], rng: np.random.Generator) -> Picture:
    if not grounds:
        return np.full((HEIGHT, WIDTH, 3), rng.integers(40, 216, 3), np.uint8)
    ground = grounds[int(rng.integers(len(grounds)))][..., ::-1]
    part = ground[32:224]  # three to four
    grown = cv2.resize(part, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    return np.asarray(grown, np.uint8)


def _crowd(kind: str, scene: Composition, people: Heads, rng: np.random.Generator) -> Scene:
    whole = np.flatnonzero(people.occluded < _WHOLE)
    covered = np.flatnonzero((people.occluded > 0.1) & (people.occluded < 0.5))
    low, high = np.log(_SIZES_PX).tolist()
    sizes = np.sort(np.exp(rng.uniform(low, high, FACES)))  # the near ones come last
    for size in sizes:
        hidden = kind == "occluded"
        chosen = covered if hidden and rng.random() < 0.5 and len(covered) else whole
        i = int(rng.choice(chosen))
        bgra, marks = people.take(i)
        for _ in range(12):  # until there is room
            margin = 0.6 * size
            place = rng.uniform(margin, np.array([WIDTH, HEIGHT]) - margin)
            turn = rng.uniform(15, 40) * rng.choice([-1, 1]) if kind == "turned" else 0.0
            laid = lay_head(
                scene,
                bgra,
                marks,
                size=float(size),
                turn=float(turn + rng.normal(0, 3)),
                place=place,
                shoulders=distract.shoulders(rng),
            )
            if laid:
                if hidden and i in whole:
                    distract.before(scene.picture, scene.boxes[-1], rng)
                break
    picture = scene.picture
    if kind == "dark":
        picture = darken(picture, float(rng.uniform(0.1, 0.3)), rng)
    return Scene(kind, picture, scene)
