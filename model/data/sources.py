"""Readers of the shared faces: what may be trained on, with the labels that can be trusted."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from feallm.model.coded import codes
from feallm.model.coded import faces as coded
from feallm.model.coded.faces import Shared
from feallm.model.data import archive, ferplus, pseudo
from feallm.model.data.pack import Origin, Rows, sha256
from feallm.runtime.contract.aus import AU_KEYS, N_AUS
from feallm.runtime.contract.errors import InputError
from feallm.runtime.contract.expressions import EXPRESSION_INDEX, N_EXPRESSIONS
from feallm.runtime.contract.geometry import MEAN_POINTS_CROP, MEAN_POINTS_HAAR
from feallm.runtime.vision.align import points_in_box

LFW_WORDS = ("neutral", "happiness", "surprise")
"""Expression words of LFW that its data page does not call unreliable or too rare."""

_POINTS = "five points by YuNet (OpenCV Zoo), MIT"

AT_REST = ("AU4", "AU15", "AU17", "AU24")
"""AUs that the shape of a face at rest can look like: heavy brows, a mouth that turns down."""

_LFW_SURE = 0.8  # one rater, no check: the rest of the weight goes to the other expressions


def fer_train(data: Path) -> Rows:
    """FER+ `train` without near copies of evaluation pictures; AUs by pseudo-labels."""
    path = data / "fer" / "train.npz"
    split = ferplus.read(path)
    marks = pseudo.read(data / "fer" / "mediapipe_train.npz")
    soft = ferplus.soft_labels(split.votes)
    rows = np.flatnonzero(split.usable & (soft.sum(1) > 0))
    images = archive.encoded(path, archive.read(path, "images", "offsets"))
    side = float(ferplus.SIDE_PX)
    mean = points_in_box((0, 0, side, side), MEAN_POINTS_CROP)
    licence = "FER2013 pictures: research use, licence unknown; FER+ votes: MIT"
    return Rows(
        [images[i] for i in rows],
        split.votes[rows],
        soft[rows],
        marks.intensity[rows],
        marks.points5[rows].astype(np.float32),
        np.tile(mean.astype(np.float32), (len(rows), 1, 1)),
        split.dup_group[rows],
        Origin("ferplus-train", licence, len(rows), sha256(path)),
        {"points68": marks.points68[rows]},
    )


def lfw_train(data: Path, name: str = "lfw") -> Rows:
    """LFW photos of people who are not in its test part, with a sound expression word.

    Points are YuNet's (the teacher that the data page allows); rows without a face are left out.
    `name`: "lfw" or "lfw_more". Groups are the people, below 0.
    """
    path = data / "lfw" / f"{name}.npz"
    table = data / "lfw" / f"{name.replace('lfw', 'attributes')}.csv"
    arrays = archive.read(path, "images", "offsets", "test")
    images, test = archive.encoded(path, arrays), arrays["test"]
    try:
        with table.open(newline="") as text:
            people = list(csv.DictReader(text))
    except OSError as error:
        raise InputError(f"{table}: cannot be read: {error.strerror}") from error
    detector = _yunet(data, (250, 250))
    kept: list[int] = []
    points: list[NDArray[np.float32]] = []
    boxes: list[NDArray[np.float32]] = []
    for i, person in enumerate(people):
        if test[i] or person["expression"] not in LFW_WORDS:
            continue
        picture = archive.picture(path, i, images[i], cv2.IMREAD_COLOR)
        found = detector.detect(picture)[1]
        if found is None:
            continue
        middle = np.abs(found[:, :2] + found[:, 2:4] / 2 - 125).sum(1)
        face = found[middle.argmin()]  # LFW's person stands in the middle
        kept.append(i)
        points.append(face[4:14].reshape(5, 2))
        boxes.append(_haar_like(face[4:14].reshape(5, 2)))
    expression = np.full(
        (len(kept), N_EXPRESSIONS), (1 - _LFW_SURE) / (N_EXPRESSIONS - 1), np.float32
    )
    expression[np.arange(len(kept)), [EXPRESSION_INDEX[people[i]["expression"]] for i in kept]] = (
        _LFW_SURE
    )
    return Rows(
        [images[i] for i in kept],
        np.zeros((len(kept), 10), np.float32),
        expression,
        np.full((len(kept), N_AUS, 2), np.nan, np.float32),
        np.array(points, np.float32),
        np.array(boxes, np.float32),
        np.array([_person(people[i]["name"]) for i in kept], np.int64),
        Origin(
            f"{name.replace('_', '-')}-train",
            "LFW news photographs: research use, rights with their owners; words Apache-2.0",
            len(kept),
            sha256(path),
        ),
    )


def london_train(data: Path) -> Rows:
    """London's odd ids (CC BY 4.0), neutral and smiling; points are YuNet's.

    A neutral face there was posed so: it stands for the absence of every AU but those that a face
    at rest may seem to show (`AT_REST`). What moves in a smile is not said, only that it is one.
    """
    folder = data / "london"
    paths = [p for p in sorted(folder.glob("*_*.webp")) if int(p.stem[:3]) % 2]
    if not paths:
        raise InputError(f"{folder}: no pictures of the London set")
    images = [path.read_bytes() for path in paths]
    points, kept = _largest(data, folder, images)
    smiling = np.array([paths[i].stem.endswith("smiling") for i in kept])
    expression = np.full((len(kept), N_EXPRESSIONS), 0.1 / (N_EXPRESSIONS - 1), np.float32)
    expression[~smiling, EXPRESSION_INDEX["neutral"]] = 0.9
    # A fair share of the smiles is barely there.
    expression[smiling] = 0.1 / (N_EXPRESSIONS - 2)
    expression[smiling, EXPRESSION_INDEX["happiness"]] = 0.7
    expression[smiling, EXPRESSION_INDEX["neutral"]] = 0.2
    sides = np.full((len(kept), N_AUS, 2), np.nan, np.float32)
    absent = np.array([key not in AT_REST for key in AU_KEYS])
    sides[np.ix_(~smiling, absent)] = 0.0
    return _plain_rows(
        [images[i] for i in kept],
        points,
        expression,
        sides,
        np.array([int(paths[i].stem[:3]) for i in kept], np.int64),
        Origin(
            "london-odd",
            f"CC BY 4.0: L. DeBruine, B. Jones, Face Research Lab London Set (2017); {_POINTS}",
            len(kept),
            _joined_sha(images),
        ),
    )


def cc0_train(data: Path) -> Rows:
    """The CC0 portraits, without any label; points are YuNet's."""
    path = data / "cc0" / "portraits.npz"
    images = archive.encoded(path, archive.read(path, "images", "offsets"))
    points, kept = _largest(data, path, images)
    return _plain_rows(
        [images[i] for i in kept],
        points,
        np.zeros((len(kept), N_EXPRESSIONS), np.float32),
        np.full((len(kept), N_AUS, 2), np.nan, np.float32),
        -1 - np.array(kept, np.int64),
        Origin("cc0-portraits", f"CC0; {_POINTS}", len(kept), sha256(path)),
    )


