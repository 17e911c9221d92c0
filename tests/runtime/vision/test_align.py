"""Crops: there and back, against an independent least-squares solver, and at the picture's edge."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feallm.runtime.contract.geometry import CROP, MEAN_POINTS_CROP, CropGeometry
from feallm.runtime.vision import align

TEMPLATE = np.array(CROP.points_px)

angle = st.floats(-3.1, 3.1)
scale = st.floats(0.05, 20)
shift = st.floats(-3000, 3000)
seed = st.integers(0, 2**32 - 1)


def turned(points, angle, scale, shift_x, shift_y):
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    return points @ np.array([[c, s], [-s, c]]) + (shift_x, shift_y)


def face(size=400, seed=0):
    """A picture with something to see at every scale, and five points in it."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
    picture = cv2.resize(small, (size, size), interpolation=cv2.INTER_CUBIC)
    return picture, align.points_in_box((0, 0, size, size), MEAN_POINTS_CROP)


def difference(a, b):
    return float(np.abs(a.astype(float) - b.astype(float)).mean())


def by_lstsq(source, target):
    """The same as a linear system of four unknowns: x' = a x - b y + c, y' = b x + a y + d."""
    x, y, one, zero = source[:, 0], source[:, 1], np.ones(len(source)), np.zeros(len(source))
    rows = np.vstack([np.stack([x, -y, one, zero], 1), np.stack([y, x, zero, one], 1)])
    a, b, c, d = np.linalg.lstsq(rows, target.T.ravel(), rcond=None)[0]
    return np.array([[a, -b, c], [b, a, d]])


@given(seed, angle, scale, shift, shift)
def test_similarity_is_the_least_squares_solution(seed, turn, size, x, y):
    noise = np.random.default_rng(seed).normal(0, 4, TEMPLATE.shape)
    source = turned(TEMPLATE + noise, turn, size, x, y)
    found = align.similarity(source, TEMPLATE)
    # Centred first: the plain system loses digits far from the origin.
    middle = source.mean(0)
    expected = by_lstsq(source - middle, TEMPLATE)
    expected[:, 2] -= expected[:, :2] @ middle
    assert np.allclose(align.move(source, found), align.move(source, expected), atol=1e-6)


@given(angle, scale, shift, shift)
def test_points_of_the_templates_shape_land_on_it(turn, size, x, y):
    points = turned(TEMPLATE, turn, size, x, y)
    assert np.allclose(align.move(points, align.crop_matrix(points)), TEMPLATE, atol=1e-6)


@given(seed, angle, scale, shift, shift)
def test_there_and_back(seed, turn, size, x, y):
    rng = np.random.default_rng(seed)
    matrix = align.crop_matrix(turned(TEMPLATE + rng.normal(0, 3, (5, 2)), turn, size, x, y))
    points = rng.uniform(-100, 300, (20, 2))
    assert np.allclose(align.move(align.move(points, align.invert(matrix)), matrix), points)


@given(seed, angle, scale)
def test_it_turns_and_scales_but_never_mirrors(seed, turn, size):
    noise = np.random.default_rng(seed).normal(0, 3, (5, 2))
    (a, b), (c, d) = align.crop_matrix(turned(TEMPLATE + noise, turn, size, 0, 0))[:, :2]
    assert np.isclose(a, d) and np.isclose(b, -c) and a * d - b * c > 0


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (np.ones((5, 2)), "coincide"),
        (np.full((5, 2), np.nan), "not finite"),
        (np.full((5, 2), np.inf), "not finite"),
        (np.zeros((4, 2)), r"found \(4, 2\) and \(5, 2\)"),
        (np.zeros((5, 3)), r"found \(5, 3\)"),
        (np.zeros(10), r"found \(10,\)"),
    ],
)
def test_points_that_give_no_transform(source, words):
    with pytest.raises(ValueError, match=words):
        align.similarity(source, TEMPLATE)


def test_points_in_a_box():
    points = align.points_in_box((10, 20, 110, 220), MEAN_POINTS_CROP)
    assert np.allclose(points, np.array(MEAN_POINTS_CROP) * (100, 200) + (10, 20))


def test_a_pixel_goes_where_its_point_goes():
    picture = np.zeros((300, 300, 3), np.uint8)
    points = turned(TEMPLATE, 0.3, 1.2, 80, 40)
    matrix = align.crop_matrix(points)
    spot = np.array([[160.0, 120.0]])
    cv2.circle(picture, (160, 120), 3, (255, 255, 255), -1)
    crop = align.warp(picture, matrix)[:, :, 0].astype(float)
    ys, xs = np.mgrid[: CROP.height_px, : CROP.width_px]
    inside = crop > 130  # the gray border is 128
    found = np.array([xs[inside].mean(), ys[inside].mean()])
    assert np.abs(found - align.move(spot, matrix)[0]).max() < 0.5


