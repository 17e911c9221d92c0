"""Steadier readings from frame to frame: a One-Euro filter for every number of a track.

G. Casiez, N. Roussel, D. Vogel, "1 € Filter: A Simple Speed-based Low-pass Filter for Noisy Input
in Interactive Systems", CHI 2012. Exponential smoothing whose cutoff grows with speed: a face at
rest does not flicker, a fast one is followed at once. With T seconds between two frames,

    alpha(f) = 1 / (1 + 1 / (2 pi f T))                                     (equations 4 and 5)
    slope   <- alpha(d_cutoff) (x - before) / T + (1 - alpha(d_cutoff)) slope
    cutoff   = min_cutoff + beta |slope|                                    (equation 7)
    x       <- alpha(cutoff) x + (1 - alpha(cutoff)) before

where `before` is the smoothed value of the frame before. Intensities, those of each side, and
expression scores are smoothed; probability and presence stay as measured: the bundle's thresholds
were fitted to single frames, and a presence that lags is a wrong onset.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from feallm.runtime.contract.aus import INTENSITY_MAX
from feallm.runtime.contract.errors import UsageError
from feallm.runtime.contract.expressions import EXPRESSIONS
from feallm.runtime.contract.reading import AUReading, ExpressionReading, FrameReport, Reading

Values = NDArray[np.float64]

_SLOPE_CUTOFF_HZ = 1.0  # the paper's d_cutoff
_AWAY_S = 1.0  # after so long without a reading a track begins anew
_EXPRESSION = "expression"


@dataclass(slots=True)
class _State:
    """What is remembered of one track."""

    time_s: float
    shape: tuple[str, ...]  # what the numbers stand for
    values: Values
    slopes: Values


class Smoother:
    """Smooths the reports of one source, in the order of its frames.

    min_cutoff_hz: lower is steadier at rest. beta: higher follows movement sooner. At 25 frames a
    second the defaults leave 0.4 of a still face's flicker, and an onset of 0.3 s comes 0.04 s
    late. Tracks that have been away for over a second are forgotten.
    """

    def __init__(self, *, min_cutoff_hz: float = 1.0, beta: float = 0.25) -> None:
        if not (math.isfinite(min_cutoff_hz) and min_cutoff_hz > 0):
            raise UsageError(f"min_cutoff_hz: expected a number above 0, found {min_cutoff_hz}")
        if not (math.isfinite(beta) and beta >= 0):
            raise UsageError(f"beta: expected a number from 0 up, found {beta}")
        self._min_cutoff_hz = min_cutoff_hz
        self._beta = beta
        self._tracks: dict[int, _State] = {}
        self._time_s = -math.inf

    def smooth(self, report: FrameReport) -> FrameReport:
        """The report with steadier intensities and expression scores.

        A frame from before the last one, as when a clip begins again, starts every track anew.
        """
        now = report.time_s
        if now < self._time_s:
            self._tracks.clear()
        self._time_s = now
        self._tracks = {k: s for k, s in self._tracks.items() if now - s.time_s <= _AWAY_S}
        return replace(report, readings=tuple(self._reading(r, now) for r in report.readings))

    def _reading(self, reading: Reading, now: float) -> Reading:
        numbers = _numbers(reading)
        shape, values = tuple(numbers), np.array(list(numbers.values()), np.float64)
        state = self._tracks.get(reading.track)
        if state is None or state.shape != shape:  # what is measured has changed
            state = self._tracks[reading.track] = _State(now, shape, values, np.zeros(len(values)))
            return reading
        passed = now - state.time_s
        if passed > 0:
            slope = (values - state.values) / passed
            state.slopes += _alpha(_SLOPE_CUTOFF_HZ, passed) * (slope - state.slopes)
            share = _alpha(self._min_cutoff_hz + self._beta * np.abs(state.slopes), passed)
            state.values = state.values + share * (values - state.values)
            state.time_s = now
        return _with(reading, dict(zip(shape, state.values.tolist(), strict=True)))


def _alpha(cutoff_hz: float | Values, passed_s: float) -> float | Values:
    turn = 2 * math.pi * passed_s * cutoff_hz
    return turn / (turn + 1)


def _numbers(reading: Reading) -> dict[str, float]:
    """Every number of a reading that is smoothed, by a name of its own."""
    numbers: dict[str, float] = {}
    for key, au in reading.aus.items():
        if au is None:
            continue
        if au.left is None or au.right is None:
            numbers[key] = au.intensity
        else:  # the larger side is the intensity, before and after
            numbers[f"{key}_left"], numbers[f"{key}_right"] = au.left, au.right
    if reading.expression is not None:
        for name in EXPRESSIONS:
            numbers[f"{_EXPRESSION}_{name}"] = reading.expression.scores[name]
    return numbers


def _with(reading: Reading, numbers: dict[str, float]) -> Reading:
    """The reading with these numbers in their places."""
    aus = {
        key: None if au is None else _with_intensity(au, numbers) for key, au in reading.aus.items()
    }
    expression = None
    if reading.expression is not None:
        scores = {name: max(numbers[f"{_EXPRESSION}_{name}"], 0.0) for name in EXPRESSIONS}
        total = sum(scores.values())  # each score has its own pace: their sum drifts
        expression = ExpressionReading({name: score / total for name, score in scores.items()})
    return replace(reading, aus=aus, expression=expression)


def _with_intensity(au: AUReading, numbers: dict[str, float]) -> AUReading:
    if au.left is None or au.right is None:
        return replace(au, intensity=_held(numbers[au.au]))
    left, right = _held(numbers[f"{au.au}_left"]), _held(numbers[f"{au.au}_right"])
    return replace(au, intensity=max(left, right), left=left, right=right)


def _held(intensity: float) -> float:
    return min(max(intensity, 0.0), INTENSITY_MAX)
