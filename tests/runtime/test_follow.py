"""Faces followed between two searches: by a script that says what is found and read."""

from __future__ import annotations

import pickle
from dataclasses import replace

import cv2
import numpy as np
import pytest

from feallm.runtime.analyze import Analyzer
from feallm.runtime.contract.frame import Crop, Face, Frame
from feallm.runtime.contract.reading import FrameReport, PlaceReading, Reading
from feallm.runtime.follow import MOST_S, Follower

FIVE = np.array([[30, 40], [70, 40], [50, 60], [35, 80], [65, 80]], float)
FRAME_S = 1 / 25
LOOKS = np.random.default_rng(0).integers(0, 255, (20, 8, 7, 3), np.uint8)  # of different people


def marks_of(points):
    """68 landmarks whose eyes, nose and mouth stand at these points."""
    marks = np.full((68, 2), -50.0)
    marks[36:42], marks[42:48] = points[0], points[1]
    marks[30], marks[48], marks[54] = points[2:]
    return marks


class Person:
    """Somebody at a place; `look` is how the face looks, None where it is gone."""

    def __init__(self, x, y=0.0, size=1.0, look=0):
        self.points = FIVE * size + (x, y)
        self.look = look
        low, high = self.points.min(0) - 20 * size, self.points.max(0) + 20 * size
        self.box = (*low.tolist(), *high.tolist())


class Script:
    """Stands in for an analyzer: `people` are there now. The network sees, wherever it is told to
    look, whoever is nearest, or a wall; what it reads carries how often it was asked."""

    def __init__(self, *people, places=True, off=0.0):
        self.people, self.places, self.off = list(people), places, off
        self.searched, self.reads, self.explained = [], [], []

    def find(self, frame):
        self.searched.append(frame.index)
        found = [person for person in self.people if person.look is not None]
        return [Face(p.box, p.points + self.off, 0.9, k) for k, p in enumerate(found)]

    def read(self, frame, *, faces, explain=False, crops=None):
        self.reads.append((frame.index, [face.track for face in faces]))
        readings = []
        for face in faces:
            points, look = self._seen(face)
            if crops is not None:
                crops.append(Crop(look, np.eye(2, 3)))
            if explain is True or (explain and face.track in explain):
                self.explained.append((frame.index, face.track))
            place = PlaceReading(tuple(map(tuple, marks_of(points))), (0, 0, 0), (0, 0))
            place = place if self.places else None
            count = float(len(self.reads))
            readings.append(Reading(face.track, face.box, count, {}, None, place=place))
        return FrameReport(frame.source, frame.index, frame.time_s, tuple(readings), "d" * 64)

    def _seen(self, face):
        """The points and the picture of who is there."""
        middle = face.points.mean(0) if face.points is not None else FIVE.mean(0)
        away = [np.linalg.norm(person.points.mean(0) - middle) for person in self.people]
        near = [self.people[int(np.argmin(away))]] if away and min(away) < 40 else []
        if not near or near[0].look is None:
            wall = np.full((8, 7, 3), 130, np.uint8)
            return (FIVE if face.points is None else face.points), wall
        return near[0].points, LOOKS[near[0].look]


def frame(index, *, time_s=None, size=(120, 400)):
    time_s = index * FRAME_S if time_s is None else time_s
    return Frame(np.zeros((*size, 3), np.uint8), "clip.mp4", index, time_s)


def run(follower, count, start=0):
    return [follower.read(frame(k)) for k in range(start, start + count)]


# ---- when the detector is asked


@pytest.mark.parametrize(
    ("every", "searched"), [(1, [*range(9)]), (2, [0, 2, 4, 6, 8]), (5, [0, 5]), (7, [0, 7])]
)
def test_every_nth_frame_is_searched(every, searched):
    eyes = Script(Person(0))
    follower = Follower(eyes, every=every)
    reports = run(follower, 9)
    assert eyes.searched == searched
    assert (follower.searches, follower.frames) == (len(searched), 9)
    assert [report.index for report in reports] == list(range(9))
    assert {tuple(r.track for r in report.readings) for report in reports} == {(0,)}
    assert len(eyes.reads) == 9  # the network is asked once a frame


def test_every_frame_is_searched_while_nobody_is_there():
    eyes = Script()
    follower = Follower(eyes)
    assert all(report.readings == () for report in run(follower, 3))
    eyes.people.append(Person(0))
    assert [len(report.readings) for report in run(follower, 6, 3)] == [1] * 6
    assert eyes.searched == [0, 1, 2, 3, 8]


