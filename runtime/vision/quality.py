"""Crop -> how well this face could be read: size, blur, turn, what covers it, what is cut off.

Sharpness is F. Crété, T. Dolmiere, P. Ladret, M. Nicolas, "The blur effect: perception and
estimation with a new no-reference perceptual blur metric", SPIE 6492 (2007): blurring once more
takes the neighbouring differences away from a sharp picture, and hardly any from a blurred one. It
is taken of the face at one size, so that pictures of any resolution can be compared. What covers a
face is read out of the visual tokens by one logistic layer (`feallm.calibration.occlusion`).
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from feallm.runtime.contract.frame import Crop, Face, Image
from feallm.runtime.contract.geometry import CropGeometry
from feallm.runtime.contract.quality import Gate, Quality
from feallm.runtime.contract.reading import PlaceReading
from feallm.runtime.vision.align import Matrix, Points, invert, move

Gray = NDArray[np.float32]

OCCLUSION_FILE = Path(__file__).with_name("occlusion.json")

# The face within a crop, in distances of the eyes from the point between them: left, top, right,
# bottom. From the brows to the chin.
_FACE = (-0.85, -0.4, 0.85, 1.7)
_BLUR_EYES_PX = 19.5  # eyes are this far apart where blur is measured; smaller faces are enlarged
_BLUR_TAPS = 9  # of the paper's low-pass filter
_CUT_GRID = 12  # points a side that are looked for beyond the frame's edge

# By least squares over renders; `feallm.model.studies.quality` prints how far off they are.
_YAW_A_NOSE = 1.68  # tangent of yaw for a nose tip one eye distance off the middle
_PITCH_DEG_A_NOSE, _PITCH_DEG = -72.1, 31.1  # of the nose tip's share of the way eyes to mouth


@dataclass(frozen=True, slots=True)
class Occlusion:
    """The layer that reads what covers a face out of one vision artifact's tokens."""

    weights: NDArray[np.float32]  # (visual tokens x width,)
    bias: float

    def share(self, tokens: NDArray[np.float32]) -> float | None:
        """Covered share 0–1 of the face with these tokens (visual tokens, width); None for tokens
        of another shape, which are not those that the layer was fitted to."""
        if tokens.size != self.weights.size:
            return None
        logit = float(tokens.reshape(-1) @ self.weights) + self.bias
        return float(1 / (1 + np.exp(-np.clip(logit, -30, 30))))


@lru_cache(maxsize=4)
def occlusion_for(checkpoint_sha256: str, path: Path = OCCLUSION_FILE) -> Occlusion | None:
    """The layer that was fitted to a checkpoint's tokens; None for any other's: it would answer
    wrong."""
    layer = json.loads(path.read_text(encoding="utf-8")).get(checkpoint_sha256)
    if layer is None:
        return None
    weights = np.frombuffer(base64.b64decode(layer["weights_f2"]), "<f2").astype(np.float32)
    return Occlusion(weights, float(layer["bias"]))


def measure(
    frame: Image,
    face: Face,
    crop: Crop,
    geometry: CropGeometry,
    *,
    gate: Gate,
    place: PlaceReading | None = None,
    covered: float | None = None,
) -> Quality:
    """The measures of a face that was cut out of `frame`, and why it is below the gate.

    `place`: what the network measured; else the turn is told by the face's own points. `covered`:
    share of the face, where it is known.
    """
    first, second = (np.array(point) for point in geometry.points_px[:2])
    eyes_px = float(np.linalg.norm(second - first))
    scale = float(np.sqrt(abs(np.linalg.det(crop.to_crop[:, :2]))))
    gray = _gray(crop.pixels, _inner(geometry), _BLUR_EYES_PX / eyes_px)
    yaw, pitch = _turn(face, place)
    quality = Quality(eyes_px / scale, blur(gray), yaw, pitch, covered)
    cut = _beyond_edge(frame, _grid(geometry), crop.to_crop)
    return replace(quality, below=gate.below(quality, light=float(gray.mean()), cut=cut))