@pytest.mark.parametrize("times", [2, 4, 7])
def test_a_larger_picture_gives_nearly_the_same_crop(times):
    picture, points = face(120)
    large = cv2.resize(picture, None, fx=times, fy=times, interpolation=cv2.INTER_CUBIC)
    one, _ = align.align(picture, points)
    # A pixel's centre (whole numbers) is half a pixel from its corner at both sizes.
    other, _ = align.align(large, (points + 0.5) * times - 0.5)
    inside = np.s_[10:-10, 10:-10]
    assert difference(one[inside], other[inside]) < 2


def test_shrinking_averages_instead_of_skipping():
    """Lines one pixel wide become gray; sampling single pixels would keep them black or white."""
    picture = np.zeros((1600, 1600, 3), np.uint8)
    picture[:, ::2] = 255
    crop, _ = align.align(picture, align.points_in_box((0, 0, 1600, 1600), MEAN_POINTS_CROP))
    middle = crop[30:-30, 30:-30].astype(float)
    assert abs(middle.mean() - 127.5) < 3 and middle.std() < 20


@pytest.mark.parametrize("size", [60, 2000])
def test_beyond_the_pictures_edge_lies_gray(size):
    picture = np.full((size, size, 3), 250, np.uint8)
    box = (-0.5 * size, 0, 0.5 * size, size)  # half of the face is outside
    crop, _ = align.align(picture, align.points_in_box(box, MEAN_POINTS_CROP))
    assert (crop[:, :45] == CROP.border).all()
    assert (crop[20:-30, 70:] == 250).all()
    gray, _ = align.align(picture[:, :, 0], align.points_in_box(box, MEAN_POINTS_CROP))
    assert np.array_equal(gray, crop[:, :, 0])


@pytest.mark.parametrize("size", [50, 3000])
def test_a_face_that_lies_beside_the_picture(size):
    picture = np.full((size, size, 3), 250, np.uint8)
    box = (5.0 * size, 5.0 * size, 6.0 * size, 6.0 * size)
    crop, _ = align.align(picture, align.points_in_box(box, MEAN_POINTS_CROP))
    assert (crop == CROP.border).all()


@pytest.mark.parametrize("shape", [(1, 1), (10, 20000), (20000, 10), (5000, 300)])
def test_any_shape_of_picture_gives_a_crop(shape):
    height, width = shape
    picture = np.full((height, width, 3), 7, np.uint8)
    points = align.points_in_box((0, 0, width, height), MEAN_POINTS_CROP)
    assert align.align(picture, points)[0].shape == (CROP.height_px, CROP.width_px, 3)


@pytest.mark.parametrize("size", [90, 700])
def test_a_mirrored_face_gives_the_mirrored_crop(size):
    """The mirror picture's right eye is the picture's left one. The template stands half a pixel
    beside the crop's middle (36.5 + 75.5 = 112, the pixels' centres 0 + 111), so the crop moves
    by one."""
    picture, points = face(size)
    crop, _ = align.align(picture, points)
    swapped = points[[1, 0, 2, 4, 3]]
    swapped[:, 0] = size - 1 - swapped[:, 0]
    mirrored, _ = align.align(np.ascontiguousarray(picture[:, ::-1]), swapped)
    inside = np.s_[12:-12, 12:-12]
    back = np.roll(mirrored[:, ::-1], 1, axis=1)
    assert difference(crop[inside], back[inside]) < 1.5
    assert difference(crop[inside], mirrored[inside]) > 10


def test_the_layout_of_the_pixels_in_memory_does_not_matter():
    picture, points = face(200)
    plain, _ = align.align(np.ascontiguousarray(picture[:, :, ::-1]), points)
    assert np.array_equal(align.align(picture[:, :, ::-1], points)[0], plain)
    picture.setflags(write=False)
    align.align(picture, points)


def test_another_geometry():
    points = ((20.0, 20.0), (40.0, 20.0), (30.0, 30.0), (22.0, 44.0), (38.0, 44.0))
    geometry = CropGeometry(60, 50, points, 0)
    picture = np.full((50, 60, 3), 99, np.uint8)
    crop, matrix = align.align(picture, np.array(points), geometry)
    assert np.allclose(matrix, [[1, 0, 0], [0, 1, 0]])
    assert np.array_equal(crop, picture)
