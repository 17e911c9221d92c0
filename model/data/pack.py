"""Packs: faces and their labels as compact `.npz` parts, for training here or elsewhere.

A part holds at most 25 MiB: `images` uint8 [bytes] (encoded pictures end to end), `offsets` int64
[N+1], `votes` float32 [N,10] (FER+ order), `expression` float32 [N,8] soft labels (0 = unknown),
`au_sides` float32 [N,20,2] pseudo-intensities of the subject's left and right (NaN = unknown; 1 is
where presence begins, values outside 0–5 are distances from it), `points5` float32 [N,5,2] pixels
(NaN = not found), `mean5` float32 [N,5,2] the mean points that stand in for them, `group` int64
[N] (equal for copies of one picture). A part may also hold where the face is, NaN = unknown, in the
orders of `contract.landmarks`: `points68` float32 [N,68,2] pixels, `pose_deg` float32 [N,3],
`gaze_deg` float32 [N,2]. `pack.json` names sources, licences, hashes and parts.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from feallm.runtime.contract.errors import InputError
from feallm.runtime.contract.landmarks import GAZE, N_LANDMARKS, POSE

PART_BYTES = 25 * 2**20
_LABEL_BYTES = 512  # of one row, all arrays and the archive's own share
INDEX = "pack.json"
PLAN = "render.json"  # beside the parts of renders from the first on; the index comes last
ROW_ARRAYS = ("votes", "expression", "au_sides", "points5", "mean5", "group")
PLACE_ARRAYS: dict[str, tuple[int, ...]] = {
    "points68": (N_LANDMARKS, 2),
    "pose_deg": (len(POSE),),
    "gaze_deg": (len(GAZE),),
}


@dataclass(frozen=True, slots=True)
class Origin:
    """A data set that a pack was made from."""

    name: str
    licence: str
    rows: int
    sha256: str


@dataclass(slots=True)
class Rows:
    """Rows of one source, still in memory. Arrays as the module describes, without `offsets`."""

    images: list[bytes]
    votes: NDArray[np.float32]
    expression: NDArray[np.float32]
    au_sides: NDArray[np.float32]
    points5: NDArray[np.float32]
    mean5: NDArray[np.float32]
    group: NDArray[np.int64]
    origin: Origin
    place: dict[str, NDArray[np.float32]] = field(default_factory=dict)  # some of `PLACE_ARRAYS`


@dataclass(frozen=True, slots=True)
class Faces:
    """A whole pack in memory."""

    pictures: list[NDArray[np.uint8]]  # gray (H, W): colour carries no label
    votes: NDArray[np.float32]
    expression: NDArray[np.float32]
    au_sides: NDArray[np.float32]
    points5: NDArray[np.float32]
    mean5: NDArray[np.float32]
    group: NDArray[np.int64]
    origins: tuple[Origin, ...] = field(default=())
    place: dict[str, NDArray[np.float32]] = field(default_factory=dict)  # all of `PLACE_ARRAYS`
    pattern: NDArray[np.int8] = field(default_factory=lambda: np.zeros(0, np.int8))
    """Expression pattern that a rendered face was drawn from, -1 = none."""
    source: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """Which pack each row is of, where several were joined."""


def sha256(path: Path) -> str:
    """Hash of a file's bytes, hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def encoded(images: NDArray[np.uint8], offsets: NDArray[np.int64]) -> Iterator[bytes]:
    """The encoded pictures of an array that holds them end to end."""
    for start, end in zip(offsets[:-1], offsets[1:], strict=True):
        yield images[start:end].tobytes()


def write(sources: list[Rows], out: Path) -> list[Path]:
    """Write a pack into the folder `out`; the index comes last, so a half pack is never read."""
    out.mkdir(parents=True, exist_ok=True)
    (out / INDEX).unlink(missing_ok=True)
    parts: list[Path] = []
    for source in sources:
        sizes = np.array([len(image) for image in source.images])
        number = _part_numbers(sizes + _LABEL_BYTES)
        for k in np.unique(number):
            rows = np.flatnonzero(number == k)
            part = out / f"{source.origin.name}-{k:02d}.npz"
            arrays = {name: getattr(source, name)[rows] for name in ROW_ARRAYS}
            arrays |= {name: values[rows] for name, values in source.place.items()}
            np.savez(
                part,
                images=np.frombuffer(b"".join(source.images[i] for i in rows), np.uint8),
                offsets=np.concatenate([[0], np.cumsum(sizes[rows])]).astype(np.int64),
                **arrays,
            )
            parts.append(part)
    index = {
        "origins": [asdict(source.origin) for source in sources],
        "parts": [{"file": part.name, "sha256": sha256(part)} for part in parts],
    }
    temporary = out / f".{INDEX}.partial"
    temporary.write_text(json.dumps(index, indent=1) + "\n")
    os.replace(temporary, out / INDEX)
    return parts