def test_a_bundle_without_landmarks_is_searched_every_frame():
    eyes = Script(Person(0), places=False)
    follower = Follower(eyes)
    assert [r.readings[0].track for r in run(follower, 4)] == [0] * 4
    assert eyes.searched == [0, 1, 2, 3] and len(eyes.reads) == 4


def test_a_bare_box_is_not_followed(monkeypatch):
    """It may be the whole picture, as of face crops: that box must stay as it is."""
    eyes = Script(Person(0))
    whole = Face((0.0, 0.0, 400.0, 120.0), None, 1.0)
    monkeypatch.setattr(eyes, "find", lambda frame: eyes.searched.append(frame.index) or [whole])
    boxes = [report.readings[0].box for report in run(Follower(eyes), 4)]
    assert boxes == [whole.box] * 4 and eyes.searched == [0, 1, 2, 3]


def test_few_frames_a_second_are_all_searched():
    eyes = Script(Person(0))
    follower = Follower(eyes)
    for k, time_s in enumerate([0, 0.2, 0.4, 0.4 + MOST_S, 2.0, 2.1]):
        follower.read(frame(k, time_s=time_s))
    assert eyes.searched == [0, 3, 4]


@pytest.mark.parametrize("time_s", [0.0, -3.0, float("nan"), 500.0])
def test_a_time_that_jumps_is_searched(time_s):
    eyes = Script(Person(0))
    follower = Follower(eyes)
    for k in range(2):
        follower.read(frame(k, time_s=9 + k * FRAME_S))
    follower.read(frame(2, time_s=time_s))
    assert eyes.searched == [0, 2]


def test_another_size_is_searched():
    eyes = Script(Person(0))
    follower = Follower(eyes)
    run(follower, 2)
    follower.read(frame(2, size=(400, 120)))
    follower.read(frame(3, size=(400, 120)))
    assert eyes.searched == [0, 2]


# ---- faces that move, leave and meet


def test_a_face_is_followed_where_it_goes():
    eyes = Script(Person(0))
    follower = Follower(eyes)
    for k in range(5):
        eyes.people[0] = person = Person(4 * k, 2 * k, 1 + 0.05 * k)
        (reading,) = follower.read(frame(k)).readings
        assert reading.box == pytest.approx(person.box) and reading.track == 0
    assert eyes.searched == [0]


GONE = {
    "a wall": lambda: Person(0, look=None),
    "somebody else": lambda: Person(0, look=1),
    "too far in one step": lambda: Person(39),
    "too large in one step": lambda: Person(-15, -15, size=1.3),
}


@pytest.mark.parametrize("change", GONE)
def test_what_is_no_longer_the_same_face_is_searched_at_once(change):
    eyes = Script(Person(0))
    follower = Follower(eyes)
    run(follower, 2)
    eyes.people[0] = GONE[change]()
    report = follower.read(frame(2))
    assert eyes.searched == [0, 2]
    found = [person for person in eyes.people if person.look is not None]
    assert [reading.box for reading in report.readings] == [person.box for person in found]


def test_a_face_that_leaves_is_not_invented():
    eyes = Script(Person(0), Person(200, look=1))
    follower = Follower(eyes)
    assert len(run(follower, 2)[1].readings) == 2
    del eyes.people[0]
    reports = run(follower, 6, 2)
    assert [[reading.track for reading in report.readings] for report in reports] == [[1]] * 6
    eyes.people.clear()
    assert follower.read(frame(8)).readings == ()


def test_a_covered_lens_shows_no_face():
    """A picture that is all one colour is like nothing that was there before."""
    eyes = Script(Person(0))
    follower = Follower(eyes)
    run(follower, 2)
    eyes.people.clear()
    assert [report.readings for report in run(follower, 3, 2)] == [()] * 3


def test_two_faces_followed_to_one_place_are_searched():
    """Who is hidden behind another is not read off the other's face."""
    eyes = Script(Person(0), Person(60))
    find = eyes.find
    follower = Follower(eyes)
    for k, (first, second) in enumerate([(0, 60), (9, 52), (17, 44), (22, 38)]):
        if k == 3:
            eyes.find = lambda frame: find(frame)[:1]
        eyes.people = [Person(first), Person(second)]
        report = follower.read(frame(k))
        assert len(report.readings) == (1 if k == 3 else 2)
    assert eyes.searched == [0, 3]


def test_a_face_that_keeps_on_moving_fast_is_followed():
    """Once its speed is known, it is looked for where it will be."""
    eyes = Script(Person(0))
    follower = Follower(eyes)
    for k in range(6):
        eyes.people[0] = Person(16 * k)
        (reading,) = follower.read(frame(k)).readings
        assert reading.box == pytest.approx(eyes.people[0].box)
    assert eyes.searched == [0, 1]


