"""Box and points of a head: they move, grow and are mirrored with its landmarks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feallm.model.detector.places import box_of, points_of

numbers = st.floats(-200, 200)


@pytest.fixture(scope="module")
def marks():
    from pathlib import Path

    with np.load(Path(__file__).parent / "heads.npz") as file:
        return file["points68"].astype(np.float64)


@settings(max_examples=40, deadline=None)
@given(k=st.integers(0, 15), x=numbers, y=numbers, scale=st.floats(0.1, 8))
def test_they_move_and_grow_with_the_head(marks, k, x, y, scale):
    moved = marks[k] * scale + (x, y)
    np.testing.assert_allclose(box_of(moved), box_of(marks[k]) * scale + (x, y, x, y), atol=1e-3)
    np.testing.assert_allclose(points_of(moved), points_of(marks[k]) * scale + (x, y), atol=1e-3)


def test_points_turn_with_the_head(marks):
    for one in marks:
        turned = np.stack([-one[:, 1], one[:, 0]], 1)
        points = points_of(one)
        expected = np.stack([-points[:, 1], points[:, 0]], 1)
        np.testing.assert_allclose(points_of(turned), expected, atol=1e-4)


# iBUG's 68: jaw, brows, nose, eyes and mouth, each seen in a mirror.
MIRROR = [
    *range(16, -1, -1),
    *range(26, 16, -1),
    *range(27, 31),
    *range(35, 30, -1),
    *(45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),
    *(54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65),
]


def test_sides_change_places_in_a_mirror(marks):
    assert sorted(MIRROR) == list(range(68))
    for one in marks:
        seen = (one * (-1, 1))[MIRROR]
        expected = (points_of(one) * (-1, 1))[[1, 0, 2, 4, 3]]
        np.testing.assert_allclose(points_of(seen), expected, atol=1e-4)
        x0, y0, x1, y1 = box_of(one)
        np.testing.assert_allclose(box_of(seen), (-x1, y0, -x0, y1), atol=1e-4)


def test_the_box_holds_the_face(marks):
    for one in marks:
        box, points = box_of(one), points_of(one)
        assert (box[:2] <= one.min(0) + 1e-9).all() and (box[2:] >= one.max(0) - 1e-9).all()
        assert (points > box[:2]).all() and (points < box[2:]).all()
        assert points[:2, 1].mean() < points[2, 1] < points[3:, 1].mean(), "eyes, nose, mouth"
        height = one[:, 1].max() - one[:, 1].min()
        assert 1.0 < (box[3] - box[1]) / height < 1.5, "a forehead above the brows, no more"
