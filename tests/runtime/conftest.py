"""Readings without a network: written down, or drawn at random."""

from __future__ import annotations

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
