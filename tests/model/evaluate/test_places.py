"""Figures of places: exact answers have no error, and what is wrong is told in the picture."""

from pathlib import Path

import numpy as np
import pytest

from feallm.model.evaluate import places
from feallm.model.evaluate.sets import Labelled
from feallm.runtime.backends.base import AU_INTENSITY, AU_SIDES, GAZE, LANDMARKS, POSE
from feallm.runtime.contract.aus import AU_INDEX, AU_KEYS
from feallm.runtime.contract.geometry import CROP
from feallm.runtime.vision.align import crop_matrix, move, turned_deg

ROWS = np.array([0, 2])
UPRIGHT = np.array([[40.0, 50], [70, 50], [55, 65], [43, 80], [67, 80]])
LYING = np.stack([-UPRIGHT[:, 1], UPRIGHT[:, 0]], 1) + 200  # turned by 90 degrees


@pytest.fixture
def data():
    rng = np.random.default_rng(1)
    marks = rng.uniform(20, 90, (3, 68, 2)).astype(np.float32)
    marks[:, 36], marks[:, 45] = (35, 50), (75, 50)  # 40 pixels apart
    place = {
        "points68": marks,
        "pose_deg": np.array([[1, 2, 3], [0, 0, 0], [-10, 20, -30]], np.float32),
        "gaze_deg": np.array([[5, 6], [0, 0], [np.nan, np.nan]], np.float32),
    }
    sides = np.zeros((3, 20, 2), np.float32)
    points = np.stack([UPRIGHT, UPRIGHT, LYING])
    return Labelled(Path("x"), [b""] * 3, None, None, points, None, {}, sides, place)


@pytest.fixture
def exact(data):
    """What a perfect network says of the crops of rows 0 and 2."""
    matrices = [crop_matrix(data.points5[i]) for i in ROWS]
    pose = data.place["pose_deg"][ROWS].copy()
    pose[:, 2] -= [turned_deg(m) for m in matrices]
    marks = [move(data.place["points68"][i], m) for i, m in zip(ROWS, matrices, strict=True)]
    return {
        AU_INTENSITY: np.zeros((2, 20, 2), np.float32),
        LANDMARKS: np.array(marks, np.float32),
        POSE: pose,
        GAZE: np.array([[5, 6], [9, 9]], np.float32),
    }


def test_exact_answers(data, exact):
    assert abs(turned_deg(crop_matrix(LYING)) - turned_deg(crop_matrix(UPRIGHT))) > 80
    found = places.figures(exact, data, ROWS, CROP, AU_KEYS)
    assert found["pose_deg"]["n"] == 2
    assert found["pose_deg"]["mean_absolute_error"] == pytest.approx(0, abs=1e-4)
    assert found["gaze_deg"] == {"n": 1, "mean_absolute_error": 0, "up": 0, "left": 0}
    assert found["landmarks"]["mean"] == pytest.approx(0, abs=1e-5)
    assert "sides" not in found  # nothing moves on one side


def test_errors_in_their_units(data, exact):
    exact[POSE][0, 1] += 12
    exact[POSE][1, 2] += 350  # ten degrees the other way round
    exact[LANDMARKS][0, 20:] += crop_matrix(UPRIGHT)[:, :2] @ np.array([0, 8.0])
    found = places.figures(exact, data, ROWS, CROP, AU_KEYS)
    assert found["pose_deg"]["yaw"] == pytest.approx(6)
    assert found["pose_deg"]["roll"] == pytest.approx(5, abs=1e-3)
    assert found["pose_deg"]["mean_absolute_error"] == pytest.approx(11 / 3, abs=1e-3)
    # 8 of 40 pixels, on 48 of 51 landmarks of the first face; the second has eyes as far apart.
    assert found["landmarks"]["mean_without_jaw"] == pytest.approx(0.2 * 48 / 51 / 2, abs=1e-4)


def test_sides(data, exact):
    smile, middle = AU_INDEX["AU12"], AU_INDEX["AU17"]
    data.au_sides[0, smile], data.au_sides[2, smile] = (3, 0), (0.2, 4)
    data.au_sides[2, middle] = (3, 0)  # has no sides: does not count
    exact[AU_INTENSITY][0, smile], exact[AU_INTENSITY][1, smile] = (2, 1), (2, 1)
    assert places.figures(exact, data, ROWS, CROP, AU_KEYS)["sides"] == {"n": 2, "right": 0.5}


def test_sides_by_presence_where_it_is_told(data, exact):
    smile = AU_INDEX["AU12"]
    data.au_sides[0, smile] = (3, 0)
    exact[AU_INTENSITY][0, smile] = (1, 2)
    exact[AU_SIDES] = np.zeros((2, 20, 2), np.float32)
    exact[AU_SIDES][0, smile] = (0.4, 0.3)
    assert places.figures(exact, data, ROWS, CROP, AU_KEYS)["sides"] == {"n": 1, "right": 1.0}


def test_sides_that_were_not_trained_do_not_count(data, exact):
    data.au_sides[0, AU_INDEX["AU12"]] = (3, 0)
    assert "sides" in places.figures(exact, data, ROWS, CROP, ["AU12"])
    assert "sides" not in places.figures(exact, data, ROWS, CROP, ["AU2"])


def test_a_network_without_places(data, exact):
    found = places.figures({AU_INTENSITY: exact[AU_INTENSITY]}, data, ROWS, CROP, AU_KEYS)
    assert found == {}
