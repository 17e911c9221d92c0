"""A picture with its faces, and what is laid over it: boxes and points stay with what is drawn."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from feallm.model.detector import distract
from feallm.model.detector.places import box_of, points_of

Picture = NDArray[np.uint8]  # (H, W, 3) BGR
Floats = NDArray[np.float64]

VISIBLE = 0.45
"""Share of a face's box that must lie in the picture and be uncovered for it to be taught."""


@dataclass(slots=True)
class Composition:
    """A picture and its faces."""

    picture: Picture
    boxes: Floats = field(default_factory=lambda: np.zeros((0, 4)))  # (N, 4) x0 y0 x1 y1
    points: Floats = field(default_factory=lambda: np.zeros((0, 5, 2)))
    sure: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))

    def add(self, boxes: Floats, points: Floats, sure: NDArray[np.bool_]) -> None:
        """More faces."""
        self.boxes = np.concatenate([self.boxes, boxes.reshape(-1, 4)])
        self.points = np.concatenate([self.points, points.reshape(-1, 5, 2)])
        self.sure = np.concatenate([self.sure, sure.reshape(-1)])

    def cover(self, mask: NDArray[np.float32]) -> None:
        """Something was laid over the picture where `mask` (H, W) is: faces of which little is
        still seen are no longer sure."""
        height, width = mask.shape
        for k, (x0, y0, x1, y1) in enumerate(self.boxes):
            part = mask[within(y0, y1, height), within(x0, x1, width)]
            if part.size and part.mean() > 1 - VISIBLE:
                self.sure[k] = False


def mirrored(scene: Composition) -> Composition:
    """The same seen in a mirror: the subject's left and right change places."""
    width = scene.picture.shape[1]
    x0, y0, x1, y1 = scene.boxes.T
    points = scene.points[:, [1, 0, 2, 4, 3]].copy()
    points[..., 0] = width - 1 - points[..., 0]
    boxes = np.stack([width - x1, y0, width - x0, y1], 1)
    picture = np.ascontiguousarray(scene.picture[:, ::-1])
    return Composition(picture, boxes, points, scene.sure.copy())


def within(low: float, high: float, end: int) -> slice:
    start = int(np.clip(low, 0, end))
    return slice(start, int(np.clip(np.ceil(high), start, end)))


def moved(
    found: Composition, scale: float, turn: float, place: Floats, about: Floats
) -> tuple[Floats, Floats, Floats]:
    """The transform (2, 3) that brings `about` to `place`, and boxes and points under it."""
    matrix = cv2.getRotationMatrix2D((0.0, 0.0), turn, scale).astype(np.float64)
    matrix[:, 2] = place - matrix[:, :2] @ about
    points = found.points @ matrix[:, :2].T + matrix[:, 2]
    middle = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
    half = (found.boxes[:, 2:] - found.boxes[:, :2]) / 2 * scale
    # An upright face's box lies about its turned one as an ellipse's would.
    c, s = np.cos(np.deg2rad(turn)), np.sin(np.deg2rad(turn))
    wide = np.hypot(half[:, 0] * c, half[:, 1] * s)
    tall = np.hypot(half[:, 0] * s, half[:, 1] * c)
    middle = middle @ matrix[:, :2].T + matrix[:, 2]
    reach = np.stack([wide, tall], 1)
    return matrix, np.concatenate([middle - reach, middle + reach], 1), points


def _warped(picture: Picture, matrix: Floats, size: tuple[int, int], scale: float) -> Picture:
    """The picture under a transform; first shrunk by area where it becomes much smaller."""
    if scale < 0.6:
        share = scale * 1.2
        small = (max(2, round(picture.shape[1] * share)), max(2, round(picture.shape[0] * share)))
        factor = np.array([picture.shape[1] / small[0], picture.shape[0] / small[1]])
        picture = np.asarray(cv2.resize(picture, small, interpolation=cv2.INTER_AREA), np.uint8)
        offset = 0.5 * factor - 0.5
        shift = matrix[:, :2] @ offset + matrix[:, 2]
        matrix = np.hstack([matrix[:, :2] * factor, shift[:, None]])
    return np.asarray(cv2.warpAffine(picture, matrix, size, flags=cv2.INTER_LINEAR), np.uint8)


