"""The faces that quantized artifacts are calibrated on: the project's own renders, chosen for
coverage by `calibration/choose.py` and committed, so that a clone can export again.

docs/calibration.md tells what is among them. numpy and OpenCV only.
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
from feallm.runtime.contract.geometry import CROP

FILE = Path(__file__).with_name("faces.npz")
SHA256 = "02ce60d4c96d3caae6df545616e38686adb617d716dd40bc3c7c8502858d8a8d"
"""Of the file: what an artifact was calibrated on must not change unseen."""

LABELS: dict[str, tuple[int, ...]] = {
    "au_sides": (N_AUS, 2),
    "pose_deg": (3,),
    "gaze_deg": (2,),
    "pattern": (),
    "skin": (),
    "light": (),
    "glasses": (),
    "occluded": (),
    "face_px": (),
    "group": (),
}
FLOATS = frozenset({"au_sides", "pose_deg", "gaze_deg", "occluded", "face_px"})
_HINT = "install feallm again, or take the file of this commit"


@dataclass(frozen=True, slots=True)
class Labels:
    """What the renderer knows of N faces, as `feallm.model.synth.pack` writes it."""

    au_sides: NDArray[np.float32]  # (N, 20, 2) intensities 0–5 of left and right, NaN = hidden
    pose_deg: NDArray[np.float32]  # (N, 3) up, to the head's own left, roll
    gaze_deg: NDArray[np.float32]  # (N, 2) up and to the left
    pattern: NDArray[np.int8]  # (N,) expression that it was drawn from, -1 = none
    skin: NDArray[np.uint8]  # (N,) 0 lightest to 5 darkest
    light: NDArray[np.uint8]  # (N,) of `feallm.model.synth.sample.LIGHTS`
    glasses: NDArray[np.uint8]  # (N,) 0 none, 1 clear, 2 dark
    occluded: NDArray[np.float32]  # (N,) share of the inner landmarks that is covered
    face_px: NDArray[np.float32]  # (N,) width of the face in the picture it was cropped from
    group: NDArray[np.int64]  # (N,) the person


@dataclass(frozen=True, slots=True)
class Faces:
    """Crops (N, H, W, 3) uint8 RGB, gray three times over: the network reads luma alone."""

    crops: NDArray[np.uint8]  # to calibrate on
    labels: Labels
    held_out: NDArray[np.uint8]  # people that no training and no calibration has seen
    held_out_labels: Labels
    sha256: str  # of the file


def load(path: Path = FILE, sha256: str = SHA256) -> Faces:
    """The committed faces; `InputError` where the file is not the one that `sha256` names."""
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}", hint=_HINT) from error
    if found != sha256:
        raise InputError(
            f"{path}: sha256 {found[:16]}…, expected {sha256[:16]}…: not the calibration faces"
            " of this version",
            hint=_HINT,
        )
    table = archive.read(path, "images", "offsets", "held_out", *LABELS)
    images = archive.encoded(path, table)
    held = table["held_out"].astype(bool)
    shapes = {name: (len(images), *shape) for name, shape in LABELS.items()}
    for name, shape in ({"held_out": (len(images),)} | shapes).items():
        if table[name].shape != shape:
            raise InputError(f"{path}: {name} is {table[name].shape}, expected {shape}")
    crops = np.empty((len(images), CROP.height_px, CROP.width_px, 3), np.uint8)
    for k, image in enumerate(images):
        gray = archive.picture(path, k, image, cv2.IMREAD_GRAYSCALE)
        if gray.shape != crops.shape[1:3]:
            raise InputError(
                f"{path}: picture {k} is {gray.shape}, expected {crops.shape[1:3]}", hint=_HINT
            )
        crops[k] = gray[..., None]
    return Faces(crops[~held], _labels(table, ~held), crops[held], _labels(table, held), found)


def _labels(table: dict[str, NDArray[Any]], rows: NDArray[np.bool_]) -> Labels:
    found: dict[str, NDArray[Any]] = {
        name: table[name][rows].astype(np.float32) if name in FLOATS else table[name][rows]
        for name in LABELS
    }
    return Labels(**found)