def test_who_comes_back_soon_keeps_the_number():
    eyes = Script(Person(0))
    follower = Follower(eyes)
    run(follower, 10)
    eyes.people[0].look = None
    assert all(report.readings == () for report in run(follower, 5, 10))
    eyes.people[0].look = 0
    assert follower.read(frame(15)).readings[0].track == 0


def test_readings_keep_their_order_and_tracks():
    eyes = Script(*(Person(120 * k, look=k) for k in range(4)))
    follower = Follower(eyes)
    for report in run(follower, 12):
        assert [reading.track for reading in report.readings] == [0, 1, 2, 3]
        assert [reading.box for reading in report.readings] == [p.box for p in eyes.people]


def test_somebody_new_is_there_from_the_next_search_on():
    eyes = Script(Person(0))
    follower = Follower(eyes)
    run(follower, 2)
    eyes.people.append(Person(200, look=1))
    counts = [len(report.readings) for report in run(follower, 8, 2)]
    assert counts == [1, 1, 1, 2, 2, 2, 2, 2] and eyes.searched == [0, 5]


# ---- what is read, and how often


def test_what_was_read_is_kept_when_another_face_is_lost():
    eyes = Script(Person(0), Person(200, look=1))
    follower = Follower(eyes)
    run(follower, 2)
    eyes.people[1] = Person(290, look=1)  # it jumped: it is read anew, the other one is not
    report = follower.read(frame(2))
    assert [reads for index, reads in eyes.reads if index == 2] == [
        [0, 1],
        [report.readings[1].track],
    ]
    first, second = (person.box for person in eyes.people)
    assert [reading.box for reading in report.readings] == [first, second]
    assert report.readings[0].score == 0.9  # the search's, of a reading that was kept
    run(follower, 2, 3)
    assert [reads for index, reads in eyes.reads if index == 4] == [[0, 1]]  # both are followed


def test_a_face_that_the_search_does_not_find_again_is_not_kept():
    eyes = Script(Person(0), Person(200, look=1))
    follower = Follower(eyes)
    run(follower, 2)
    hidden = eyes.people[0]
    find = eyes.find
    eyes.find = lambda frame: [face for face in find(frame) if face.box != hidden.box]
    eyes.people[1] = Person(290, look=1)
    report = follower.read(frame(2))
    assert [reading.box for reading in report.readings] == [eyes.people[1].box]


def test_the_detectors_points_do_not_shake_what_is_read():
    """At a search a face is cut out where it was read before, if that still fits."""
    told = []
    eyes = Script(Person(0))
    read = eyes.read
    eyes.read = lambda frame, **more: told.append(more["faces"][0].points) or read(frame, **more)
    follower = Follower(eyes, every=1)
    for k, off in enumerate([3.0, -3.0, 2.0]):
        eyes.off = off
        follower.read(frame(k))
    np.testing.assert_array_equal(told[0], FIVE + 3)
    np.testing.assert_array_equal(told[1:], [FIVE] * 2)


def test_points_that_no_longer_fit_are_the_detectors():
    told = []
    eyes = Script(Person(0))
    read = eyes.read
    eyes.read = lambda frame, **more: told.append(more["faces"][0].points) or read(frame, **more)
    follower = Follower(eyes, every=1)
    follower.read(frame(0))
    eyes.people[0] = Person(14)
    follower.read(frame(1))
    np.testing.assert_array_equal(told[1], FIVE + (14, 0))


def test_points_that_are_one_point_are_not_followed():
    """They cannot be cut out of the next frame: that would end a video, or a camera's run."""
    eyes = Script(Person(0), Person(200, look=1))
    seen = eyes._seen
    eyes._seen = lambda face: (np.full((5, 2), 50.0), LOOKS[0]) if face.track == 0 else seen(face)
    given = []
    read = eyes.read
    eyes.read = lambda frame, **more: given.extend(more["faces"]) or read(frame, **more)
    reports = run(Follower(eyes), 4)
    assert [len(report.readings) for report in reports] == [2] * 4
    assert all(np.ptp(face.points) > 10 for face in given)
    assert eyes.searched == [0, 1, 2, 3]


