"""Readings without a network, and pictures of faces without people."""

from __future__ import annotations

from pathlib import Path

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


class Heads:
    """Rendered heads of different people, to be laid into pictures."""

    def __init__(self, path):
        arrays = np.load(path)
        ends = arrays["offsets"]
        files = [arrays["images"][a:b] for a, b in zip(ends, ends[1:], strict=False)]
        self._heads = [cv2.imdecode(file, cv2.IMREAD_UNCHANGED) for file in files]
        self._marks = arrays["points68"].astype(float)

    def __len__(self):
        return len(self._heads)

    def lay(self, picture, number, x, y, size):
        """Lay a head over an RGB picture, in place, so that its face's box, `size` px high, begins
        at x, y. Gives the box and the 68 landmarks."""
        marks = self._marks[number]
        up = 0.31 * (marks[17:27].mean(0) - marks[8])  # about as far from the brows to the hair
        outline = np.concatenate([marks, marks[17:27] + up])
        low, high = outline.min(0), outline.max(0)
        scale = size / (high[1] - low[1])
        turn = np.array([[scale, 0, x - scale * low[0]], [0, scale, y - scale * low[1]]])
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        shape = picture.shape[1], picture.shape[0]
        head = cv2.resize(self._heads[number], None, fx=scale, fy=scale, interpolation=how)
        move = np.array([[1, 0, turn[0, 2]], [0, 1, turn[1, 2]]])
        laid = cv2.warpAffine(cv2.cvtColor(head, cv2.COLOR_BGRA2RGBA), move, shape)
        cover = laid[..., 3:] / 255.0
        picture[:] = np.rint(cover * laid[..., :3] + (1 - cover) * picture)
        placed = marks * scale + turn[:, 2]
        return (*(low * scale + turn[:, 2]), *(high * scale + turn[:, 2])), placed


@pytest.fixture(scope="session")
def heads():
    """Sixteen people; `tests/model/detector/heads.npz`."""
    return Heads(Path(__file__).parents[1] / "model" / "detector" / "heads.npz")


@pytest.fixture(scope="session")
def scene(heads):
    """Makes a plain picture with faces, (x, y, size) or (x, y, size, who) each."""

    def make(height, width, *faces):
        picture = np.full((height, width, 3), (150, 140, 130), np.uint8)
        for x, y, size, *who in faces:
            heads.lay(picture, *(who or (1,)), x, y, size)
        return picture

    return make
