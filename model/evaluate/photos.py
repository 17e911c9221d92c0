"""The frozen sets of photographs: London's even ids and LFW's test people.

Neither has five points of its own: YuNet's are taken, as in use. A picture in which it finds no
face is scored all the same, at the median place of the set's faces, and counted.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from feallm.model.coded.faces import Points, Shared
from feallm.model.data import archive
from feallm.model.evaluate import frozen
from feallm.model.evaluate.sets import Labelled
from feallm.runtime.contract.aus import AU_INDEX, N_AUS
from feallm.runtime.contract.errors import InputError
from feallm.runtime.contract.expressions import EXPRESSION_INDEX, N_EXPRESSIONS


class Finder(Protocol):
    """Finds five points (5, 2) of the face of a picture of the shared data, or none."""

    def find(self, source: str, name: str) -> NDArray[np.float64] | None: ...


@dataclass(frozen=True, slots=True)
class Photos:
    """A set before its points are looked for."""

    source: str  # as `Shared.picture` takes it
    names: list[str]  # N, likewise
    labelled: Labelled

    def entry(self) -> frozen.Entry:
        """Its hash: names, picture files, classes and AUs. Slices are no part of it."""
        labels = [b""] * 2
        if self.labelled.expression is not None:
            labels[0] = frozen.canonical(self.labelled.expression, "i8")
        if self.labelled.au is not None:
            labels[1] = frozen.canonical(self.labelled.au, "f4")
        names = [name.encode() for name in self.names]
        return frozen.Entry(
            len(names),
            frozen.digest([self.source.encode(), *names, *self.labelled.images, *labels]),
        )

    def located(self, finder: Finder | None = None) -> Labelled:
        """With points; `InputError` where no picture shows a face, or the detector is missing."""
        finder = Points(Shared(self.labelled.path)) if finder is None else finder
        found = [finder.find(self.source, name) for name in self.names]
        known = [points for points in found if points is not None]
        if not known:
            raise InputError(f"{self.labelled.path}: no face found in any picture of {self.source}")
        middle = np.median(known, 0)
        points5 = np.array([middle if points is None else points for points in found], np.float64)
        missing = np.array([points is None for points in found])
        return replace(self.labelled, points5=points5, stand_in=missing)


def london_even(data: Path) -> Photos:
    """Both pictures of London's even ids: neutral or happiness, and AU12 as 0 or 1.

    The label says what people were asked to do. Smiles of the set go from broad ones down to lips
    hardly moved, so recall of AU12 stays below 1 for any reader, a person too; no other AU has a
    label. Slices: sex and ethnicity as people gave them, and age, cut in halves at its median.
    """
    people = [person for person in _table(data / "london" / "info.csv") if _even(person["id"])]
    names, images, smiling = [], [], []
    shared = Shared(data)
    for person in people:
        for word in ("neutral", "smiling"):
            names.append(f"{person['id']}_{word}")
            images.append(shared.encoded("london", names[-1]))
            smiling.append(word == "smiling")
    smiles = np.array(smiling, bool)
    classes = np.where(smiles, EXPRESSION_INDEX["happiness"], EXPRESSION_INDEX["neutral"])
    au = np.full((len(names), N_AUS), np.nan)
    au[:, AU_INDEX["AU12"]] = smiles
    slices = {
        "sex": [person["sex"] for person in people],
        "ethnicity": [person["ethnicity"] for person in people],
        "age": _halves([person["age"] for person in people]),
    }
    both = {name: np.repeat(np.array(values, str), 2) for name, values in slices.items()}
    labelled = Labelled(data, images, classes.astype(np.int64), au, None, None, both)
    return Photos("london", names, labelled)


def lfw_test(data: Path) -> Photos:
    """LFW's test people with an expression word, of both files. One rater's words; no AUs."""
    names: list[str] = []
    images: list[bytes] = []
    classes: list[int] = []
    for file in ("lfw", "lfw_more"):
        path = data / "lfw" / f"{file}.npz"
        arrays = archive.read(path, "images", "offsets", "test", "expression")
        pictures, test, given = archive.encoded(path, arrays), arrays["test"], arrays["expression"]
        if test.shape != (len(pictures),) or given.shape != test.shape:
            raise InputError(f"{path}: test and expression must have one value a picture")
        if not np.isin(given, np.arange(-1, N_EXPRESSIONS)).all():
            raise InputError(f"{path}: expression must be 0–7, or -1 for none")
        for row in np.flatnonzero(test.astype(bool) & (given >= 0)).tolist():
            names.append(f"{file}:{row}")
            images.append(pictures[row])
            classes.append(int(given[row]))
    labelled = Labelled(data, images, np.array(classes, np.int64), None, None)
    return Photos("lfw", names, labelled)


def _table(path: Path) -> list[dict[str, str]]:
    """Rows of London's table, by id."""
    columns = ("id", "sex", "age", "ethnicity")
    try:
        with path.open(newline="", encoding="utf-8") as text:
            rows = list(csv.DictReader(text))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a readable CSV file: {error}") from error
    if not rows or any(row.get(column) is None for row in rows for column in columns):
        raise InputError(f"{path}: expected the columns {', '.join(columns)}")
    if not all(row["id"].isdecimal() for row in rows):
        raise InputError(f"{path}: an id is no number")
    return sorted(rows, key=lambda row: row["id"])


def _even(number: str) -> bool:
    return int(number) % 2 == 0


def _halves(ages: Sequence[str]) -> list[str]:
    """Below the median, or from it on; "" where no age is given."""
    known = [int(age) for age in ages if age.isdecimal()]
    cut = float(np.median(known)) if known else 0.0
    return [
        ("" if not age.isdecimal() else f"<{cut:g}" if int(age) < cut else f">={cut:g}")
        for age in ages
    ]
