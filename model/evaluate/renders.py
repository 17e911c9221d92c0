"""A pack of renders as a labelled set: its labels are exact, and so are its slices."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feallm.model.data import archive, pack
from feallm.model.evaluate import frozen
from feallm.model.evaluate.sets import Labelled
from feallm.model.synth import sample
from feallm.runtime.contract.aus import INTENSITY_MAX, N_AUS
from feallm.runtime.contract.errors import InputError
from feallm.runtime.contract.expressions import N_EXPRESSIONS

ARRAYS: dict[str, tuple[str, tuple[int, ...]]] = {
    "votes": ("f4", (10,)),
    "expression": ("f4", (N_EXPRESSIONS,)),
    "au_sides": ("f4", (N_AUS, 2)),
    "points5": ("f4", (5, 2)),
    "mean5": ("f4", (5, 2)),
    "group": ("i8", ()),
    "points68": ("f4", (68, 2)),
    "pose_deg": ("f4", (3,)),
    "gaze_deg": ("f4", (2,)),
    "skin": ("u1", ()),
    "light": ("u1", ()),
    "occluded": ("f4", ()),
    "glasses": ("u1", ()),
    "face_px": ("f4", ()),
    "pattern": ("i1", ()),
    "seed": ("i8", ()),
}
"""What a part of such a pack holds beside `images` and `offsets`: type, and shape of one row. The
hash of a pack is taken over these, in this order, and over the pictures."""

LIGHT_NAMES = "light_names"
GLASSES = ("none", "clear", "dark")
SKIN = ("0-1", "0-1", "2-3", "2-3", "4-5", "4-5")
YAW_EDGES, YAWS = (15, 30, 45), ("0-15", "15-30", "30-45", "")
AGE_EDGES, AGES = (1 / 3, 2 / 3), ("young", "middle", "old")  # of the shape's 0 young … 1 old
TURNED_DEG, HIDDEN, SMALL_PX = 20, 0.05, 64


def read(folder: Path) -> tuple[Labelled, frozen.Entry]:
    """A pack's faces and its hash; `InputError` where it is none, or a part is not as it was.

    An AU's truth is its stronger side, unknown where one side is. A class counts where it holds
    more than half of the soft label; where no face has one, no expression is scored. Where a face
    has no points of its own, the mean ones stand in.
    """
    parts, lights = _index(folder)
    images: list[bytes] = []
    columns: dict[str, list[NDArray[Any]]] = {name: [] for name in ARRAYS}
    for path in parts:
        arrays = archive.read(path, "images", "offsets", *ARRAYS)
        pictures = archive.encoded(path, arrays)
        images += pictures
        for name, (kind, shape) in ARRAYS.items():
            columns[name].append(_typed(path, name, arrays[name], kind, (len(pictures), *shape)))
    rows = {name: np.concatenate(values) for name, values in columns.items()}
    labels = [frozen.canonical(rows[name], kind) for name, (kind, _) in ARRAYS.items()]
    names = [name.encode() for name in lights]
    entry = frozen.Entry(len(images), frozen.digest([*labels, *names, *images]))
    soft, points5 = rows["expression"], rows["points5"]
    classes = np.where(soft.max(1) > 0.5, soft.argmax(1), -1).astype(np.int64)
    missing = np.asarray(~np.isfinite(points5).all((1, 2)))
    labelled = Labelled(
        folder,
        images,
        classes if (classes >= 0).any() else None,
        rows["au_sides"].max(2).clip(0, INTENSITY_MAX).astype(np.float64),  # NaN stays NaN
        np.where(missing[:, None, None], rows["mean5"], points5).astype(np.float64),
        missing,
        _slices(folder, rows, lights),
        rows["au_sides"],
        {name: rows[name] for name in pack.PLACE_ARRAYS},
    )
    return labelled, entry


def _index(folder: Path) -> tuple[list[Path], list[str]]:
    """The parts, each checked against its hash, and the names of the lights."""
    path = folder / pack.INDEX
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        parts = [(folder / str(part["file"]), str(part["sha256"])) for part in index["parts"]]
        lights = [str(name) for name in index[LIGHT_NAMES]]
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: no such file: not a folder of renders", hint=pack.unfinished(folder)
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not the index of a pack of renders: {error!r}") from error
    for part, expected in parts:
        if not part.is_file() or pack.sha256(part) != expected:
            raise InputError(f"{part}: missing, or not the file that {pack.INDEX} names")
    if not parts:
        raise InputError(f"{path}: names no part")
    return [part for part, _ in parts], lights


def _typed(
    path: Path, name: str, array: NDArray[Any], kind: str, shape: tuple[int, ...]
) -> NDArray[Any]:
    if array.dtype.kind not in "biuf" or array.shape != shape:
        raise InputError(f"{path}: {name} is {array.dtype} {array.shape}, expected {kind} {shape}")
    typed = array.astype(kind)
    if array.dtype.kind != "f" and (typed != array).any():
        raise InputError(f"{path}: {name} holds numbers beyond {kind}")
    return typed


def _slices(
    folder: Path, rows: Mapping[str, NDArray[Any]], lights: list[str]
) -> dict[str, NDArray[np.str_]]:
    """Where a face stands on what makes it hard."""
    return {
        "yaw": np.where(np.abs(rows["pose_deg"][:, 1]) < TURNED_DEG, "<20", ">=20"),
        "yaw by 15": np.array(YAWS)[np.digitize(np.abs(rows["pose_deg"][:, 1]), YAW_EDGES)],
        "occluded": np.where(rows["occluded"] > HIDDEN, ">0.05", "<=0.05"),
        "face_px": np.where(rows["face_px"] > SMALL_PX, ">64", "<=64"),
        "glasses": _named(folder, "glasses", rows["glasses"], GLASSES),
        "skin": _named(folder, "skin", rows["skin"], SKIN),
        "light": _named(folder, "light", rows["light"], lights),
        "age": _ages(folder, len(rows["seed"])),
    }


def _ages(folder: Path, count: int) -> NDArray[np.str_]:
    """How old the drawn people look, from the plan that they were drawn by; "" where there is no
    plan, or the faces are moved photographs."""
    try:
        plan = json.loads((folder / pack.PLAN).read_text(encoding="utf-8"))
        seed, stream, n = int(plan["seed"]), int(plan["stream"]), int(plan["n"])
    except (OSError, ValueError, KeyError, TypeError):
        return np.full(count, "")
    if "photos" in plan or n != count:
        return np.full(count, "")
    people = -(-n // sample.SHOTS)
    age = [sample.person(sample.rng_for(seed, k, stream)).paint.age for k in range(people)]
    return np.repeat(np.array(AGES)[np.digitize(age, AGE_EDGES)], sample.SHOTS)[:n]


def _named(
    folder: Path, array: str, values: NDArray[Any], names: tuple[str, ...] | list[str]
) -> NDArray[np.str_]:
    if len(values) and int(values.max()) >= len(names):
        raise InputError(f"{folder}: {array} {int(values.max())}, but there are {len(names)} kinds")
    return np.array(names, str)[values] if len(values) else np.zeros(0, "<U1")
