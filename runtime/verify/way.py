"""From a whole frame to what is read: detector, crop, both looks, thresholds, as in use."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from feallm.runtime.analyze import Analyzer
from feallm.runtime.contract.aus import AU_KEYS
from feallm.runtime.contract.errors import BackendError
from feallm.runtime.contract.expressions import EXPRESSIONS
from feallm.runtime.contract.frame import Crop, Frame
from feallm.runtime.contract.geometry import CropGeometry
from feallm.runtime.vision.align import invert, move

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Seen:
    """What was read of F frames; where no face was found, NaN, no AU and no crop."""

    matrix: Doubles  # (F, 2, 3): from the frame's pixels to the crop's
    au: Floats  # (F, 20) probabilities
    present: NDArray[np.bool_]  # (F, 20)
    expression: Floats  # (F, 8)
    crops: tuple[NDArray[np.uint8] | None, ...]

    @property
    def found(self) -> NDArray[np.bool_]:
        """(F,)"""
        return np.asarray(np.isfinite(self.expression).all(1))


def look(analyzer: Analyzer, frames: Iterable[NDArray[np.uint8]]) -> Seen:
    """Read each frame (H, W, 3) RGB as a photograph; the largest face counts."""
    crops: list[NDArray[np.uint8] | None] = []
    matrices, aus, presences, expressions = [], [], [], []
    for k, pixels in enumerate(frames):
        matrix, crop = np.full((2, 3), np.nan), None
        au, present = np.zeros(len(AU_KEYS), np.float32), np.zeros(len(AU_KEYS), bool)
        expression = np.full(len(EXPRESSIONS), np.nan, np.float32)
        cut: list[Crop] = []
        report = analyzer.read(Frame(pixels, f"frame {k}", k, still=True), crops=cut)
        if report.readings:
            reading = report.readings[0]
            if reading.expression is None:
                raise BackendError("the analyzer was opened without expressions")
            matrix, crop = cut[0].to_crop.astype(np.float64), cut[0].pixels
            for j, key in enumerate(AU_KEYS):
                if (measured := reading.aus[key]) is not None:
                    au[j], present[j] = measured.probability, measured.present
            expression[:] = [reading.expression.scores[name] for name in EXPRESSIONS]
        matrices.append(matrix)
        aus.append(au)
        presences.append(present)
        expressions.append(expression)
        crops.append(crop)
    return Seen(
        np.array(matrices), np.array(aus), np.array(presences), np.array(expressions), tuple(crops)
    )


def corners_apart(found: Doubles, golden: Doubles, geometry: CropGeometry) -> Doubles:
    """(F,) how far the farthest corner of the golden crop lies from its place in the found one,
    pixels of the crop; NaN where either has no face."""
    width, height = geometry.width_px - 1, geometry.height_px - 1
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height]], np.float64)
    gaps = []
    for one, other in zip(found, golden, strict=True):
        if not np.isfinite([one, other]).all():
            gaps.append(np.nan)
            continue
        gaps.append(
            float(np.linalg.norm(move(move(corners, invert(other)), one) - corners, axis=1).max())
        )
    return np.array(gaps)


def off_by(found: Doubles, golden: Doubles, geometry: CropGeometry) -> tuple[float, float, float]:
    """Median over the frames of how the found crop is off: times as large a face in it, and shares
    of the crop's sides that the face stands too far to the right and too low."""
    middle = np.array([[(geometry.width_px - 1) / 2, (geometry.height_px - 1) / 2]])
    rows = []
    for one, other in zip(found, golden, strict=True):
        if not np.isfinite([one, other]).all():
            continue
        scale = np.sqrt(abs(np.linalg.det(one[:, :2]) / np.linalg.det(other[:, :2])))
        shift = (move(move(middle, invert(other)), one) - middle)[0]
        rows.append((scale, shift[0] / geometry.width_px, shift[1] / geometry.height_px))
    if not rows:
        return 1.0, 0.0, 0.0
    scale, right, down = np.median(np.array(rows), 0)
    return float(scale), float(right), float(down)
