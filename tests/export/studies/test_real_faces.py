"""Which photographs the study calibrates on: training rows, half of them strong."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="packs are read through the training")

from feallm.export.studies import real_faces  # noqa: E402  torch first
from feallm.model.data import pack  # noqa: E402
from feallm.model.train.vision import split  # noqa: E402
from feallm.runtime.contract.aus import N_AUS  # noqa: E402
from feallm.runtime.contract.geometry import CROP, MEAN_POINTS_CROP  # noqa: E402
from feallm.runtime.vision.align import points_in_box  # noqa: E402

COUNT = 120  # faces of each of two packs


@pytest.fixture(scope="module")
def faces():
    """Row k is a picture of gray k; one row in three moves strongly."""
    count = 2 * COUNT
    points = points_in_box((0, 0, 48, 48), MEAN_POINTS_CROP).astype(np.float32)
    sides = np.zeros((count, N_AUS, 2), np.float32)
    sides[::3, :4] = 4.0
    return pack.Faces(
        [np.full((48, 48), k, np.uint8) for k in range(count)],
        np.zeros((count, 10), np.float32),
        np.zeros((count, 8), np.float32),
        sides,
        np.tile(points, (count, 1, 1)),
        np.tile(points, (count, 1, 1)),
        np.arange(count),
        source=np.repeat([0, 1], COUNT),
    )


def rows_of(crops):
    return crops[:, CROP.height_px // 2, CROP.width_px // 2, 0].astype(int)


def test_training_rows_of_each_pack_half_of_them_strong(faces):
    rows = rows_of(real_faces.photographs(faces, 40, 1))
    training, held = split(faces)
    assert len(held) > 4  # there are rows to be left out
    assert set(rows) <= set(training.tolist()) and len(set(rows)) == 40
    assert (rows < COUNT).sum() == 20
    assert (rows % 3 == 0).sum() >= 20  # blindly 13


def test_another_seed_is_another_draw_and_the_same_the_same(faces):
    one, two, again = (rows_of(real_faces.photographs(faces, 40, s)) for s in (1, 2, 1))
    assert set(one) != set(two) and np.array_equal(one, again)


def test_the_sets_are_of_one_size(faces):
    renders = np.full((31, CROP.height_px, CROP.width_px, 3), 255, np.uint8)  # no row is so bright
    found = dict(real_faces.sets_of(renders, faces))
    assert {len(crops) for crops in found.values()} == {31}
    mixed = rows_of(found["half and half, 2"])
    assert (mixed == 255).sum() == 16
