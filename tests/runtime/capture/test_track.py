"""Tracks against an exhaustive search, and over gaps and crossings."""

from itertools import permutations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from feallm.runtime.capture.track import Tracker, match, overlap
from feallm.runtime.contract.frame import Face


def face(x, y=0.0, side=40.0):
    return Face((x, y, x + side, y + side), None, 1.0)


def tracks(tracker, *faces):
    return [f.track for f in tracker.update(faces)]


def test_overlap_of_known_boxes():
    boxes = np.array([[0, 0, 2, 2], [1, 0, 3, 2], [5, 5, 5, 5]], float)
    assert np.allclose(overlap(boxes, boxes), [[1, 1 / 3, 0], [1 / 3, 1, 0], [0, 0, 0]])


BOX = st.tuples(*[st.floats(0, 300)] * 2, *[st.floats(10, 60)] * 2)


@given(st.lists(BOX, max_size=4), st.lists(BOX, max_size=4))
def test_pairs_are_disjoint_and_the_best_pair_is_always_among_them(old, new):
    a, b = (np.array([(x, y, x + w, y + h) for x, y, w, h in s], float).reshape(-1, 4)
            for s in (old, new))  # fmt: skip
    scores, pairs = overlap(a, b), match(a, b)
    assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)
    assert all(scores[i, j] >= 0.3 for i, j in pairs)
    if scores.size and scores.max() >= 0.3:
        assert np.isclose(scores.max(), max(scores[i, j] for i, j in pairs))


def test_faces_that_walk_keep_what_the_best_assignment_would_give():
    rng = np.random.default_rng(3)
    places = np.array([[0, 0], [90, 10], [180, 0], [60, 120]], float)
    tracker = Tracker()
    assert tracks(tracker, *(face(*p) for p in places)) == [0, 1, 2, 3]
    before = places
    for _ in range(60):
        places = places + rng.normal(0, 4, places.shape)
        order = rng.permutation(4)
        old, new = (np.hstack([p, p + 40]) for p in (before, places[order]))
        scores = overlap(old, new)
        best = max(permutations(range(4)), key=lambda p: sum(scores[i, p[i]] for i in range(4)))
        found = tracks(tracker, *(face(*places[i]) for i in order))
        assert [found[best[i]] for i in range(4)] == [0, 1, 2, 3]
        before = places


def test_a_short_gap_keeps_the_track_and_a_long_one_does_not():
    tracker = Tracker(patience_frames=3)
    assert tracks(tracker, face(0)) == [0]
    for _ in range(3):
        assert tracks(tracker) == []
    assert tracks(tracker, face(5)) == [0]
    for _ in range(4):
        tracks(tracker)
    assert tracks(tracker, face(5)) == [1]


def test_numbers_are_not_used_twice():
    tracker = Tracker()
    assert tracks(tracker, face(0), face(100)) == [0, 1]
    assert tracks(tracker, face(200), face(101)) == [2, 1]
