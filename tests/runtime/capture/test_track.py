"""Tracks over gaps and crossings, at even and uneven rates, and against the best assignment."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feallm.runtime.capture.track import Tracker, match, overlap
from feallm.runtime.contract.errors import InputError
from feallm.runtime.contract.frame import Face

SHAPE = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.34, 0.78], [0.66, 0.78]])
SIDE = 40.0


def face(x, y=0.0, side=SIDE, *, points=False, score=1.0):
    corner = np.array([x, y])
    return Face(
        (x, y, x + side, y + side), corner + side * SHAPE if points else None, score, track=99
    )


def tracks(tracker, *faces, time_s=None, pixels=None):
    return [f.track for f in tracker.update(faces, time_s, pixels)]


def noisy(rng, x, y=0.0, side=SIDE, *, points=True, shape=SHAPE):
    """A face as a detector gives it: box off by 4 % of its side, points by 3 %."""
    box = np.array([x, y, x + side, y + side]) + rng.normal(0, 0.04 * side, 4)
    marks = np.array([x, y]) + side * (shape + rng.normal(0, 0.03, (5, 2)))
    return Face(tuple(box.tolist()), marks if points else None, 0.9)


def test_overlap_of_known_boxes():
    boxes = np.array([[0, 0, 2, 2], [1, 0, 3, 2], [5, 5, 5, 5], [3, 3, 1, 1]], float)
    expected = [[1, 1 / 3, 0, 0], [1 / 3, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert np.allclose(overlap(boxes, boxes), expected)


COSTS = st.integers(0, 6).flatmap(
    lambda n: st.lists(st.lists(st.floats(-9, 9), min_size=4, max_size=4), min_size=n, max_size=n)
)


@given(COSTS)
def test_pairs_are_disjoint_cheap_enough_and_none_is_left_that_could_be_made(rows):
    costs = np.array(rows, float).reshape(-1, 4)
    for swaps in (False, True):
        pairs = match(costs, 2.0, swaps=swaps)
        assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)
        assert all(costs[i, j] < 2 for i, j in pairs)
        rest = np.delete(np.delete(costs, [i for i, _ in pairs], 0), [j for _, j in pairs], 1)
        assert not (rest < 2).any()


@given(COSTS)
def test_the_cheapest_comes_first_and_no_swap_is_left_that_would_gain(rows):
    costs = np.array(rows, float).reshape(-1, 4)
    greedy, pairs = match(costs, 2.0, swaps=False), match(costs, 2.0)
    if costs.size and costs.min() < 2:
        assert costs[greedy[0]] == costs.min()
    assert sum(costs[p] for p in pairs) <= sum(costs[p] for p in greedy) + 1e-9
    for (i, j), (k, m) in combinations(pairs, 2):
        swapped = costs[i, m], costs[k, j]
        assert max(swapped) >= 2 or sum(swapped) >= costs[i, j] + costs[k, m] - 1e-6


def test_of_two_pairs_the_sum_decides():
    costs = np.array([[1.0, 1.8], [0.9, 0.95]])
    assert sorted(match(costs, 5.0)) == [(0, 0), (1, 1)]
    assert sorted(match(costs, 5.0, swaps=False)) == [(0, 1), (1, 0)]
    assert match(costs, 0.99) == [(1, 0)]


def test_the_number_is_all_that_is_changed():
    before = face(3, points=True, score=0.7)
    (after,) = Tracker().update([before])
    assert (after.box, after.score, after.track) == (before.box, before.score, 0)
    assert after.points is before.points
    assert before.track == 99


def test_faces_keep_the_order_given_and_numbers_that_of_appearance():
    tracker = Tracker()
    assert tracks(tracker, face(0), face(100)) == [0, 1]
    assert tracks(tracker, face(300), face(101), face(1)) == [2, 1, 0]
    assert tracks(tracker, face(2), face(301)) == [0, 2]


def test_empty_frames_and_one_frame():
    tracker = Tracker()
    assert [tracks(tracker) for _ in range(3)] == [[], [], []]
    assert tracks(tracker, face(0)) == [0]
    assert tracks(Tracker(), *(face(100 * k) for k in range(4))) == [0, 1, 2, 3]


@pytest.mark.parametrize("points", [True, False], ids=["points", "boxes"])
@pytest.mark.parametrize("fps", [8, 25, 60])
@pytest.mark.parametrize(
    ("speed", "away_s"), [(0, 1.0), (60, 1.0), (150, 1.0), (-60, 1.0), (0, 1.4)]
)
def test_a_hidden_face_keeps_its_number(fps, speed, away_s, points):
    """Who stands still while hidden, and who goes on walking (px a second; a face has 40)."""
    rng = np.random.default_rng([fps, abs(speed)])
    tracker = Tracker()
    for k in range(int((2 + away_s + 1) * fps)):
        time_s = k / fps
        shown = not 2 < time_s <= 2 + away_s - 1 / fps
        faces = [noisy(rng, 300 + speed * time_s, points=points)] if shown else []
        assert tracks(tracker, *faces, time_s=time_s) == [0] * shown


@pytest.mark.parametrize("fps", [8, 25, 60])
def test_who_comes_back_later_or_elsewhere_is_new(fps):
    for x, away_s in ((0, 2.2), (300, 0.5), (300, 2.5)):
        tracker = Tracker()
        times = np.arange(0, 1, 1 / fps)
        assert all(tracks(tracker, face(0), time_s=t) == [0] for t in times.tolist())
        gone = np.arange(1, 1 + away_s, 1 / fps)
        assert all(tracks(tracker, time_s=t) == [] for t in gone.tolist())
        assert tracks(tracker, face(x), time_s=float(gone[-1] + 1 / fps)) == [1]


def test_without_times_there_are_25_frames_a_second():
    for missed, number in ((37, 0), (38, 1)):  # 1.5 s: the 37th empty frame is followed at 1.52
        tracker = Tracker(patience_s=1.52)
        tracks(tracker, face(0))
        for _ in range(missed):
            tracks(tracker)
        assert tracks(tracker, face(2)) == [number]


def test_a_wide_gap_in_time_is_time_away():
    tracker = Tracker()
    assert tracks(tracker, face(0), time_s=0.0) == [0]
    assert tracks(tracker, face(0), time_s=1.4) == [0]
    assert tracks(tracker, face(0), time_s=10.0) == [1]
    patient = Tracker(patience_s=60)  # pictures taken one every half minute
    assert [tracks(patient, face(0), time_s=30.0 * k) for k in range(3)] == [[0]] * 3


@pytest.mark.parametrize("points", [True, False], ids=["points", "boxes"])
@pytest.mark.parametrize("fps", [8, 15, 25, 60])
def test_two_who_cross_keep_their_numbers(fps, points):
    """The farther is not found while the nearer is before it."""
    rng = np.random.default_rng(fps)
    tracker = Tracker()
    for k in range(4 * fps):
        time_s = k / fps
        left, right = 100 + 80 * time_s, 420 - 80 * time_s
        near = noisy(rng, left, 0, 50, points=points)
        far = noisy(rng, right, 4, 40, points=points)
        if abs(left - right) < 25:
            assert tracks(tracker, near, time_s=time_s) == [0]
        else:
            assert tracks(tracker, near, far, time_s=time_s) == [0, 1]


def test_an_uneven_rate_is_measured_in_seconds():
    rng = np.random.default_rng(5)
    times = np.cumsum(rng.choice([0.01, 0.03, 0.2, 0.35], 120))
    tracker = Tracker()
    for time_s in times.tolist():
        walk, swing = 200 * time_s, 40 * np.sin(time_s)
        found = tracks(tracker, noisy(rng, walk), noisy(rng, swing, 200), time_s=time_s)
        assert found == [0, 1]


def test_frames_that_bear_the_same_time_still_pass():
    tracker = Tracker()
    assert tracks(tracker, face(0), time_s=0.0) == [0]
    for _ in range(55):
        tracks(tracker, time_s=0.0)
    assert tracks(tracker, face(0), time_s=0.0) == [1]


@pytest.mark.parametrize("time_s", [float("nan"), float("inf"), None])
def test_a_frame_without_a_usable_time_is_the_next_one(time_s):
    tracker = Tracker()
    assert tracks(tracker, face(0), time_s=3.0) == [0]
    assert tracks(tracker, face(1), time_s=time_s) == [0]
    assert tracks(tracker, face(2), time_s=3.1) == [0]


def test_a_stream_that_begins_again_begins_anew():
    tracker = Tracker()
    for lap in range(3):
        for k in range(10):
            assert tracks(tracker, face(5 * k), time_s=k / 10) == [lap]


def test_a_clock_that_trembles_does_not_begin_anew():
    tracker = Tracker()
    for time_s in (0.0, 0.04, 0.03, 0.08, 0.079, 0.12):
        assert tracks(tracker, face(0), time_s=time_s) == [0]


def test_boxes_without_points_among_boxes_with():
    rng = np.random.default_rng(1)
    tracker = Tracker()
    for k in range(80):
        faces = [noisy(rng, 60 * i + k, points=rng.random() < 0.5) for i in range(4)]
        assert tracks(tracker, *faces) == [0, 1, 2, 3]
    lost = Face((400, 0, 440, 40), np.full((5, 2), np.nan), 1.0)
    assert [tracks(tracker, lost) for _ in range(3)] == [[4]] * 3


def test_points_tell_apart_who_meets_and_turns_back():
    """Two meet behind a pillar and each goes back: their ways say that they passed each other."""
    rng = np.random.default_rng(2)
    slim = (SHAPE - 0.5) * [0.55, 1.3] + 0.5
    tracker = Tracker()
    for k in range(100):
        time_s = k / 25
        off = abs(time_s - 2) * 60
        faces = [noisy(rng, 200 - off), noisy(rng, 205 + off, shape=slim)]
        if off >= 24:
            assert tracks(tracker, *faces, time_s=time_s) == [0, 1]
        else:
            assert tracks(tracker, time_s=time_s) == []


def dressed(*people, light=1.0):
    """A picture (200, 500) of people: place and colour of face and coat."""
    pixels = np.full((200, 500, 3), 90, np.uint8)
    for x, skin, coat in people:
        pixels[10:50, int(x) : int(x + SIDE)] = np.array(skin) * light
        pixels[50:120, int(x) - 10 : int(x + SIDE) + 10] = np.array(coat) * light
    return pixels


@pytest.mark.parametrize("light", [1.0, 0.8], ids=["same light", "less light"])
@pytest.mark.parametrize("turn", [False, True], ids=["pass", "turn back"])
def test_colours_tell_who_comes_out(turn, light):
    """Two meet behind a pillar; whether they pass or turn back, the boxes are the same."""
    red, blue = ((180, 120, 100), (200, 20, 20)), ((110, 70, 50), (20, 30, 160))
    rng = np.random.default_rng(3)
    tracker = Tracker()
    for k in range(100):
        off, after = abs(k / 25 - 2) * 60, k > 50
        left, right = 200 - off, 205 + off
        faces = [noisy(rng, left, 10), noisy(rng, right, 10)] if off >= 30 else []
        passed = after and not turn
        people = ((left, *blue), (right, *red)) if passed else ((left, *red), (right, *blue))
        pixels = dressed(*people, light=light if after else 1.0)
        expected = ([1, 0] if passed else [0, 1]) if faces else []
        assert tracks(tracker, *faces, time_s=k / 25, pixels=pixels) == expected


def test_colours_at_the_edge_of_the_frame_and_beyond_it():
    tracker, pixels = Tracker(), dressed((0, (180, 120, 100), (200, 20, 20)))
    for x, y in ((-20, 10), (480, 190), (900, 900), (-300, 0)):
        first = tracks(tracker, face(x, y), pixels=pixels)
        assert tracks(tracker, face(x, y), pixels=pixels) == first
        assert tracks(tracker, face(x, y)) == first


@pytest.mark.parametrize("shape", [(60, 80), (60, 80, 4), (60, 80, 1)])
def test_pixels_that_are_no_colours_are_said(shape):
    tracker = Tracker()
    with pytest.raises(InputError, match=r"shape \(60, 80.*expected \(height, width, 3\)"):
        tracker.update([face(0)], pixels=np.zeros(shape, np.uint8))
    assert tracks(tracker, face(0)) == [0]


def test_a_hundred_faces_keep_their_numbers():
    rng = np.random.default_rng(4)
    places = np.stack(np.meshgrid(np.arange(10), np.arange(10)), -1).reshape(-1, 2) * 100.0
    speeds = rng.uniform(-60, 60, places.shape)
    tracker = Tracker()
    for k in range(40):
        order = rng.permutation(100) if k else np.arange(100)
        faces = [noisy(rng, *(places[i] + speeds[i] * k / 25)) for i in order]
        assert tracks(tracker, *faces) == order.tolist()


def test_a_face_found_twice_is_one_face():
    """Of new ones that with points, else the surer one is given back; copies do not flicker."""
    tracker = Tracker()
    sure, doubtful = face(0, score=0.9), face(2, score=0.6)
    marked = face(1, points=True, score=0.5)
    assert [f.score for f in Tracker().update([doubtful, sure])] == [0.9]
    assert [f.score for f in tracker.update([doubtful, sure, marked])] == [0.5]
    for copies in ([sure], [sure, doubtful], [doubtful, marked], [sure, sure, sure]):
        assert tracks(tracker, *copies) == [0]
    assert tracks(tracker, sure, face(200)) == [0, 1]


def test_a_box_inside_a_face_is_a_part_of_it_unless_it_has_a_face_of_its_own():
    tracker = Tracker()
    assert tracks(tracker, face(0, side=100), face(30, 60, 30)) == [0]
    assert tracks(tracker, face(0, side=100), face(30, 60, 30)) == [0]
    child = face(50, 50, 45, points=True)
    assert tracks(tracker, face(0, side=100, points=True), child) == [0, 1]
    # Who had a number before keeps it, on the way through another one's box.
    walker = Tracker()
    for x in range(-80, 200, 8):
        assert tracks(walker, face(0, side=100), face(x, 40, 30)) == [0, 1]


def test_two_faces_close_together_are_two():
    tracker = Tracker()
    for _ in range(5):
        assert tracks(tracker, face(0), face(18), face(36, points=True)) == [0, 1, 2]


def test_a_false_face_does_not_carry_off_the_number_of_somebody_hidden():
    tracker = Tracker()
    for k in range(25):
        assert tracks(tracker, face(300, points=True), time_s=k / 25) == [0]
    for k in range(25, 40):
        tracks(tracker, *([face(345, points=True, score=0.6)] if k == 36 else []), time_s=k / 25)
    assert tracks(tracker, face(301, points=True), time_s=40 / 25) == [0]


def test_boxes_that_are_none_get_numbers_and_do_no_harm():
    tracker = Tracker()
    flat, turned = Face((5, 5, 5, 5), None, 1.0), Face((90, 90, 60, 60), None, 1.0)
    broken = Face((float("nan"),) * 4, None, 1.0)
    endless = Face((0.0, 0.0, float("inf"), 9.0), None, 1.0)
    assert tracks(tracker, face(200), flat, turned) == [0, 1, 2]
    assert tracks(tracker, flat, turned, face(202)) == [1, 2, 0]
    assert tracks(tracker, face(203), broken, endless) == [0, 3, 4]
    assert tracks(tracker, broken, endless, face(204)) == [5, 6, 0]


def test_greedy_keeps_what_the_best_assignment_keeps():
    """Forty faces in a narrow room, one in twenty missed: the best sum buys no identity."""
    scipy = pytest.importorskip("scipy.optimize")

    def best(costs, most):
        rows, columns = scipy.linear_sum_assignment(np.minimum(costs - most, 0))
        return [(i, j) for i, j in zip(rows, columns, strict=True) if costs[i, j] < most]

    right = {}
    for name, assign in (("greedy", match), ("best", best)):
        rng = np.random.default_rng(6)
        places, speeds = rng.uniform(0, 900, (40, 2)), rng.uniform(-80, 80, (40, 2))
        tracker, first, right[name] = Tracker(assign=assign), {}, 0
        for k in range(60):
            faces = [noisy(rng, *place) for place in places + speeds * k / 25]
            shown = [i for i in range(40) if rng.random() > 0.05]
            found = {f.box: f.track for f in tracker.update([faces[i] for i in shown])}
            for i in shown:
                number = found.get(faces[i].box)
                right[name] += first.setdefault(i, number) == number
    assert right["greedy"] >= right["best"] > 0.95 * 0.94 * 60 * 40
