"""Batches of jittered crops with their labels, the same for the same seed and step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from feallm.model.data.augment import (
    DETECTOR_SHARE,
    Augment,
    Jittered,
    as_detected,
    crop,
    frame,
    unsure,
)
from feallm.model.data.pack import Faces
from feallm.runtime.contract.geometry import CROP
from feallm.runtime.contract.landmarks import MIRRORED
from feallm.runtime.vision.align import Points, crop_matrix, move, turned_deg, warp


class Batch(NamedTuple):
    """N training crops. NaN = unknown; what is said of the place is said of the crop."""

    crops: Tensor  # (N, H, W) uint8 gray
    expression: Tensor  # (N, 8), rows of 0 = unknown
    au_sides: Tensor  # (N, 20, 2)
    landmarks: Tensor  # (N, 68, 2) pixels of the crop
    pose_deg: Tensor  # (N, 3)
    gaze_deg: Tensor  # (N, 2)

    def to(self, device: str) -> Batch:
        """The same on another device."""
        return Batch(*(value.to(device, non_blocking=True) for value in self))


@dataclass(frozen=True, slots=True)
class Mix:
    """How rows are drawn."""

    shares: tuple[float, ...] = (1.0,)  # of the crops, pack by pack
    rare: float = 0.25  # rows drawn with class size ^ -rare; 0 = as they come
    mean_share: float = 0.65  # crops at the mean place: what a box without points gives
    loose: float = 0.0  # crops at landmarks, that have them moved as another source would
    framed: float = 0.0  # pictures that are cut close about the face first
    drawn: Augment | None = None  # how renders are disturbed, where not as photographs are


class Crops:
    """Draws crops of a pack's faces."""

    def __init__(self, faces: Faces, rows: NDArray[np.int64], mix: Mix) -> None:
        self.faces, self.mix = faces, mix
        self.rows: list[NDArray[np.int64]] = []
        self.chance: list[NDArray[np.float64]] = []
        for k in range(len(mix.shares)):
            own = rows[faces.source[rows] == k] if len(mix.shares) > 1 else rows
            winner = faces.expression[own].argmax(1)
            size = np.bincount(winner, minlength=8)[winner]
            chance = size.astype(np.float64) ** -mix.rare
            self.rows.append(own)
            self.chance.append(chance / chance.sum())
        self.shares = np.array(mix.shares) / sum(mix.shares)

    def draw(self, seed: int, step: int, size: int, how: Augment) -> Batch:
        """A batch of `size` crops."""
        rng = np.random.default_rng((seed, step))
        chosen = self._choose(rng, size)
        taken = [self._crop(int(i), rng, how) for i in chosen]
        place = self.faces.place
        sides = self.faces.au_sides[chosen].copy()
        pose, gaze = place["pose_deg"][chosen].copy(), place["gaze_deg"][chosen].copy()
        marks = place["points68"][chosen].astype(np.float64)
        for k, (jittered, corner) in enumerate(taken):
            marks[k] = move(marks[k] - corner, jittered.matrix)
            pose[k, 2] -= turned_deg(jittered.matrix)
            if jittered.mirrored:
                sides[k] = sides[k, :, ::-1]
                marks[k] = marks[k, list(MIRRORED)]
                marks[k, :, 0] = CROP.width_px - 1 - marks[k, :, 0]
                pose[k, 1:] *= -1
                gaze[k, 1] *= -1
        return Batch(
            torch.from_numpy(np.stack([jittered.pixels for jittered, _ in taken])),
            torch.from_numpy(self.faces.expression[chosen]),
            torch.from_numpy(sides),
            torch.from_numpy(marks.astype(np.float32)),
            torch.from_numpy(pose),
            torch.from_numpy(gaze),
        )

    def _choose(self, rng: np.random.Generator, size: int) -> NDArray[np.int64]:
        if len(self.rows) == 1:
            return self.rows[0][rng.choice(len(self.rows[0]), size, p=self.chance[0])]
        packs = rng.choice(len(self.shares), size, p=self.shares)
        chosen = np.empty(size, np.int64)
        for k in np.unique(packs):
            places = np.flatnonzero(packs == k)
            drawn = rng.choice(len(self.rows[k]), len(places), p=self.chance[k])
            chosen[places] = self.rows[k][drawn]
        return chosen

    def _crop(self, i: int, rng: np.random.Generator, how: Augment) -> tuple[Jittered, Points]:
        """A crop of face `i`, and the corner of the picture that it was cut from."""
        faces, mix = self.faces, self.mix
        if mix.drawn is not None and np.isfinite(faces.place["gaze_deg"][i]).all():
            how = mix.drawn  # of photographs, moved ones too, no gaze is known
        points = faces.points5[i].astype(np.float64)
        if not np.isfinite(points).all() or rng.random() < mix.mean_share:
            points = faces.mean5[i].astype(np.float64)
        elif mix.loose and rng.random() < mix.loose:
            points = unsure(points, rng)
            if rng.random() < DETECTOR_SHARE:
                points = as_detected(points)
        picture, corner = faces.pictures[i], np.zeros(2)
        if mix.framed and rng.random() < mix.framed:
            picture, corner = frame(picture, points, rng)
        return crop(picture, crop_matrix(points - corner), rng, how), corner


class _Steps(Dataset[Batch]):
    """The batch of every step, by its number."""

    def __init__(self, crops: Crops, seed: int, size: int, how: Augment, steps: int) -> None:
        self.crops, self.seed, self.size, self.how, self.steps = crops, seed, size, how, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        return self.crops.draw(self.seed, step, self.size, self.how)


def ahead(
    crops: Crops, seed: int, size: int, how: Augment, *, steps: range, workers: int
) -> Iterator[Batch]:
    """Batches of the steps, in order; drawn by `workers` processes ahead of time, or by this one
    where there are none. The same batches either way."""
    if workers < 1:
        yield from (crops.draw(seed, step, size, how) for step in steps)
        return
    cv2.setNumThreads(1)  # a pool of threads does not survive the fork: children would wait for it
    data = _Steps(crops, seed, size, how, steps.stop)
    loader = DataLoader(
        data, batch_size=None, sampler=steps, num_workers=workers, multiprocessing_context="fork"
    )
    yield from loader


def still(faces: Faces, rows: NDArray[np.int64], *, at_points: bool) -> Tensor:
    """Crops (N, H, W) uint8 without any disturbance: at the points where found, or the mean."""
    result = []
    for i in rows:
        points = faces.points5[i]
        use = points if at_points and np.isfinite(points).all() else faces.mean5[i]
        result.append(warp(faces.pictures[i], crop_matrix(use)))
    return torch.from_numpy(np.stack(result))
