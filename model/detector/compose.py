"""Compositions: pictures of a few or many faces, real and rendered, with where each of them is.

A ground, a photograph moved and turned, smaller photographs as tiles, heads laid over them, things
before the faces and things that are none; then dark, gray, blurred, grainy, as cameras are. Every
number comes from the generator that is given.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from feallm.model.detector import distract
from feallm.model.detector.scene import (
    VISIBLE,
    Composition,
    Floats,
    Picture,
    lay_head,
    lay_picture,
    within,
)
from feallm.model.detector.sources import Material, Photos
from feallm.model.synth import camera

Rng = np.random.Generator

SMALLEST_PX = 9.0
"""Of the box's longer side: a smaller face is left alone."""

_LEAST_CONTRAST = 2.5  # standard deviation of gray levels within a face


def compose(material: Material, side: int, rng: Rng) -> Composition:
    """A composition of `side` x `side` pixels."""
    kind = rng.random()
    if kind < 0.12 and len(material.photos.close):
        scene = _close_up(material.photos, side, rng)
    else:
        scene = Composition(_ground(material, side, rng))
        empty = rng.random() < 0.16
        if not empty and rng.random() < 0.72 and len(material.photos.with_face):
            _lay_photo(scene, material.photos, rng)
        if not empty and rng.random() < 0.35 and len(material.photos.with_face):
            _lay_tiles(scene, material.photos, int(rng.integers(1, 7)), rng)
        if rng.random() < (0.8 if empty else 0.3):
            for _ in range(int(rng.integers(1, 4))):
                mask = distract.lay(scene.picture, scene.boxes, _head_for(material, rng), rng)
                scene.cover(mask)
        if not empty and rng.random() < 0.6:
            most = 12 if rng.random() < 0.3 else 4
            for _ in range(int(rng.integers(1, most))):
                _lay_head(scene, material, _size(rng, side), rng)
    if rng.random() < 0.35:
        _occlude(scene, rng)
    leave_alone(scene)
    scene.picture = _develop(scene.picture, rng)
    leave_unseen(scene)
    return scene


def gentle(material: Material, side: int, rng: Rng) -> Composition:
    """Every second time a composition; else one photograph as people take it: near, upright, in
    good light, nothing before the face. For the end of a training, when points become precise."""
    photos = material.photos
    if rng.random() < 0.5 or not len(photos.with_face):
        return compose(material, side, rng)
    scene = Composition(_ground(material, side, rng))
    size = float(np.exp(rng.uniform(np.log(40), np.log(0.9 * side))))
    _lay_photo(scene, photos, rng, size=size, turn=float(rng.normal(0, 6)))
    leave_alone(scene)
    return scene


def _ground(material: Material, side: int, rng: Rng) -> Picture:
    if rng.random() < 0.1 or not material.grounds:
        base = rng.uniform(0, 255, 3) * 0.5 + rng.uniform(0, 255) * 0.5
        slope = np.linspace(-1, 1, side)[:, None, None] * rng.normal(0, 25)
        plain = np.broadcast_to(base + slope, (side, side, 3))
        return np.clip(plain, 0, 255).astype(np.uint8)
    ground = material.grounds[int(rng.integers(len(material.grounds)))]
    zoom = float(np.exp(rng.uniform(np.log(0.75), np.log(2.6)))) * side / 256
    turn = rng.normal(0, 8) + 90 * int(rng.integers(4)) * (rng.random() < 0.15)
    matrix = cv2.getRotationMatrix2D((128, 128), turn, zoom).astype(np.float64)
    play = max(0.0, (256 * zoom - side) / 2)
    matrix[:, 2] += side / 2 - 128 + rng.uniform(-play, play, 2)
    if rng.random() < 0.5:
        ground = np.ascontiguousarray(ground[:, ::-1])
    how = cv2.BORDER_REFLECT_101
    return np.asarray(
        cv2.warpAffine(ground, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=how),
        np.uint8,
    )


def _size(rng: Rng, side: int) -> float:
    """Height of a face's box, pixels: small ones as often as large ones."""
    return float(np.exp(rng.uniform(np.log(11), np.log(0.9 * side))))


def _turn(rng: Rng) -> float:
    """Degrees."""
    return float(rng.uniform(-45, 45) if rng.random() < 0.4 else rng.normal(0, 9))


def _lay_photo(
    scene: Composition,
    photos: Photos,
    rng: Rng,
    *,
    size: float | None = None,
    turn: float | None = None,
) -> None:
    """One photograph, by the height of one of its faces, pixels, and turned, degrees; as large and
    as crooked as it wants to be where neither is given."""
    found = photos.take(int(rng.choice(photos.with_face)), rng)
    side = scene.picture.shape[0]
    k = int(rng.integers(len(found.boxes)))
    box = found.boxes[k]
    wanted = _size(rng, side) if size is None else size
    scale = float(np.clip(wanted / (box[3] - box[1]), 0.12, 4.0))
    inside = rng.uniform(0.15, 0.85, 2) * side
    if size is not None:  # and whole
        inside = side / 2 + rng.uniform(-0.5, 0.5, 2) * max(0.0, side - size)
    turned = _turn(rng) if turn is None else turn
    lay_picture(scene, found, scale, turned, inside, (box[:2] + box[2:]) / 2)