def lay_picture(
    scene: Composition, found: Composition, scale: float, turn: float, place: Floats, about: Floats
) -> None:
    """Lay a photograph over the scene; it hides what was there."""
    matrix, boxes, points = moved(found, scale, turn, place, about)
    height, width = found.picture.shape[:2]
    opaque = np.dstack([found.picture, np.full((height, width), 255, np.uint8)])
    mask = _blend(scene.picture, opaque, matrix, scale)
    scene.cover(mask)
    scene.add(boxes, points, found.sure)


def _blend(
    picture: Picture, bgra: NDArray[np.uint8], matrix: Floats, scale: float
) -> NDArray[np.float32]:
    """Lay (H, W, 4) BGR and cover over a picture, in place, under a transform; where it lies."""
    height, width = picture.shape[:2]
    mask = np.zeros((height, width), np.float32)
    wide, tall = bgra.shape[1], bgra.shape[0]
    corners = np.array([[0, 0], [wide, 0], [wide, tall], [0, tall]]) @ matrix[:, :2].T
    corners += matrix[:, 2]
    x0, y0 = np.clip(np.floor(corners.min(0)), 0, (width, height)).astype(int)
    x1, y1 = np.clip(np.ceil(corners.max(0)), 0, (width, height)).astype(int)
    if x1 <= x0 or y1 <= y0:
        return mask
    there = matrix.copy()
    there[:, 2] -= (x0, y0)
    laid = _warped(bgra, there, (int(x1 - x0), int(y1 - y0)), scale)
    cover = laid[..., 3].astype(np.float32) / 255
    part = picture[y0:y1, x0:x1]
    part[:] = part + (laid[..., :3] - part.astype(np.float32)) * cover[..., None]
    mask[y0:y1, x0:x1] = cover
    return mask


def lay_head(
    scene: Composition,
    bgra: NDArray[np.uint8],
    marks: Floats,
    *,
    size: float,
    turn: float,
    place: Floats,
    sure: bool = True,
    mirrored: bool = False,
    shoulders: Floats | None = None,
    crowded: float = 0.0,
) -> bool:
    """Lay a head over the scene, unless it would hide another face; whether it was laid.

    `bgra` (H, W, 4) and its landmarks `marks` (68, 2); `size`: height of its face's box, pixels;
    `turn` degrees; `place`: of the face's middle; `shoulders`: their colour (3,) BGR, or none;
    `crowded`: share of another face's box that may be hidden.
    """
    points = points_of(marks)
    if mirrored:
        bgra = np.ascontiguousarray(bgra[:, ::-1])
        marks = np.stack([bgra.shape[1] - 1 - marks[:, 0], marks[:, 1]], 1)
        points = np.stack([bgra.shape[1] - 1 - points[:, 0], points[:, 1]], 1)[[1, 0, 2, 4, 3]]
    box = box_of(marks)
    scale = size / (box[3] - box[1])
    about = (box[:2] + box[2:]) / 2
    matrix = cv2.getRotationMatrix2D((0.0, 0.0), turn, scale).astype(np.float64)
    matrix[:, 2] = place - matrix[:, :2] @ about
    turned = marks @ matrix[:, :2].T + matrix[:, 2]
    new = box_of(turned)
    if hidden_share(new, scene.boxes) > crowded:
        return False
    if shoulders is not None:
        scene.cover(distract.body(scene.picture, turned, shoulders))
    scene.cover(_blend(scene.picture, bgra, matrix, scale))
    scene.add(new[None], (points @ matrix[:, :2].T + matrix[:, 2])[None], np.array([sure]))
    return True


def hidden_share(box: Floats, others: Floats) -> float:
    """The largest share of another face's box that a new one lies over."""
    if not len(others):
        return 0.0
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    shared = np.clip(high - low, 0, None).prod(1)
    return float((shared / np.maximum((others[:, 2:] - others[:, :2]).prod(1), 1)).max())
