"""Figures of where a face is and which side of it moves: landmarks, head pose, gaze, sides.

Truth is known on renders alone. Errors are told in the picture, not in the crop.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feallm.model.evaluate.sets import Labelled, points_of
from feallm.runtime.backends.base import AU_INTENSITY, AU_SIDES, GAZE, LANDMARKS, POSE
from feallm.runtime.contract.aus import AUS
from feallm.runtime.contract.geometry import CropGeometry
from feallm.runtime.contract.landmarks import GAZE as GAZE_AXES
from feallm.runtime.contract.landmarks import POSE as POSE_AXES
from feallm.runtime.vision.align import crop_matrix, invert, move, turned_deg

Outputs = dict[str, NDArray[np.float32]]

_JAW = 17  # landmarks before this one slide along the cheek with the view
_EYE_CORNERS = (36, 45)
_PRESENT, _ABSENT = 2.0, 0.5  # intensities of the two sides of an AU that is seen on one only


def figures(
    outputs: Outputs,
    data: Labelled,
    rows: NDArray[np.int64],
    geometry: CropGeometry,
    sided: Collection[str],
) -> dict[str, Any]:
    """`sides` of the AUs `sided`, which were trained with sides, where the labels tell them apart;
    `pose_deg`, `gaze_deg`, `landmarks` where network and labels have them; {} where neither."""
    found: dict[str, Any] = {}
    if (
        data.au_sides is not None
        and (share := _sides(outputs, data.au_sides[rows], sided)) is not None
    ):
        found["sides"] = share
    if not data.place or LANDMARKS not in outputs:
        return found
    matrices = [crop_matrix(points_of(data, int(i)), geometry) for i in rows]
    pose = outputs[POSE].astype(np.float64)
    pose[:, 2] += [turned_deg(matrix) for matrix in matrices]
    found["pose_deg"] = _angles(pose - data.place["pose_deg"][rows], POSE_AXES)
    found["gaze_deg"] = _angles(outputs[GAZE] - data.place["gaze_deg"][rows], GAZE_AXES)
    true = data.place["points68"][rows].astype(np.float64)
    back = [move(p, invert(m)) for p, m in zip(outputs[LANDMARKS], matrices, strict=True)]
    first, last = _EYE_CORNERS
    eyes = np.linalg.norm(true[:, last] - true[:, first], axis=1)
    error = np.linalg.norm(np.array(back).reshape(true.shape) - true, axis=2) / eyes[:, None]
    found["landmarks"] = {
        "unit": "distance of the outer eye corners",
        "n": int(np.isfinite(error).all(1).sum()),
        "mean": _mean(error),
        "mean_without_jaw": _mean(error[:, _JAW:]),
    }
    return found


def _sides(
    outputs: Outputs, sides: NDArray[np.float32], sided: Collection[str]
) -> dict[str, Any] | None:
    """Of the AUs that are seen on one side only: how often the answer is stronger there."""
    of_two = np.array([au.sided and au.key in sided for au in AUS])
    left, right = sides[..., 0], sides[..., 1]
    on_left = (left >= _PRESENT) & (right <= _ABSENT) & of_two
    on_right = (right >= _PRESENT) & (left <= _ABSENT) & of_two
    told = outputs.get(AU_SIDES, outputs[AU_INTENSITY])
    answer = told[..., 0] - told[..., 1]
    n = int(on_left.sum() + on_right.sum())
    if not n:
        return None
    right_side = int(((answer > 0) & on_left).sum() + ((answer < 0) & on_right).sum())
    return {"n": n, "right": right_side / n}


def _angles(error: NDArray[np.floating[Any]], axes: tuple[str, ...]) -> dict[str, Any]:
    wrapped = np.abs((error + 180) % 360 - 180)
    known = np.isfinite(wrapped).all(1)
    axis = {name: _mean(wrapped[:, k]) for k, name in enumerate(axes)}
    return {"n": int(known.sum()), "mean_absolute_error": _mean(wrapped), **axis}


def _mean(values: NDArray[np.floating[Any]]) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None