def test_nothing_is_lost_beside_points_that_cannot_be_followed():
    """A search that keeps one face's reading must not follow that face alone."""
    eyes = Script(Person(0), Person(200, look=1))
    follower = Follower(eyes)
    run(follower, 2)
    eyes.people[1] = Person(290, look=1)
    seen = eyes._seen
    eyes._seen = lambda face: (
        (np.full((5, 2), 50.0), LOOKS[0]) if face.points[0, 0] > 250 else seen(face)
    )
    assert [len(report.readings) for report in run(follower, 3, 2)] == [2] * 3


# ---- words


def test_each_track_is_explained_once():
    eyes = Script(Person(0))
    explained = set()

    def wanted(faces):
        new = {face.track for face in faces} - explained
        return new

    follower = Follower(eyes, wanted=wanted)
    for k in range(20):
        if k == 7:
            eyes.people.append(Person(200, look=1))
        follower.read(frame(k))
        explained.update(track for _, track in eyes.explained)
    assert eyes.explained == [(0, 0), (10, 1)]
    assert eyes.searched == [0, 5, 10, 15]


def test_words_wanted_between_two_searches_are_said_at_once():
    eyes = Script(Person(0))
    follower = Follower(eyes, wanted=lambda faces: {0} if len(eyes.reads) == 2 else ())
    run(follower, 4)
    assert eyes.explained == [(2, 0)]


def test_words_wanted_once_the_others_are_found_are_said_too():
    """Of a face that was read already, and whose reading would have been kept."""
    eyes = Script(Person(0), Person(200, look=1))
    follower = Follower(eyes, wanted=lambda faces: {0} if faces[-1].box[0] > 250 else ())
    run(follower, 2)
    eyes.people[1] = Person(290, look=1)
    follower.read(frame(2))
    assert eyes.explained == [(2, 0)]


# ---- for ever


def test_ten_thousand_frames_take_no_more_memory_than_a_few():
    eyes = Script(Person(0))
    follower = Follower(eyes)
    rng = np.random.default_rng(1)

    def some(start, count):
        for k in range(start, start + count):
            if k % 50 == 0:  # somebody leaves, somebody else comes
                eyes.people = [Person(float(rng.uniform(0, 300)), look=int(rng.integers(20)))]
            follower.read(frame(k, time_s=k * FRAME_S, size=(4, 4)))
            for told in (eyes.searched, eyes.reads):
                told.clear()

    some(0, 1000)
    before = len(pickle.dumps(follower))
    some(1000, 9000)
    assert follower.frames == 10_000 and len(pickle.dumps(follower)) < before + 2000


# ---- the shipped bundle


def test_moving_heads_are_read_alike_with_fewer_searches(heads):
    """Two heads that move, turn and grow a little: what is read hardly depends on how often the
    detector is asked."""
    clip = []
    for k in range(24):
        picture = np.full((300, 480, 3), (150, 140, 130), np.uint8)
        heads.lay(picture, 4, 60 + 1.5 * k, 70 + 8 * np.sin(k / 4), 120)
        heads.lay(picture, 1, 300 - k, 90, 90 + 0.5 * k)
        turn = cv2.getRotationMatrix2D((240, 150), 3 * np.sin(k / 6), 1)
        picture = cv2.warpAffine(picture, turn, (480, 300), borderMode=cv2.BORDER_REPLICATE)
        clip.append(Frame(np.asarray(picture), "clip.mp4", k, k * FRAME_S))
    reports, searches = {}, {}
    with Analyzer(words=False) as analyzer:
        for every in (1, 5):
            follower = Follower(analyzer, every=every)
            reports[every] = [follower.read(each) for each in clip]
            searches[every] = follower.searches
    assert searches[1] == 24 and searches[5] <= 8
    apart, boxes = [], []
    for one, other in zip(reports[1], reports[5], strict=True):
        both = [{r.track: r for r in report.readings} for report in (one, other)]
        assert {0, 1} <= set(both[0]) and {0, 1} <= set(both[1])
        for track in (0, 1):
            a, b = both[0][track], both[1][track]
            apart += [
                abs(a.aus[key].intensity - b.aus[key].intensity) for key in a.aus if a.aus[key]
            ]
            boxes.append(np.abs(np.array(a.box) - b.box).max() / (a.box[3] - a.box[1]))
    assert np.mean(apart) < 0.05 and np.quantile(apart, 0.99) < 0.4
    assert np.median(boxes) < 0.1 and max(boxes) < 0.3


def test_a_report_is_of_its_own_frame():
    eyes = Script(Person(0))
    follower = Follower(eyes)
    for k in range(7):
        report = follower.read(replace(frame(k), source="camera:0"))
        assert (report.source, report.index, report.time_s) == ("camera:0", k, k * FRAME_S)
