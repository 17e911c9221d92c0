"""How a detector is measured: what counts as found, and what is read."""

import numpy as np
import pytest

from feallm.model.detector.measure import Agreement, fitted, frames, overlaps
from feallm.runtime.contract.errors import InputError


def face(x, y, w, h, shift=0.0):
    points = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]])
    points = points * (w, h) + (x + shift, y)
    return np.array([x, y, w, h, *points.ravel(), 0.9])


def test_overlaps_of_boxes():
    a, b = np.array([[0, 0, 2, 2.0], [5, 5, 1, 1]]), np.array([[1, 0, 2, 2.0]])
    np.testing.assert_allclose(overlaps(a, b), [[1 / 3], [0]])


def test_what_both_find_and_what_one_does():
    result = Agreement()
    official = np.array([face(0, 0, 40, 50), face(100, 0, 40, 50)])
    own = np.array([face(0, 0, 40, 50, shift=2.4), face(200, 0, 40, 50)])
    result.add(own, official)
    assert (result.faces, result.found, result.more) == (2, 1, 1)
    assert result.away == pytest.approx([2.4 / (0.4 * 40 * 1.5)])
    result.add(np.zeros((0, 15)), official)
    result.add(own, np.zeros((0, 15)))
    assert (result.faces, result.found, result.more) == (4, 1, 3)


@pytest.mark.parametrize(
    ("size", "longest", "shape"), [((100, 200), 320, (160, 320)), ((641, 480), 320, (320, 240))]
)
def test_the_longer_side_is_as_asked(size, longest, shape):
    small, scale = fitted(np.zeros((*size, 3), np.uint8), longest)
    assert small.shape == (*shape, 3) and scale == longest / max(size)


def test_a_picture_that_cannot_be_read_is_one_line(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(InputError, match="broken.jpg: not a readable picture"):
        list(frames(tmp_path / "broken.jpg"))
