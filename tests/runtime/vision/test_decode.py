"""Raw numbers become readings, by the bundle's thresholds and what it was trained for."""

from __future__ import annotations

import numpy as np
import pytest

from feallm.runtime.backends.base import AU_INTENSITY, AU_PROBABILITY, EXPRESSION, TOKENS
from feallm.runtime.bundle.open import open_bundle
from feallm.runtime.contract.aus import AU_INDEX, AU_KEYS
from feallm.runtime.contract.errors import BackendError
from feallm.runtime.contract.frame import Face
from feallm.runtime.vision import decode

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
