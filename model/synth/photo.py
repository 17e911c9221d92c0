"""Photographs that move: the head fitted to a neutral face, wearing the photo's own pixels.

Without movement the drawing is the photo itself, pixel for pixel; an AU then shifts the skin as it
shifts the head's mesh, deepens its furrows and opens a drawn mouth. Light, skin, hair and camera
are real; what is lost is that the face was perhaps not quite neutral.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from feallm.model.data import archive
from feallm.model.synth.draw import HEIGHT, WIDTH, Photo, Pose
from feallm.model.synth.head import SHAPES
from feallm.model.synth.mesh import Mesh
from feallm.model.synth.render import EYE_CANVAS_PX
from feallm.model.synth.sample import Shot
from feallm.runtime.contract.errors import InputError
from feallm.runtime.contract.geometry import CROP

Floats = NDArray[np.float64]

_MODES = 60  # identity modes that 68 points can tell
_SIGMA_PX = 1.2  # of a point, on the canvas
_MOVES = (
    "browDown_L browDown_R browInnerUp_L browInnerUp_R browOuterUp_L browOuterUp_R eyeBlink_L "
    "eyeBlink_R eyeWide_L eyeWide_R jawOpen mouthFrown_L mouthFrown_R mouthPucker mouthRollLower "
    "mouthRollUpper mouthSmile_L mouthSmile_R mouthShrugLower mouthStretch_L mouthStretch_R"
).split()
_MOVE_SIGMA = 0.18  # neutral faces: only a little of each
_USED = np.array([*range(6, 11), *range(17, 68)])  # the jaw line's sides slide with the view
BORDER = (CROP.border,) * 3  # beyond the photo's edge, as the crop has it
_FAR = 400.0  # cm; nearly no perspective, as the fit has none


@dataclass(frozen=True, slots=True)
class Bank:
    """Neutral photographs to move. N pictures."""

    images: list[bytes]
    names: list[str]
    points68: NDArray[np.float32]  # (N, 68, 2) pixels


@dataclass(frozen=True, slots=True)
class Fitted:
    """A photo on the canvas with the head that fits it."""

    rest: NDArray[np.float32]  # (V, 3) cm
    pose: Pose
    photo: Photo
    ground: NDArray[np.uint8]  # (HEIGHT, WIDTH, 3) the photo itself
    error_px: float  # of the points, on the canvas
    eyes_px: float  # distance of the eyes in the original


def read(path: Path) -> Bank:
    """A bank: `images`, `offsets`, `names`, `points68` in an .npz.

    Raises `InputError` where one is missing, is damaged, or has another shape.
    """
    arrays = archive.read(path, "images", "offsets", "names", "points68")
    images = archive.encoded(path, arrays)
    if not images:
        raise InputError(f"{path}: holds no picture")
    if arrays["points68"].shape != (len(images), 68, 2):
        raise InputError(f"{path}: points68 is {arrays['points68'].shape}")
    return Bank(images, [str(n) for n in arrays["names"]], arrays["points68"].astype(np.float32))


def fit(mesh: Mesh, picture: NDArray[np.uint8], points68: NDArray[np.floating]) -> Fitted:
    """The head of a near-frontal, near-neutral face in a picture (H, W, 3) RGB.

    `points68` (68, 2): its landmarks, pixels of the picture, pixel centres at whole numbers.
    Scaled-orthographic pose and shape by turns: pose by least squares with orthonormal rows, then
    identity and a few movements by ridge regression, each weight drawn towards 0 by its variance.
    """
    marks = points68.astype(np.float64)
    right, left = marks[36:42].mean(0), marks[42:48].mean(0)
    eyes_px = float(np.linalg.norm(left - right))
    scale = EYE_CANVAS_PX / eyes_px
    centre = (right + left + marks[33] + marks[8]) / 4
    angle = float(np.arctan2(*(left - right)[::-1]))
    turn = scale * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    target = np.array([WIDTH / 2, HEIGHT / 2 + 0.07 * HEIGHT])
    matrix = np.hstack([turn, (target - turn @ centre)[:, None]])
    canvas = marks @ turn.T + matrix[:, 2]
    ground = cv2.warpAffine(
        picture, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC, borderValue=BORDER
    )
    fine = cv2.warpAffine(
        picture,
        np.hstack([turn * 2, 2 * matrix[:, 2:] + 0.5]),
        (2 * WIDTH, 2 * HEIGHT),
        flags=cv2.INTER_CUBIC,
        borderValue=BORDER,
    )
    flat = np.stack([canvas[:, 0], -canvas[:, 1]], 1)[_USED]
    rows = mesh.landmarks[_USED]
    basis = np.concatenate(
        [
            mesh.identity[:_MODES].reshape(_MODES, -1, 3)[:, rows],
            mesh.expression[[SHAPES.index(n) for n in _MOVES]].reshape(len(_MOVES), -1, 3)[:, rows],
        ]
    ).astype(np.float64)
    prior = np.concatenate([np.ones(_MODES), np.full(len(_MOVES), _MOVE_SIGMA)])
    mean = mesh.mean.reshape(-1, 3)[rows].astype(np.float64)
    weights = np.zeros(len(basis))
    for _ in range(8):
        shape = mean + np.tensordot(weights, basis, 1)
        size, rotation, shift = _orthographic(shape, flat)
        seen = (basis @ rotation[:2].T * size).reshape(len(basis), -1)  # (K, 2P)
        residual = (flat - (mean @ rotation[:2].T * size + shift)).ravel()
        normal = seen @ seen.T / _SIGMA_PX**2 + np.diag(1 / prior**2)
        weights = np.linalg.solve(normal, seen @ residual / _SIGMA_PX**2)
    shape = mean + np.tensordot(weights, basis, 1)
    size, rotation, shift = _orthographic(shape, flat)
    error = flat - (shape @ rotation[:2].T * size + shift)
    full = np.zeros(len(mesh.identity), np.float32)
    full[:_MODES] = weights[:_MODES]
    moves = np.zeros(len(SHAPES))
    moves[[SHAPES.index(n) for n in _MOVES]] = weights[_MODES:]
    rest = mesh.person(full) + mesh.movement(moves)
    middle = rest[mesh.landmarks[[27, 30, 33, 8]]].mean(0).astype(np.float64)
    where = middle @ rotation[:2].T * size + shift  # of the middle, y upwards
    offset = (float(where[0] + 0.5 - WIDTH / 2), float(-where[1] + 0.5 - HEIGHT / 2))
    pose = Pose(rotation.astype(np.float32), middle.astype(np.float32), _FAR, size * _FAR, offset)
    at = (pose.pixels(rest[: mesh.skin_vertices]) + 0.5) / np.array([WIDTH, HEIGHT])
    return Fitted(
        rest,
        pose,
        Photo(np.asarray(fine, np.uint8), at.astype(np.float32)),
        np.asarray(ground, np.uint8),
        float(np.sqrt((error**2).sum(1).mean())),
        eyes_px,
    )


def _orthographic(shape: Floats, flat: Floats) -> tuple[float, Floats, Floats]:
    """Scale, rotation (3, 3) and shift (2,) that bring points (P, 3) nearest to (P, 2)."""
    s, f = shape - shape.mean(0), flat - flat.mean(0)
    affine = np.linalg.lstsq(s, f, rcond=None)[0].T  # (2, 3)
    u, d, vt = np.linalg.svd(affine, full_matrices=False)
    two = u @ vt
    rotation = np.vstack([two, np.cross(two[0], two[1])])
    size = float(d.mean())
    return size, rotation, flat.mean(0) - size * (shape.mean(0) @ two.T)


def steady(taken: Shot, fitted: Fitted, rng: np.random.Generator) -> Shot:
    """A shot for a photo: its own pose and size, eyes where they look, and few occluders."""
    small = min(fitted.eyes_px * float(np.exp(rng.normal(0.0, 0.12))), 46.0)
    return replace(
        taken,
        pose_deg=fitted.pose.degrees,
        gaze_deg=(0.0, 0.0),  # as the photo has it
        eye_px=float(max(small, 12.0)),
        occluder=taken.occluder if rng.random() < 0.4 else "none",
        extras={k: v for k, v in taken.extras.items() if not k.startswith("eye")},
    )
