"""Clips of moving, crossing heads whose boxes and identities are known exactly.

    python -m feallm.model.detector.moving --heads packs/detector/test-heads.npz --out clip.mp4

writes a clip and, beside it, `clip.csv`: frame, person, box, share of the face that is seen.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from feallm.model.detector import distract
from feallm.model.detector.scene import Composition, Picture, lay_head
from feallm.model.detector.sources import Heads
from feallm.runtime.contract.errors import InputError, UsageError

_ROOM = 0.62  # of a face's height that it keeps from the edge, unless it leaves


@dataclass(frozen=True, slots=True)
class Take:
    """What is filmed."""

    people: int = 12
    seconds: float = 8.0
    fps: float = 25.0
    width: int = 1280
    height: int = 720
    seed: int = 0
    away_s: tuple[float, float] | None = None  # when everybody is out of the picture


@dataclass(frozen=True, slots=True)
class Seen:
    """One frame and who is in it."""

    picture: Picture  # (H, W, 3) BGR
    time_s: float
    people: NDArray[np.int64]  # (N,)
    boxes: NDArray[np.float64]  # (N, 4) x0 y0 x1 y1
    share: NDArray[np.float64]  # (N,) of the face's box that is in the picture and not covered


@dataclass(frozen=True, slots=True)
class _Walker:
    """One person: a head, and how it goes to and fro."""

    head: int
    size: float  # height of the face's box, pixels
    middle: NDArray[np.float64]  # (2,) share of the picture
    reach: NDArray[np.float64]  # (2,)
    hertz: NDArray[np.float64]  # (2,)
    phase: NDArray[np.float64]  # (2,)
    sway: float  # degrees
    colour: NDArray[np.float64]

    def place(self, time_s: float, take: Take) -> NDArray[np.float64]:
        """Where the middle of the face is, pixels."""
        at = self.middle + self.reach * np.sin(2 * np.pi * self.hertz * time_s + self.phase)
        room = _ROOM * self.size
        size = np.array([take.width, take.height])
        return np.asarray(room + at * (size - 2 * room), np.float64)


def film(heads: Path, take: Take) -> Iterator[Seen]:
    """The frames of a clip, the same for the same take. `heads`: a file of `material`."""
    people = Heads.read(heads)
    rng = np.random.default_rng((take.seed, take.people))
    cast = _cast(people, take, rng)
    base = rng.uniform(70, 190, 3)
    slope = np.linspace(-30, 30, take.height)[:, None, None]
    shades = np.broadcast_to(base + slope, (take.height, take.width, 3))
    ground = np.clip(shades, 0, 255).astype(np.uint8)
    for k in range(round(take.seconds * take.fps)):
        time_s = k / take.fps
        away = take.away_s is not None and take.away_s[0] <= time_s < take.away_s[1]
        yield _frame(people, [] if away else cast, ground, time_s, take)


def _cast(people: Heads, take: Take, rng: np.random.Generator) -> list[_Walker]:
    """The walkers, far ones first: near ones are laid over them."""
    faces = np.flatnonzero(people.occluded < 0.02)
    if len(faces) < take.people:
        raise InputError(f"{people.path}: {len(faces)} whole heads, {take.people} are wanted")
    chosen = rng.permutation(faces)[: take.people]
    sizes = np.sort(rng.uniform(0.09, 0.17, take.people)) * take.height
    lanes = (rng.permutation(take.people) + 0.5) / take.people
    walkers = []
    for k, (head, size, lane) in enumerate(zip(chosen, sizes, lanes, strict=True)):
        near = k / max(1, take.people - 1)
        # Who is nearer stands lower, as before a camera at the height of a head or above.
        middle = np.array([0.15 + 0.7 * lane, 0.12 + 0.7 * near + rng.normal(0, 0.06)])
        walkers.append(
            _Walker(
                int(head),
                float(size),
                middle.clip(0.05, 0.95),
                np.array([rng.uniform(0.12, 0.35), rng.uniform(0.03, 0.12)]),
                rng.uniform(0.06, 0.2, 2),
                rng.uniform(0, 2 * np.pi, 2),
                float(rng.uniform(2, 10)),
                distract.shoulders(rng),
            )
        )
    return walkers


def _frame(people: Heads, cast: list[_Walker], ground: Picture, time_s: float, take: Take) -> Seen:
    scene = Composition(ground.copy())
    for walker in cast:
        bgra, marks = people.take(walker.head)
        lay_head(
            scene,
            bgra,
            marks,
            size=walker.size,
            turn=walker.sway * np.sin(2 * np.pi * 0.3 * time_s + walker.phase[0]),
            place=walker.place(time_s, take),
            shoulders=walker.colour,
            crowded=1.0,
        )
    number = np.arange(len(cast))
    shares = _free(scene.boxes, take)
    return Seen(scene.picture, time_s, number, scene.boxes, shares)


def _free(boxes: NDArray[np.float64], take: Take) -> NDArray[np.float64]:
    """Share of each box that lies in the picture and that the boxes after it leave free."""
    shares = np.ones(len(boxes))
    for k, (x0, y0, x1, y1) in enumerate(boxes):
        xs = np.linspace(x0, x1, 32)[None]
        ys = np.linspace(y0, y1, 32)[:, None]
        mask = (xs >= 0) & (xs < take.width) & (ys >= 0) & (ys < take.height)
        for a0, b0, a1, b1 in boxes[k + 1 :]:
            # Shoulders hide too: what lies below a nearer face is hidden by its owner.
            wide, tall = a1 - a0, b1 - b0
            mask &= ~((xs > a0) & (xs < a1) & (ys > b0 - 0.1 * tall) & (ys < b1))
            mask &= ~((xs > a0 - 0.6 * wide) & (xs < a1 + 0.6 * wide) & (ys > b1 + 0.35 * tall))
        shares[k] = mask.mean()
    return shares


def main() -> None:
    """Write a clip and its truth."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--heads", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--people", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    take = Take(asked.people, asked.seconds, seed=asked.seed)
    fourcc = cv2.VideoWriter.fourcc(*"mp4v")
    video = cv2.VideoWriter(str(asked.out), fourcc, take.fps, (take.width, take.height))
    if not video.isOpened():
        raise UsageError(f"{asked.out}: no clip can be written there", hint="name a new .mp4")
    with asked.out.with_suffix(".csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["frame", "person", "x0", "y0", "x1", "y1", "seen"])
        for k, seen in enumerate(film(asked.heads, take)):
            video.write(seen.picture)
            for person, box, share in zip(seen.people, seen.boxes, seen.share, strict=True):
                table.writerow([k, int(person), *np.round(box, 2).tolist(), round(float(share), 3)])
    video.release()


if __name__ == "__main__":
    main()
