"""Which photographs of a training are worth a reader's time, and which are kept for thresholds.

    python -m feallm.model.coded.choose learn --data ../shared/data --out model/coded/learn.csv \\
        --pack packs/taught2:840:420 --pack packs/clean \\
        --held-with packs/taught2 --held-with packs/r80:1:60000 --held-with packs/moved \\
        --held-with packs/clean
    python -m feallm.model.coded.choose more --data ../shared/data --out model/coded/more.csv \\
        --held-with packs/taught2 ...

`learn`: of each source a quarter by chance, and for each AU by turns those that a network is surest
of and those at its border, as far as both go. `--pack FOLDER:FER:LFW` says how many of each source,
FOLDER alone takes all of London and CC0. A pack's faces are named by their picture, byte for byte.
Faces that the training of the packs `--held-with` holds out and faces of the other lists are passed
over. `more`: 240 of those that it holds out, spread over the expressions (eight that the bank of
moved photographs had were struck from the list afterwards).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from feallm.model.coded import codes, faces
from feallm.model.coded.faces import CodedFace, Shared
from feallm.model.data import pack
from feallm.model.train.vision import split
from feallm.model.train.whole import Pack, read_all
from feallm.runtime.contract.expressions import EXPRESSIONS

CHANCE = 0.25  # of the faces, drawn whatever the network says
SUREST = 0.02  # of a source's faces count as those that it is surest of
BORDER = (0.7, 1.3)  # of presence, which begins at 1


def names_of(shared: Shared) -> dict[bytes, tuple[str, str]]:
    """Source and name of every picture that a list may name, by its bytes."""
    found: dict[bytes, tuple[str, str]] = {}
    images, arrays = shared.archive(shared.data / "fer" / "train.npz")
    found |= {
        image: ("fer", f"train:{row}") for image, row in zip(images, arrays["row"], strict=True)
    }
    for file in ("lfw", "lfw_more"):
        images, _ = shared.archive(shared.data / "lfw" / f"{file}.npz")
        found |= {image: ("lfw", f"{file}:{i}") for i, image in enumerate(images)}
    for path in sorted((shared.data / "london").glob("*.webp")):
        found[path.read_bytes()] = ("london", path.stem)
    images, _ = shared.archive(shared.data / "cc0" / "portraits.npz")
    found |= {image: ("cc0", str(i)) for i, image in enumerate(images)}
    return found


def choose(
    strength: NDArray[np.float32], group: NDArray[np.int64], count: int, rng: np.random.Generator
) -> list[int]:
    """`count` of N faces, at most one of a group; `strength` (N, 15) is what the network says of
    the coded AUs, presence from 1 on."""
    wanted: list[NDArray[np.int64]] = [rng.permutation(len(strength))]
    for values in strength.T:
        order = np.argsort(-np.nan_to_num(values, nan=-np.inf))
        top = order[: max(1, round(SUREST * len(order)))]
        edge = np.flatnonzero((values > BORDER[0]) & (values < BORDER[1]))
        both = np.zeros(2 * min(len(top), len(edge)), np.int64)
        both[::2] = rng.permutation(top)[: len(both) // 2]
        both[1::2] = rng.permutation(edge)[: len(both) // 2]
        wanted.append(both)
    chosen: list[int] = []
    taken: set[int] = set()
    places = [0] * len(wanted)
    while len(chosen) < count and any(p < len(w) for p, w in zip(places, wanted, strict=True)):
        lines = [0] if len(chosen) < CHANCE * count else range(1, len(wanted))
        before = len(chosen)
        for k in lines:
            while places[k] < len(wanted[k]) and len(chosen) < count:
                i = int(wanted[k][places[k]])
                places[k] += 1
                if int(group[i]) not in taken:
                    taken.add(int(group[i]))
                    chosen.append(i)
                    break
        if len(chosen) == before:
            break
    return chosen


def learn(
    data: Path, packs: Sequence[str], held: NDArray[np.float32], seed: int
) -> list[CodedFace]:
    """The list `learn` of packs, FOLDER[:FER:LFW] each; faces at the points `held` (K, 5, 2) are
    passed over."""
    shared, rng = Shared(data), np.random.default_rng(seed)
    names = names_of(shared)
    spoken_for = {points.tobytes() for points in held}
    named: list[tuple[str, str, str, NDArray[np.float64]]] = []
    for text in packs:
        folder, *quota = text.split(":")
        index = pack.read_index(Path(folder))
        found = pack.read(Path(folder))
        images: list[bytes] = []
        for path in pack.parts(Path(folder), index):
            with np.load(path) as file:
                images += pack.encoded(file["images"], file["offsets"])
        source = np.array([names[image][0] for image in images])
        free = np.isfinite(found.points5).all((1, 2)) & ~faces.among(found.points5)
        free &= np.array([points.tobytes() not in spoken_for for points in found.points5])
        counts = dict(zip(("fer", "lfw"), map(int, quota), strict=True)) if quota else {}
        for kind in np.unique(source):
            rows = np.flatnonzero(free & (source == kind))
            strength = found.au_sides[rows].max(2)[:, codes.COLUMNS]
            count = counts.get(str(kind), len(rows))
            group = found.group[rows] if quota else np.arange(len(rows))
            for i in choose(strength, group, count, rng) if quota else range(len(rows)):
                row = int(rows[i])
                word = EXPRESSIONS[int(found.expression[row].argmax())]
                if not found.expression[row].any():
                    word = "none"
                named.append((*names[images[row]], word, found.points5[row].astype(np.float64)))
    order = rng.permutation(len(named))
    return [CodedFace(f"L{k + 1:04d}", *named[i]) for k, i in enumerate(order)]


def main() -> None:
    """Read the packs, choose, write the list."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=["learn", "more"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--pack", action="append", default=[], help="FOLDER[:FER:LFW]")
    parser.add_argument("--held-with", action="append", required=True, help="packs of a training")
    parser.add_argument("--seed", type=int, default=1117)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    joined = read_all([Pack.parse(text) for text in asked.held_with])
    held = joined.points5[split(joined)[1]]
    if asked.part == "more":
        found = faces.draw(asked.data, "more", held)
    else:
        found = learn(asked.data, asked.pack, held, asked.seed)
    faces.write(found, asked.out)
    print(f"{asked.out}  {len(found)} faces")


if __name__ == "__main__":
    main()
