"""Random crops out of several packs at once, in given shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feallm.model.coded import faces as coded
from feallm.model.data import archive, pack
from feallm.model.data.augment import DETECTOR_SHARE, Augment, as_detected, crop, frame, unsure
from feallm.runtime.contract.geometry import MEAN_POINTS_CROP
from feallm.runtime.vision.align import Image, crop_matrix, points_in_box, warp


@dataclass(frozen=True, slots=True)
class Store:
    """Encoded pictures of one pack in memory."""

    images: list[bytes]
    au_sides: NDArray[np.float32]  # (N, 20, 2); NaN = unknown
    points5: NDArray[np.float32]  # (N, 5, 2)
    share: float  # of the crops that come from here

    def picture(self, i: int) -> Image:
        """Picture `i` (H, W), gray."""
        found = cv2.imdecode(np.frombuffer(self.images[i], np.uint8), cv2.IMREAD_GRAYSCALE)
        return np.asarray(found, np.uint8)


def read(folder: Path, share: float, limit: int | None = None, *, labelled: bool = True) -> Store:
    """A pack with its first `limit` faces. Left out: rows without points, rows without any label
    (unless not `labelled`), and the faces that are coded by eye, known by their points.

    Raises `InputError` for a pack that is not whole.
    """
    images: list[bytes] = []
    sides: list[NDArray[np.float32]] = []
    points: list[NDArray[np.float32]] = []
    for path in pack.parts(folder, pack.read_index(folder)):
        if limit is not None and len(images) >= limit:
            break
        arrays = archive.read(path, "images", "offsets", "au_sides", "points5")
        images += archive.encoded(path, arrays)
        sides.append(arrays["au_sides"])
        points.append(arrays["points5"])
    au_sides, points5 = np.concatenate(sides)[:limit], np.concatenate(points)[:limit]
    good = np.isfinite(points5).all((1, 2))
    if labelled:
        good &= np.isfinite(au_sides).any((1, 2))
    good &= ~coded.among(points5)
    rows = np.flatnonzero(good)
    return Store([images[i] for i in rows], au_sides[rows], points5[rows], share)


class Style:
    """Photographs that lend renders their look: the lowest frequencies' strength (after Y. Yang,
    S. Soatto, "FDA: Fourier Domain Adaptation", CVPR 2020), and mean and spread of the grays."""

    def __init__(self, photos: Store, chance: float) -> None:
        self.photos, self.chance = photos, chance

    def of(self, pixels: Image, rng: np.random.Generator) -> Image:
        """The crop (H, W), or the crop in the look of a random photo."""
        if rng.random() > self.chance:
            return pixels
        i = int(rng.integers(len(self.photos.images)))
        other = aligned(self.photos, i)
        mine, theirs = np.fft.rfft2(pixels), np.fft.rfft2(other)
        reach = int(rng.integers(1, 4))
        strength = np.abs(mine)
        for rows in (slice(0, reach), slice(-reach + 1 or None, None) if reach > 1 else None):
            if rows is not None:
                strength[rows, :reach] = np.abs(theirs[rows, :reach])
        mixed = np.fft.irfft2(strength * np.exp(1j * np.angle(mine)), s=pixels.shape)
        return np.clip(mixed, 0, 255).astype(np.uint8)


def aligned(store: Store, i: int) -> Image:
    """Face `i` of a store as the project crops it, gray."""
    return warp(store.picture(i), crop_matrix(store.points5[i]))


@dataclass(frozen=True, slots=True)
class Drawer:
    """Draws batches from stores."""

    stores: Sequence[Store]
    how: Augment
    style: Style | None = None
    framed: float = 0.0  # share of the pictures that are cut close about the face first

    def draw(self, seed: int, step: int, size: int) -> tuple[Tensor, Tensor]:
        """Crops (size, H, W) uint8 and their AUs (size, 20, 2); the same for a seed and step."""
        rng = np.random.default_rng((seed, step))
        shares = np.array([store.share for store in self.stores])
        source = rng.choice(len(shares), size, p=shares / shares.sum())
        crops, sides = [], []
        for k in source:
            store = self.stores[k]
            i = int(rng.integers(len(store.images)))
            points = store.points5[i].astype(np.float64)
            points = unsure(points, rng)
            if rng.random() < DETECTOR_SHARE:
                points = as_detected(points)
            picture = store.picture(i)
            if rng.random() < self.framed:
                picture, corner = frame(picture, points, rng)
                points = points - corner
            taken = crop(picture, crop_matrix(points), rng, self.how)
            pixels = taken.pixels
            if self.style is not None:
                pixels = self.style.of(pixels, rng)
            crops.append(pixels)
            au = store.au_sides[i]
            sides.append(au[:, ::-1] if taken.mirrored else au)
        return torch.from_numpy(np.stack(crops)), torch.from_numpy(np.stack(sides).copy())


def coded_crops(data: Path, part: coded.Part) -> Tensor:
    """Crops (150, H, W) uint8 of the faces coded by eye, in the order of their list.

    A face without points is cropped by the middle of its picture.
    """
    shared = coded.Shared(data)
    crops = []
    for face in coded.listed(part):
        picture = cv2.cvtColor(shared.picture(face.source, face.name), cv2.COLOR_RGB2GRAY)
        points = face.points5
        if not np.isfinite(points).all():
            height, width = picture.shape[:2]
            points = points_in_box((0, 0, width, height), MEAN_POINTS_CROP)
        crops.append(warp(np.asarray(picture, np.uint8), crop_matrix(points)))
    return torch.from_numpy(np.stack(crops))
