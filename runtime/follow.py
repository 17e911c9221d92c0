"""Follower: the frames of one video or camera, with the detector asked only now and then.

Between two searches a face is followed by what was read off it: its landmarks of one frame say
where it is cut out of the next, as Y. Kartynnik, A. Ablavatski, I. Grishchenko, M. Grundmann,
"Real-time facial surface geometry from monocular video on mobile GPUs" (CVPR Workshops 2019), do.
Where that stops to look like the same face, the frame is searched at once, so nothing is read off
a place that a face has left.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from feallm.runtime.capture.track import Tracker
from feallm.runtime.contract.frame import Box, Crop, Face, Frame
from feallm.runtime.contract.landmarks import FIVE
from feallm.runtime.contract.reading import FrameReport, Reading

Point = tuple[float, float]
Points = NDArray[np.float64]  # (5, 2) pixels of the frame
Wanted = Callable[[Sequence[Face]], Collection[int]]

EVERY = 5  # frames from search to search, while every face is followed
MOST_S = 0.5  # and seconds, where frames are few

# By 437 true steps of four clips and 210 onto backgrounds, covers and places beside the face: of
# the true ones one in a hundred is searched needlessly, of the others none passes but a third of
# those where a part of the face is covered.
_LEAST_ALIKE = 0.85  # correlation of the face's picture with the one before
_MOST_GROWTH = 1.18  # from frame to frame
_MOST_AWAY = 0.4  # of the distance of the eyes, from frame to frame
_STILL = 0.05  # of the distance of the eyes, from frame to frame: no movement
_THUMB_PX = (28, 32)
_FLAT = 0.5  # levels: a picture that differs less from its mean shows nothing
_LEAST_SPREAD_PX = 0.5  # of five points; nearer to each other they cannot be cut out
_SAME_PLACE = 0.5  # overlap of a found box with the followed one, for both to be one face


class Eyes(Protocol):
    """What a follower needs of an `Analyzer`."""

    def find(self, frame: Frame) -> list[Face]:
        """Faces of a frame."""

    def read(
        self,
        frame: Frame,
        *,
        faces: Sequence[Face],
        explain: bool | Collection[int] = False,
        crops: list[Crop] | None = None,
    ) -> FrameReport:
        """What they show; `crops` is filled with how they were seen."""


@dataclass(slots=True)
class _Followed:
    """A face of the frame before."""

    face: Face  # with the points that were read off it
    thumb: NDArray[np.float32]
    speed: Point = (0.0, 0.0)  # pixels a second

    def after(self, gone_s: float) -> _Followed:
        """The same where it should be so much later, if it goes on."""
        x, y = (value * gone_s for value in self.speed)
        if not (x or y) or self.face.points is None:
            return self
        x0, y0, x1, y1 = self.face.box
        points = self.face.points + (x, y)
        return replace(
            self, face=replace(self.face, points=points, box=(x0 + x, y0 + y, x1 + x, y1 + y))
        )


class Follower:
    """Reads the frames of one source, in order, with stable tracks.

    every: frames from one search to the next; 1 searches all of them, as does every frame without
    a face. wanted: which tracks of a frame's faces are to be explained.
    """

    def __init__(
        self,
        eyes: Eyes,
        *,
        every: int = EVERY,
        tracker: Tracker | None = None,
        wanted: Wanted | None = None,
    ) -> None:
        self._eyes, self._every = eyes, every
        self._tracker = tracker or Tracker()
        self._wanted = wanted or _nobody
        self._followed: list[_Followed] = []
        self._since = 0  # frames after the last search
        self._searched_s = self._read_s = 0.0
        self._size: tuple[int, ...] = ()
        self.searches = 0
        self.frames = 0

    def read(self, frame: Frame) -> FrameReport:
        """The next frame's faces and what they show."""
        self.frames += 1
        gone_s = frame.time_s - self._read_s
        self._read_s = frame.time_s
        due = self._due(frame)
        before = self._ahead(gone_s)
        report = self._search(frame, {}) if due else self._follow(frame)
        self._followed = [
            _with_speed(now, before.get(now.face.track), gone_s) for now in self._followed
        ]
        return report

    def _ahead(self, gone_s: float) -> dict[int, Point]:
        """Move the followed faces on to now; returns where they were."""
        before = {now.face.track: _middle(now.face) for now in self._followed}
        if 0 < gone_s < MOST_S:
            self._followed = [followed.after(gone_s) for followed in self._followed]
        return before

    def _follow(self, frame: Frame) -> FrameReport:
        """Read the faces where they should be; search where one of them is not."""
        faces = [followed.face for followed in self._followed]
        crops: list[Crop] = []
        report = self._eyes.read(frame, faces=faces, crops=crops)
        seen = self._seen(faces, report, crops)
        good = self._still_there(seen)
        if not all(good):
            kept = zip(seen, report.readings, good, strict=False)
            return self._search(frame, {r.track: (f, r) for f, r, ok in kept if ok})
        self._since += 1
        self._followed = seen
        readings = zip(report.readings, seen, strict=True)
        moved = tuple(replace(reading, box=now.face.box) for reading, now in readings)
        return replace(report, readings=moved)

    def _due(self, frame: Frame) -> bool:
        """Whether the detector is asked for this frame before anything else."""
        if not self._followed or self._since + 1 >= self._every:
            return True
        gone_s = frame.time_s - self._searched_s
        # Time that goes back, or another size: the camera came back, or another video began.
        if not 0 <= gone_s < MOST_S or frame.pixels.shape != self._size:
            return True
        return bool(self._wanted([followed.face for followed in self._followed]))

    def _search(self, frame: Frame, known: dict[int, tuple[_Followed, Reading]]) -> FrameReport:
        """Ask the detector; faces in `known` were already read, and stay as read where they are
        found."""
        self.searches += 1
        self._since, self._searched_s, self._size = 0, frame.time_s, frame.pixels.shape
        found = self._tracker.update(self._eyes.find(frame), frame.time_s, frame.pixels)
        faces = [self._steadied(face) for face in found]
        old = {followed.face.track: followed.face.points for followed in self._followed}
        done = {
            face.track
            for face in faces
            if face.track in known and face.points is old.get(face.track)
        }
        wanted = self._wanted(faces)
        done -= set(wanted)
        new = [face for face in faces if face.track not in done]
        crops: list[Crop] = []
        report = self._eyes.read(frame, faces=new, explain=wanted, crops=crops)
        seen = {now.face.track: now for now in self._seen(new, report, crops)}
        read = {reading.track: reading for reading in report.readings}
        for face in faces:
            if face.track in done:
                now, reading = known[face.track]
                seen[face.track] = replace(now, face=replace(face, points=now.face.points))
                read[face.track] = replace(reading, box=face.box, score=face.score)
        # All or none: a face that is not followed would be missing until the next search.
        self._followed = [seen[face.track] for face in faces] if len(seen) == len(faces) else []
        return replace(report, readings=tuple(read[face.track] for face in faces))

    def _steadied(self, face: Face) -> Face:
        """The face with the points that were read off it a frame before, where they still fit: so
        the detector's own points do not shake what is read at every search."""
        for followed in self._followed:
            old = followed.face
            if old.track == face.track and old.points is not None and face.points is not None:
                away = np.abs(old.points - face.points).mean() / _eyes_apart(face.points)
                if _overlap(old.box, face.box) > _SAME_PLACE and away < _MOST_AWAY / 2:
                    return replace(face, points=old.points)
        return face

    def _seen(
        self, faces: Sequence[Face], report: FrameReport, crops: Sequence[Crop]
    ) -> list[_Followed]:
        """The faces where they were read; [] where the bundle does not tell places, or they are no
        face's. Nor is a bare box followed: it may be the whole picture, which does not move."""
        seen = []
        for face, reading, crop in zip(faces, report.readings, crops, strict=True):
            points = _points_of(reading)
            if face.points is None or points is None or not _spread(points) > _LEAST_SPREAD_PX:
                return []
            box = _moved(face.box, face.points, points)
            thumb = cv2.resize(
                cv2.cvtColor(crop.pixels, cv2.COLOR_RGB2GRAY),
                _THUMB_PX,
                interpolation=cv2.INTER_AREA,
            ).astype(np.float32)
            seen.append(_Followed(replace(face, box=box, points=points), thumb))
        return seen

    def _still_there(self, seen: list[_Followed]) -> list[bool]:
        """Which of the followed faces still are where they were followed to."""
        if len(seen) < len(self._followed):
            return [False] * len(self._followed)
        pairs = zip(self._followed, seen, strict=True)
        good = [_same(before, now) for before, now in pairs]
        boxes = [followed.face.box for followed in seen]
        for k, box in enumerate(boxes):  # two followed to one place: one of them is hidden
            for j in range(k):
                if _overlap(box, boxes[j]) > _SAME_PLACE:
                    good[k] = good[j] = False
        return good


