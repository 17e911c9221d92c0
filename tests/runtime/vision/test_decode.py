"""Raw numbers become readings, by the bundle's thresholds and what it was trained for."""

from __future__ import annotations

import numpy as np
import pytest

from feallm.runtime.backends.base import (
    AU_INTENSITY,
    AU_PROBABILITY,
    AU_SIDES,
    EXPRESSION,
    GAZE,
    LANDMARKS,
    POSE,
    TOKENS,
)
from feallm.runtime.bundle.open import open_bundle
from feallm.runtime.contract.aus import AU_INDEX, AU_KEYS
from feallm.runtime.contract.errors import BackendError
from feallm.runtime.contract.frame import Face
from feallm.runtime.vision import decode
from feallm.runtime.vision.align import move

FACE = Face((1.0, 2.0, 3.0, 4.0), None, 0.75, 5)


@pytest.fixture(scope="module")
def manifest(toy_bundle):
    return open_bundle(toy_bundle).manifest


@pytest.fixture
def outputs():
    """Of two faces, all zero but an even expression."""
    return {
        AU_PROBABILITY: np.zeros((2, 20), np.float32),
        AU_INTENSITY: np.zeros((2, 20, 2), np.float32),
        EXPRESSION: np.full((2, 8), 0.125, np.float32),
        TOKENS: np.zeros((2, 17, 256), np.float32),
    }


def test_facts_of_the_face_are_kept(outputs, manifest):
    reading = decode.reading(outputs, 0, FACE, manifest)
    assert (reading.track, reading.box, reading.score) == (5, FACE.box, 0.75)
    assert reading.explanation is None


def test_left_comes_first_and_the_larger_side_counts(outputs, manifest):
    outputs[AU_INTENSITY][1, AU_INDEX["AU12"]] = (1.5, 4.0)
    au = decode.reading(outputs, 1, FACE, manifest).aus["AU12"]
    assert (au.left, au.right, au.intensity) == (1.5, 4.0, 4.0)


def test_no_sides_but_for_aus_trained_with_sides(outputs, manifest):
    manifest = manifest.model_copy(update={"aus_sided": ("AU12",)})
    reading = decode.reading(outputs, 0, FACE, manifest)
    sided = [key for key, au in reading.aus.items() if au and au.left is not None]
    assert sided == ["AU12"]
    assert all((au.left is None) == (au.right is None) for au in reading.aus.values() if au)


def test_intensities_stay_within_the_scale(outputs, manifest):
    outputs[AU_INTENSITY][0, AU_INDEX["AU12"]] = (-1, 9)
    au = decode.reading(outputs, 0, FACE, manifest).aus["AU12"]
    assert (au.left, au.right) == (0.0, 5.0)


@pytest.mark.parametrize("key", ["AU1", "AU12", "AU25"])
@pytest.mark.parametrize(("step", "present"), [(-0.001, False), (0.0, True), (0.001, True)])
def test_present_from_the_threshold_on(outputs, manifest, toy, key, step, present):
    outputs[AU_PROBABILITY] = np.zeros((2, 20))  # float64: the threshold itself can be stood on
    outputs[AU_PROBABILITY][0, AU_INDEX[key]] = toy.THRESHOLDS[key] + step
    reading = decode.reading(outputs, 0, FACE, manifest)
    assert reading.aus[key].present is present
    assert reading.present == ((key,) if present else ())


def test_all_twenty_are_there_and_untrained_ones_are_null(outputs, manifest, toy):
    outputs[AU_PROBABILITY][:] = 1
    reading = decode.reading(outputs, 0, FACE, manifest)
    assert tuple(reading.aus) == AU_KEYS
    assert {key for key, au in reading.aus.items() if au is not None} == set(toy.THRESHOLDS)
    assert reading.present == tuple(toy.THRESHOLDS)


