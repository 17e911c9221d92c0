"""Raw outputs -> readings, by the bundle's thresholds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from feallm.runtime.backends.base import AU_INTENSITY, AU_PROBABILITY, EXPRESSION, TOKENS
from feallm.runtime.contract.aus import AUS, INTENSITY_MAX, N_AUS
from feallm.runtime.contract.errors import BackendError
from feallm.runtime.contract.expressions import EXPRESSIONS, N_EXPRESSIONS
from feallm.runtime.contract.frame import Face
from feallm.runtime.contract.manifest import Manifest
from feallm.runtime.contract.reading import AUReading, ExpressionReading, Reading

Outputs = dict[str, NDArray[np.float32]]


def check(outputs: Outputs, count: int) -> None:
    """`BackendError` where an output has another shape than the contract's, or is not finite."""
    shapes: dict[str, tuple[int | None, ...]] = {
        AU_PROBABILITY: (count, N_AUS),
        AU_INTENSITY: (count, N_AUS, 2),
        EXPRESSION: (count, N_EXPRESSIONS),
        TOKENS: (count, None, None),  # None: any; `language` knows how many
    }
    for name, shape in shapes.items():
        if name not in outputs:
            raise BackendError(f"the vision network gave no {name}")
        found = outputs[name].shape
        if len(found) != len(shape) or any(
            b is not None and a != b for a, b in zip(found, shape, strict=True)
        ):
            raise BackendError(f"{name}: expected {shape}, found {found}")
    for name, value in outputs.items():
        if not np.isfinite(value).all():
            raise BackendError(f"the vision network gave values that are not finite in {name}")


def reading(outputs: Outputs, row: int, face: Face, manifest: Manifest) -> Reading:
    """The reading of one face, from row `row` of the outputs."""
    probability = outputs[AU_PROBABILITY][row].tolist()
    sides = outputs[AU_INTENSITY][row].clip(0, INTENSITY_MAX).tolist()
    trained, sided = set(manifest.aus_trained), set(manifest.aus_sided)
    aus: dict[str, AUReading | None] = {}
    for au, share, (left, right) in zip(AUS, probability, sides, strict=True):
        aus[au.key] = None
        if au.key in trained:
            aus[au.key] = AUReading(
                au.key,
                max(left, right),
                share >= manifest.thresholds[au.key],
                share,
                left if au.key in sided else None,
                right if au.key in sided else None,
            )
    scores = dict(zip(EXPRESSIONS, outputs[EXPRESSION][row].tolist(), strict=True))
    return Reading(face.track, face.box, face.score, aus, ExpressionReading(scores))