def _middle(face: Face) -> Point:
    points = face.points
    assert points is not None  # a face without is not followed
    x, y = points.mean(0).tolist()
    return x, y


def _with_speed(now: _Followed, before: Point | None, gone_s: float) -> _Followed:
    """The face with its speed since the frame before; 0 for a new one, for one that leapt, and for
    one that hardly moved: what is read off a face that stands must not shake by its own noise."""
    if before is None or not 0 < gone_s < MOST_S or now.face.points is None:
        return replace(now, speed=(0.0, 0.0))
    (x, y), (old_x, old_y) = _middle(now.face), before
    step = np.hypot(x - old_x, y - old_y)
    eyes = _eyes_apart(now.face.points)
    if not _STILL * eyes < step < eyes:
        return replace(now, speed=(0.0, 0.0))
    return replace(now, speed=((x - old_x) / gone_s, (y - old_y) / gone_s))


def _same(before: _Followed, now: _Followed) -> bool:
    """Whether a face moved from one frame to the next as faces do, and looks as it did."""
    old, new = before.face.points, now.face.points
    if old is None or new is None or not np.isfinite(new).all():
        return False
    growth = _spread(new) / max(_spread(old), 1e-6)
    away = float(np.linalg.norm(new.mean(0) - old.mean(0))) / _eyes_apart(old)
    near = 1 / _MOST_GROWTH < growth < _MOST_GROWTH and away < _MOST_AWAY
    return near and _alike(before.thumb, now.thumb) >= _LEAST_ALIKE


