"""What is no face lies beside faces; what hides one lies before a part of it."""

import numpy as np
import pytest

from feallm.model.detector import distract
from feallm.model.detector.sources import Heads


def test_nothing_is_laid_over_a_face(heads):
    head = Heads.read(heads).take(0)
    faces = np.array([[60.0, 60, 110, 120], [10, 150, 40, 190]])
    laid = 0
    for seed in range(60):
        picture = np.full((200, 200, 3), 77, np.uint8)
        mask = distract.lay(picture, faces, head, np.random.default_rng(seed))
        laid += mask.any()
        for x0, y0, x1, y1 in faces.astype(int):
            assert mask[y0:y1, x0:x1].mean() < 0.1, seed
        assert 0 <= mask.min() <= mask.max() <= 1
    assert laid > 15


@pytest.mark.parametrize("seed", range(8))
def test_a_part_of_a_face_is_hidden_and_a_part_is_not(seed):
    picture = np.full((200, 200, 3), 77, np.uint8)
    distract.before(picture, np.array([60.0, 50, 140, 150]), np.random.default_rng(seed))
    hidden = (picture != 77).any(2)[50:150, 60:140].mean()
    assert 0.02 < hidden < 0.7


def test_shoulders_lie_below_the_chin(heads):
    marks = Heads.read(heads).take(0)[1] + 100
    picture = np.zeros((500, 500, 3), np.uint8)
    mask = distract.body(picture, marks, np.array([9.0, 8, 7]))
    rows, columns = np.nonzero(mask)
    assert rows.min() > marks[:, 1].max() and columns.min() < marks[:, 0].min()
    assert (picture[mask == 1] == (9, 8, 7)).all(1).mean() > 0.9
