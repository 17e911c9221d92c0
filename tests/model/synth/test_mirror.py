"""A movement of one side, mirrored, is the same movement of the other side and nothing else."""

from dataclasses import replace

import numpy as np
import pytest

from feallm.model.synth import sheet
from feallm.model.synth.action_units import shape_weights
from feallm.model.synth.labels import Reader
from feallm.runtime.contract.aus import AU_BY_KEY, AU_INDEX, AU_KEYS, N_AUS

SIDED = [key for key in AU_KEYS if AU_BY_KEY[key].sided]
FAR = {"toy": 0.1, "real": 0.1}  # the cheeks' points are not mirrored one by one


def one_side(key, side, level=4):
    sides = np.zeros((N_AUS, 2))
    sides[AU_INDEX[key], side] = level
    return sides


@pytest.fixture
def labels(head):
    """Labels (20, 2) of the mean head for intensities."""
    reader = Reader.of(head)
    rest = head.mean[reader.vertices].astype(np.float64)

    def of(sides):
        moved = np.tensordot(shape_weights(sides), head.expression[:, reader.vertices], 1)
        return reader.read(rest, rest + moved)

    return of


@pytest.mark.parametrize("key", SIDED)
@pytest.mark.parametrize("level", [1, 4])
def test_left_and_right_change_places(labels, key, level, request):
    left, right = labels(one_side(key, 0, level)), labels(one_side(key, 1, level))
    far = FAR[request.node.callspec.params["head"]]
    np.testing.assert_allclose(left[:, ::-1], right, atol=far)
    assert left[AU_INDEX[key], 0] > left[AU_INDEX[key], 1] + 0.5 * (level > 1)
    assert left[AU_INDEX[key], 1] < 0.3


def test_many_movements_at_once_change_places(labels):
    rng = np.random.default_rng(3)
    for _ in range(10):
        sides = np.zeros((N_AUS, 2))
        for key in rng.choice(SIDED, 3, replace=False):
            sides[AU_INDEX[key]] = rng.uniform(0, 4, 2)
        np.testing.assert_allclose(labels(sides)[:, ::-1], labels(sides[:, ::-1]), atol=0.15)


@pytest.fixture
def symmetric(studio):
    """A plain picture of the mean head, whose two halves are alike."""
    who = sheet.bare(0)
    ready = studio.prepare(replace(who, weights=np.zeros(100, np.float32)))

    def of(sides):
        return studio.take(ready, replace(sheet._PLAIN, au_sides=sides), [], develop=False)

    return of


@pytest.mark.parametrize("key", SIDED)
def test_the_person_s_left_is_seen_on_the_picture_s_right(symmetric, key):
    still = symmetric(np.zeros((N_AUS, 2))).picture.astype(int)
    middle = still.shape[1] // 2
    halves = []
    for side in (0, 1):
        face = symmetric(one_side(key, side, 5))
        change = np.abs(face.picture - still).sum(2)
        halves.append((change[:, :middle].sum(), change[:, middle:].sum()))
        assert face.au_sides[AU_INDEX[key], side] > face.au_sides[AU_INDEX[key], 1 - side]
    (right_half, left_half), (right_half_2, left_half_2) = halves
    assert left_half > 2 * right_half and right_half_2 > 2 * left_half_2


@pytest.mark.parametrize("key", SIDED)
def test_points_are_mirrored_with_the_movement(symmetric, key):
    """The picture's points of a left movement are the mirror image of a right one's."""
    pairs = np.array([*range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, 35, 34, 33, 32, 31,
                      45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40, 54, 53, 52, 51, 50, 49, 48,
                      59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65])  # fmt: skip
    left, right = (symmetric(one_side(key, side)) for side in (0, 1))
    mirrored = left.points68[pairs] * (-1, 1) + (left.picture.shape[1] - 1, 0)
    np.testing.assert_allclose(mirrored, right.points68, atol=0.15)
