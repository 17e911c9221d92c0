"""What the readers saw: one row a face, 1 present, 0 absent, ? not to be told from the picture.

`codes_a.csv` and `codes_b.csv` are two readers' codes of the faces of `test.csv`, made apart from
each other; `codes_c.csv` is a third reader's of `train.csv`, `codes_d.csv` and `codes_e.csv` two
readers' of `neutral.csv`. Each face of `more.csv` was coded by one of four readers (`codes_f.csv`),
each of `learn.csv` by one of twelve (`codes_g.csv`), and 324 of the latter once more by another one
of the twelve (`codes_h.csv`).
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from feallm.model.evaluate import metrics
from feallm.runtime.contract.aus import AU_INDEX
from feallm.runtime.contract.errors import InputError

CODED_AUS = (
    "AU1", "AU2", "AU4", "AU5", "AU6", "AU7", "AU9", "AU10", "AU12", "AU15", "AU17", "AU20",
    "AU25", "AU26", "AU43",
)  # fmt: skip
"""What a still picture lets a reader code, in the order of the columns."""

COLUMNS = tuple(AU_INDEX[key] for key in CODED_AUS)
"""Their places in the project's order of AUs."""

UNSURE = -1
_VALUES = {"1": 1, "0": 0, "?": UNSURE}
_HEADER = ["id", *CODED_AUS]


@dataclass(frozen=True, slots=True)
class Codes:
    """One reader's codes of N faces."""

    path: Path  # for messages
    ids: tuple[str, ...]  # N, each once
    values: NDArray[np.int8]  # (N, 15) 1 present, 0 absent, -1 unsure; AUs as `CODED_AUS`

    def of(self, ids: Sequence[str]) -> Codes:
        """The same in the order of `ids`; `InputError` unless they are the very same faces."""
        own, listed = set(self.ids), set(ids)
        for what, faces in (("no code for", listed - own), ("not on the list:", own - listed)):
            if faces:
                rest = f" and {len(faces) - 1} more" if len(faces) > 1 else ""
                raise InputError(f"{self.path}: {what} {min(faces)}{rest}")
        place = {face: k for k, face in enumerate(self.ids)}
        return Codes(self.path, tuple(ids), self.values[[place[face] for face in ids]])

    def within(self, ids: Sequence[str]) -> Codes:
        """The same of those faces alone that are among `ids`."""
        kept = set(ids)
        own = [k for k, face in enumerate(self.ids) if face in kept]
        return Codes(self.path, tuple(self.ids[k] for k in own), self.values[own])


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far two readers agree on one AU, over N faces."""

    au: str
    n: int
    kappa: float  # Cohen's, unsure as a third class; NaN where both gave one class to all
    agreed: float  # share of faces with the same class
    present: tuple[int, int]  # faces that each reader called present
    unsure: tuple[int, int]
    both_present: int  # the consensus: positives
    both_absent: int  # and negatives; the rest is not scored


def read(path: Path) -> Codes:
    """A file of codes; `InputError` at the first thing that is not as it should be."""
    try:
        with path.open(newline="", encoding="utf-8") as text:
            lines = list(csv.reader(text, strict=True))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a readable CSV file: {error}") from error
    if not lines or lines[0] != _HEADER:
        raise InputError(f"{path}: expected the header {','.join(_HEADER)}")
    rows: dict[str, list[int]] = {}
    for number, cells in enumerate(lines[1:], 2):
        if len(cells) != len(_HEADER):
            raise InputError(
                f"{path}: line {number} has {len(cells)} cells, expected {len(_HEADER)}"
            )
        face, given = cells[0], cells[1:]
        for key, value in zip(CODED_AUS, given, strict=True):
            if value not in _VALUES:
                raise InputError(f"{path}: line {number}: {key} is {value!r}, expected 0, 1 or ?")
        if not face or face in rows:
            raise InputError(f"{path}: line {number}: id {face!r} is empty or comes twice")
        rows[face] = [_VALUES[value] for value in given]
    if not rows:
        raise InputError(f"{path}: no face in it")
    return Codes(path, tuple(rows), np.array(list(rows.values()), np.int8))


def agreement(a: Codes, b: Codes) -> list[Agreement]:
    """How far two readers of the same faces agree, AU by AU; `InputError` where they are others."""
    b = b.of(a.ids)
    return [
        Agreement(
            key,
            len(a.ids),
            metrics.cohen_kappa(first, second),
            float((first == second).mean()),
            (int((first == 1).sum()), int((second == 1).sum())),
            (int((first == UNSURE).sum()), int((second == UNSURE).sum())),
            int(((first == 1) & (second == 1)).sum()),
            int(((first == 0) & (second == 0)).sum()),
        )
        for key, first, second in zip(CODED_AUS, a.values.T, b.values.T, strict=True)
    ]


def labels(codes: Codes) -> NDArray[np.float64]:
    """One reader's labels (N, 15): 1, 0, and NaN where unsure."""
    return np.where(codes.values == UNSURE, np.nan, codes.values)


def consensus(a: Codes, b: Codes) -> NDArray[np.float64]:
    """Labels (N, 15) in the order of `a`: 1 where both say present, 0 where both say absent, NaN
    else."""
    first, second = labels(a), labels(b.of(a.ids))
    return np.where(first == second, first, np.nan)
