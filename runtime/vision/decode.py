"""Raw outputs -> readings, by the bundle's thresholds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from feallm.runtime.backends.base import (
    AU_INTENSITY,
    AU_PROBABILITY,
    AU_SIDES,
    EXPRESSION,
    GAZE,
    LANDMARKS,
    PLACE_OUTPUTS,
    POSE,
    TOKENS,
)
from feallm.runtime.contract.aus import AUS, INTENSITY_MAX, N_AUS
from feallm.runtime.contract.errors import BackendError
from feallm.runtime.contract.expressions import EXPRESSIONS, N_EXPRESSIONS
from feallm.runtime.contract.frame import Face
from feallm.runtime.contract.landmarks import FIVE, N_LANDMARKS
from feallm.runtime.contract.landmarks import GAZE as GAZE_AXES
from feallm.runtime.contract.landmarks import POSE as POSE_AXES
from feallm.runtime.contract.manifest import Manifest
from feallm.runtime.contract.reading import AUReading, ExpressionReading, PlaceReading, Reading
from feallm.runtime.vision.align import Matrix, Points, invert, move, turned_deg

Outputs = dict[str, NDArray[np.float32]]


def check(outputs: Outputs, count: int) -> None:
    """`BackendError` where an output has another shape than the contract's, or is not finite."""
    shapes: dict[str, tuple[int | None, ...]] = {
        AU_PROBABILITY: (count, N_AUS),
        AU_INTENSITY: (count, N_AUS, 2),
        EXPRESSION: (count, N_EXPRESSIONS),
        TOKENS: (count, None, None),  # None: any; `language` knows how many
    }
    if any(name in outputs for name in PLACE_OUTPUTS):
        shapes[LANDMARKS] = (count, N_LANDMARKS, 2)
        shapes[POSE], shapes[GAZE] = (count, len(POSE_AXES)), (count, len(GAZE_AXES))
    if AU_SIDES in outputs:
        shapes[AU_SIDES] = (count, N_AUS, 2)
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


def reading(
    outputs: Outputs,
    row: int,
    face: Face,
    manifest: Manifest,
    *,
    matrix: Matrix | None = None,
    expression: bool = True,
) -> Reading:
    """The reading of one face, from row `row` of the outputs.

    `matrix`: the transform (2, 3) that cut the crop; without it no place is told. `expression`:
    False leaves the expression out.
    """
    probability = outputs[AU_PROBABILITY][row].tolist()
    sides = outputs[AU_INTENSITY][row].clip(0, INTENSITY_MAX).tolist()
    each = outputs[AU_SIDES][row].tolist() if AU_SIDES in outputs else None
    trained, sided = set(manifest.aus_trained), set(manifest.aus_sided)
    aus: dict[str, AUReading | None] = {}
    for k, (au, share, (left, right)) in enumerate(zip(AUS, probability, sides, strict=True)):
        aus[au.key] = None
        if au.key in trained:
            least, apart = manifest.thresholds[au.key], au.key in sided
            aus[au.key] = AUReading(
                au.key,
                max(left, right),
                share >= least,
                share,
                left if apart else None,
                right if apart else None,
                each[k][0] >= least if each and apart else None,
                each[k][1] >= least if each and apart else None,
            )
    named = None
    if expression:
        scores = dict(zip(EXPRESSIONS, outputs[EXPRESSION][row].tolist(), strict=True))
        named = ExpressionReading(scores)
    place = None
    if matrix is not None and LANDMARKS in outputs:
        place = _place(outputs, row, matrix)
    return Reading(face.track, face.box, face.score, aus, named, place=place)


def own_points(outputs: Outputs, row: int, matrix: Matrix) -> Points:
    """Five points (5, 2) of a face in the picture that `matrix` cut the crop from, out of its
    landmarks; needs outputs with landmarks."""
    marks = outputs[LANDMARKS][row].astype(np.float64)
    five = np.stack([marks[list(chosen)].mean(0) for chosen in FIVE])
    return move(five, invert(matrix))


def both_looks(first: Outputs, rows: Sequence[int], second: Outputs) -> Outputs:
    """Outputs for `rows` of the first look after a second: what is read is the mean of both, where
    the face is and the tokens are the second's."""
    mean = (AU_PROBABILITY, AU_INTENSITY, AU_SIDES, EXPRESSION)
    both = {
        name: np.asarray((first[name][list(rows)] + values) / 2, np.float32)
        if name in mean
        else values
        for name, values in second.items()
    }
    if AU_SIDES in both:
        both[AU_PROBABILITY] = both[AU_SIDES].max(2)
        # The looks may differ in the side: presence stays with the stronger one.
        strength, presence = both[AU_INTENSITY], both[AU_SIDES]
        gap = strength[..., :1] - strength[..., 1:]
        left = np.where(gap == 0, presence[..., :1] - presence[..., 1:], gap) >= 0
        ordered = np.sort(presence, axis=2)  # the smaller first
        both[AU_SIDES] = np.where(left, ordered[..., ::-1], ordered)
    return both


def _place(outputs: Outputs, row: int, matrix: Matrix) -> PlaceReading:
    """Out of the crop, back into the frame: only roll knows that the crop was turned."""
    points = move(outputs[LANDMARKS][row].astype(np.float64), invert(matrix))
    pitch, yaw, roll = outputs[POSE][row].tolist()
    up, left = outputs[GAZE][row].tolist()
    roll += turned_deg(matrix)
    landmarks = tuple((float(x), float(y)) for x, y in points)
    return PlaceReading(landmarks, (pitch, yaw, (roll + 180) % 360 - 180), (up, left))
