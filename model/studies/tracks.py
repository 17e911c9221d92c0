"""Which tracker keeps identities? Simulated scenes of faces that move, cross and hide; no pictures.

    python -m feallm.model.studies.tracks --seeds 20          # the table of trackers
    python -m feallm.model.studies.tracks --seeds 20 --terms  # what each term gains

The weights were chosen on seeds below 1000, which `--seed 0` shows.

Three, twelve and thirty faces bounce, swing, stop and weave for 20 s; some come and go. The
detector jitters boxes and points, misses one face in twenty, sees none that a nearer face or an
obstacle hides, and finds some that are not there. `IDF1` is of all faces in view, the missed ones
too, which no tracker can give back: "true ids" is the most there is. `of given` leaves them out.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from feallm.model.evaluate.tracks import Labelled, Tracking, measure, together
from feallm.runtime.capture.likeness import Boxes, Costs, Weights
from feallm.runtime.capture.track import Pairs, Tracker, match, overlap
from feallm.runtime.contract.frame import Face

Floats = NDArray[np.float64]

WIDTH_PX, HEIGHT_PX, LENGTH_S = 1280, 720, 20.0
BOX_JITTER, POINT_JITTER, MISSED, FALSE = 0.04, 0.03, 0.05, 0.01
HIDDEN = 0.6  # covered by nearer faces to this share, a face is not found
EYES_TO_MOUTH = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.34, 0.78], [0.66, 0.78]])
CROWDS = (3, 12, 30)
REPORTED = 1000  # first seed of the report; the weights were chosen below


@dataclass(frozen=True, slots=True)
class Clip:
    """One scene as the detector gives it, and who is who."""

    times_s: Floats
    truth: list[Labelled]  # every face in view
    given: list[list[Face]]  # with false ones; `track` is the true id, -1 for a false face


def clip(rng: np.random.Generator, count: int) -> Clip:
    """A scene of `count` faces at 8 to 30 frames a second, in every third clip an uneven rate."""
    fps = rng.uniform(8, 30)
    steps = np.full(int(LENGTH_S * fps), 1 / fps)
    if rng.random() < 1 / 3:
        steps *= rng.uniform(0.4, 1.9, len(steps))
    times = np.cumsum(steps)
    size = np.exp(rng.uniform(np.log(40), np.log(110), count))
    size = size * np.exp(0.15 * np.sin(_waves(rng, times, count, 0.02, 0.15)))
    centre = np.stack([_path(rng, times, one) for one in size.T], axis=1)
    boxes = np.concatenate([centre - size[..., None] / 2, centre + size[..., None] / 2], axis=2)
    points = _points(rng, times, boxes)
    there = _present(rng, times, count)
    obstacle = _obstacles(rng, times, count)
    truth: list[Labelled] = []
    given: list[list[Face]] = []
    for t in range(len(times)):
        covered = _covered(boxes[t], there[t])
        seen = np.flatnonzero(there[t] & ~obstacle[t] & (covered < HIDDEN))
        truth.append((seen, boxes[t, seen]))
        faces = [
            _found(rng, boxes[t, k], points[t, k], 0.88 - 0.2 * covered[k], int(k))
            for k in seen
            if rng.random() >= MISSED
        ]
        faces += [_false(rng) for _ in range(rng.poisson(FALSE * count))]
        given.append([faces[k] for k in rng.permutation(len(faces))])
    return Clip(times, truth, given)


def _waves(
    rng: np.random.Generator, times: Floats, count: int, low_hz: float, high_hz: float
) -> Floats:
    phase = rng.uniform(0, 2 * np.pi, count)
    return phase + 2 * np.pi * rng.uniform(low_hz, high_hz, count) * times[:, None]


def _path(rng: np.random.Generator, times: Floats, size: Floats) -> Floats:
    """Middles (T, 2) of a face that bounces, swings, walks and stops, or weaves."""
    room = np.array([WIDTH_PX, HEIGHT_PX]) - size.max()
    start, pace = rng.uniform(0, room), rng.uniform(0.3, 3.0) * size.mean()
    way = rng.uniform(0, 2 * np.pi)
    speed = pace * np.array([np.cos(way), 0.5 * np.sin(way)])
    kind = rng.choice(["bounce", "swing", "stop", "weave"])
    if kind == "swing":
        reach = rng.uniform(0.5, 4) * size.mean() * np.array([1, rng.uniform(0, 0.3)])
        beat = min(pace / reach[0], 2 * np.pi)
        place = start + reach * np.sin(beat * times + way)[:, None]
    elif kind == "stop":
        turns = np.cumsum(rng.uniform(0.7, 3, 40))
        legs = rng.normal(0, 1, (41, 2)) * pace * [1, 0.5] * (rng.random((41, 1)) < 0.6)
        steps = np.diff(times, prepend=0)[:, None] * legs[np.searchsorted(turns, times)]
        place = start + np.cumsum(steps, axis=0)
    else:
        place = start + speed * times[:, None]
        if kind == "weave":
            place[:, 1] += size.mean() * rng.uniform(0.3, 1.5) * np.sin(rng.uniform(1, 4) * times)
    folded = room - np.abs(room - place % (2 * room))
    inside: Floats = folded + size.max() / 2
    return inside


def _points(rng: np.random.Generator, times: Floats, boxes: Boxes) -> Floats:
    """Points (T, N, 5, 2): every face has its own, and turns and nods."""
    count = boxes.shape[1]
    own = EYES_TO_MOUTH + rng.normal(0, 0.02, (count, 5, 2))
    turn = rng.normal(0, 0.05, count) + 0.08 * np.sin(_waves(rng, times, count, 0.05, 0.6))
    roll = rng.normal(0, 0.06, count) + 0.1 * np.sin(_waves(rng, times, count, 0.05, 0.5))
    shape = np.broadcast_to(own - 0.5, (len(times), count, 5, 2)).copy()
    shape[..., 0] += turn[..., None] * np.array([1, 1, 1.9, 1, 1])
    x, y = shape[..., 0], shape[..., 1]
    c, s = np.cos(roll)[..., None], np.sin(roll)[..., None]
    side = (boxes[..., 2] - boxes[..., 0])[..., None, None]
    middle = (boxes[..., None, :2] + boxes[..., None, 2:]) / 2
    points: Floats = middle + np.stack([c * x - s * y, s * x + c * y], axis=-1) * side
    return points


def _present(rng: np.random.Generator, times: Floats, count: int) -> NDArray[np.bool_]:
    """Who is in the scene (T, N): three in ten come later or go before the end."""
    first = np.where(rng.random(count) < 0.15, rng.uniform(0, LENGTH_S, count), -1)
    last = np.where(rng.random(count) < 0.15, rng.uniform(0, LENGTH_S, count), 2 * LENGTH_S)
    there: NDArray[np.bool_] = (times[:, None] >= first) & (times[:, None] < np.maximum(last, 1))
    return there


def _obstacles(rng: np.random.Generator, times: Floats, count: int) -> NDArray[np.bool_]:
    """Who is behind a thing (T, N): about every eight seconds, for up to a second."""
    hidden = np.zeros((len(times), count), bool)
    for k in range(count):
        for start in rng.uniform(0, LENGTH_S, rng.poisson(LENGTH_S / 8)):
            hidden[:, k] |= (times >= start) & (times < start + rng.uniform(0.2, 1.0))
    return hidden


def _covered(boxes: Boxes, there: NDArray[np.bool_]) -> Floats:
    """Share of each face that the nearest face before it covers; the larger one is nearer."""
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    shared *= there[None, :] & (areas[None, :] > areas[:, None])
    covered: Floats = shared.max(axis=1) / areas
    return covered


def _found(rng: np.random.Generator, box: Floats, points: Floats, score: float, track: int) -> Face:
    side = box[2] - box[0]
    x0, y0, x1, y1 = (box + rng.normal(0, BOX_JITTER * side, 4)).tolist()
    noisy = points + rng.normal(0, POINT_JITTER * side, (5, 2))
    score = float(np.clip(rng.normal(score, 0.06), 0.6, 1))
    return Face((x0, y0, x1, y1), noisy, score, track)


def _false(rng: np.random.Generator) -> Face:
    side = rng.uniform(30, 120)
    corner = rng.uniform(0, [WIDTH_PX - side, HEIGHT_PX - side])
    box = np.concatenate([corner, corner + side])
    points = corner + side * (EYES_TO_MOUTH + rng.normal(0, 0.05, (5, 2)))
    return _found(rng, box, points, 0.68, -1)


class PlainGreedy:
    """The tracker that this one took the place of: overlap with the last box alone."""

    def __init__(self, *, patience_frames: int = 15) -> None:
        self._patience = patience_frames
        self._tracks: list[tuple[int, tuple[float, float, float, float], int]] = []
        self._next = 0

    def update(self, faces: Sequence[Face], time_s: float) -> list[Face]:
        """The faces with their tracks, in the order given."""
        old = np.array([box for _, box, _ in self._tracks], np.float64).reshape(-1, 4)
        new = np.array([face.box for face in faces], np.float64).reshape(-1, 4)
        known = {j: i for i, j in match(-overlap(old, new), -0.3, swaps=False)}
        numbers = []
        for j in range(len(faces)):
            numbers.append(self._tracks[known[j]][0] if j in known else self._next)
            self._next += j not in known
        seen = [(n, face.box, 0) for n, face in zip(numbers, faces, strict=True)]
        rest = [t for i, t in enumerate(self._tracks) if i not in known.values()]
        self._tracks = seen + [(n, b, m + 1) for n, b, m in rest if m < self._patience]
        return [replace(face, track=n) for n, face in zip(numbers, faces, strict=True)]


def best_assignment(costs: Costs, most: float) -> Pairs:
    """As `match`, by the least sum of all costs below `most`."""
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(np.minimum(costs - most, 0))
    pairs = zip(rows.tolist(), columns.tolist(), strict=True)
    return [(i, j) for i, j in pairs if costs[i, j] < most]


Make = Callable[[], "Tracker | PlainGreedy"]


def follow(clip: Clip, make: Make | None, every: int) -> tuple[Tracking, Tracking, float]:
    """Figures of all faces in view and of those given, on every n-th frame; ms a frame.

    Without a tracker: the true ids, each false face with one of its own.
    """
    truth, detected, found = [], [], []
    tracker = None if make is None else make()
    spent, false = 0.0, 10**6
    for t in range(0, len(clip.times_s), every):
        faces = clip.given[t]
        if tracker is None:
            tracked = [
                replace(f, track=false + k) if f.track < 0 else f for k, f in enumerate(faces)
            ]
            false += len(faces)
        else:
            start = time.thread_time()  # other work on the machine is not the tracker's
            tracked = tracker.update(faces, float(clip.times_s[t]))
            spent += time.thread_time() - start
        ids = np.array([f.track for f in faces if f.track >= 0], np.int64)
        rows = np.searchsorted(clip.truth[t][0], ids)
        truth.append(clip.truth[t])
        detected.append((ids, clip.truth[t][1][rows]))
        boxes = np.array([f.box for f in tracked], np.float64).reshape(-1, 4)
        found.append((np.array([f.track for f in tracked], np.int64), boxes))
    return measure(truth, found), measure(detected, found), 1000 * spent / len(truth)


def compare(rows: dict[str, tuple[Make | None, int]], seeds: Sequence[int], count: int) -> None:
    """Print one line a tracker, over the same scenes of `count` faces."""
    clips = [clip(np.random.default_rng([seed, count]), count) for seed in seeds]
    for name, (make, every) in rows.items():
        every_clip = [follow(one, make, every) for one in clips]
        seen = together(line[0] for line in every_clip)
        given = together(line[1] for line in every_clip)
        least = min(line[1].idf1 for line in every_clip)
        took = float(np.median([line[2] for line in every_clip]))
        print(
            f"{count:>5}  {name:<22} {seen.idf1:>6.4f} {given.idf1:>9.4f} {least:>7.4f} "
            f"{given.switches:>8} {given.lost:>5} of {given.trajectories:<4} "
            f"{given.fragments:>5} {took:>7.3f}",
            flush=True,
        )


TABLE: dict[str, tuple[Make | None, int]] = {
    "true ids": (None, 1),
    "overlap alone": (PlainGreedy, 1),
    "tracker": (Tracker, 1),
    "tracker, no swaps": (lambda: Tracker(assign=partial(match, swaps=False)), 1),
    "tracker, best sum": (lambda: Tracker(assign=best_assignment), 1),
    "overlap, every 3rd": (PlainGreedy, 3),
    "tracker, every 3rd": (Tracker, 3),
    "overlap, every 5th": (PlainGreedy, 5),
    "tracker, every 5th": (Tracker, 5),
}
FAR = 1e6  # a spread so wide that a term says nothing


def _with(weights: Weights, **changes: float) -> tuple[Make, int]:
    changed = replace(weights, **changes)
    return (lambda: Tracker(weights=changed)), 1


def terms() -> dict[str, tuple[Make | None, int]]:
    """The tracker, and the tracker without each of its terms."""
    full = Weights()
    return {
        "all terms": (Tracker, 1),
        "without motion": _with(full, first_speed=1e-3, drift=1e-6, leap=FAR),
        "without stopping": _with(full, still=FAR),
        "without leaps": _with(full, leap=FAR),
        "without points": _with(full, shape_weight=0.0),
        "without size": _with(full, size=FAR),
        "without score": _with(full, doubt=0.0),
        "without newness": _with(full, fresh=0.0),
    }


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20, help="scenes of each crowd")
    parser.add_argument("--seed", type=int, default=REPORTED, help="the first of them")
    parser.add_argument("--faces", type=int, nargs="+", default=CROWDS)
    parser.add_argument("--terms", action="store_true", help="leave out one term at a time")
    asked = parser.parse_args()
    print(f"faces  {'tracker':<22} {'IDF1':>6} of given  lowest switches  lost tracks  frag  ms")
    for count in asked.faces:
        seeds = range(asked.seed, asked.seed + asked.seeds)
        compare(terms() if asked.terms else TABLE, seeds, count)


if __name__ == "__main__":
    main()
