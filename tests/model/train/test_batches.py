"""Batches: the same for the same seed and step, and sides that follow a mirrored picture."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from feallm.model.data import pack
from feallm.model.data.augment import Augment
from feallm.model.train.batches import Crops, Mix, still
from feallm.runtime.contract.aus import AU_INDEX
from feallm.runtime.contract.landmarks import MIRRORED
from feallm.runtime.vision.align import crop_matrix, move, turned_deg, warp

STILL = Augment(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)


def shown(faces, rows, crop):
    """The one row whose undisturbed crop this is, to a gray level."""
    gap = (still(faces, rows, at_points=False).int() - crop.int()).abs().amax((1, 2)).numpy()
    (found,) = rows[gap <= 1]
    return int(found)


@pytest.fixture(scope="module")
def rows(faces):
    return np.arange(len(faces.pictures))


@pytest.fixture(scope="module")
def crops(faces, rows):
    return Crops(faces, rows, Mix(rare=0.3, mean_share=1.0))


def test_the_same_seed_and_step_give_the_same_batch(crops):
    first, again = (crops.draw(1, 7, 16, Augment()) for _ in range(2))
    assert torch.equal(first.crops, again.crops)
    assert torch.equal(first.expression, again.expression)
    assert torch.equal(first.au_sides.nan_to_num(-9), again.au_sides.nan_to_num(-9))
    for other in (crops.draw(1, 8, 16, Augment()), crops.draw(2, 7, 16, Augment())):
        assert not torch.equal(first.crops, other.crops)


def test_sides_are_swapped_with_the_picture(faces, crops):
    before = faces.au_sides.copy()
    plain = crops.draw(3, 0, 24, STILL)
    mirrored = crops.draw(3, 0, 24, replace(STILL, flip=1.0))
    assert torch.equal(mirrored.crops, plain.crops.flip(2))
    swapped = plain.au_sides.flip(2)
    assert torch.equal(mirrored.au_sides.nan_to_num(-9), swapped.nan_to_num(-9))
    assert not torch.equal(swapped.nan_to_num(-9), plain.au_sides.nan_to_num(-9))
    np.testing.assert_array_equal(faces.au_sides, before)  # the pack itself is left alone


def test_labels_belong_to_their_crops(faces, rows, crops):
    """Each crop is the aligned picture of the row whose labels it carries."""
    batch = crops.draw(0, 1, 24, STILL)
    for k in range(24):
        row = shown(faces, rows, batch.crops[k])
        np.testing.assert_array_equal(batch.expression[k], faces.expression[row])
        np.testing.assert_array_equal(batch.au_sides[k], faces.au_sides[row])


def test_only_its_own_rows_are_drawn(faces):
    mine = np.array([5, 9, 11])
    batch = Crops(faces, mine, Mix(rare=0.0, mean_share=1.0)).draw(0, 0, 40, STILL)
    assert {shown(faces, mine, crop) for crop in batch.crops} == {5, 9, 11}


def test_rare_classes_are_drawn_more_often(faces, rows):
    uneven = faces.expression.copy()
    uneven[:, :] = 0
    uneven[:90, 0], uneven[90:, 6] = 1, 1
    changed = replace(faces, expression=uneven)
    share = Crops(changed, rows, Mix(rare=1.0)).chance[0][90:].sum()
    assert share == pytest.approx(0.5)
    assert Crops(changed, rows, Mix(rare=0.0)).chance[0][90:].sum() == pytest.approx(6 / 96)


def test_points_are_used_where_they_are_known(faces):
    rows = np.array([0, 1])  # the second has none
    at_points, at_mean = (still(faces, rows, at_points=p).numpy() for p in (True, False))
    assert (at_points[0] == warp(faces.pictures[0], crop_matrix(faces.points5[0]))).all()
    assert (at_points[0] != at_mean[0]).any()
    assert (at_points[1] == at_mean[1]).all()
    assert faces.au_sides.shape[1:] == (len(AU_INDEX), 2)


MARKS = np.array([[10.0 + 25 * np.cos(k), 30 + 20 * np.sin(k)] for k in range(68)], np.float32)


@pytest.fixture
def placed(faces):
    """The same faces, all with one pose and the same landmarks."""
    count = len(faces.pictures)
    place = {
        "points68": np.tile(MARKS, (count, 1, 1)),
        "pose_deg": np.tile(np.array([5, 20, 8], np.float32), (count, 1)),
        "gaze_deg": np.tile(np.array([3, -9], np.float32), (count, 1)),
    }
    return replace(faces, place=place)


def test_landmarks_are_where_the_crop_shows_them(placed, rows):
    batch = Crops(placed, rows, Mix(mean_share=1.0)).draw(0, 0, 6, STILL)
    matrix = crop_matrix(placed.mean5[0])
    np.testing.assert_allclose(batch.landmarks[0], move(MARKS, matrix), atol=1e-3)
    expected = [5, 20, 8 - turned_deg(matrix)]
    np.testing.assert_allclose(batch.pose_deg, [expected] * 6, rtol=1e-5)


def test_a_mirrored_face_looks_the_other_way(placed, rows):
    crops = Crops(placed, rows, Mix(mean_share=1.0))
    plain, mirrored = (crops.draw(0, 0, 6, replace(STILL, flip=flip)) for flip in (0.0, 1.0))
    np.testing.assert_allclose(mirrored.pose_deg, plain.pose_deg * torch.tensor([1, -1, -1]))
    np.testing.assert_allclose(mirrored.gaze_deg, plain.gaze_deg * torch.tensor([1, -1]))
    width = mirrored.crops.shape[2]
    right_eye = plain.landmarks[:, 36]  # what was the right eye's outer corner is the left one's
    np.testing.assert_allclose(width - 1 - mirrored.landmarks[:, 45, 0], right_eye[:, 0], rtol=1e-4)
    np.testing.assert_allclose(mirrored.landmarks[:, 45, 1], right_eye[:, 1], rtol=1e-4)
    assert sorted(MIRRORED) == list(range(68))
    assert [MIRRORED[k] for k in MIRRORED] == list(range(68))  # twice is none


def test_turning_the_picture_changes_roll_alone(placed, rows):
    crops = Crops(placed, rows, Mix(mean_share=1.0))
    batch = crops.draw(0, 0, 30, replace(STILL, turn_deg=10.0))
    turned = batch.pose_deg - torch.tensor([5.0, 20, 8])
    assert not turned[:, :2].any() and turned[:, 2].std() > 4
    middle, ahead = batch.landmarks.mean(1), batch.landmarks[:, 0]
    found = torch.rad2deg(torch.atan2(*(ahead - middle).flip(1).unbind(1)))
    start = np.rad2deg(np.arctan2(*(MARKS[0] - MARKS.mean(0))[::-1]))
    # Down is positive in a picture: turned clockwise is rolled to the other side.
    np.testing.assert_allclose(found - start, -turned[:, 2], atol=0.1)


def test_unknown_places_stay_unknown(crops):
    batch = crops.draw(0, 0, 4, STILL)
    for values in (batch.landmarks, batch.pose_deg, batch.gaze_deg):
        assert torch.isnan(values).all()


def test_packs_are_drawn_in_their_shares(faces):
    both = pack.join([faces, replace(faces, expression=faces.expression[:, ::-1].copy())])
    assert both.source.tolist() == [0] * len(faces.pictures) + [1] * len(faces.pictures)
    crops = Crops(both, np.arange(len(both.pictures)), Mix((3.0, 1.0), rare=0.0))
    chosen = crops._choose(np.random.default_rng(0), 4000)
    assert (both.source[chosen] == 1).mean() == pytest.approx(0.25, abs=0.03)


def test_points_from_another_source_and_a_close_frame(faces):
    loose = Mix(mean_share=0.0, loose=1.0, framed=1.0)
    rows = np.flatnonzero(np.isfinite(faces.points5).all((1, 2)))
    first, second = (Crops(faces, rows, mix).draw(0, 0, 8, STILL) for mix in (loose, loose))
    assert torch.equal(first.crops, second.crops)
    plain = Crops(faces, rows, Mix(mean_share=0.0)).draw(0, 0, 8, STILL)
    assert not torch.equal(first.crops, plain.crops)


def test_the_turn_of_a_transform():
    assert turned_deg(np.array([[0.0, -2, 5], [2, 0, 1]])) == pytest.approx(90)


def test_renders_may_be_disturbed_less(faces):
    """A face whose gaze is known was drawn: its picture has had its noise already."""
    place = {name: values.copy() for name, values in faces.place.items()}
    place["gaze_deg"][:] = np.nan
    place["gaze_deg"][::2] = 0.0
    mixed = replace(faces, place=place)
    rows = np.arange(len(faces.group))
    crops = Crops(mixed, rows, Mix(mean_share=1.0, drawn=STILL))
    for i in rows[:6]:
        (a, _), (b, _) = (crops._crop(int(i), np.random.default_rng(s), Augment()) for s in (0, 1))
        assert np.array_equal(a.pixels, b.pixels) == (i % 2 == 0)
