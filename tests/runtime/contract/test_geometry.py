"""Crop and regions: inside, and as symmetric as a face."""

from __future__ import annotations

import numpy as np
import pytest

from feallm.runtime.contract.geometry import (
    CROP,
    MEAN_POINTS_CROP,
    MEAN_POINTS_HAAR,
    CropGeometry,
)
from feallm.runtime.contract.regions import PAPER16, REGION_NAMES, REGIONS

SWAPPED = [1, 0, 2, 4, 3]  # the five points with left and right exchanged


def other_side(name):
    return {"left": name[:-4] + "right", "ight": name[:-5] + "left"}.get(name[-4:], name)


def test_the_crop_is_symmetric_and_upright():
    points = np.array(CROP.points_px)
    mirrored = points[SWAPPED] * (-1, 1) + (CROP.width_px, 0)
    assert np.allclose(points, mirrored)
    right_eye, left_eye, nose, right_corner, left_corner = points
    assert right_eye[0] < nose[0] < left_eye[0]  # the subject's right is the picture's left
    assert right_corner[0] < left_corner[0]
    assert right_eye[1] == left_eye[1] < nose[1] < right_corner[1] == left_corner[1]
    assert (points > 0).all() and (points < (CROP.width_px, CROP.height_px)).all()


@pytest.mark.parametrize("shares", [MEAN_POINTS_CROP, MEAN_POINTS_HAAR], ids=["crop", "haar"])
def test_mean_points_are_a_face_in_a_square(shares):
    points = np.array(shares)
    assert ((points > 0.2) & (points < 0.8)).all()
    mirrored = points[SWAPPED] * (-1, 1) + (1, 0)
    assert np.abs(points - mirrored).max() < 0.05


@pytest.mark.parametrize("bad", [{"width_px": 15}, {"height_px": 0}, {"border": 256}])
def test_impossible_geometries(bad):
    facts = {"width_px": 112, "height_px": 128, "points_px": CROP.points_px, "border": 0}
    with pytest.raises(ValueError, match="impossible"):
        CropGeometry(**{**facts, **bad})


@pytest.mark.parametrize("table", [REGIONS, PAPER16], ids=["named", "paper"])
def test_sixteen_boxes_inside_the_crop(table):
    assert len(table) == len({region.name for region in table}) == 16
    assert len({region.box_px for region in table}) == 16
    for region in table:
        x0, y0, x1, y1 = region.box_px
        assert 0 <= x0 < x1 <= CROP.width_px and 0 <= y0 < y1 <= CROP.height_px
        assert (x1 - x0) * (y1 - y0) >= 16 * 16
        assert region.text


def test_left_and_right_regions_are_mirror_images():
    boxes = {region.name: region.box_px for region in REGIONS}
    for name, (x0, y0, x1, y1) in boxes.items():
        assert boxes[other_side(name)] == (CROP.width_px - x1, y0, CROP.width_px - x0, y1)
    assert sum("left" in name for name in boxes) == sum("right" in name for name in boxes) == 4


def test_the_regions_leave_hardly_a_place_of_the_face_out():
    seen = np.zeros((CROP.height_px, CROP.width_px), bool)
    for region in REGIONS:
        x0, y0, x1, y1 = map(int, region.box_px)
        seen[y0:y1, x0:x1] = True
    assert seen[:, 16:96].mean() > 0.95


@pytest.mark.parametrize(
    ("point", "names"),
    [
        (0, {"eye_right"}),
        (1, {"eye_left"}),
        (2, {"nose_root", "nose_base"}),
        (3, {"corner_right", "mouth"}),
        (4, {"corner_left", "mouth"}),
    ],
)
def test_each_point_lies_in_its_regions(point, names):
    x, y = CROP.points_px[point]
    around = {r.name for r in REGIONS
              if r.box_px[0] <= x <= r.box_px[2] and r.box_px[1] <= y <= r.box_px[3]}  # fmt: skip
    assert names <= around
    assert not {other_side(name) for name in names if other_side(name) != name} & around


def test_names_in_order():
    assert REGION_NAMES == tuple(region.name for region in REGIONS)
