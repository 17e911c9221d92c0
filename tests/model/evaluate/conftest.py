"""Data files to evaluate on."""

import numpy as np
import pytest

from feallm.runtime.contract.aus import AU_INDEX, N_AUS


@pytest.fixture
def split(tiny, tmp_path):
    """Write a data file of `count` faces; keyword arrays are added, None takes one away."""

    def write(name="valid", count=8, pictures=None, **arrays):
        images = [tiny.webp(p) for p in tiny.pictures(count)] if pictures is None else pictures
        fields = {
            "images": np.frombuffer(b"".join(images), np.uint8),
            "offsets": np.cumsum([0, *(len(image) for image in images)]),
            **arrays,
        }
        path = tmp_path / f"{name}.npz"
        np.savez(path, **{key: value for key, value in fields.items() if value is not None})
        return path

    return write


@pytest.fixture
def votes():
    """Ten votes a face for these classes; -1 leaves the face out."""

    def of(*classes):
        table = np.zeros((len(classes), 10), np.uint8)
        for row, k in zip(table, classes, strict=True):
            row[k if k >= 0 else 8] = 9
            row[3] += 1  # alone, so dropped
        return table

    return of


@pytest.fixture
def au_labels():
    """AU labels (count, 20), NaN where none are given."""

    def of(count, **columns):
        table = np.full((count, N_AUS), np.nan)
        for key, values in columns.items():
            table[: len(values), AU_INDEX[key]] = values
        return table

    return of