def blur(gray: Gray) -> float:
    """How blurred a gray picture (H, W) is: 0 sharp, 1 blurred; 1 where nothing can be seen."""
    return max(_blur_along(gray, 0), _blur_along(gray, 1))


def _blur_along(gray: Gray, axis: int) -> float:
    """The paper's equations 1–7 for one direction."""
    size = (1, _BLUR_TAPS) if axis == 0 else (_BLUR_TAPS, 1)
    again = np.asarray(cv2.blur(gray, size, borderType=cv2.BORDER_REPLICATE), np.float32)
    sharp, soft = np.abs(np.diff(gray, axis=axis)), np.abs(np.diff(again, axis=axis))
    total = float(sharp.sum())
    lost = float(np.maximum(sharp - soft, 0).sum())
    return (total - lost) / total if total > 0 else 1.0


def turn_of_points(points: Points) -> tuple[float, float]:
    """Yaw and pitch, degrees, of a face's five points: by where the nose tip lies before the line
    from the eyes to the mouth. Roll plays no part."""
    eyes, mouth = points[:2].mean(0), points[3:].mean(0)
    across = points[1] - points[0]
    apart = float(np.linalg.norm(across))
    if not apart > 1e-6:
        return 0.0, 0.0
    across = across / apart
    down = np.array([-across[1], across[0]])
    length = float((mouth - eyes) @ down)
    off = float((points[2] - (eyes + mouth) / 2) @ across) / apart
    yaw = float(np.rad2deg(np.arctan(_YAW_A_NOSE * off)))
    if length < 0.1 * apart:  # a mouth above the eyes: no face
        return yaw, 0.0
    share = float((points[2] - eyes) @ down) / length
    return yaw, float(np.clip(_PITCH_DEG_A_NOSE * share + _PITCH_DEG, -90, 90))


def _turn(face: Face, place: PlaceReading | None) -> tuple[float | None, float | None]:
    if place is not None:
        return place.pose_deg[1], place.pose_deg[0]
    if face.points is not None:
        return turn_of_points(face.points)
    return None, None


@lru_cache(maxsize=4)
def _inner(geometry: CropGeometry) -> tuple[float, float, float, float]:
    """The face within a crop: x0 y0 x1 y1, pixels."""
    first, second = (np.array(point) for point in geometry.points_px[:2])
    x, y = ((first + second) / 2).tolist()
    apart = float(np.linalg.norm(second - first))
    left, top, right, bottom = (apart * value for value in _FACE)
    return (
        max(x + left, 0),
        max(y + top, 0),
        min(x + right, geometry.width_px - 1),
        min(y + bottom, geometry.height_px - 1),
    )


def _gray(pixels: Image, inner: tuple[float, float, float, float], scale: float) -> Gray:
    """The face alone, gray, at the size at which faces are compared."""
    x0, y0, x1, y1 = (round(value) for value in inner)
    face = np.asarray(cv2.cvtColor(pixels[y0 : y1 + 1, x0 : x1 + 1], cv2.COLOR_RGB2GRAY), np.uint8)
    size = (max(3, round(face.shape[1] * scale)), max(3, round(face.shape[0] * scale)))
    return np.asarray(cv2.resize(face, size, interpolation=cv2.INTER_AREA), np.float32)


@lru_cache(maxsize=4)
def _grid(geometry: CropGeometry) -> Points:
    """Points (N, 2) spread evenly over the face within a crop."""
    x0, y0, x1, y1 = _inner(geometry)
    x, y = np.meshgrid(np.linspace(x0, x1, _CUT_GRID), np.linspace(y0, y1, _CUT_GRID))
    return np.stack([x.ravel(), y.ravel()], 1)


def _beyond_edge(frame: Image, grid: Points, to_crop: Matrix) -> float:
    """Share 0–1 of the face that lies beyond the frame's edge, where the crop is gray."""
    at = move(grid, invert(to_crop))
    height, width = frame.shape[:2]
    inside = ((at >= -0.5) & (at <= (width - 0.5, height - 0.5))).all(1)
    return float(1 - inside.mean())
