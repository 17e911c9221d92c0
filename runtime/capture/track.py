"""Which face is which, from frame to frame.

Greedy by overlap: faces in one frame seldom overlap, and the device then needs no scipy. A track
waits a while for a face that the detector missed, so one lost frame does not make a new person.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from feallm.runtime.contract.frame import Box, Face

Boxes = NDArray[np.float64]  # (N, 4) x0 y0 x1 y1, pixels of the full frame


def overlap(old: Boxes, new: Boxes) -> NDArray[np.float64]:
    """Intersection over union (N, M) of every old with every new box; 0 for an empty box."""
    low = np.maximum(old[:, None, :2], new[None, :, :2])
    high = np.minimum(old[:, None, 2:], new[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    total = _areas(old)[:, None] + _areas(new)[None, :] - shared
    shares: NDArray[np.float64] = np.divide(
        shared, total, out=np.zeros_like(shared), where=total > 0
    )
    return shares


def _areas(boxes: Boxes) -> NDArray[np.float64]:
    areas: NDArray[np.float64] = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1)
    return areas


def match(old: Boxes, new: Boxes, *, least_overlap: float = 0.3) -> list[tuple[int, int]]:
    """Pair old and new boxes, best overlap first; a box without a partner is left out."""
    scores = overlap(old, new)
    pairs: list[tuple[int, int]] = []
    while scores.size and scores.max() >= least_overlap:
        i, j = np.unravel_index(int(scores.argmax()), scores.shape)
        pairs.append((int(i), int(j)))
        scores[i, :] = scores[:, j] = -1.0
    return pairs


@dataclass(slots=True)
class _Track:
    number: int
    box: Box
    missed: int = 0


class Tracker:
    """Numbers the faces of one video, from 0 in the order in which they appear."""

    def __init__(self, *, least_overlap: float = 0.3, patience_frames: int = 15) -> None:
        self.least_overlap = least_overlap
        self.patience_frames = patience_frames
        self._tracks: list[_Track] = []
        self._next = 0

    def update(self, faces: Sequence[Face]) -> list[Face]:
        """The next frame's faces with their tracks, in the order given."""
        old = _boxes([track.box for track in self._tracks])
        pairs = match(old, _boxes([f.box for f in faces]), least_overlap=self.least_overlap)
        known = {j: self._tracks[i] for i, j in pairs}
        for track in self._tracks:
            track.missed += 1
        numbered = []
        for j, face in enumerate(faces):
            track = known.get(j) or self._begin(face.box)
            track.box, track.missed = face.box, 0
            numbered.append(replace(face, track=track.number))
        self._tracks = [t for t in self._tracks if t.missed <= self.patience_frames]
        return numbered

    def _begin(self, box: Box) -> _Track:
        track = _Track(self._next, box)
        self._next += 1
        self._tracks.append(track)
        return track


def _boxes(boxes: Sequence[Box]) -> Boxes:
    return np.array(boxes, np.float64).reshape(-1, 4)
