"""How well each track explains each face of a frame, and what a track learns from its face.

Costs are negative log likelihoods, so that they add up and one limit serves them all. Lengths are
in sizes of the face (the side of a square of its box's area): a step of 20 px is much for a far
face and nothing for a near one. Motion is a Kalman filter of constant speed that drifts; a track's
state stays at the last sight of its face and is carried ahead from there over a gap of any length,
which for this motion is the same as step by step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from feallm.runtime.contract.frame import Face, Image

Floats = NDArray[np.float64]
Boxes = NDArray[np.float64]  # (N, 4) x0 y0 x1 y1, pixels of the full frame
Costs = NDArray[np.float64]  # (N tracks, M faces)
Tracks = NDArray[np.void]  # (N,) of TRACK

LOOK_ROWS, LOOK_COLUMNS, LOOK_STEP = 4, 3, 4  # cells over a face and below it; samples a side
TRACK = np.dtype(
    [
        ("number", np.int64),
        ("hits", np.float64),  # faces that it was given
        ("seen_s", np.float64),
        ("centre", np.float64, 2),  # px
        ("speed", np.float64, 2),  # px a second
        ("spread", np.float64, 3),  # variances: place, place with speed, speed; sizes and seconds
        ("size", np.float64),  # px
        ("score", np.float64),
        # Logarithm of the size, then the five points about their middle, in sizes; NaN: unknown.
        ("form", np.float64, 11),
        ("look", np.float64, LOOK_ROWS * LOOK_COLUMNS * 3),  # colours 0–1; NaN: unknown
        ("clear", np.bool_),  # no other face is in the look
    ]
)

_DOWN = (np.arange(LOOK_ROWS * LOOK_STEP) + 0.5) / (LOOK_ROWS * LOOK_STEP) * 2
_ACROSS = (np.arange(LOOK_COLUMNS * LOOK_STEP) + 0.5) / (LOOK_COLUMNS * LOOK_STEP)
_MOST_UNLIKE = 4.0  # who turned away while hidden, or into another light, may still be the same
_WANDER_S = 2.0  # who stands is no farther off after a longer time


@dataclass(frozen=True, slots=True)
class Weights:
    """How far what a face does may differ from what its track did. Chosen with
    `feallm.model.studies.tracks`, on other scenes than those that it reports."""

    most: float = 5.5  # a pair that costs more is no pair
    sure: float = -0.9  # a pair that costs more is on trial
    trial: float = 0.5  # what it costs to take a trial back
    noise: float = 0.03  # of a place; sizes
    drift: float = 2.0  # of the speed: sizes² / s³
    first_speed: float = 3.8  # of a new face; sizes a second
    tail: float = 2.8  # degrees of freedom of Student's t: fewer forgive a larger step
    leap: float = 4.5  # squared surprise from which a filter trusts itself less
    still: float = 0.4  # to have stopped while out of sight
    wander: float = 1.1  # of who stands; sizes per root second
    size: float = 0.12  # of the size's logarithm
    size_drift: float = 0.1  # per root second
    shape: float = 0.03  # of a point's place in the face
    shape_drift: float = 0.05
    shape_weight: float = 0.27  # ten numbers that move together are no ten witnesses
    look: float = 0.05  # of a colour
    look_weight: float = 1.0
    fresh: float = 1.0  # what a track of one face costs more
    doubt: float = 2.0  # what a face of score 0 costs more
    learn: float = 0.3  # share of the newest face in form and look


class Likeness:
    """Compares tracks with faces, and lets tracks learn."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self._noise = weights.noise**2
        self._new_spread = (self._noise, 0.0, weights.first_speed**2)
        of_form = np.array([weights.size] + 10 * [weights.shape]) ** 2
        of_drift = np.array([weights.size_drift] + 10 * [weights.shape_drift]) ** 2
        self._form, self._form_drift = of_form, of_drift

    def read(
        self, faces: Sequence[Face], boxes: Boxes, now_s: float, pixels: Image | None
    ) -> Tracks:
        """The faces, of these boxes, as tracks that would begin here."""
        found = np.zeros(len(faces), TRACK)
        low, high = boxes[:, :2], boxes[:, 2:]
        sides = high - low
        size = np.sqrt(np.maximum(np.abs(sides[:, 0] * sides[:, 1]), 1.0))
        found["hits"] = 1
        found["seen_s"] = now_s
        found["centre"] = (low + high) * 0.5
        found["spread"] = self._new_spread
        found["size"] = size
        found["score"] = [face.score for face in faces]
        form = found["form"]
        form[:, 0] = np.log(size)
        form[:, 1:] = _shapes(faces, size)
        if pixels is None:
            found["look"] = np.nan
        else:
            found["look"] = _own(looks(boxes, pixels), boxes)
            found["clear"] = np.isfinite(found["look"]).any(axis=1)
        return found

    def costs(self, tracks: Tracks, found: Tracks) -> Costs:
        """What it costs (N, M) to say that a face is a track's."""
        weights = self.weights
        gone_s = (found["seen_s"][0] - tracks["seen_s"])[:, None]
        scale = tracks["size"][:, None] ** 2
        spread = self._carried(tracks["spread"], gone_s[:, 0])[:, :1] + self._noise
        cost = self._off(
            found["centre"], tracks["centre"] + tracks["speed"] * gone_s, scale, spread
        )
        # The other story: it stopped, and stands where it was last seen.
        wandered = weights.wander**2 * np.minimum(gone_s, _WANDER_S)
        spread = tracks["spread"][:, :1] + (wandered + self._noise)
        stopped = self._off(found["centre"], tracks["centre"], scale, spread)
        cost = np.minimum(cost, stopped + weights.still)
        form = found["form"] - tracks["form"][:, None]
        form *= form
        form /= (self._form + self._form_drift * gone_s)[:, None]
        form[np.isnan(form)] = 1.0
        cost += 0.5 * form[:, :, 0]
        cost += np.minimum(form[:, :, 1:].sum(axis=2) * (0.5 * weights.shape_weight), _MOST_UNLIKE)
        cost += weights.fresh / tracks["hits"][:, None]
        cost += weights.doubt * (1 - found["score"])
        if found["clear"].any():
            cost += self._unlike(tracks["look"], found["look"])
        return cost

    def _off(self, found: Floats, place: Floats, scale: Floats, spread: Floats) -> Costs:
        """What it costs (N, M) that faces are found off the places (N, 2)."""
        off = found - place[:, None]
        squared = np.einsum("nmk,nmk->nm", off, off)
        squared /= self.weights.tail * scale * spread
        cost: Costs = (0.5 * self.weights.tail + 1) * np.log1p(squared) + np.log(spread)
        return cost

    def _unlike(self, old: Floats, new: Floats) -> Costs:
        """What differing colours cost; as much as usual ones where there are none to compare."""
        apart = ((new - old[:, None]) / self.weights.look) ** 2
        known = np.isfinite(apart)
        count = known.sum(axis=2)
        total = np.where(known, apart, 0.0).sum(axis=2)
        mean = np.divide(total, count, out=np.ones_like(total), where=count > 0)
        cost: Costs = self.weights.look_weight * np.minimum(0.5 * mean, _MOST_UNLIKE)
        return cost

    def _carried(self, spread: Floats, gone_s: Floats) -> Floats:
        place, both, speed = spread.T
        drifted = self.weights.drift * gone_s
        carried = np.empty_like(spread)
        carried[:, 0] = place + gone_s * (2 * both + gone_s * (speed + drifted / 3))
        carried[:, 1] = both + gone_s * (speed + drifted / 2)
        carried[:, 2] = speed + drifted
        return carried

    def follow(self, tracks: Tracks, found: Tracks) -> None:
        """Let the tracks learn from the faces (N,) that they were given, in place."""
        if not len(tracks):
            return
        gone_s = found["seen_s"] - tracks["seen_s"]
        centre = tracks["centre"] + tracks["speed"] * gone_s[:, None]
        missed = found["centre"] - centre
        carried = self._carried(tracks["spread"], gone_s)
        surprise = np.einsum("nk,nk->n", missed, missed)
        surprise /= tracks["size"] ** 2 * (carried[:, 0] + self._noise) * self.weights.leap
        # A leap that the filter did not expect: it knew less than it believed.
        carried *= np.maximum(1.0, surprise)[:, None]
        gain = carried[:, :2] / (carried[:, :1] + self._noise)
        tracks["centre"] = centre + gain[:, :1] * missed
        tracks["speed"] += gain[:, 1:] * missed
        carried[:, 2] -= gain[:, 1] * carried[:, 1]
        carried[:, :2] *= 1 - gain[:, :1]
        tracks["spread"] = carried
        tracks["size"], tracks["seen_s"] = found["size"], found["seen_s"]
        tracks["hits"] += 1
        share = np.maximum(self.weights.learn, 1 / tracks["hits"])[:, None]
        tracks["form"] = _mixed(tracks["form"], found["form"], share)
        if found["clear"].any():
            share = np.where(
                found["clear"][:, None], np.where(tracks["clear"][:, None], share, 1), 0
            )
            tracks["look"] = _mixed(tracks["look"], found["look"], share)
            tracks["clear"] |= found["clear"]


