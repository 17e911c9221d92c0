"""Faces of data files and packs with what is known of them, as crops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from feallm.export.reference import Faces, sha256_of
from feallm.model.data import pack
from feallm.model.evaluate import renders, sets
from feallm.runtime.contract.aus import N_AUS
from feallm.runtime.contract.errors import InputError
from feallm.runtime.contract.geometry import CROP


def read(path: Path, count: int | None = None) -> Faces:
    """Labelled faces of a data file NAME.npz, or of a pack of renders: at most `count`, spread over
    all. A rendered face's class is the pattern that it was drawn from. Raises InputError."""
    if (path / pack.INDEX).is_file():
        labelled, entry = renders.read(path)
        classes, sha256 = pack.read(path).pattern.astype(np.int64), entry.sha256
    else:
        if not path.is_file():
            raise InputError(f"{path}: neither a data file nor a pack", hint="NAME.npz or a folder")
        labelled = sets.read(path, path.stem)
        sha256 = sha256_of([path])
        known = labelled.expression
        classes = np.full(len(labelled.images), -1) if known is None else known
    rows = spread(labelled.rows, count or len(labelled.rows))
    if not len(rows):
        raise InputError(f"{path}: no labelled face in it")
    au = labelled.au
    return Faces(
        path.stem,
        sha256,
        np.concatenate(list(sets.crops(labelled, rows, CROP))),
        np.full((len(rows), N_AUS), np.nan, np.float32) if au is None else au[rows].astype("f4"),
        classes[rows],
    )


def spread(rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """At most so many of the rows, evenly."""
    places = np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)
    found: NDArray[np.int64] = rows[places]
    return found