def test_plain_numbers_come_out(outputs, manifest):
    reading = decode.reading(outputs, 0, FACE, manifest)
    au = reading.aus["AU12"]
    kinds = {type(v) for v in (au.intensity, au.probability, au.left, au.right)}
    assert kinds == {float} and type(au.present) is bool
    assert {type(v) for v in reading.expression.scores.values()} == {float}


def test_the_top_expression(outputs, manifest):
    outputs[EXPRESSION][0, 4] = 0.5
    assert decode.reading(outputs, 0, FACE, manifest).expression.top == "anger"


@pytest.mark.parametrize("name", [AU_PROBABILITY, AU_INTENSITY, EXPRESSION, TOKENS])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_none_are_refused(outputs, name, bad):
    decode.check(outputs, 2)
    outputs[name].reshape(-1)[-1] = bad
    with pytest.raises(BackendError, match=f"not finite in {name}"):
        decode.check(outputs, 2)


@pytest.mark.parametrize("name", [AU_PROBABILITY, AU_INTENSITY, EXPRESSION, TOKENS])
def test_another_shape_is_refused(outputs, name):
    with pytest.raises(BackendError, match=name):
        decode.check({**outputs, name: outputs[name][:1]}, 2)
    with pytest.raises(BackendError, match=name):
        decode.check({**outputs, name: outputs[name][:, :-1, ..., None]}, 2)
    with pytest.raises(BackendError, match=name):
        decode.check({k: v for k, v in outputs.items() if k != name}, 2)


@pytest.fixture
def placed(outputs):
    """The same with landmarks, pose and gaze, each face its own."""
    rng = np.random.default_rng(3)
    outputs[LANDMARKS] = rng.uniform(10, 100, (2, 68, 2)).astype(np.float32)
    outputs[POSE] = np.array([[5, -20, 10], [1, 2, 175]], np.float32)
    outputs[GAZE] = np.array([[3, -7], [0, 1]], np.float32)
    return outputs


def turned(degrees, scale=2.0):
    """A transform that turns the picture clockwise on the screen and enlarges it."""
    a = np.deg2rad(degrees)
    turn = scale * np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    return np.hstack([turn, [[4.0], [9.0]]])


def test_places_go_back_into_the_frame(placed, manifest):
    matrix = turned(30)
    place = decode.reading(placed, 0, FACE, manifest, matrix=matrix).place
    np.testing.assert_allclose(move(np.array(place.landmarks), matrix), placed[LANDMARKS][0], 1e-4)
    # The crop was turned clockwise to be upright: in the frame the head leans the other way.
    assert place.pose_deg == pytest.approx((5, -20, 40))
    assert place.gaze_deg == (3, -7)


def test_roll_goes_round(placed, manifest):
    place = decode.reading(placed, 1, FACE, manifest, matrix=turned(30)).place
    assert place.pose_deg[2] == pytest.approx(-155)


def test_no_place_without_outputs_or_transform(outputs, placed, manifest):
    assert decode.reading(placed, 0, FACE, manifest).place is None
    for name in (LANDMARKS, POSE, GAZE):
        del outputs[name]
    assert decode.reading(outputs, 0, FACE, manifest, matrix=turned(0)).place is None


@pytest.mark.parametrize("name", [LANDMARKS, POSE, GAZE])
def test_places_are_all_there_or_none(placed, name):
    decode.check(placed, 2)
    kept = placed.pop(name)
    with pytest.raises(BackendError, match=name):
        decode.check(placed, 2)
    with pytest.raises(BackendError, match=name):
        decode.check({**placed, name: kept[:, :2, ...][..., :1]}, 2)


@pytest.fixture
def sides(placed):
    """The same with presence on each side: AU12 on the left of the first face alone."""
    placed[AU_SIDES] = np.full((2, 20, 2), 0.01, np.float32)
    placed[AU_SIDES][0, AU_INDEX["AU12"], 0] = 0.97
    placed[AU_PROBABILITY] = placed[AU_SIDES].max(2)
    return placed