_CODED = {1: 2.0, 0: 0.0, codes.UNSURE: np.nan}
"""The label of presence for a code: as sure as a reader is, 19 times out of 20."""


def coded_learn(data: Path) -> Rows:
    """The photographs of `coded-learn` with what a reader saw, both sides alike, and no expression:
    the other rows tell that. Points are those of the list."""
    shared, listed = Shared(data), coded.listed("learn")
    read = codes.read(coded.FOLDER / "codes_g.csv").of([face.id for face in listed])
    sides = np.full((len(listed), N_AUS, 2), np.nan, np.float32)
    strength = np.vectorize(_CODED.__getitem__, otypes=[np.float32])(read.values)
    sides[:, codes.COLUMNS] = strength[..., None]
    points = np.array([face.points5 for face in listed], np.float32)
    images = [shared.encoded(face.source, face.name) for face in listed]
    return _plain_rows(
        images,
        points,
        np.zeros((len(listed), N_EXPRESSIONS), np.float32),
        sides,
        np.array([_group(shared, face) for face in listed], np.int64),
        Origin(
            "coded-learn",
            "codes: own; pictures as in ferplus-train, lfw-train, london-odd and cc0-portraits",
            len(listed),
            _joined_sha(images),
        ),
    )


def _group(shared: Shared, face: coded.CodedFace) -> int:
    """The group that the face has in the pack of its source."""
    if face.source == "fer":
        _, arrays = shared.archive(shared.data / "fer" / "train.npz")
        found = np.flatnonzero(arrays["row"] == int(face.name.partition(":")[2]))
        return int(arrays["dup_group"][found[0]])
    if face.source == "lfw":
        file, _, row = face.name.partition(":")
        _, arrays = shared.archive(shared.data / "lfw" / f"{file}.npz")
        return _person(str(arrays["names"][int(row)]))
    if face.source == "london":
        return int(face.name[:3])
    return -1 - int(face.name)


def _yunet(data: Path, size: tuple[int, int]) -> cv2.FaceDetectorYN:
    """The teacher of points that the data page allows, for pictures of a size."""
    teacher = data / "detector" / "face_detection_yunet_2023mar.onnx"
    if not teacher.is_file():
        raise InputError(f"{teacher}: no such detector file")
    return cv2.FaceDetectorYN.create(str(teacher), "", size, 0.7)


def _largest(
    data: Path, origin: Path, images: list[bytes]
) -> tuple[NDArray[np.float32], list[int]]:
    """Five points (K, 5, 2) of the largest face in each picture, and which pictures have one."""
    detector = _yunet(data, (320, 320))
    points, kept = [], []
    for i, image in enumerate(images):
        picture = archive.picture(origin, i, image, cv2.IMREAD_COLOR)
        detector.setInputSize((picture.shape[1], picture.shape[0]))
        found = detector.detect(picture)[1]
        if found is None:
            continue
        kept.append(i)
        points.append(found[found[:, 2].argmax(), 4:14].reshape(5, 2))
    return np.array(points, np.float32).reshape(-1, 5, 2), kept


def _plain_rows(
    images: list[bytes],
    points: NDArray[np.float32],
    expression: NDArray[np.float32],
    sides: NDArray[np.float32],
    group: NDArray[np.int64],
    origin: Origin,
) -> Rows:
    boxes = np.array([_haar_like(one) for one in points], np.float32).reshape(-1, 5, 2)
    votes = np.zeros((len(images), 10), np.float32)
    return Rows(images, votes, expression, sides, points, boxes, group, origin)


def _joined_sha(images: list[bytes]) -> str:
    return hashlib.sha256(b"".join(images)).hexdigest()


def _person(name: str) -> int:
    """A negative number for the person in a picture's name: the same in both LFW files."""
    person = name.rsplit("_", 1)[0].encode()
    return -1 - int.from_bytes(hashlib.sha256(person).digest()[:6], "big")


def _haar_like(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean points of the box that a frontal-face cascade would draw round these five points."""
    shares = np.array(MEAN_POINTS_HAAR)
    scale = np.ptp(points[:, 0]) / np.ptp(shares[:, 0])
    start = points.mean(0) - shares.mean(0) * scale
    box = (start[0], start[1], start[0] + scale, start[1] + scale)
    return points_in_box(box, MEAN_POINTS_HAAR).astype(np.float32)