def _nobody(faces: Sequence[Face]) -> Collection[int]:
    return ()


def _points_of(reading: Reading) -> Points | None:
    """The five points of what was read."""
    if reading.place is None:
        return None
    marks = np.array(reading.place.landmarks)
    return np.stack([marks[list(chosen)].mean(0) for chosen in FIVE])


def _moved(box: Box, old: Points, new: Points) -> Box:
    """The box as its points moved and grew."""
    scale = _spread(new) / max(_spread(old), 1e-6)
    x0, y0, x1, y1 = box
    (cx, cy), (nx, ny) = old.mean(0).tolist(), new.mean(0).tolist()
    return (
        nx + (x0 - cx) * scale,
        ny + (y0 - cy) * scale,
        nx + (x1 - cx) * scale,
        ny + (y1 - cy) * scale,
    )


def _spread(points: Points) -> float:
    return float(np.sqrt(((points - points.mean(0)) ** 2).sum(1).mean()))


def _eyes_apart(points: Points) -> float:
    """About the distance of the eyes, also of a face that is turned away."""
    return max(1.1 * _spread(points), 1e-6)


def _alike(old: NDArray[np.float32], new: NDArray[np.float32]) -> float:
    """Correlation of two pictures; 1 for two flat ones, 0 where one of the two is."""
    a, b = old - old.mean(), new - new.mean()
    sizes = float(a.std()), float(b.std())
    if min(sizes) < _FLAT:
        return float(max(sizes) < _FLAT)
    return float((a * b).mean()) / (sizes[0] * sizes[1])


def _overlap(a: Box, b: Box) -> float:
    wide = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    tall = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    total = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - wide * tall
    return wide * tall / total if total > 0 else 0.0
