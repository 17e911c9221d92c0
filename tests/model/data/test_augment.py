"""Random crops: the same for the same randomness, and mirrored exactly where they say so."""

import numpy as np
import pytest

from feallm.model.data import augment
from feallm.model.data.augment import Augment, crop, jitter
from feallm.runtime.contract.geometry import CROP
from feallm.runtime.vision.align import crop_matrix, move

STILL = Augment(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
MIRROR = Augment(1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)


@pytest.fixture
def matrix():
    return np.array([[2.3, 0.1, 1.0], [-0.1, 2.3, 8.0]])


@pytest.fixture
def picture(tiny):
    return tiny.pictures(1)[0]


def test_mirrored_crops_are_mirrored(picture, matrix):
    plain = crop(picture, matrix, np.random.default_rng(0), STILL)
    mirrored = crop(picture, matrix, np.random.default_rng(0), MIRROR)
    assert not plain.mirrored and mirrored.mirrored
    assert (mirrored.pixels == plain.pixels[:, ::-1]).all()
    assert (plain.pixels != plain.pixels[:, ::-1]).any()


def test_the_chance_of_a_mirrored_crop_is_a_half(picture, matrix):
    rng = np.random.default_rng(1)
    mirrored = [crop(picture, matrix, rng, Augment()).mirrored for _ in range(200)]
    assert 70 < sum(mirrored) < 130


@pytest.mark.parametrize("shape", [(), (3,)])
def test_shape_type_and_randomness(picture, matrix, shape):
    image = picture if not shape else np.stack([picture] * 3, -1)
    found = [crop(image, matrix, np.random.default_rng(k), Augment()).pixels for k in (1, 1, 2)]
    assert found[0].shape == (CROP.height_px, CROP.width_px, *shape)
    assert found[0].dtype == np.uint8 and found[0].flags.c_contiguous
    assert (found[0] == found[1]).all() and (found[0] != found[2]).any()


def test_the_picture_itself_is_left_alone(picture, matrix):
    before = picture.copy()
    for k in range(20):
        crop(picture, matrix, np.random.default_rng(k), Augment(erase=1.0))
    assert (picture == before).all()


def test_jitter_is_a_similarity_about_the_middle(matrix):
    rng = np.random.default_rng(0)
    shifts = []
    for _ in range(200):
        found = jitter(matrix, rng, Augment(), CROP)
        (a, b), (c, d) = found[:, :2] @ np.linalg.inv(matrix[:, :2])
        assert a == pytest.approx(d) and b == pytest.approx(-c)  # turn and scale, no mirroring
        middle = np.array([[CROP.width_px / 2, CROP.height_px / 2]])
        source = (middle - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
        shifts.append(move(source, found) - middle)
    assert np.std(shifts) == pytest.approx(0.035 * CROP.width_px, rel=0.15)
    np.testing.assert_allclose(jitter(matrix, rng, STILL, CROP), matrix, atol=1e-12)


def test_a_mirrored_face_is_as_well_aligned(picture):
    """The template is symmetric, so mirroring keeps the points in place (to a pixel)."""
    points = np.array(CROP.points_px)
    mirrored = (CROP.width_px - 1 - points[:, 0], points[:, 1])
    swapped = np.stack(mirrored, 1)[[1, 0, 2, 4, 3]]
    assert np.abs(swapped - points).max() <= 1.0
    assert np.allclose(crop_matrix(points), [[1, 0, 0], [0, 1, 0]])


def test_points_as_a_detector_places_them():
    points = np.array([[20.0, 20], [40, 20], [30, 30], [22, 40], [38, 40]])
    moved = augment.as_detected(points)
    np.testing.assert_array_equal(moved[:2], points[:2])
    assert moved[2, 1] > points[2, 1] and (moved[3:, 1] < points[3:, 1]).all()
    np.testing.assert_allclose(moved[:, 0], points[:, 0])
    turn = np.array([[0.0, -1], [1, 0]])  # a face lying on its side is moved along with it
    np.testing.assert_allclose(augment.as_detected(points @ turn.T), moved @ turn.T)


@pytest.mark.parametrize("seed", range(8))
def test_a_frame_lies_in_the_picture_and_keeps_the_face(seed):
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 256, (90, 80), dtype=np.uint8)
    points = np.array([[30.0, 35], [52, 36], [41, 48], [33, 58], [50, 58]])
    part, low = augment.frame(picture, points, rng)
    x, y = low.astype(int)
    np.testing.assert_array_equal(part, picture[y : y + part.shape[0], x : x + part.shape[1]])
    assert 40 <= max(part.shape) <= 82
