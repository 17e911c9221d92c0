"""Faces that nothing was calibrated on: what the studies beside this file are judged by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from feallm.model.data import pack
from feallm.model.evaluate import sets
from feallm.model.train.batches import still
from feallm.runtime.contract.geometry import CROP


def faces(count: int, fer: Path | None = None, renders: Path | None = None) -> NDArray[np.uint8]:
    """`count` crops (N, H, W, 3): half of them of FER+'s `valid`, half of a pack of renders, or
    all of one."""
    rng, found = np.random.default_rng(0), []
    each = count // ((fer is not None) + (renders is not None))
    if fer is not None:
        split = sets.read(fer, "valid")
        rows = rng.permutation(split.rows)[:each]
        found.append(np.concatenate(list(sets.crops(split, rows, CROP))))
    if renders is not None:
        rendered = pack.read(renders)
        rows = rng.permutation(len(rendered.pictures))[:each]
        gray = still(rendered, rows, at_points=True).numpy()
        found.append(np.repeat(gray[..., None], 3, 3))
    return np.concatenate(found)