def _lay_tiles(scene: Composition, photos: Photos, count: int, rng: Rng) -> None:
    """Small photographs anywhere: a crowd of real faces."""
    side = scene.picture.shape[0]
    for _ in range(count):
        chosen = photos.with_face
        if len(photos.close) and rng.random() < 0.25:
            chosen = photos.close
        found = photos.take(int(rng.choice(chosen)), rng)
        box = found.boxes[int(found.boxes[:, 3].argmax())]
        wanted = float(np.exp(rng.uniform(np.log(11), np.log(0.25 * side))))
        place = rng.uniform(0.05, 0.95, 2) * side
        lay_picture(
            scene,
            found,
            float(np.clip(wanted / (box[3] - box[1]), 0.05, 3.0)),
            float(rng.normal(0, 6)),
            place,
            (box[:2] + box[2:]) / 2,
        )


def _head_for(material: Material, rng: Rng) -> tuple[NDArray[np.uint8], Floats]:
    return material.heads.take(int(rng.integers(len(material.heads.images))))


def _lay_head(scene: Composition, material: Material, size: float, rng: Rng) -> None:
    i = int(rng.integers(len(material.heads.images)))
    bgra, marks = material.heads.take(i)
    side = scene.picture.shape[0]
    lay_head(
        scene,
        bgra,
        marks,
        size=size,
        turn=_turn(rng),
        place=rng.uniform(0.04, 0.96, 2) * side,
        sure=bool(material.heads.occluded[i] < 0.6),
        mirrored=bool(rng.random() < 0.5),
        shoulders=distract.shoulders(rng) if rng.random() < 0.75 else None,
        crowded=0.25,
    )


def _close_up(photos: Photos, side: int, rng: Rng) -> Composition:
    """A picture that a face fills, as a crop or a phone's selfie does; what it lacks to a square
    of the network's size is black, as FaceDetectorYN pads it."""
    found = photos.take(int(rng.choice(photos.close)), rng)
    height, width = found.picture.shape[:2]
    scale = float(np.exp(rng.uniform(np.log(44), np.log(side)))) / max(height, width)
    size = (min(side, round(width * scale)), min(side, round(height * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = np.asarray(cv2.resize(found.picture, size, interpolation=how), np.uint8)
    picture = np.zeros((side, side, 3), np.uint8)
    start = np.zeros(2)
    if rng.random() < 0.3:
        picture[:] = 128
        start = rng.uniform(0, 1, 2) * (side - np.array(size))
    x, y = int(start[0]), int(start[1])
    picture[y : y + size[1], x : x + size[0]] = small
    factor = np.array(size) / np.array([width, height])
    offset = np.array([x, y])
    boxes = found.boxes * np.tile(factor, 2) + np.tile(offset, 2)
    points = (found.points + 0.5) * factor - 0.5 + offset
    return Composition(picture, boxes, points, found.sure)


def _occlude(scene: Composition, rng: Rng) -> None:
    """Lay something over a part of some faces; enough stays to tell them by."""
    for k in np.flatnonzero(scene.sure):
        if rng.random() < 0.5:
            distract.before(scene.picture, scene.boxes[k], rng)


def leave_alone(scene: Composition) -> None:
    """Faces that are cut off or tiny are neither taught nor punished."""
    height, width = scene.picture.shape[:2]
    end = np.array([width, height, width, height])
    seen = np.clip(scene.boxes, 0, end)
    area = (scene.boxes[:, 2:] - scene.boxes[:, :2]).prod(1)
    share = (seen[:, 2:] - seen[:, :2]).prod(1) / np.maximum(area, 1)
    longer = (scene.boxes[:, 2:] - scene.boxes[:, :2]).max(1, initial=0)
    scene.sure &= (share > VISIBLE) & (longer >= SMALLEST_PX)
    kept = share > 0.02
    scene.boxes, scene.points = scene.boxes[kept], scene.points[kept]
    scene.sure = scene.sure[kept]


def leave_unseen(scene: Composition) -> None:
    """Faces in which nothing can be told apart any more are not taught either."""
    gray = scene.picture.max(2)
    height, width = gray.shape
    for k in np.flatnonzero(scene.sure):
        x0, y0, x1, y1 = scene.boxes[k]
        part = gray[within(y0, y1, height), within(x0, x1, width)]
        scene.sure[k] = part.size > 0 and part.std() > _LEAST_CONTRAST


def _develop(picture: Picture, rng: Rng) -> Picture:
    """What light and camera leave of it."""
    if rng.random() < 0.22:
        picture = darken(picture, float(np.exp(rng.uniform(np.log(0.06), np.log(0.5)))), rng)
    if rng.random() < 0.55:
        picture = camera.develop(picture, rng)
    if rng.random() < 0.25:
        tint = np.clip(1 + rng.normal(0, 0.12, 3), 0.5, 1.5)
        picture = np.clip(picture * tint, 0, 255).astype(np.uint8)
    if rng.random() < 0.35:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.uniform(25, 92))]
        data = cv2.imencode(".jpg", picture, quality)[1]
        picture = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    return picture


def darken(picture: Picture, gain: float, rng: Rng) -> Picture:
    """The picture at a share of its light, with the grain of a sensor that wants more."""
    grain = rng.standard_normal(picture.shape[:2], np.float32)[..., None] * rng.uniform(0.5, 4)
    return np.clip(picture * np.float32(gain) + grain, 0, 255).astype(np.uint8)
