"""Neutral photographs whose faces may be moved, out of what may be trained on.

Neutral is judged by MediaPipe's blendshapes (FER's come with the shared data; for other sets
`feallm.model.synth.landmarks` makes them). Faces that are coded by eye are never taken.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from feallm.model.coded import faces as coded
from feallm.model.data import archive, ferplus
from feallm.model.synth.photo import Bank
from feallm.runtime.contract.errors import InputError

Floats = NDArray[np.float32]

_BOTH = ("Left", "Right")
NEUTRAL: dict[str, float] = {  # blendshapes below these; faces move less than can be seen
    "browInnerUp": 0.48,
    **{f"browOuterUp{s}": 0.68 for s in _BOTH},
    **{f"browDown{s}": 0.15 for s in _BOTH},
    **{f"eyeBlink{s}": 0.4 for s in _BOTH},
    **{f"eyeWide{s}": 0.1 for s in _BOTH},
    **{f"mouthSmile{s}": 0.15 for s in _BOTH},
    **{f"mouthFrown{s}": 0.2 for s in _BOTH},
    **{f"mouthUpperUp{s}": 0.12 for s in _BOTH},
    **{f"mouthLowerDown{s}": 0.1 for s in _BOTH},
    "jawOpen": 0.06,
    "mouthShrugLower": 0.12,
}
_SHARP: dict[str, float] = {  # sharp photos read higher at rest than FER's 48 pixels
    "browInnerUp": 0.6,
    **{f"browOuterUp{s}": 0.8 for s in _BOTH},
    **{f"browDown{s}": 0.3 for s in _BOTH},
    **{f"mouthSmile{s}": 0.3 for s in _BOTH},
}
_LIP_GAP = 0.09  # of the eyes' distance
_FRONTAL = 0.13  # how far the nose tip may stand off the middle between the outer eye corners


def neutral(
    names: list[str], values: Floats, points68: Floats, limits: dict[str, float]
) -> NDArray[np.bool_]:
    """Which faces (N,) are neutral and near-frontal.

    `values` (N, 52): blendshapes 0–1 in the order of `names`; `points68` (N, 68, 2) pixels, NaN
    where there are none; `limits`: what named blendshapes must stay below.
    """
    keep = np.isfinite(points68).all((1, 2))
    for name, most in limits.items():
        keep &= values[:, names.index(name)] < most
    safe = np.where(np.isfinite(points68), points68, 0.0)
    eyes = np.linalg.norm(safe[:, 36:42].mean(1) - safe[:, 42:48].mean(1), axis=1)
    keep &= np.linalg.norm(safe[:, 62] - safe[:, 66], axis=1) < _LIP_GAP * eyes
    width = safe[:, 45, 0] - safe[:, 36, 0]
    at = (safe[:, 30, 0] - safe[:, 36, 0]) / np.where(np.abs(width) > 1e-3, width, 1)
    return np.asarray(keep & (np.abs(at - 0.5) < _FRONTAL))


def collect(data: Path, points: Path | None) -> Bank:
    """The bank of a shared data folder; `points`: file of `landmarks` for the other sets.

    Raises `InputError` where a set is missing or damaged.
    """
    shared = coded.Shared(data)
    taken = {(face.source, face.name) for part in coded.UNSEEN for face in coded.listed(part)}
    images, names, marks = _fer(data, taken)
    if points is not None:
        arrays = archive.read(points, "names", "points68", "blendshapes", "blendshape_names")
        shapes = [str(n) for n in arrays["blendshape_names"]]
        keep = neutral(shapes, arrays["blendshapes"], arrays["points68"], {**NEUTRAL, **_SHARP})
        for name, good, at in zip(arrays["names"], keep, arrays["points68"], strict=True):
            source, inner = str(name).split("/")
            if (source, inner) in taken or not (good or source == "london"):
                continue
            images.append(shared.encoded(source, inner))
            names.append(str(name))
            marks.append(at.astype(np.float32))
    return Bank(images, names, np.array(marks, np.float32))


def _fer(data: Path, taken: set[tuple[str, str]]) -> tuple[list[bytes], list[str], list[Floats]]:
    path = data / "fer" / "train.npz"
    arrays = archive.read(path, "images", "offsets", "row")
    pictures = archive.encoded(path, arrays)
    split = ferplus.read(path)
    found = archive.read(
        data / "fer" / "mediapipe_train.npz", "names", "blendshapes", "points68", "found"
    )
    points68 = found["points68"].astype(np.float32) - 0.5  # pixel centres at whole numbers
    values = np.asarray(found["blendshapes"].astype(np.float32) / 255, np.float32)
    keep = neutral([str(n) for n in found["names"]], values, points68, NEUTRAL)
    keep &= found["found"].astype(bool) & split.usable
    groups: set[int] = set()
    images, names, marks = [], [], []
    for i in np.flatnonzero(keep):
        name, group = f"train:{arrays['row'][i]}", int(split.dup_group[i])
        if group in groups or ("fer", name) in taken:
            continue
        groups.add(group)
        images.append(pictures[i])
        names.append(f"fer/{name}")
        marks.append(points68[i])
    return images, names, marks


def write(bank: Bank, path: Path) -> None:
    """The bank as .npz, as `photo.read` takes it.

    Raises `InputError` where it cannot be written.
    """
    sizes = [len(image) for image in bank.images]
    try:
        with path.open("wb") as file:
            np.savez(
                file,
                images=np.frombuffer(b"".join(bank.images), np.uint8),
                offsets=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
                names=np.array(bank.names),
                points68=bank.points68,
            )
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error
