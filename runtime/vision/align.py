"""Face to crop, and points back: the one preprocessing that training and device share.

numpy and OpenCV only. A crop is a similarity transform (turn, one scale, shift; no mirroring) of
the picture that brings five points to the fixed places of `geometry.CROP` in the least-squares
sense: S. Umeyama, "Least-squares estimation of transformation parameters between two point
patterns", IEEE TPAMI 13 (1991).
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from feallm.runtime.contract.geometry import CROP, CropGeometry, FivePoints

Image = NDArray[np.uint8]  # (H, W, 3) RGB or (H, W) gray
Points = NDArray[np.float64]  # (5, 2) x y, pixels, pixel centres at whole numbers
Matrix = NDArray[np.float64]  # (2, 3): crop pixel = Matrix @ (x, y, 1)

_SHRINK_BELOW = 0.75  # bilinear sampling starts to alias when the crop has fewer pixels than this


def similarity(source: Points, target: Points) -> Matrix:
    """The similarity that brings `source` (N, 2) nearest to `target` (N, 2).

    Raises `ValueError` where the source points coincide, or are not finite.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    if source.shape != target.shape or source.ndim != 2 or source.shape[1] != 2:
        raise ValueError(f"expected two arrays (N, 2), found {source.shape} and {target.shape}")
    if not (np.isfinite(source).all() and np.isfinite(target).all()):
        raise ValueError("points are not finite")
    mean_source, mean_target = source.mean(0), target.mean(0)
    s, t = source - mean_source, target - mean_target
    spread = float((s**2).sum())
    if spread < 1e-9:
        raise ValueError("points coincide: no scale can be found")
    # In the plane Umeyama's solution without reflection has this closed form.
    a = float((s * t).sum()) / spread
    b = float((s[:, 0] * t[:, 1] - s[:, 1] * t[:, 0]).sum()) / spread
    turn = np.array([[a, -b], [b, a]])
    return np.hstack([turn, (mean_target - turn @ mean_source)[:, None]])


def points_in_box(box: tuple[float, float, float, float], shares: FivePoints) -> Points:
    """Five points for a box x0 y0 x1 y1 without points: at their mean place, `shares` of it."""
    x0, y0, x1, y1 = box
    points: Points = np.array([x0, y0]) + np.array(shares) * np.array([x1 - x0, y1 - y0])
    return points


def crop_matrix(points: Points, geometry: CropGeometry = CROP) -> Matrix:
    """The transform from the picture's pixels to the crop's, for five points of the picture."""
    return similarity(points, np.array(geometry.points_px))


def invert(matrix: Matrix) -> Matrix:
    """The way back: from the crop's pixels to the picture's."""
    return np.asarray(cv2.invertAffineTransform(matrix), np.float64)


def move(points: Points, matrix: Matrix) -> Points:
    """Points (N, 2) under an affine transform (2, 3)."""
    moved: Points = np.asarray(points, np.float64) @ matrix[:, :2].T + matrix[:, 2]
    return moved


def turned_deg(matrix: Matrix) -> float:
    """How far a transform turns the picture, degrees, clockwise on the screen."""
    return float(np.rad2deg(np.arctan2(matrix[1, 0], matrix[0, 0])))


def warp(image: Image, matrix: Matrix, geometry: CropGeometry = CROP) -> Image:
    """The crop (height, width, …) that `matrix` cuts out of `image`; gray beyond its edge.

    A face much larger than the crop is first cut out and shrunk by area, so that a 4K photo and
    its thumbnail give the same crop; smaller faces are enlarged bilinearly.
    """
    scale = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    if scale < _SHRINK_BELOW:
        image, matrix = _shrunk(image, matrix, geometry, scale)
    return np.asarray(
        cv2.warpAffine(
            image,
            matrix,
            (geometry.width_px, geometry.height_px),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=(geometry.border,) * 3,
        ),
        np.uint8,
    )


def _shrunk(
    image: Image, matrix: Matrix, geometry: CropGeometry, scale: float
) -> tuple[Image, Matrix]:
    corners = np.array(
        [[x, y] for x in (0, geometry.width_px - 1) for y in (0, geometry.height_px - 1)]
    )
    back = move(corners, invert(matrix))
    margin = 2 / scale
    height, width = image.shape[:2]
    x0, y0 = np.clip(np.floor(back.min(0) - margin), 0, (width - 1, height - 1)).astype(int)
    x1, y1 = np.clip(np.ceil(back.max(0) + margin), 1, (width, height)).astype(int)
    if x1 - x0 < 2 or y1 - y0 < 2:  # the crop lies beside the picture
        return image, matrix
    size = (max(1, round((x1 - x0) * scale)), max(1, round((y1 - y0) * scale)))
    small = cv2.resize(image[y0:y1, x0:x1], size, interpolation=cv2.INTER_AREA)
    share = np.array([(x1 - x0) / size[0], (y1 - y0) / size[1]])
    # A small pixel's centre i lies at (i + 0.5) * share - 0.5 + offset of the full picture.
    offset = 0.5 * share - 0.5 + np.array([x0, y0])
    turn = matrix[:, :2] * share
    shift = matrix[:, :2] @ offset + matrix[:, 2]
    return np.asarray(small, np.uint8), np.hstack([turn, shift[:, None]])


def align(image: Image, points: Points, geometry: CropGeometry = CROP) -> tuple[Image, Matrix]:
    """The crop of the face with these five points, and the transform that cut it out."""
    matrix = crop_matrix(points, geometry)
    return warp(image, matrix, geometry), matrix
