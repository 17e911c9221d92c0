"""FER+ pictures and votes, and the one rule by which votes become a class.

The rule, everywhere in this project: votes of a single rater are set to 0; the class is the one
with more than half of what is left; rows without such a class, or whose winner is "unknown" or
"not a face", are left out (class -1).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from feallm.model.data import archive
from feallm.runtime.contract.errors import InputError
from feallm.runtime.contract.expressions import N_EXPRESSIONS

SIDE_PX = 48


@dataclass(frozen=True, slots=True)
class FerSplit:
    """One split in memory. N pictures of 48 x 48."""

    pictures: NDArray[np.uint8]  # (N, 48, 48) gray
    votes: NDArray[np.float32]  # (N, 10): eight expressions, unknown, not a face
    dup_group: NDArray[np.int64]  # (N,) equal for copies of one picture
    usable: NDArray[np.bool_]  # (N,) not a near copy of an evaluation picture


def kept_votes(votes: NDArray[np.float32]) -> NDArray[np.float32]:
    """The votes (N, 10) without those that stand alone."""
    return np.where(votes > 1, votes, 0).astype(np.float32)


def classes(votes: NDArray[np.float32]) -> NDArray[np.int64]:
    """Class 0–7 of each row of votes (N, 10), or -1 where the rule leaves it out."""
    kept = kept_votes(np.asarray(votes, np.float32))
    winner = kept.argmax(1)
    clear = kept.max(1) * 2 > kept.sum(1)
    return np.where(clear & (winner < N_EXPRESSIONS), winner, -1).astype(np.int64)


def soft_labels(votes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Distribution over the eight expressions (N, 8); rows without votes for them are 0."""
    kept = kept_votes(np.asarray(votes, np.float32))[:, :N_EXPRESSIONS]
    total = kept.sum(1, keepdims=True)
    shares: NDArray[np.float32] = np.divide(kept, total, out=np.zeros_like(kept), where=total > 0)
    return shares


def read(path: Path) -> FerSplit:
    """A split as the shared data folder holds it (`images`, `offsets`, `votes`, `dup_group`)."""
    arrays = archive.read(path, "images", "offsets", "votes", "dup_group")
    votes, group = arrays["votes"], arrays["dup_group"]
    pictures = np.empty((len(arrays["offsets"]) - 1, SIDE_PX, SIDE_PX), np.uint8)
    for i, data in enumerate(archive.encoded(path, arrays)):
        picture = archive.picture(path, i, data, cv2.IMREAD_GRAYSCALE)
        if picture.shape != (SIDE_PX, SIDE_PX):
            raise InputError(f"{path}: picture {i} is {picture.shape}, expected 48 x 48 pixels")
        pictures[i] = picture
    near = arrays.get("near_eval", np.zeros(len(pictures), np.uint8))
    return FerSplit(pictures, votes.astype(np.float32), group.astype(np.int64), near == 0)


def held_out(dup_group: NDArray[np.int64], *, share: float, seed: int) -> NDArray[np.bool_]:
    """A slice (N,) of `train` for choices: whole groups of copies, about `share` of the rows."""
    rng = np.random.default_rng(seed)
    groups = np.unique(dup_group)
    chosen = rng.random(len(groups)) < share
    return np.asarray(chosen[np.searchsorted(groups, dup_group)])
