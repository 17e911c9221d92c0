"""The whole frames that every bundle's golden outputs are recorded on: the project's own renders,
one face each, made by `calibration/draw_frames.py` and committed.

Strong colours, faces off-centre, turned and rolled: a wrong channel order, detector or crop shows
in the answers. docs/golden.md tells what is among them. numpy and OpenCV only.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from feallm.model.data import archive
from feallm.runtime.contract.aus import N_AUS
from feallm.runtime.contract.errors import InputError
from feallm.runtime.contract.expressions import N_EXPRESSIONS

FILE = Path(__file__).with_name("frames.npz")
SHA256 = "ffd8bc04ab5dc996f08d6d258ab9984b759906ef8891ee15e359042c119dfaea"
"""Of the file: what an artifact is compared on must not change unseen."""

LABELS: dict[str, tuple[int, ...]] = {
    "names": (),
    "points5": (5, 2),
    "boxes": (4,),
    "au_sides": (N_AUS, 2),
    "expression": (),
    "pose_deg": (3,),
}
_HINT = "install feallm again, or take the file of this commit"


@dataclass(frozen=True, slots=True)
class Frames:
    """N pictures and what the renderer knows of the one face in each; pixels of the picture."""

    encoded: list[bytes]  # JPEG
    pictures: list[NDArray[np.uint8]]  # (H, W, 3) RGB, of several sizes
    names: list[str]  # light, place and AUs in a few words
    points5: NDArray[np.float32]  # (N, 5, 2) in the order of `geometry`
    boxes: NDArray[np.float32]  # (N, 4) x0 y0 x1 y1, hairline to chin
    au_sides: NDArray[np.float32]  # (N, 20, 2) intensities 0–5 of left and right, NaN = unknown
    expression: NDArray[np.int8]  # (N,) class whose AUs were drawn, -1 = none
    pose_deg: NDArray[np.float32]  # (N, 3) up, to the head's own left, roll
    sha256: str  # of the file


def load(path: Path = FILE, sha256: str = SHA256) -> Frames:
    """The committed frames; `InputError` where the file is not the one that `sha256` names."""
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}", hint=_HINT) from error
    if found != sha256:
        raise InputError(
            f"{path}: sha256 {found[:16]}…, expected {sha256[:16]}…: not the golden frames"
            " of this version",
            hint=_HINT,
        )
    table = archive.read(path, "images", "offsets", *LABELS)
    encoded = archive.encoded(path, table)
    _check(path, table, len(encoded))
    pictures = []
    for k, image in enumerate(encoded):
        bgr = archive.picture(path, k, image, cv2.IMREAD_COLOR)
        pictures.append(np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8))
    return Frames(
        encoded,
        pictures,
        [str(name) for name in table["names"]],
        table["points5"].astype(np.float32),
        table["boxes"].astype(np.float32),
        table["au_sides"].astype(np.float32),
        table["expression"].astype(np.int8),
        table["pose_deg"].astype(np.float32),
        found,
    )


def _check(path: Path, table: dict[str, NDArray[Any]], count: int) -> None:
    for name, shape in LABELS.items():
        if table[name].shape != (count, *shape):
            raise InputError(f"{path}: {name} is {table[name].shape}, expected {(count, *shape)}")
    classes = table["expression"]
    if ((classes < -1) | (classes >= N_EXPRESSIONS)).any():
        raise InputError(f"{path}: expression holds {classes.tolist()}, expected -1 to 7")
