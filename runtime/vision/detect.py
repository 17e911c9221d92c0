"""Frame -> faces. Two finders: OpenCV 4's Haar cascade, and YuNet files through FaceDetectorYN.

The cascade is a stopgap until the project's own detector lands: it misses turned and small faces
and gives boxes without points.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from feallm.runtime.capture.quiet import quiet
from feallm.runtime.contract.errors import BackendError, InputError
from feallm.runtime.contract.frame import Face, Frame, Image
from feallm.runtime.contract.geometry import MEAN_POINTS_HAAR, FivePoints

_LONGEST_PX = 640  # a larger frame is searched at this size
SURE = 0.6  # YuNet's score from which a face counts
_WILLING = 0.4  # YuNet's score for a second look at a photograph without a face
_SHORTEST_PX = 16  # nothing narrower holds a face


class FaceFinder(Protocol):
    """Finds the faces of a frame, largest first."""

    name: str
    mean_points: FivePoints  # stand in for a face's points where it has none

    def find(self, frame: Frame) -> list[Face]:
        """Faces in full-frame pixels; tracks count from 0 in the order given."""


class HaarFinder:
    """The frontal-face cascade that OpenCV 4 carries."""

    name = "haar"
    mean_points = MEAN_POINTS_HAAR

    def __init__(self) -> None:
        folder = getattr(getattr(cv2, "data", None), "haarcascades", None)
        if folder is None or not hasattr(cv2, "CascadeClassifier"):
            raise BackendError(
                f"OpenCV {cv2.__version__} has no Haar cascade", hint="install OpenCV 4"
            )
        self._cascade = cv2.CascadeClassifier(
            str(Path(folder) / "haarcascade_frontalface_alt2.xml")
        )

    def find(self, frame: Frame) -> list[Face]:
        """Boxes without points; score 1, since the cascade gives none."""
        small, scale = _shrunk(frame)
        if small is None:
            return []
        gray = cv2.equalizeHist(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY))
        least = max(24, min(gray.shape) // 12)
        boxes = self._cascade.detectMultiScale(gray, 1.1, 4, minSize=(least, least))
        faces: list[Face] = []
        for x, y, w, h in sorted(np.reshape(boxes, (-1, 4)).tolist(), key=lambda b: -b[2] * b[3]):
            box = (x / scale, y / scale, (x + w) / scale, (y + h) / scale)
            faces.append(Face(box, None, 1.0, len(faces)))
        return faces


class YuNetFinder:
    """A detector file in YuNet's layout, decoded by OpenCV."""

    name = "yunet"
    mean_points = MEAN_POINTS_HAAR  # never used: YuNet gives points

    def __init__(self, path: Path, *, score: float = SURE) -> None:
        if not os.path.isfile(path):  # False too where the path cannot even be looked up
            raise InputError(f"{path}: no such detector file")
        try:
            with quiet():
                self._detector = cv2.FaceDetectorYN.create(str(path), "", (320, 320), score, 0.3)
                self._detector.detect(np.zeros((320, 320, 3), np.uint8))
        except cv2.error as error:
            raise InputError(f"{path}: not a YuNet detector: {error.err}") from error
        self._score = score

    def find(self, frame: Frame) -> list[Face]:
        """Boxes with five points and scores. A photograph in which there is none is looked at once
        more, more willingly: what that finds is known by its lower score."""
        small, scale = _shrunk(frame)
        if small is None:
            return []
        self._detector.setInputSize((small.shape[1], small.shape[0]))
        bgr = cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
        found = self._detector.detect(bgr)[1]
        if found is None and frame.still:
            self._detector.setScoreThreshold(min(self._score, _WILLING))
            found = self._detector.detect(bgr)[1]
            self._detector.setScoreThreshold(self._score)
        faces: list[Face] = []
        for row in sorted([] if found is None else found.tolist(), key=lambda r: -r[2] * r[3]):
            x, y, w, h = (value / scale for value in row[:4])
            points = np.array(row[4:14]).reshape(5, 2) / scale
            faces.append(Face((x, y, x + w, y + h), points, float(row[14]), len(faces)))
        return faces


def _shrunk(frame: Frame) -> tuple[Image | None, float]:
    """The frame at the size that is searched, and that size as a share of the full one."""
    height, width = frame.pixels.shape[:2]
    scale = min(1.0, _LONGEST_PX / max(height, width))
    size = (round(width * scale), round(height * scale))
    if min(size) < _SHORTEST_PX:
        return None, scale
    if scale == 1.0:
        return frame.pixels, scale
    return np.asarray(cv2.resize(frame.pixels, size, interpolation=cv2.INTER_AREA), np.uint8), scale
