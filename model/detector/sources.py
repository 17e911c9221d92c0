"""Files that compositions are made of, as `material` wrote them: photographs and heads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from feallm.model.data import archive
from feallm.model.data.pack import sha256
from feallm.model.detector.scene import Composition, Floats, Picture, mirrored
from feallm.model.synth.pack import backgrounds
from feallm.runtime.contract.errors import InputError

_OWN = "own renders; head: ICT-FaceKit, MIT, (c) 2020 USC Institute for Creative Technologies"
_CLEAN = (
    "CC BY 4.0: L. DeBruine, B. Jones, Face Research Lab London Set (2017), odd ids; CC0 portraits;"
    " boxes and points by YuNet (OpenCV Zoo), MIT"
)
_NEWS = (
    "LFW news photographs and FER2013 pictures, training parts: research use, rights with their"
    " owners"
)

Rng = np.random.Generator

SURE = 0.6
"""The teacher's score from which a face is taught; below it is left alone."""

_THUMBNAIL_BYTES = 2600  # FER's pictures are 48 pixels wide, all others 250 and more


@dataclass(frozen=True, slots=True)
class Photos:
    """Photographs with the teacher's faces."""

    path: Path
    images: list[bytes]
    faces: list[Floats]  # (N, 15) of each
    licence: str
    with_face: NDArray[np.int64]
    close: NDArray[np.int64]  # those that a face fills: FER's

    @classmethod
    def read(cls, path: Path, *, clean: bool) -> Photos:
        """`photos.npz` of `material`; `clean`: what may teach the licence-clean file alone."""
        arrays = archive.read(path, "images", "offsets", "clean", "faces", "picture")
        images = archive.encoded(path, arrays)
        _fits(path, "clean", arrays["clean"].shape, (len(images),))
        _fits(path, "faces", arrays["faces"].shape, (len(arrays["picture"]), 15))
        whose = arrays["picture"]
        if ((whose < 0) | (whose >= len(images))).any():
            raise InputError(f"{path}: faces of pictures that are not there")
        order = np.argsort(whose, kind="stable")
        counts = np.bincount(whose, minlength=len(images))
        parts = np.split(arrays["faces"][order].astype(np.float64), np.cumsum(counts)[:-1])
        allowed = arrays["clean"] | (not clean)
        has = np.array([len(f) > 0 and f[:, 14].max() >= SURE for f in parts], bool) & allowed
        fills = np.array([len(i) < _THUMBNAIL_BYTES for i in images], bool)
        licence = _CLEAN if clean else f"{_CLEAN}; {_NEWS}"
        close = np.flatnonzero(has & fills)
        return cls(path, images, parts, licence, np.flatnonzero(has & ~fills), close)

    def take(self, i: int, rng: Rng) -> Composition:
        """A photograph, half of the times mirrored."""
        picture = archive.picture(self.path, i, self.images[i], cv2.IMREAD_COLOR)
        found = self.faces[i]
        boxes = np.concatenate([found[:, :2], found[:, :2] + found[:, 2:4]], 1)
        points = found[:, 4:14].reshape(-1, 5, 2).copy()
        taken = Composition(picture, boxes, points, found[:, 14] >= SURE)
        return mirrored(taken) if rng.random() < 0.5 else taken


def _fits(path: Path, name: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if found != expected:
        raise InputError(f"{path}: {name} is {found}, expected {expected}")


@dataclass(frozen=True, slots=True)
class Heads:
    """Heads without a background."""

    path: Path
    images: list[bytes]
    points68: Floats
    occluded: Floats

    @classmethod
    def read(cls, path: Path) -> Heads:
        """`heads.npz` of `material`."""
        arrays = archive.read(path, "images", "offsets", "points68", "occluded")
        images = archive.encoded(path, arrays)
        if not images:
            raise InputError(f"{path}: no head in it")
        points68, occluded = arrays["points68"], arrays["occluded"]
        _fits(path, "points68", points68.shape, (len(images), 68, 2))
        _fits(path, "occluded", occluded.shape, (len(images),))
        return cls(path, images, points68.astype(np.float64), occluded.astype(np.float64))

    def take(self, i: int) -> tuple[NDArray[np.uint8], Floats]:
        """The head (H, W, 4) BGR and cover, and its landmarks (68, 2)."""
        bgra = archive.picture(self.path, i, self.images[i], cv2.IMREAD_UNCHANGED)
        return bgra, self.points68[i]


@dataclass(frozen=True, slots=True)
class Material:
    """All that compositions are made of; there may be no photographs, and no grounds."""

    photos: Photos
    heads: Heads
    grounds: list[Picture]  # (256, 256, 3) BGR
    sources: list[dict[str, Any]]  # as a manifest tells them

    @classmethod
    def read(cls, folder: Path, data: Path, *, clean: bool) -> Material:
        """The folder that `material` wrote, and the backgrounds that may be trained on."""
        behind = data / "backgrounds" / "backgrounds.npz"
        grounds = [np.ascontiguousarray(g[..., ::-1]) for g in backgrounds(behind, False)]
        photos = Photos.read(folder / "photos.npz", clean=clean)
        heads = Heads.read(folder / "heads.npz")
        used = (
            ("detector-photos", photos.licence, len(photos.with_face) + len(photos.close)),
            ("detector-heads", _OWN, len(heads.images)),
            ("backgrounds", "CC0, CC BY 4.0 and public domain, as listed with them", len(grounds)),
        )
        files = (photos.path, heads.path, behind)
        sources = [
            {"name": name, "licence": licence, "rows": rows, "sha256": sha256(file)}
            for (name, licence, rows), file in zip(used, files, strict=True)
        ]
        return cls(photos, heads, grounds, sources)
