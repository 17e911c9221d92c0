"""The frozen sets of faces coded by eye."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from feallm.model.coded import codes, faces
from feallm.model.evaluate import frozen
from feallm.model.evaluate.sets import Labelled
from feallm.runtime.contract.aus import N_AUS
from feallm.runtime.contract.errors import InputError
from feallm.runtime.contract.expressions import EXPRESSION_INDEX

FOLDER = faces.FOLDER
READERS = {
    "test": ("a", "b"),
    "train": ("c",),
    "neutral": ("d", "e"),
    "more": ("f",),
    "learn": ("g",),
}


def code_files(part: faces.Part) -> list[Path]:
    """Where the codes of a part lie."""
    return [FOLDER / f"codes_{reader}.csv" for reader in READERS[part]]


def entry(part: faces.Part) -> frozen.Entry:
    """Hash of a part: its list and its codes, byte for byte. `InputError` where one is missing,
    or the codes are not those of the list."""
    listed, _ = _read(part)
    files = [FOLDER / f"{part}.csv", *code_files(part)]
    return frozen.Entry(len(listed), frozen.digest(path.read_bytes() for path in files))


def labelled(data: Path, part: faces.Part) -> Labelled:
    """A part's faces: AUs where the two readers say the same, or as the one reader says where
    there is but one. No expression is scored but that of `neutral`, whose faces were drawn by that
    word; what either reader sees there is excused. Slices: source, and the word that it was drawn
    by."""
    listed, read = _read(part)
    given = codes.consensus(*read) if len(read) == 2 else codes.labels(read[0])
    au = np.full((len(listed), N_AUS), np.nan)
    au[:, codes.COLUMNS] = given
    shared = faces.Shared(data)
    neutral = excused = None
    if part == "neutral":
        neutral = np.full(len(listed), EXPRESSION_INDEX["neutral"], np.int64)
        excused = np.zeros((len(listed), N_AUS), bool)
        for one in read:
            excused[:, codes.COLUMNS] |= one.values == 1
    return Labelled(
        data,
        [shared.encoded(face.source, face.name) for face in listed],
        neutral,
        au,
        np.array([face.points5 for face in listed]),
        np.zeros(len(listed), bool),
        {
            "source": np.array([face.source for face in listed]),
            # A clip's word is "none" and where in the clip it comes from.
            "expression": np.array([face.expression.split()[0] for face in listed]),
        },
        excused=excused,
    )


def _read(part: faces.Part) -> tuple[list[faces.CodedFace], list[codes.Codes]]:
    path = FOLDER / f"{part}.csv"
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    listed = faces.read(path)
    return listed, [codes.read(file).of([face.id for face in listed]) for file in code_files(part)]
