"""Readings without a network, and pictures of faces without people."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from feallm.runtime.contract.aus import AU_KEYS, AUS
from feallm.runtime.contract.expressions import EXPRESSIONS
from feallm.runtime.contract.reading import AUReading, ExpressionReading, Reading


def reading_of(top="neutral", *, trained=AU_KEYS, **intensities):
    """A face with these AUs, one number or (left, right) each; the other trained ones absent."""
    aus = {}
    for au in AUS:
        value = intensities.get(au.key, 0.0)
        left, right = value if isinstance(value, tuple) else (value, value)
        present = au.key in intensities
        aus[au.key] = (
            AUReading(
                au.key,
                max(left, right),
                present,
                0.9 if present else 0.1,
                left if au.sided else None,
                right if au.sided else None,
                present and left >= 1 if au.sided else None,
                present and right >= 1 if au.sided else None,
            )
            if au.key in trained
            else None
        )
    scores = {name: 0.93 if name == top else 0.01 for name in EXPRESSIONS}
    return Reading(0, (0.0, 0.0, 10.0, 10.0), 1.0, aus, ExpressionReading(scores))


def random_reading(seed):
    """Any AUs at any strength under any expression."""
    rng = np.random.default_rng(seed)
    trained = [key for key in AU_KEYS if rng.random() < 0.8]
    share = rng.choice([0.0, 0.1, 0.3, 0.9])
    present = {
        key: tuple(rng.uniform(0, 5, 2).round(2).tolist())
        for key in trained
        if rng.random() < share
    }
    return reading_of(str(rng.choice(EXPRESSIONS)), trained=trained, **present)


@pytest.fixture(scope="session", name="reading_of")
def _reading_of():
    return reading_of


@pytest.fixture(scope="session", name="random_reading")
def _random_reading():
    return random_reading


def drawn_face(size=160):
    """A square picture of a face as the cascade knows one: dark brows, eyes and mouth on a light
    oval. RGB; the eyes stand at 0.38 and 0.62 of its width, 0.49 of its height."""
    picture = np.full((200, 200, 3), 90, np.uint8)

    def oval(middle, axes, colour):
        cv2.ellipse(picture, middle, axes, 0, 0, 360, colour, -1)

    oval((100, 105), (62, 82), (60, 45, 35))  # hair
    oval((100, 112), (54, 72), (215, 180, 160))
    for x in (76, 124):
        oval((x, 96), (15, 9), (150, 115, 100))
        oval((x, 98), (10, 5), (240, 235, 230))
        oval((x, 98), (5, 5), (30, 20, 15))
        cv2.line(picture, (x - 15, 82), (x + 15, 82), (60, 40, 30), 5)
    oval((100, 122), (9, 20), (230, 200, 180))
    oval((100, 138), (12, 4), (150, 110, 95))
    oval((100, 160), (22, 6), (120, 50, 50))
    blurred = cv2.GaussianBlur(picture, (7, 7), 0)
    return cv2.resize(blurred, (size, size), interpolation=cv2.INTER_AREA)


def scene(height, width, *faces):
    """A gray picture with drawn faces, (x, y, size) each."""
    picture = np.full((height, width, 3), 90, np.uint8)
    for x, y, size in faces:
        picture[y : y + size, x : x + size] = drawn_face(size)
    return picture


@pytest.fixture(scope="session", name="scene")
def _scene():
    return scene
