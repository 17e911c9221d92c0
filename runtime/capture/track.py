"""Which face is which, from frame to frame.

A track remembers where its face was last seen, how fast it moved, how large it was, how its five
points lay and, where pixels are given, the colours of the face and of what is below it. A face goes
to the track that explains it best (`likeness.py`). Nobody is recognised: who stays away for longer
than the patience, or comes back elsewhere, is a new number.

Best pair first, then swaps: on simulated crowds that loses nothing against the best assignment of
all (`python -m feallm.model.studies.tracks`), and the device needs no scipy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from feallm.runtime.capture.likeness import TRACK, Boxes, Costs, Likeness, Tracks, Weights
from feallm.runtime.contract.errors import InputError
from feallm.runtime.contract.frame import Face, Image

PATIENCE_S = 2.0
FRAME_S = 1 / 25  # from one frame to the next where nobody says
_STEP_BACK_S = 0.1  # a clock that goes back by less is jitter; by more, the stream began anew
_INSIDE = 0.8  # share of a box that lies in another one, from which both may be one face
_APART = 0.25  # points of one face found twice are nearer to each other than this, in sizes
_FARTHEST_PX = 1e9  # a corner beyond, or none at all: such a box is numbered, but not followed

Pairs = list[tuple[int, int]]
Assign = Callable[[Costs, float], Pairs]


def overlap(old: Boxes, new: Boxes) -> NDArray[np.float64]:
    """Intersection over union (N, M) of every old with every new box; 0 for an empty box."""
    shared = _shared(old, new)
    total = _areas(old)[:, None] + _areas(new)[None, :] - shared
    shares: NDArray[np.float64] = np.divide(
        shared, total, out=np.zeros_like(shared), where=total > 0
    )
    return shares


def _shared(old: Boxes, new: Boxes) -> NDArray[np.float64]:
    sides = np.minimum(old[:, None, 2:], new[None, :, 2:])
    sides -= np.maximum(old[:, None, :2], new[None, :, :2])
    np.maximum(sides, 0, out=sides)
    shared: NDArray[np.float64] = sides[..., 0] * sides[..., 1]
    return shared


def _areas(boxes: Boxes) -> NDArray[np.float64]:
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    areas: NDArray[np.float64] = sides[:, 0] * sides[:, 1]
    return areas


def match(costs: Costs, most: float, *, swaps: bool = True) -> Pairs:
    """Pair rows and columns; what costs `most` or more stays without partner.

    Lowest cost first; then two pairs at a time change partners while that lowers their sum: of two
    people who met, one alone often fits the wrong track best.
    """
    rows, columns = np.nonzero(costs < most)
    order = np.argsort(costs[rows, columns], kind="stable")
    free_rows, free_columns = set(rows.tolist()), set(columns.tolist())
    pairs: Pairs = []
    for i, j in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if i in free_rows and j in free_columns:
            pairs.append((i, j))
            free_rows.remove(i)
            free_columns.remove(j)
    if swaps and 1 < len(pairs) < len(order):
        return _swapped(costs, most, pairs)
    return pairs


def _swapped(costs: Costs, most: float, pairs: Pairs) -> Pairs:
    rows, columns = np.array(pairs, np.int64).T
    price = costs[np.ix_(rows, columns)]
    price[price >= most] = np.inf
    while True:
        own = price.diagonal()
        gain = own[:, None] + own[None] - price - price.T
        i, j = divmod(int(gain.argmax()), len(rows))
        if gain[i, j] <= 1e-9:  # not 0: rounding could swap to and fro
            return list(zip(rows.tolist(), columns.tolist(), strict=True))
        columns[[i, j]] = columns[[j, i]]
        price[:, [i, j]] = price[:, [j, i]]


class Tracker:
    """Numbers the faces of one video, from 0 in the order in which they appear; no number is used
    twice.

    patience_s: how long a number waits for a face that is hidden or missed. It must be longer than
    the time between two frames, else every face of a frame is new.
    """

    def __init__(
        self,
        *,
        patience_s: float = PATIENCE_S,
        weights: Weights | None = None,
        assign: Assign = match,
    ) -> None:
        self.patience_s = patience_s
        self._weights = weights or Weights()
        self._likeness = Likeness(self._weights)
        self._assign = assign
        self._tracks = np.zeros(0, TRACK)  # numbers ascend
        self._before = np.zeros(0, TRACK)  # as tracks were before a doubtful face
        self._next = 0
        self._now_s = 0.0  # runs by what the frames say, without their jumps back
        self._stamp_s: float | None = None  # the last frame's own time

    def update(
        self, faces: Sequence[Face], time_s: float | None = None, pixels: Image | None = None
    ) -> list[Face]:
        """The frame's faces with their tracks, in the order given.

        time_s: of the frame, at an even rate or not; without it 25 frames a second. Where it goes
        back, the stream began anew and every face is new. pixels: (H, W, 3) RGB, for the colours;
        raises InputError where they are none.

        A face found twice is given back once: left out is what continues no track and lies in, or
        about, another face's box, unless its points lie elsewhere than that face's.
        """
        if pixels is not None and (pixels.ndim != 3 or pixels.shape[2] != 3):
            raise InputError(
                f"the tracker was given pixels of shape {pixels.shape}, expected (height, width, 3)"
            )
        self._pass(time_s)
        if not len(faces):
            return []
        boxes = np.array([face.box for face in faces], np.float64).reshape(-1, 4)
        sound = np.abs(boxes).max(axis=1, initial=0) < _FARTHEST_PX  # False for NaN too
        followed = faces if sound.all() else [f for f, ok in zip(faces, sound, strict=True) if ok]
        found = self._likeness.read(followed, boxes[sound], self._now_s, pixels)
        numbers = np.full(len(faces), -1)
        numbers[sound] = self._continue(found)
        new = np.flatnonzero(numbers < 0)
        if len(new):
            if len(faces) > 1:
                new = _without_copies(faces, boxes, new)
            numbers[new] = self._next + np.arange(len(new))
            self._next += len(new)
            found["number"] = numbers[sound]
            begun = found[found["number"] >= self._next - len(new)]
            self._tracks = np.concatenate([self._tracks, begun])
        return [
            replace(face, track=number)
            for face, number in zip(faces, numbers.tolist(), strict=True)
            if number >= 0
        ]

    def _continue(self, found: Tracks) -> NDArray[np.int64]:
        """The tracks' numbers for the faces; -1 for a face that none explains.

        A face that its track explains badly is on trial: until the track is found again, it may
        also go on from where it was before. Else one false face would carry off the number of
        somebody who is hidden.
        """
        tracks, before, likeness = self._tracks, self._before, self._likeness
        numbers = np.full(len(found), -1)
        if not len(tracks) or not len(found):
            return numbers
        costs = likeness.costs(tracks, found)
        if len(before):
            current, earlier = costs, likeness.costs(before, found) + self._weights.trial
            of = np.searchsorted(tracks["number"], before["number"])
            costs = current.copy()
            costs[of] = np.minimum(current[of], earlier)
        rows, columns = np.array(self._assign(costs, self._weights.most), int).reshape(-1, 2).T
        if len(before):
            given = np.full(len(tracks), -1)
            given[rows] = columns
            tried = given[of]
            taken_back = (tried >= 0) & (earlier < current[of])[np.arange(len(of)), tried]
            tracks[of[taken_back]] = before[taken_back]
            self._before = before[tried < 0]
        known = tracks[rows]
        doubtful = costs[rows, columns] > self._weights.sure
        if doubtful.any():
            self._before = np.concatenate([self._before, known[doubtful]])
        likeness.follow(known, found[columns])
        tracks[rows] = known
        numbers[columns] = known["number"]
        return numbers

    def _pass(self, time_s: float | None) -> None:
        """Let the clock run to the frame, and forget who has been away for too long."""
        step_s = FRAME_S
        if time_s is not None and math.isfinite(time_s):
            if self._stamp_s is not None and time_s > self._stamp_s:
                step_s = time_s - self._stamp_s
            elif self._stamp_s is not None and time_s < self._stamp_s - _STEP_BACK_S:
                self._tracks, self._before = self._tracks[:0], self._before[:0]
            self._stamp_s = time_s
        self._now_s += step_s
        if len(self._tracks):
            since_s = self._now_s - self.patience_s - 1e-9  # the last for what clocks round off
            here = self._tracks["seen_s"] >= since_s
            if not here.all():
                self._tracks = self._tracks[here]
            if len(self._before):
                self._before = self._before[self._before["seen_s"] >= since_s]


def _without_copies(
    faces: Sequence[Face], boxes: Boxes, new: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Those of the new faces that are not a face of the frame once more.

    Such a one lies in another's box, or about it, and has no points that say otherwise. One that
    continues a track is never left out; of new ones that with points, then with the higher score.
    """
    with np.errstate(invalid="ignore"):  # boxes without end
        areas = _areas(boxes)
        least = np.maximum(np.minimum(areas[new][:, None], areas[None]), 1e-9)
        inside = _shared(boxes[new], boxes) >= _INSIDE * least
    if inside.sum() <= len(new):  # each in itself
        return new
    kept = set(range(len(faces))) - set(new.tolist())
    order = [(faces[k].points is None, -faces[k].score, -areas[k], i) for i, k in enumerate(new)]
    for *_, i in sorted(order):
        k = int(new[i])
        others = np.flatnonzero(inside[i]).tolist()
        if not any(j in kept and _one(faces[k], faces[j]) for j in others):
            kept.add(k)
    return np.array([k for k in new.tolist() if k in kept], np.int64)


def _one(face: Face, other: Face) -> bool:
    """Whether two faces, one in the other's box, may be one; points decide where both have them."""
    if face.points is None or other.points is None:
        return True
    apart = np.hypot(*(face.points - other.points).T).mean()
    (x0, y0, x1, y1), (u0, v0, u1, v1) = face.box, other.box
    return bool(apart < _APART * ((x1 - x0) * (y1 - y0) * (u1 - u0) * (v1 - v0)) ** 0.25)