def _part_numbers(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number of the part (N,) that each row goes to, so that none grows over `PART_BYTES`."""
    numbers, filled, part = [], 0, 0
    for size in sizes:
        if filled + size > PART_BYTES:
            part, filled = part + 1, 0
        filled += int(size)
        numbers.append(part)
    return np.array(numbers)


def read_index(folder: Path) -> dict[str, Any]:
    """What `pack.json` says; `InputError` where it cannot be read."""
    try:
        index: dict[str, Any] = json.loads((folder / INDEX).read_text())
    except (OSError, ValueError) as error:
        hint = unfinished(folder) or "make a pack with `feallm data pack`"
        raise InputError(f"{folder}: no readable {INDEX}", hint=hint) from error
    return index


def parts(folder: Path, index: dict[str, Any]) -> Iterator[Path]:
    """The parts of a pack, each checked against its hash when its turn comes."""
    for part in index["parts"]:
        path = folder / part["file"]
        if not path.is_file() or sha256(path) != part["sha256"]:
            raise InputError(f"{path}: missing, or not the file that {INDEX} names")
        yield path


def unfinished(folder: Path) -> str:
    """A hint where a folder holds renders that were begun, else nothing."""
    if (folder / PLAN).is_file() and not (folder / INDEX).is_file():
        return "not finished yet: the same `feallm data render` goes on"
    return ""


def read(folder: Path, limit: int | None = None) -> Faces:
    """A pack, or its first `limit` faces, every part checked against its hash and decoded to gray.

    Raises `InputError` for a pack that is not whole.
    """
    index = read_index(folder)
    names = (*ROW_ARRAYS, *PLACE_ARRAYS, "pattern")
    columns: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
    pictures: list[NDArray[np.uint8]] = []
    for path in parts(folder, index):
        if limit is not None and len(pictures) >= limit:
            break
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        for image in encoded(arrays["images"], arrays["offsets"]):
            gray = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_GRAYSCALE)
            pictures.append(np.asarray(gray, np.uint8))
        for name in ROW_ARRAYS:
            columns[name].append(arrays[name])
        count = len(arrays["group"])
        for name, shape in PLACE_ARRAYS.items():
            unknown = np.full((count, *shape), np.nan, np.float32)
            columns[name].append(arrays.get(name, unknown))
        columns["pattern"].append(arrays.get("pattern", np.full(count, -1, np.int8)))
    joined: dict[str, NDArray[Any]] = {n: np.concatenate(c)[:limit] for n, c in columns.items()}
    origins = tuple(Origin(**origin) for origin in index["origins"])
    return Faces(
        pictures[:limit],
        **{name: joined[name] for name in ROW_ARRAYS},
        origins=origins,
        place={name: joined[name] for name in PLACE_ARRAYS},
        pattern=joined["pattern"],
        source=np.zeros(len(joined["group"]), np.int64),
    )


def join(packs: Sequence[Faces]) -> Faces:
    """Several packs as one; `source` says which of them a row came from."""
    if len(packs) == 1:
        return packs[0]
    return Faces(
        [picture for faces in packs for picture in faces.pictures],
        **{name: np.concatenate([getattr(faces, name) for faces in packs]) for name in ROW_ARRAYS},
        origins=tuple(origin for faces in packs for origin in faces.origins),
        place={
            name: np.concatenate([faces.place[name] for faces in packs]) for name in PLACE_ARRAYS
        },
        pattern=np.concatenate([faces.pattern for faces in packs]),
        source=np.repeat(np.arange(len(packs)), [len(faces.group) for faces in packs]),
    )
