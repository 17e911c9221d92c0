"""Batches of jittered crops with their labels, the same for the same seed and step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feallm.model.data.augment import Augment, crop
from feallm.model.data.pack import Faces
from feallm.runtime.vision.align import crop_matrix, warp


@dataclass(frozen=True, slots=True)
class Batch:
    """N training crops."""

    crops: Tensor  # (N, H, W) uint8 gray
    expression: Tensor  # (N, 8)
    au_sides: Tensor  # (N, 20, 2), NaN = unknown


class Crops:
    """Draws crops of a pack's faces."""

    def __init__(self, faces: Faces, rows: NDArray[np.int64], *, rare: float) -> None:
        """`rare`: rows are drawn with probability ~ class size ^ -rare; 0 = as they come."""
        self.faces, self.rows = faces, rows
        self.by_mean = [crop_matrix(points) for points in faces.mean5]
        self.by_points = [
            crop_matrix(points) if np.isfinite(points).all() else None for points in faces.points5
        ]
        winner = faces.expression[rows].argmax(1)
        size = np.bincount(winner, minlength=8)[winner]
        chance = size.astype(np.float64) ** -rare
        self.chance = chance / chance.sum()

    def draw(self, seed: int, step: int, size: int, how: Augment, mean_share: float) -> Batch:
        """A batch; `mean_share` of the crops stand at the mean place, the rest at the points."""
        rng = np.random.default_rng((seed, step))
        chosen = self.rows[rng.choice(len(self.rows), size, p=self.chance)]
        crops, sides = [], self.faces.au_sides[chosen].copy()
        for k, i in enumerate(chosen):
            matrix = self.by_points[i]
            if matrix is None or rng.random() < mean_share:
                matrix = self.by_mean[i]
            jittered = crop(self.faces.pictures[i], matrix, rng, how)
            crops.append(jittered.pixels)
            if jittered.mirrored:
                sides[k] = sides[k, :, ::-1]
        return Batch(
            torch.from_numpy(np.stack(crops)),
            torch.from_numpy(self.faces.expression[chosen]),
            torch.from_numpy(sides),
        )


def still(faces: Faces, rows: NDArray[np.int64], *, at_points: bool) -> Tensor:
    """Crops (N, H, W) uint8 without any disturbance: at the points where found, or the mean."""
    result = []
    for i in rows:
        points = faces.points5[i]
        use = points if at_points and np.isfinite(points).all() else faces.mean5[i]
        result.append(warp(faces.pictures[i], crop_matrix(use)))
    return torch.from_numpy(np.stack(result))