def _mixed(old: Floats, new: Floats, share: Floats) -> Floats:
    """`share` of the new; where one of the two is not known, the other."""
    mixed = old + share * (new - old)
    unknown = np.isnan(mixed)
    if unknown.any():
        mixed[unknown] = np.where(np.isnan(old), new, old)[unknown]
    return mixed


def _shapes(faces: Sequence[Face], size: Floats) -> Floats:
    points = np.full((len(faces), 5, 2), np.nan)
    for k, face in enumerate(faces):
        if face.points is not None:
            points[k] = face.points
    points -= points.sum(axis=1, keepdims=True) / 5
    points /= size[:, None, None]
    return points.reshape(-1, 10)


def looks(boxes: Boxes, pixels: Image) -> Floats:
    """Mean colours (N, cells x 3), 0–1, of each face and as much again below it; NaN off frame."""
    height, width = pixels.shape[:2]
    sides = boxes[:, 2:] - boxes[:, :2]
    x = boxes[:, :1] + sides[:, :1] * _ACROSS
    y = boxes[:, 1:2] + sides[:, 1:] * _DOWN
    off_x, off_y = (x < 0) | (x >= width), (y < 0) | (y >= height)
    columns = np.where(off_x, 0, x).astype(np.int64)
    rows = np.where(off_y, 0, y).astype(np.int64)
    colours = pixels[rows[:, :, None], columns[:, None, :]] / 255.0
    colours[off_y[:, :, None] | off_x[:, None, :]] = np.nan
    cells = colours.reshape(-1, LOOK_ROWS, LOOK_STEP, LOOK_COLUMNS, LOOK_STEP, 3)
    means: Floats = cells.mean(axis=(2, 4)).reshape(-1, LOOK_ROWS * LOOK_COLUMNS * 3)
    return means


def _own(look: Floats, boxes: Boxes) -> Floats:
    """The looks (N, cells x 3) without what may be another's: a face that meets another's box tells
    nothing, one with a face below it only its own half."""
    low, high = boxes[:, :2], boxes[:, 2:]
    below = np.stack([high[:, 0], 2 * high[:, 1] - low[:, 1]], axis=1)
    meets = (low[:, None] < high[None]).all(2) & (low[None] < high[:, None]).all(2)
    meets_below = (low[:, None] < high[None]).all(2) & (low[None] < below[:, None]).all(2)
    look[meets_below.sum(axis=1) > 1, LOOK_ROWS // 2 * LOOK_COLUMNS * 3 :] = (
        np.nan
    )  # its own is one
    look[meets.sum(axis=1) > 1] = np.nan
    return look
