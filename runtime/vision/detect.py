"""Frame -> faces, by a detector file in YuNet's layout that OpenCV decodes.

The bundle carries its own (docs/detector.md); OpenCV Zoo's official file does as well.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from feallm.runtime.backends.onnx import available
from feallm.runtime.capture.quiet import quiet
from feallm.runtime.contract.errors import InputError
from feallm.runtime.contract.frame import Face, Frame, Image

_SHORTEST_PX = 16  # nothing narrower holds a face
_LEAST_PX = 64  # in a map that is one cell wide OpenCV finds faces of score 1 at no place
_FEW_PX = 160  # a smaller photograph is looked at enlarged: it may be all face
_ROOM = 0.25  # round a photograph that is looked at again, as a share of its sides
_GRAY = 128
_OUTPUTS = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}  # by the names that OpenCV asks for: values
_CELLS_PX = (8, 16, 32)


class FaceFinder(Protocol):
    """Finds the faces of a frame, largest first."""

    def find(self, frame: Frame) -> list[Face]:
        """Faces in full-frame pixels; tracks count from 0 in the order given."""


@dataclass(frozen=True, slots=True)
class Search:
    """How a detector file is asked."""

    score: float = 0.6  # from which a face counts
    overlap: float = 0.3  # of two boxes, from which they are one face
    still_px: int = 640  # longer side at which a photograph is searched, at most
    video_px: int = 320  # the same for a frame of a video or camera

    def longest_px(self, frame: Frame) -> int:
        """The longer side at which this frame is searched, at most."""
        return self.still_px if frame.still else self.video_px


class DetectorFile:
    """A detector in YuNet's layout. Raises InputError where the file is none."""

    def __init__(self, path: Path, search: Search | None = None) -> None:
        self.search = search or Search()
        if not os.path.isfile(path):  # False too where the path cannot even be looked up
            raise InputError(f"{path}: no such detector file")
        if (reason := _unlike_yunet(path)) is not None:
            raise InputError(f"{path}: not a YuNet detector: {reason}")
        try:
            with quiet():
                self._detector = cv2.FaceDetectorYN.create(
                    str(path), "", (320, 320), self.search.score, self.search.overlap
                )
                self._detector.detect(np.zeros((320, 320, 3), np.uint8))
        except cv2.error as error:
            raise InputError(f"{path}: not a YuNet detector: {error.err}") from error

    def find(self, frame: Frame) -> list[Face]:
        """Boxes with five points and scores. A photograph in which there is none is looked at once
        more with gray around it: a face that fills it is easier to tell when it has an outline."""
        height, width = frame.pixels.shape[:2]
        longest = self.search.longest_px(frame)
        scale = min(1.0, longest / max(height, width))
        if min(height, width) * scale < _SHORTEST_PX:
            return []
        faces = self._look(_resized(frame.pixels, scale), scale, (0, 0))
        if not faces and frame.still:
            room = (round(_ROOM * height), round(_ROOM * width))
            framed = _framed(frame.pixels, *room)
            larger = 2.0 if max(framed.shape[:2]) < _FEW_PX else 1.0
            scale = min(larger, longest / max(framed.shape[:2]))
            faces = self._look(_resized(framed, scale), scale, (room[1], room[0]))
        return faces

    def _look(self, picture: Image, scale: float, start: tuple[int, int]) -> list[Face]:
        """Faces of a picture that is the frame from -`start` on, at this scale."""
        short = [max(0, _LEAST_PX - side) for side in picture.shape[:2]]
        if any(short):  # filled up as OpenCV fills up to whole cells
            filled = cv2.copyMakeBorder(picture, 0, short[0], 0, short[1], cv2.BORDER_CONSTANT)
            picture = np.asarray(filled, np.uint8)
        self._detector.setInputSize((picture.shape[1], picture.shape[0]))
        with quiet():
            found = self._detector.detect(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1]
        rows = [] if found is None else found.tolist()
        faces: list[Face] = []
        for row in sorted(rows, key=lambda r: -r[2] * r[3]):
            x, y, w, h = (value / scale for value in row[:4])
            x, y = x - start[0], y - start[1]
            points = np.array(row[4:14]).reshape(5, 2) / scale - start
            faces.append(Face((x, y, x + w, y + h), points, float(row[14]), len(faces)))
        return faces


def _unlike_yunet(path: Path) -> str | None:
    """Why a file cannot be a detector: OpenCV takes it for one unasked, reads where outputs should
    lie, and may end the process."""
    if available() is not None:  # then nobody can tell
        return None
    import onnxruntime as ort  # `available` has turned its telemetry off

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        inputs = [(value.name, value.shape) for value in session.get_inputs()]
        outputs = {value.name: value.shape for value in session.get_outputs()}
    except Exception:  # ONNX Runtime's own types differ between versions; its words fill a page
        return "ONNX Runtime cannot load it"
    sides = inputs[0][1] if len(inputs) == 1 else []
    if not _may_be(sides, (1, 3, None, None)):
        return f"it should have one input, a picture [1, 3, height, width], and has {inputs[:3]}"
    for name, values in _OUTPUTS.items():
        for cell in _CELLS_PX:
            known = all(isinstance(side, int) for side in sides[2:])
            cells = sides[2] // cell * (sides[3] // cell) if known else None
            found = outputs.get(f"{name}_{cell}")
            if found is None:
                return f"it has no output {name}_{cell}"
            if not _may_be(found, (1, cells, values)):
                return f"its output {name}_{cell} is {found}"
    return None


def _may_be(shape: list[int | str | None], wanted: tuple[int | None, ...]) -> bool:
    """Whether a shape as ONNX states it, sides that are left open as names or None, is this one."""
    return len(shape) == len(wanted) and all(
        not isinstance(side, int) or number is None or side == number
        for side, number in zip(shape, wanted, strict=True)
    )


def _resized(picture: Image, scale: float) -> Image:
    """The picture at a share of its size. It is halved first as often as goes, which OpenCV does
    four times as fast as one step by area, with the same result but for rounding."""
    size = (round(picture.shape[1] * scale), round(picture.shape[0] * scale))
    while picture.shape[1] >= 2 * size[0] and picture.shape[0] >= 2 * size[1]:
        tall, wide = picture.shape[0] // 2, picture.shape[1] // 2
        even = picture[: 2 * tall, : 2 * wide]
        half = cv2.resize(even, (wide, tall), interpolation=cv2.INTER_AREA)
        picture = np.asarray(half, np.uint8)
    if (picture.shape[1], picture.shape[0]) == size:
        return picture
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, size, interpolation=how), np.uint8)


def _framed(picture: Image, tall: int, wide: int) -> Image:
    gray = (_GRAY,) * 3
    framed = cv2.copyMakeBorder(picture, tall, tall, wide, wide, cv2.BORDER_CONSTANT, value=gray)
    return np.asarray(framed, np.uint8)
