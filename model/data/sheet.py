"""Contact sheets, so that a person can look at what a label means before anything learns it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from feallm.model.data.pack import Faces
from feallm.runtime.contract.aus import AU_INDEX
from feallm.runtime.contract.errors import UsageError
from feallm.runtime.vision.align import Image, crop_matrix, warp

EDGES = (-np.inf, 0.0, 0.5, 0.8, 1.2, 1.6, 2.2, 3.0, 4.0, np.inf)
"""Bins of pseudo-intensity; presence begins at 1."""


def scale_sheet(faces: Faces, key: str, *, seed: int, columns: int = 16) -> Image:
    """Faces of a pack in rows of rising pseudo-intensity of one AU; rows are labelled."""
    rng = np.random.default_rng(seed)
    values = faces.au_sides[:, AU_INDEX[key]].max(1)
    rows = []
    for low, high in zip(EDGES[:-1], EDGES[1:], strict=True):
        inside = np.flatnonzero((values >= low) & (values < high))
        if not len(inside):
            continue
        chosen = rng.permutation(inside)[:columns]
        crops = []
        for i in chosen:
            points = faces.points5[i]
            known = np.isfinite(points).all()
            crops.append(warp(faces.pictures[i], crop_matrix(points if known else faces.mean5[i])))
        crops += [np.zeros((128, 112), np.uint8)] * (columns - len(crops))
        row = np.hstack([cv2.resize(crop, (84, 96)) for crop in crops])
        label = f"{key} {low:.1f}..{high:.1f} ({len(inside)})"
        rows.append(np.vstack([_strip(row.shape[1], label), row]))
    if not rows:
        raise UsageError(f"no face of this pack has a label of {key}")
    return np.asarray(np.vstack(rows), np.uint8)


def random_sheet(faces: Faces, *, seed: int, side: int = 8) -> Image:
    """`side` x `side` random faces of a pack at the crop's own size, each with the AUs it is
    labelled with: number, then intensity (left/right where they differ)."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(faces.pictures))[: side * side]
    tiles = []
    for i in chosen:
        points = faces.points5[i] if np.isfinite(faces.points5[i]).all() else faces.mean5[i]
        crop = warp(faces.pictures[i], crop_matrix(points))
        tiles.append(np.vstack([crop, _strip(crop.shape[1], _labels(faces.au_sides[i]), 0.28)]))
    blank = np.full_like(tiles[0], 255) if tiles else np.zeros((16, 112), np.uint8)
    tiles += [blank] * (side * side - len(tiles))
    rows = [np.hstack(tiles[k : k + side]) for k in range(0, side * side, side)]
    return np.asarray(np.vstack(rows), np.uint8)


def _labels(au_sides: NDArray[np.float32]) -> str:
    found = []
    for key, k in AU_INDEX.items():
        left, right = (round(float(v)) for v in np.nan_to_num(au_sides[k]))
        if max(left, right) >= 1:
            found.append(f"{key[2:]}:{left}" + ("" if left == right else f"/{right}"))
    return " ".join(found)


def _strip(width: int, text: str, size: float = 0.42) -> Image:
    strip = np.full((16, width), 255, np.uint8)
    cv2.putText(strip, text, (4, 12), cv2.FONT_HERSHEY_SIMPLEX, size, 0, 1, cv2.LINE_AA)
    return strip


def write_sheet(path: Path, sheet: Image) -> None:
    """A PNG or JPEG, by the name's ending."""
    try:
        written = cv2.imwrite(str(path), sheet)
    except cv2.error as error:  # an ending that OpenCV does not know
        raise UsageError(f"{path}: cannot be written: {error.err}") from error
    if not written:
        raise UsageError(f"{path}: cannot be written")
