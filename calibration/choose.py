"""Chooses the calibration faces out of packs of own renders and writes `faces.npz`.

    python -m feallm.calibration.choose --pack packs/r80 --out calibration/faces.npz

Two thirds are taken one by one, always the face that brings most of what `coverage.kinds` still
wants; the rest as they come, since ranges are also a matter of what is usual. One face a person.
People whom the training held out are held out here too. Pictures are JPEG: at the same bytes it
changed the network's answers less than WebP did, whose gray has 220 steps.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from feallm.calibration.coverage import kinds, tone
from feallm.calibration.faces import FLOATS, LABELS, Labels
from feallm.model.data import archive, ferplus, pack
from feallm.model.train.vision import HELD_OUT, SPLIT_SEED
from feallm.runtime.contract.errors import InputError, LimitError
from feallm.runtime.vision.align import crop_matrix, warp

COUNT, HELD_SHARE = 510, 0.15
COVERING = 2 / 3
SEED = 14
QUALITY = 93
MOST_BYTES = 1_900_000
_MOST_COVERED, _LEAST_FACE_PX = 0.6, 30.0
_LEAST_GRAY, _LEAST_CONTRAST = 18.0, 9.0
"""Beyond these a coder would not code the face, or would see noise."""

Table = dict[str, NDArray[Any]]
Rows = NDArray[np.int64]


def read(folder: Path) -> tuple[Table, NDArray[np.float32]]:
    """Labels of every face of a pack of renders, and the tones (N, 2) of their crops.

    Raises `InputError` for a pack that holds photographs, moved ones too: no picture of a person
    may go into the repository, and none of a test set may be learnt from.
    """
    index = pack.read_index(folder)
    try:
        plan = json.loads((folder / pack.PLAN).read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: no readable {pack.PLAN}: not a pack of renders") from error
    if "photos" in plan or plan.get("frozen", True):
        what = "of moved photographs" if "photos" in plan else "a test set"
        raise InputError(f"{folder}: {what}", hint="take renders made for training")
    columns: dict[str, list[NDArray[Any]]] = {}
    tones = []
    for part, path in enumerate(pack.parts(folder, index)):
        table = archive.read(path, "images", "offsets", "points5", *LABELS)
        count = len(table["group"])
        labels = {name: table[name] for name in ("points5", *LABELS)}
        labels |= {"part": np.full(count, part), "row": np.arange(count)}
        for name, values in labels.items():
            columns.setdefault(name, []).append(values)
        tones.append(tone(np.stack(crops(path, table, np.arange(count)))))
    return {name: np.concatenate(c) for name, c in columns.items()}, np.concatenate(tones)


def crops(path: Path, table: Table, rows: Rows) -> list[NDArray[np.uint8]]:
    """Crops (H, W) of rows of one part, as the network sees them."""
    images, found = archive.encoded(path, table), []
    for i in rows.tolist():
        gray = archive.picture(path, i, images[i], cv2.IMREAD_GRAYSCALE)
        found.append(warp(gray, crop_matrix(table["points5"][i].astype(np.float64))))
    return found


def choose(
    wanted: Sequence[tuple[NDArray[np.bool_], float]],
    group: NDArray[np.int64],
    count: int,
    rng: np.random.Generator,
) -> Rows:
    """Rows of N faces that cover what is wanted (which rows (N,), how many), then rows as they
    come; one of each group."""
    order = rng.permutation(len(group))  # so that the first of equals is a random one
    group = group[order]
    belongs = np.stack([rows[order] for rows, _ in wanted], 1).astype(np.float32)  # (N, kinds)
    needs = np.array([max(need, 1.0) for _, need in wanted], np.float32)
    have, free = np.zeros_like(needs), np.ones(len(group), bool)
    taken: list[int] = []
    while len(taken) < count and free.any():
        gain = np.where(free, belongs @ (1 - have / needs).clip(0), -1)
        covering = len(taken) < count * COVERING and gain.max() > 0
        best = int(gain.argmax() if covering else free.argmax())
        taken.append(best)
        have += belongs[best]
        free &= group != group[best]
    return order[np.array(taken, np.int64)]


def main() -> None:
    """Choose, encode, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pack", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--count", type=int, default=COUNT)
    asked = parser.parse_args()
    table, tones = read(asked.pack)
    write(asked.pack, table, tones, asked.count, asked.out)
    print(f'{asked.out}  {asked.out.stat().st_size} bytes\nSHA256 = "{digest(asked.out)}"')


def digest(path: Path) -> str:
    """Hash of a file's bytes, hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write(folder: Path, table: Table, tones: NDArray[np.float32], count: int, out: Path) -> None:
    """Choose `count` faces of the pack and write them; `LimitError` where the file grows too
    large to be committed."""
    rng = np.random.default_rng(SEED)
    clear = (
        (table["occluded"] <= _MOST_COVERED)
        & (table["face_px"] >= _LEAST_FACE_PX)
        & (tones >= (_LEAST_GRAY, _LEAST_CONTRAST)).all(1)
    )
    unseen = ferplus.held_out(table["group"], share=HELD_OUT, seed=SPLIT_SEED)
    picked, held = [], round(count * HELD_SHARE)
    for rows, number in ((clear & ~unseen, count - held), (clear & unseen, held)):
        at = np.flatnonzero(rows)
        labels = Labels(**{name: table[name][at] for name in LABELS})
        share = number / (count - held)
        wanted = [(kind.rows, kind.wanted * share) for kind in kinds(labels, tones[at])]
        picked.append(np.sort(at[choose(wanted, table["group"][at], number, rng)]))
        if len(picked[-1]) < number:
            raise InputError(f"{folder}: {len(picked[-1])} people to choose from, {number} wanted")
    chosen = np.concatenate(picked)
    images: dict[int, bytes] = {}
    parts = list(pack.read_index(folder)["parts"])
    for part in np.unique(table["part"][chosen]).tolist():
        own = chosen[table["part"][chosen] == part]
        path = folder / parts[part]["file"]
        found = crops(path, archive.read(path), table["row"][own])
        for i, gray in zip(own.tolist(), found, strict=True):
            how = [cv2.IMWRITE_JPEG_QUALITY, QUALITY, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
            images[i] = cv2.imencode(".jpg", gray, how)[1].tobytes()
    encoded = [images[i] for i in chosen.tolist()]
    ends = np.cumsum([len(one) for one in encoded])
    arrays: dict[str, Any] = {
        "images": np.frombuffer(b"".join(encoded), np.uint8),
        "offsets": np.concatenate([[0], ends]).astype(np.int32),
        "held_out": np.repeat([False, True], [count - held, held]),
    }
    for name in LABELS:
        values = table[name][chosen]
        arrays[name] = values.astype(np.float16) if name in FLOATS else values
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.stem}.partial.npz")
    np.savez(partial, **arrays)
    if partial.stat().st_size > MOST_BYTES:
        size = partial.stat().st_size
        partial.unlink()
        raise LimitError(f"{out}: {size} bytes, at most {MOST_BYTES}", hint="choose fewer faces")
    partial.replace(out)


if __name__ == "__main__":
    main()
