"""Thresholds of an artifact of six bits or fewer: where its decisions agree with the float
network's at the float thresholds.

The threshold that gives the highest F1 on the calibration faces is not it: at six bits it moves
after single faces, and on 2,000 others more decisions changed than before (303, untouched 299).
What moves a threshold here is how far the artifact's logits lie from the float ones, in the median
over faces near the threshold: 267 of 40,000 decisions changed (at four bits 486, untouched 757).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from feallm.runtime.contract.aus import AU_INDEX, N_AUS
from feallm.runtime.contract.errors import InputError

NEAR = 1.0
"""Of a logit: faces further from a threshold do not change sides, and say little about it."""
LEAST_NEAR = 20
"""An AU with fewer faces near its threshold keeps it."""
_LOWEST, _DIGITS = 1e-3, 4

Floats = NDArray[np.float64]


def refit(
    exact: NDArray[np.float32], thresholds: Mapping[str, float], found: NDArray[np.float32]
) -> dict[str, float]:
    """Thresholds, by AU, for the artifact that answers `found` where the float network, whose
    `thresholds` are given, answers `exact`: AU probabilities (N, 20) of the same faces.

    Raises `InputError` where the two are not of one shape, or not finite.
    """
    for values in (exact, found):
        if values.shape != exact.shape or values.shape[1:] != (N_AUS,):
            raise InputError(
                f"AU probabilities {exact.shape} and {found.shape}, expected both (N, {N_AUS})"
            )
        if not np.isfinite(values).all():
            raise InputError("AU probabilities that are not finite: no threshold can be fitted")
    result = {}
    for key, threshold in thresholds.items():
        at = AU_INDEX[key]
        true, edge = _logit(exact[:, at]), float(_logit(np.array(threshold)))
        near = np.abs(true - edge) < NEAR
        result[key] = threshold
        if near.sum() >= LEAST_NEAR:
            moved = edge + float(np.median((_logit(found[:, at]) - true)[near]))
            share = 1 / (1 + np.exp(-moved))
            result[key] = round(float(np.clip(share, _LOWEST, 1 - _LOWEST)), _DIGITS)
    return result


def _logit(share: NDArray[np.floating]) -> Floats:
    held = share.astype(np.float64).clip(1e-6, 1 - 1e-6)
    return np.asarray(np.log(held / (1 - held)))
