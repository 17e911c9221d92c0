"""Batches: the same for the same seed and step, and sides that follow a mirrored picture."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from feallm.model.data.augment import Augment
from feallm.model.train.batches import Crops, still
from feallm.runtime.contract.aus import AU_INDEX
from feallm.runtime.vision.align import crop_matrix, warp

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
    return Crops(faces, rows, rare=0.3)


def test_the_same_seed_and_step_give_the_same_batch(crops):
    first, again = (crops.draw(1, 7, 16, Augment(), 0.5) for _ in range(2))
    assert torch.equal(first.crops, again.crops)
    assert torch.equal(first.expression, again.expression)
    assert torch.equal(first.au_sides.nan_to_num(-9), again.au_sides.nan_to_num(-9))
    for other in (crops.draw(1, 8, 16, Augment(), 0.5), crops.draw(2, 7, 16, Augment(), 0.5)):
        assert not torch.equal(first.crops, other.crops)


def test_sides_are_swapped_with_the_picture(faces, crops):
    before = faces.au_sides.copy()
    plain = crops.draw(3, 0, 24, STILL, 1.0)
    mirrored = crops.draw(3, 0, 24, replace(STILL, flip=1.0), 1.0)
    assert torch.equal(mirrored.crops, plain.crops.flip(2))
    swapped = plain.au_sides.flip(2)
    assert torch.equal(mirrored.au_sides.nan_to_num(-9), swapped.nan_to_num(-9))
    assert not torch.equal(swapped.nan_to_num(-9), plain.au_sides.nan_to_num(-9))
    np.testing.assert_array_equal(faces.au_sides, before)  # the pack itself is left alone


def test_labels_belong_to_their_crops(faces, rows, crops):
    """Each crop is the aligned picture of the row whose labels it carries."""
    batch = crops.draw(0, 1, 24, STILL, 1.0)
    for k in range(24):
        row = shown(faces, rows, batch.crops[k])
        np.testing.assert_array_equal(batch.expression[k], faces.expression[row])
        np.testing.assert_array_equal(batch.au_sides[k], faces.au_sides[row])


def test_only_its_own_rows_are_drawn(faces):
    mine = np.array([5, 9, 11])
    batch = Crops(faces, mine, rare=0.0).draw(0, 0, 40, STILL, 1.0)
    assert {shown(faces, mine, crop) for crop in batch.crops} == {5, 9, 11}


def test_rare_classes_are_drawn_more_often(faces, rows):
    uneven = faces.expression.copy()
    uneven[:, :] = 0
    uneven[:90, 0], uneven[90:, 6] = 1, 1
    changed = replace(faces, expression=uneven)
    share = Crops(changed, rows, rare=1.0).chance[90:].sum()
    assert share == pytest.approx(0.5)
    assert Crops(changed, rows, rare=0.0).chance[90:].sum() == pytest.approx(6 / 96)


def test_points_are_used_where_they_are_known(faces):
    rows = np.array([0, 1])  # the second has none
    at_points, at_mean = (still(faces, rows, at_points=p).numpy() for p in (True, False))
    assert (at_points[0] == warp(faces.pictures[0], crop_matrix(faces.points5[0]))).all()
    assert (at_points[0] != at_mean[0]).any()
    assert (at_points[1] == at_mean[1]).all()
    assert faces.au_sides.shape[1:] == (len(AU_INDEX), 2)
