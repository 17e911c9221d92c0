"""Five points out of 68, and intensities out of blendshapes with their sides in order."""

import numpy as np
import pytest

from feallm.model.data import pseudo
from feallm.runtime.contract.aus import AU_BY_KEY, AU_INDEX
from feallm.runtime.contract.errors import InputError

NAMES = sorted({n for s in pseudo.SCALES.values() for n in (*s.left, *s.right)} - {pseudo.LIP_GAP})


def marks(path, values, points68=None, found=None):
    """A file of blendshapes; `values` maps a name to one column of shares."""
    count = len(next(iter(values.values())))
    shapes = np.zeros((count, len(NAMES)), np.uint8)
    for name, column in values.items():
        shapes[:, NAMES.index(name)] = np.round(np.array(column) * 255)
    points = np.zeros((count, 68, 2), np.float16) if points68 is None else points68
    points[:, 42:48] += (18, 0)  # an eye distance of 18
    known = np.ones(count, np.uint8) if found is None else np.array(found, np.uint8)
    np.savez(path, names=np.array(NAMES), blendshapes=shapes, points68=points, found=known)
    return pseudo.read(path)


def test_five_points_stand_in_yunets_order():
    points = np.zeros((2, 68, 2), np.float32)
    points[0, 36:42] = [(9, 20), (11, 19), (13, 19), (15, 20), (13, 21), (11, 21)]
    points[0, 42:48] = points[0, 36:42] + (20, 0)
    points[0, 30], points[0, 48], points[0, 54] = (22, 30), (14, 40), (30, 41)
    five = pseudo.five_points(points)
    assert five.shape == (2, 5, 2)
    assert five[0].tolist() == [[12, 20], [32, 20], [22, 30], [14, 40], [30, 41]]


@pytest.mark.parametrize(
    "key, shape",
    [("AU2", "browOuterUp"), ("AU5", "eyeWide"), ("AU12", "mouthSmile"), ("AU43", "eyeBlink")],
)
def test_left_is_the_subjects_left_and_comes_first(tmp_path, key, shape):
    scale = pseudo.SCALES[key]
    found = marks(
        tmp_path / "m.npz", {f"{shape}Left": [scale.full], f"{shape}Right": [scale.present]}
    )
    left, right = found.intensity[0, AU_INDEX[key]]
    assert left == pytest.approx(5, abs=0.06) and right == pytest.approx(1, abs=0.06)
    assert AU_BY_KEY[key].sided


@pytest.mark.parametrize(
    "key, shape", [("AU1", "browInnerUp"), ("AU17", "mouthShrugLower"), ("AU26", "jawOpen")]
)
def test_one_shape_serves_both_sides(tmp_path, key, shape):
    scale = pseudo.SCALES[key]
    middle = (scale.present + scale.full) / 2
    found = marks(tmp_path / "m.npz", {shape: [middle, 0.0]}).intensity[:, AU_INDEX[key]]
    np.testing.assert_allclose(found[0], [3, 3], atol=0.06)
    assert found[1, 0] == found[1, 1] < 1  # below presence, and not cut at 0


def test_the_gap_of_the_lips_is_measured_by_the_eyes(tmp_path):
    points = np.zeros((2, 68, 2), np.float16)
    points[0, 66, 1] = 18 * 0.55
    found = marks(tmp_path / "m.npz", {"jawOpen": [0, 0]}, points).intensity[:, AU_INDEX["AU25"]]
    np.testing.assert_allclose(found[0], [5, 5], atol=0.02)
    assert (found[1] < 1).all()


def test_faces_not_found_and_aus_not_trusted_are_unknown(tmp_path):
    found = marks(tmp_path / "m.npz", {"jawOpen": [0.5, 0.5]}, found=[1, 0])
    assert np.isnan(found.intensity[1]).all() and np.isnan(found.points5[1]).all()
    known = [key for key, k in AU_INDEX.items() if np.isfinite(found.intensity[0, k]).all()]
    assert set(known) == set(pseudo.SCALES)


def test_what_is_no_file_of_blendshapes(tmp_path):
    np.savez(tmp_path / "m.npz", names=np.array(NAMES))
    with pytest.raises(InputError, match="blendshapes"):
        pseudo.read(tmp_path / "m.npz")
