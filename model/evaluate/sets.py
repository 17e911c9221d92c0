"""Data files to evaluate on: one split each, as crops and labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from feallm.model.data import archive, ferplus
from feallm.runtime.contract.aus import INTENSITY_MAX, N_AUS
from feallm.runtime.contract.errors import InputError
from feallm.runtime.contract.expressions import N_EXPRESSIONS
from feallm.runtime.contract.geometry import MEAN_POINTS_CROP, CropGeometry
from feallm.runtime.vision.align import Image, Points, align, points_in_box


@dataclass(frozen=True, slots=True)
class Labelled:
    """One split. N faces."""

    path: Path  # for messages
    images: list[bytes]
    expression: NDArray[np.int64] | None  # (N,) 0–7, or -1 where left out
    au: NDArray[np.float64] | None  # (N, 20) intensity, or 0 and 1; NaN = not known
    points5: NDArray[np.float64] | None  # (N, 5, 2) pixels; NaN = not known
    stand_in: NDArray[np.bool_] | None = None  # (N,) where points5 lacks the face's own points
    slices: dict[str, NDArray[np.str_]] = field(default_factory=dict)  # (N,) each; "" = in none
    au_sides: NDArray[np.float32] | None = None  # (N, 20, 2) where the labels tell sides apart
    place: dict[str, NDArray[np.float32]] = field(default_factory=dict)  # `pack.PLACE_ARRAYS`
    excused: NDArray[np.bool_] | None = None  # (N, 20) AUs that a reader saw on a face at rest

    @property
    def rows(self) -> NDArray[np.int64]:
        """Rows that are scored: those with a class, or with any AU known."""
        keep = np.zeros(len(self.images), bool)
        if self.expression is not None:
            keep |= self.expression >= 0
        if self.au is not None:
            keep |= np.isfinite(self.au).any(1)
        return np.flatnonzero(keep)


def read(data: Path, name: str) -> Labelled:
    """`data` is the file itself, or a folder that holds NAME.npz."""
    path = data / f"{name}.npz" if data.is_dir() else data
    arrays = archive.read(path, "images", "offsets")
    if "au_sides" in arrays:
        raise InputError(f"{path}: is a part of a pack", hint="--data is the pack's folder")
    images = archive.encoded(path, arrays)
    count = len(images)
    expression = None
    if "votes" in arrays:
        votes = _shaped(path, "votes", arrays["votes"], (count, 10))
        expression = ferplus.classes(votes.astype(np.float32))
    elif "expression" in arrays:
        given = _shaped(path, "expression", arrays["expression"], (count,))
        if not np.isin(given, np.arange(-1, N_EXPRESSIONS)).all():
            raise InputError(f"{path}: expression must be 0–7, or -1 for none")
        expression = given.astype(np.int64)
    au = points5 = stand_in = None
    if "au" in arrays:
        au = _shaped(path, "au", arrays["au"], (count, N_AUS)).astype(np.float64)
        if (au < 0).any() or (au > INTENSITY_MAX).any():
            raise InputError(f"{path}: au must be 0–5, or NaN where it is not known")
    if "points5" in arrays:
        points5 = _shaped(path, "points5", arrays["points5"], (count, 5, 2)).astype(np.float64)
        stand_in = np.asarray(~np.isfinite(points5).all((1, 2)))
    if expression is None and au is None:
        raise InputError(f"{path}: neither votes, expression nor au in it")
    return Labelled(
        path, images, expression, au, points5, stand_in, _copies(path, arrays.get("dup_group"))
    )


def _copies(path: Path, groups: NDArray[Any] | None) -> dict[str, NDArray[np.str_]]:
    """Which faces have a near copy in `train.npz` beside the file, where both name their groups of
    copies: what was trained on should not be scored as if it were new."""
    train = path.with_name("train.npz")
    if groups is None or path == train or not train.is_file():
        return {}
    known = archive.read(train).get("dup_group")
    if known is None:
        return {}
    return {"near copy in train": np.where(np.isin(groups, known), "yes", "no")}


def _shaped(path: Path, name: str, array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    if array.dtype.kind not in "biuf":
        raise InputError(f"{path}: {name} holds {array.dtype}, expected numbers")
    if array.shape != shape:
        raise InputError(f"{path}: {name} is {array.shape}, expected {shape}")
    return array


def points_of(data: Labelled, i: int, image: Image | None = None) -> Points:
    """Five points of face `i`: its own, or the mean ones of a picture that is a face crop."""
    if data.points5 is not None and np.isfinite(data.points5[i]).all():
        return np.asarray(data.points5[i])
    if image is None:
        image = archive.picture(data.path, i, data.images[i], cv2.IMREAD_COLOR)
    height, width = image.shape[:2]
    return points_in_box((0, 0, width, height), MEAN_POINTS_CROP)


def crops(
    data: Labelled, rows: NDArray[np.int64], geometry: CropGeometry, size: int = 64
) -> Iterator[NDArray[np.uint8]]:
    """Crops (up to `size`, H, W, 3) RGB of these rows, in parts: at the points where known, else
    at the mean place of a picture that is a face crop already."""
    for k in range(0, len(rows), size):
        part = []
        for i in rows[k : k + size]:
            picture = archive.picture(data.path, int(i), data.images[i], cv2.IMREAD_COLOR)
            image = np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)
            try:
                part.append(align(image, points_of(data, int(i), image), geometry)[0])
            except ValueError as error:
                raise InputError(f"{data.path}: points5 of picture {i}: {error}") from error
        yield np.stack(part)
