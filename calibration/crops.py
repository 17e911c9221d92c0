"""The crops that activation ranges are measured on: strong faces and faces at rest, renders and
photographs, as the packs hold them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from feallm.model.data.pack import Faces
from feallm.model.train.batches import still
from feallm.model.train.vision import split
from feallm.runtime.contract.expressions import N_EXPRESSIONS

COUNT = 512
SEED = 14


def chosen(faces: Faces, count: int = COUNT, seed: int = SEED) -> NDArray[np.uint8]:
    """Crops (N, H, W, 3) of training rows: as many from each pack; within it half of them the
    strongest movements, a clipped range would cut those off, and half drawn evenly over the
    expressions, or as they come where there are none."""
    rows, _ = split(faces)
    rng = np.random.default_rng(seed)
    packs = np.unique(faces.source[rows])
    picked: list[NDArray[np.int64]] = []
    for source in packs:
        own = rng.permutation(rows[faces.source[rows] == source])
        each = count // len(packs)
        strength = np.nan_to_num(faces.au_sides[own]).max(2).sum(1)
        strong = own[np.argsort(-strength, kind="stable")[: each // 2]]
        rest = own[~np.isin(own, strong)]
        winner = np.where(faces.expression[rest].sum(1) > 0, faces.expression[rest].argmax(1), -1)
        turn = np.zeros(len(rest), np.int64)  # how many of its kind come before a face
        for kind in range(-1, N_EXPRESSIONS):
            turn[winner == kind] = np.arange((winner == kind).sum())
        spread = rest[np.argsort(turn, kind="stable")[: each - len(strong)]]
        picked += [strong, spread]
    gray = still(faces, np.concatenate(picked), at_points=True).numpy()
    return np.repeat(gray[..., None], 3, 3)


def held_out(faces: Faces, count: int = COUNT) -> NDArray[np.uint8]:
    """Crops (N, H, W, 3) of rows that no training and no range has seen."""
    rows = split(faces)[1]
    rows = np.random.default_rng(SEED).permutation(rows)[:count]
    return np.repeat(still(faces, rows, at_points=True).numpy()[..., None], 3, 3)
