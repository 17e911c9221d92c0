"""Contact sheets, so that a person can look at what a label means before anything learns it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

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
    return np.asarray(np.vstack(rows), np.uint8)


def _strip(width: int, text: str) -> Image:
    strip = np.full((16, width), 255, np.uint8)
    cv2.putText(strip, text, (4, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.42, 0, 1, cv2.LINE_AA)
    return strip


def write_sheet(path: Path, sheet: Image) -> None:
    """A PNG or JPEG, by the name's ending."""
    try:
        written = cv2.imwrite(str(path), sheet)
    except cv2.error as error:  # an ending that OpenCV does not know
        raise UsageError(f"{path}: cannot be written: {error.err}") from error
    if not written:
        raise UsageError(f"{path}: cannot be written")
