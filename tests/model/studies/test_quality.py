"""The study behind the gate: faces are made worse by what was asked for, and lines count right."""

from __future__ import annotations

import numpy as np
import pytest

from feallm.model.studies import quality as study
from feallm.runtime.contract.geometry import CROP
from feallm.runtime.contract.quality import Quality

POINTS = np.array(CROP.points_px) + 20.0


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(60, 200, (170, 160, 3), dtype=np.uint8)


@pytest.mark.parametrize("size_px", [30.0, 12.0, 6.0])
def test_shrunk_to_a_size(picture, size_px):
    small, points = study.shrunk(picture, POINTS, size_px)
    assert np.linalg.norm(points[0] - points[1]) == pytest.approx(size_px, rel=0.04)
    assert small.shape[0] == pytest.approx(170 * size_px / 39, abs=1)


def test_points_stay_on_what_they_marked(picture):
    picture[:] = 0
    x, y = POINTS[2].round().astype(int)
    picture[y - 3 : y + 4, x - 3 : x + 4] = 255
    small, points = study.shrunk(picture, POINTS, 13.0)
    weight = small[..., 0].astype(float)
    rows, columns = np.indices(weight.shape)
    middle = ((columns * weight).sum() / weight.sum(), (rows * weight).sum() / weight.sum())
    assert points[2] == pytest.approx(middle, abs=0.3)


def test_nothing_is_enlarged(picture):
    same, points = study.shrunk(picture, POINTS, 80.0)
    assert same is picture and points is POINTS


def test_steps_that_change_nothing(picture):
    assert study.blurred(picture, POINTS, 0.0)[0] is picture
    np.testing.assert_array_equal(study.darkened(picture, POINTS, 1.0)[0], picture)
    np.testing.assert_array_equal(study.cut(picture, POINTS, 0.0)[0], picture)


def test_blurred_darkened_cut(picture):
    soft = study.blurred(picture, POINTS, 0.1)[0].astype(float)
    assert np.abs(np.diff(soft, axis=1)).mean() < np.abs(np.diff(picture * 1.0, axis=1)).mean() / 5
    assert study.darkened(picture, POINTS, 0.1)[0].mean() == pytest.approx(13, abs=1)
    chin = 62 + 1.7 * 39
    end = study.cut(picture, POINTS, 0.2)[0].shape[0]
    assert end == pytest.approx(chin - 0.2 * 2.1 * 39, abs=1)


def test_a_line():
    """Two AUs that are known: one is told perfectly, one is guessed upside down."""
    count = 2 * study.LEAST_POSITIVE
    present = np.arange(count) % 2 == 0
    truth = np.full((count, 20), np.nan)
    truth[:, 3] = truth[:, 7] = np.where(present, 3.0, 0.0)
    probability, strength = np.zeros((count, 20)), np.zeros((count, 20))
    probability[:, 3], probability[:, 7] = present, ~present
    strength[:, 3] = truth[:, 3]
    answers = study.Answers(probability, strength, np.zeros(count, np.int64), [])
    area, error = study.line(truth, answers, np.ones(count, bool))
    assert area == pytest.approx(0.5)
    assert error == pytest.approx((0 + 1.5) / 2)
    half = np.arange(count) < count // 2  # too few present for an AUC
    area, error = study.line(truth, answers, half)
    assert np.isnan(area) and error == pytest.approx(0.75)


def test_good_faces_are_those_that_nothing_is_wrong_with():
    good = Quality(35.0, 0.3, 0.0, 0.0, 0.0)
    each = [good, Quality(20.0, 0.3, 0.0, 0.0, 0.0), Quality(35.0, 0.6, 0.0, 0.0, 0.0), good, good]
    poses = np.zeros((5, 3))
    poses[3, 1] = -30
    data = study.Set(
        [np.full((1, 1, 3), k, np.uint8) for k in range(5)],
        [np.full((5, 2), k, float) for k in range(5)],
        np.zeros((5, 20)),
        np.array([0, 0, 0, 0, 0.1]),
        poses,
    )
    answers = study.Answers(np.zeros((5, 20)), np.zeros((5, 20)), np.zeros(5, np.int64), each)
    kept = study._good(data, answers)
    assert [int(p[0, 0, 0]) for p in kept.pictures] == [0]
    assert len(kept.au) == len(kept.points5) == len(kept.occluded) == len(kept.pose_deg) == 1
