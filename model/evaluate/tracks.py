"""How well found tracks keep true identities: IDF1, id switches, lost tracks and fragments.

IDF1 is that of E. Ristani, F. Solera, R. Zou, R. Cucchiara and C. Tomasi, "Performance measures and
a data set for multi-target, multi-camera tracking" (ECCV workshops 2016): each true trajectory is
given at most one found trajectory for the whole clip, so that as few boxes as possible are left
over. Switches and fragments follow K. Bernardin and R. Stiefelhagen, "Evaluating multiple object
tracking performance: the CLEAR MOT metrics" (2008): frame by frame, a pair that held before is kept
as long as its boxes overlap. Needs scipy, which the extra `render` brings.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from feallm.runtime.capture.likeness import Boxes
from feallm.runtime.capture.track import overlap

Ids = NDArray[np.int64]
Labelled = tuple[Ids, Boxes]  # the ids (N,) of one frame, and their boxes (N, 4)

LEAST_OVERLAP = 0.5  # a found box is at a true one from this intersection over union
COVERED = 0.8  # a trajectory is kept if one id covers this share of its frames


@dataclass(frozen=True, slots=True)
class Tracking:
    """What one clip, or several of them, came to."""

    frames: int
    truth: int  # true boxes
    found: int
    agreed: int  # found boxes of the trajectory that their true trajectory was given: IDTP
    trajectories: int  # true ones
    switches: int  # a true trajectory changes its id
    lost: int  # true trajectories of which no one id covers COVERED
    fragments: int  # a true trajectory is found again after frames in which it was not

    @property
    def precision(self) -> float:
        """IDP: share of the found boxes with the right identity; NaN where none was found."""
        return _share(self.agreed, self.found)

    @property
    def recall(self) -> float:
        """IDR: share of the true boxes that are found with the right identity."""
        return _share(self.agreed, self.truth)

    @property
    def idf1(self) -> float:
        """2 IDTP / (true boxes + found boxes); NaN where there is neither."""
        return _share(2 * self.agreed, self.truth + self.found)


def measure(
    truth: Sequence[Labelled], found: Sequence[Labelled], *, least_overlap: float = LEAST_OVERLAP
) -> Tracking:
    """The figures of one clip, both sides given frame by frame.

    Raises ValueError where the sides differ in length, or an id stands twice in one frame.
    """
    if len(truth) != len(found):
        raise ValueError(f"{len(truth)} frames of truth and {len(found)} found; expected as many")
    true_names, found_names = _names(truth, "truth"), _names(found, "found")
    shared = np.zeros((len(true_names), len(found_names)), np.int64)
    walk = _Walk(len(true_names))
    for (true_ids, true_boxes), (found_ids, found_boxes) in zip(truth, found, strict=True):
        there = np.searchsorted(true_names, true_ids)
        given = np.searchsorted(found_names, found_ids)
        shares = overlap(_boxes(true_boxes), _boxes(found_boxes))
        shared[np.ix_(there, given)] += shares >= least_overlap
        walk.step(there, given, shares, least_overlap)
    lengths = np.zeros(len(true_names), np.int64)
    for ids, _ in truth:
        lengths[np.searchsorted(true_names, ids)] += 1
    longest = shared.max(axis=1) if shared.size else np.zeros(len(true_names), np.int64)
    return Tracking(
        frames=len(truth),
        truth=int(lengths.sum()),
        found=sum(len(ids) for ids, _ in found),
        agreed=_best_total(shared.astype(np.float64)),
        trajectories=len(true_names),
        switches=walk.switches,
        lost=int((longest < COVERED * lengths).sum()),
        fragments=walk.fragments,
    )


def together(clips: Iterable[Tracking]) -> Tracking:
    """Several clips as one: every count is summed."""
    counts = [
        (c.frames, c.truth, c.found, c.agreed, c.trajectories, c.switches, c.lost, c.fragments)
        for c in clips
    ]
    return Tracking(*(sum(column) for column in zip(*counts, strict=True))) if counts else _NOTHING


_NOTHING = Tracking(0, 0, 0, 0, 0, 0, 0, 0)


class _Walk:
    """Goes through a clip as CLEAR MOT does, and counts what happens to each true trajectory."""

    def __init__(self, trajectories: int) -> None:
        self.switches = self.fragments = 0
        self._held = np.full(trajectories, -1)  # the id that was last seen on it
        self._tracked = np.zeros(trajectories, bool)  # in the last frame in which it was there

    def step(self, there: Ids, given: Ids, shares: Boxes, least_overlap: float) -> None:
        """One frame: the trajectories that are there, the found ones, their overlaps."""
        enough = shares >= least_overlap
        # An id that was there before is worth more than any sum of overlaps.
        kept = self._held[there][:, None] == given[None, :]
        worth = np.where(enough, shares + kept * (1.0 + min(shares.shape)), 0.0)
        now = np.full(len(there), -1)
        for i, j in zip(*_best_pairs(worth), strict=True):
            if enough[i, j]:
                now[i] = given[j]
        seen, before = now >= 0, self._held[there]
        self.switches += int((seen & (before >= 0) & (before != now)).sum())
        self.fragments += int((seen & (before >= 0) & ~self._tracked[there]).sum())
        self._held[there[seen]] = now[seen]
        self._tracked[there] = seen


def _best_pairs(worth: Boxes) -> tuple[Ids, Ids]:
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(worth, maximize=True)
    return rows, columns


def _best_total(worth: Boxes) -> int:
    """The most that a one-to-one pairing collects.

    FN + FP of a pairing is all boxes less twice what its pairs share, so that the least cost is the
    most shared; a trajectory left alone shares nothing.
    """
    return int(worth[_best_pairs(worth)].sum())


def _names(frames: Sequence[Labelled], side: str) -> Ids:
    for index, (ids, boxes) in enumerate(frames):
        if len(ids) != len(boxes):
            raise ValueError(f"{side}, frame {index}: {len(ids)} ids for {len(boxes)} boxes")
        if len(np.unique(ids)) != len(ids):
            raise ValueError(f"{side}, frame {index}: an id stands twice in {list(ids)}")
    every = [np.asarray(ids, np.int64) for ids, _ in frames]
    return np.unique(np.concatenate(every)) if every else np.zeros(0, np.int64)


def _boxes(boxes: Boxes) -> Boxes:
    return np.asarray(boxes, np.float64).reshape(-1, 4)


def _share(above: int, below: int) -> float:
    return above / below if below else float("nan")
