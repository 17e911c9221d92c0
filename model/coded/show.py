"""Sheets for a reader: faces large, numbered, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from feallm.model.coded.faces import CodedFace, Shared
from feallm.runtime.contract.geometry import CROP
from feallm.runtime.vision.align import Image, crop_matrix

ZOOM = 3.6  # of the project's crop
WIDE = 1.2  # a little more of the head than the crop shows
PER_SHEET, COLUMNS = 6, 3


def enlarged(picture: Image, face: CodedFace) -> Image:
    """The face upright and large, with its number."""
    width, height = round(CROP.width_px * ZOOM * WIDE), round(CROP.height_px * ZOOM * WIDE)
    matrix = crop_matrix(face.points5)
    shift = [CROP.width_px * (WIDE - 1) / 2, CROP.height_px * (WIDE - 1) / 2]
    matrix = np.hstack([matrix[:, :2], (matrix[:, 2] + shift)[:, None]]) * ZOOM
    flags = cv2.INTER_CUBIC
    big = cv2.warpAffine(picture, matrix, (width, height), flags=flags, borderValue=(128,) * 3)
    strip = np.full((34, width, 3), 255, np.uint8)
    cv2.putText(strip, face.id, (8, 26), cv2.FONT_HERSHEY_SIMPLEX, 0.9, (0, 0, 0), 2, cv2.LINE_AA)
    return np.asarray(np.vstack([strip, big]), np.uint8)


def sheets(faces: Sequence[CodedFace], data: Path, out: Path) -> list[Path]:
    """Write the sheets as PNG into the folder `out`."""
    shared = Shared(data)
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for k in range(0, len(faces), PER_SHEET):
        chosen = faces[k : k + PER_SHEET]
        tiles = [enlarged(shared.picture(f.source, f.name), f) for f in chosen]
        tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % COLUMNS)
        rows = [np.hstack(tiles[i : i + COLUMNS]) for i in range(0, len(tiles), COLUMNS)]
        path = out / f"{chosen[0].id}-{chosen[-1].id}.png"
        cv2.imwrite(str(path), cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR))
        written.append(path)
    return written