def test_presence_on_each_side(sides, manifest):
    with_sides = manifest.model_copy(update={"aus_sided": ("AU12",)})
    found = decode.reading(sides, 0, FACE, with_sides).aus["AU12"]
    assert (found.present, found.left_present, found.right_present) == (True, True, False)
    other = decode.reading(sides, 1, FACE, with_sides).aus["AU12"]
    assert (other.present, other.left_present, other.right_present) == (False, False, False)


def test_sides_that_were_not_trained_are_not_told(sides, outputs, manifest):
    alike = manifest.model_copy(update={"aus_sided": ()})
    found = decode.reading(sides, 0, FACE, alike).aus["AU12"]
    assert found.present and found.left_present is None and found.right_present is None
    del outputs[AU_SIDES]
    with_sides = manifest.model_copy(update={"aus_sided": ("AU12",)})
    assert decode.reading(outputs, 0, FACE, with_sides).aus["AU12"].left_present is None


def test_after_two_looks_the_face_has_what_a_side_has(sides):
    second = {name: values.copy() for name, values in sides.items()}
    second[AU_SIDES] = second[AU_SIDES][..., ::-1].copy()  # it saw the other side
    both = decode.both_looks(sides, [0, 1], second)
    np.testing.assert_allclose(both[AU_SIDES][0, AU_INDEX["AU12"]], [0.49, 0.49], rtol=1e-6)
    np.testing.assert_array_equal(both[AU_PROBABILITY], both[AU_SIDES].max(2))


def test_after_two_looks_the_likelier_side_is_the_stronger_one(sides):
    """The first look is surer of its side, the second saw more movement on the other."""
    k = AU_INDEX["AU12"]
    second = {name: values.copy() for name, values in sides.items()}
    sides[AU_SIDES][0, k], sides[AU_INTENSITY][0, k] = (0.9, 0.1), (2, 1)
    second[AU_SIDES][0, k], second[AU_INTENSITY][0, k] = (0.4, 0.6), (0, 5)
    both = decode.both_looks(sides, [0, 1], second)
    np.testing.assert_allclose(both[AU_INTENSITY][0, k], [1, 3])
    np.testing.assert_allclose(both[AU_SIDES][0, k], [0.35, 0.65])


def test_without_any_strength_presence_keeps_its_side(sides):
    k = AU_INDEX["AU12"]
    sides[AU_INTENSITY][0, k] = 0
    both = decode.both_looks(sides, [0, 1], sides)
    np.testing.assert_allclose(both[AU_SIDES][0, k], [0.97, 0.01])


def test_sides_of_another_shape_are_refused(sides):
    decode.check(sides, 2)
    with pytest.raises(BackendError, match=AU_SIDES):
        decode.check({**sides, AU_SIDES: sides[AU_SIDES][..., 0]}, 2)


def test_without_expression(outputs, manifest):
    reading = decode.reading(outputs, 0, FACE, manifest, expression=False)
    assert reading.expression is None and reading.aus["AU12"] is not None


def test_own_points_are_the_means_of_eyes_nose_and_corners_of_the_mouth(placed):
    """The crop was enlarged twice and moved by (4, 9): back in the frame by hand."""
    marks = placed[LANDMARKS][1].astype(float)
    five = [marks[36:42].mean(0), marks[42:48].mean(0), marks[30], marks[48], marks[54]]
    found = decode.own_points(placed, 1, turned(0))
    assert found.shape == (5, 2) and found.dtype == np.float64
    np.testing.assert_allclose(found, (np.array(five) - [4, 9]) / 2, rtol=1e-6)


def test_own_points_turn_back_with_the_crop(placed):
    """A quarter turn clockwise brings (x, y) to (-y, x): the way back is (y, -x)."""
    nose = placed[LANDMARKS][0, 30].astype(float)
    found = decode.own_points(placed, 0, turned(90, scale=1))[2]
    x, y = nose - [4, 9]
    np.testing.assert_allclose(found, (y, -x), rtol=1e-6)
