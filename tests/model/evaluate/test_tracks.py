"""The figures of tracking against small cases worked out by hand, and against every pairing."""

import math
from itertools import permutations

import numpy as np
import pytest

from feallm.model.evaluate.tracks import measure, together

PLACES = {"a": (0, 0, 10, 10), "b": (100, 0, 110, 10), "far": (500, 500, 510, 510)}


def frames(*each):
    """Frames from strings such as "1a 2b": id 1 at place a, id 2 at place b."""
    made = []
    for text in each:
        words = text.split()
        boxes = np.array([PLACES[w[1:]] for w in words], float).reshape(-1, 4)
        made.append((np.array([int(w[0]) for w in words], int), boxes))
    return made


# Truth, found; IDTP, switches, lost, fragments.
BY_HAND = {
    "all right": (["1a 2b"] * 5, ["7a 8b"] * 5, 10, 0, 0, 0),
    "one id breaks in two: the longer part counts": (
        ["1a"] * 10, ["5a"] * 6 + ["6a"] * 4, 6, 1, 1, 0,
    ),
    "a short break leaves the track kept": (["1a"] * 10, ["5a"] * 8 + ["6a"] * 2, 8, 1, 0, 0),
    "two swap in the middle": (["1a 2b"] * 4, ["5a 6b"] * 2 + ["6a 5b"] * 2, 4, 2, 2, 0),
    "one id for two people: only one of them has it": (
        ["1a"] * 6 + ["2b"] * 4, ["5a"] * 6 + ["5b"] * 4, 6, 0, 0, 0,
    ),
    "missed for two frames": (["1a"] * 10, ["5a"] * 4 + [""] * 2 + ["5a"] * 4, 8, 0, 0, 1),
    "missed, and another id after": (
        ["1a"] * 10, ["5a"] * 4 + [""] * 2 + ["6a"] * 4, 4, 1, 1, 1,
    ),
    "hidden in truth too is no fragment": (["1a", "", "1a"], ["5a", "", "5a"], 2, 0, 0, 0),
    "missed at first is no fragment": (["1a"] * 5, [""] + ["5a"] * 4, 4, 0, 0, 0),
    "false boxes are of no trajectory": (["1a"] * 2, ["5a 6far"] * 2, 2, 0, 0, 0),
    "nothing found": (["1a"] * 3, [""] * 3, 0, 0, 1, 0),
    "nobody there": ([""] * 3, ["5a"] * 3, 0, 0, 0, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_HAND)
def test_by_hand(name):
    truth, found, agreed, switches, lost, fragments = BY_HAND[name]
    given = measure(frames(*truth), frames(*found))
    assert (given.agreed, given.switches, given.lost, given.fragments) == (
        agreed, switches, lost, fragments,
    )  # fmt: skip
    boxes, answers = (sum(len(t.split()) for t in side) for side in (truth, found))
    assert (given.frames, given.truth, given.found) == (len(truth), boxes, answers)
    assert given.idf1 == pytest.approx(2 * agreed / (boxes + answers))
    assert given.recall == pytest.approx(agreed / boxes if boxes else math.nan, nan_ok=True)
    assert given.precision == pytest.approx(agreed / answers if answers else math.nan, nan_ok=True)


def test_the_figures_of_ristani_are_not_those_of_the_frames():
    """A third of the frames each: CLEAR MOT sees two switches, IDF1 one third of the identity."""
    given = measure(frames(*["1a"] * 9), frames(*["5a"] * 3, *["6a"] * 3, *["7a"] * 3))
    assert (given.idf1, given.switches) == (pytest.approx(1 / 3), 2)


@pytest.mark.parametrize(("moved_px", "agreed"), [(3, 1), (4, 0)])
def test_half_an_overlap_is_enough_and_less_is_not(moved_px, agreed):
    """Two squares of 10 px, 3 px apart: 70 / 130; 4 px apart: 60 / 140."""
    ids, box = np.array([1]), np.array([[0, 0, 10, 10.0]])
    given = measure([(ids, box)], [(ids, box + [moved_px, 0, moved_px, 0])])
    assert given.agreed == agreed


@pytest.mark.parametrize("seed", range(12))
def test_idtp_is_the_most_that_any_pairing_of_trajectories_has(seed):
    rng = np.random.default_rng(seed)
    places = np.array([[k * 50.0, 0, k * 50 + 10, 10] for k in range(4)])
    truth, found = [], []
    for _ in range(30):
        there = rng.permutation(4)[: rng.integers(0, 5)]
        truth.append((there, places[there]))
        names = rng.permutation(5)[: len(there)]
        found.append((names, places[there]))
    shared = np.zeros((5, 5), int)
    for (true_ids, _), (found_ids, _) in zip(truth, found, strict=True):
        shared[true_ids, found_ids] += 1
    most = max(sum(shared[i, p[i]] for i in range(5)) for p in permutations(range(5)))
    assert measure(truth, found).agreed == most


def test_a_pair_that_held_is_kept_while_another_overlaps_more():
    """CLEAR MOT: the id that was there stays, or noise of the boxes would count as switches."""
    box = np.array([[0, 0, 10, 10.0]])
    near = np.vstack([box + [2, 0, 2, 0], box])
    truth = [(np.array([1]), box)] * 2
    assert measure(truth, [(np.array([5]), box), (np.array([5, 6]), near)]).switches == 0


def test_clips_add_up():
    clips = [measure(frames(*t), frames(*f)) for t, f, *_ in BY_HAND.values()]
    total = together(clips)
    assert total.agreed == sum(c.agreed for c in clips)
    assert total.trajectories == sum(c.trajectories for c in clips) > total.lost > 0
    assert math.isnan(together([]).idf1)


@pytest.mark.parametrize(
    ("truth", "found", "says"),
    [
        (["1a"], [], "1 frames of truth and 0 found"),
        (["1a"], ["5a 5b"], "found, frame 0: an id stands twice"),
        (["", "1a 1b"], ["", ""], "truth, frame 1: an id stands twice"),
    ],
)
def test_what_is_no_trajectory_is_said(truth, found, says):
    with pytest.raises(ValueError, match=says):
        measure(frames(*truth), frames(*found))
