"""A box without points is looked at twice, and a photograph: the second time where the first look
found points. What is read is the mean of both looks."""

from __future__ import annotations

import numpy as np
import pytest

from feallm.runtime.analyze import Analyzer
from feallm.runtime.backends.base import (
    AU_INTENSITY,
    AU_PROBABILITY,
    EXPRESSION,
    GAZE,
    IMAGE,
    LANDMARKS,
    POSE,
    TOKENS,
)
from feallm.runtime.bundle.open import open_bundle
from feallm.runtime.contract.expressions import EXPRESSIONS
from feallm.runtime.contract.frame import Face, Frame
from feallm.runtime.contract.geometry import CROP

WIDE, TALL = CROP.width_px, CROP.height_px
POINTS = np.array(CROP.points_px)
LEFT_EYE, RIGHT_EYE, NOSE, MOUTH = slice(42, 48), slice(36, 42), 30, (48, 54)


def marks(points):
    """68 landmarks whose eyes, nose and mouth stand at these five points; the others far away.
    The eyes' landmarks lie round them: it is the mean that counts."""
    found = np.full((68, 2), 1000.0)
    ring = [[3, 0], [-3, 0], [0, 2], [0, -2], [1, 1], [-1, -1]]
    found[RIGHT_EYE], found[LEFT_EYE] = points[0] + np.array(ring), points[1] + np.array(ring)
    found[NOSE], found[list(MOUTH)] = points[2], points[3:]
    return found


class Pointing:
    """Finds the landmarks that it is told of, face by face; says with its expression how many
    looks there were. It keeps the crops of every look."""

    provider = "fake"

    def __init__(self, *told, places=True):
        self.told, self.places = list(told), places
        self.looks = []

    def run(self, inputs):
        crops = inputs[IMAGE]
        self.looks.append(crops.copy())
        count = len(crops)
        outputs = {
            AU_PROBABILITY: np.zeros((count, 20)),
            AU_INTENSITY: np.zeros((count, 20, 2)),
            EXPRESSION: np.tile(np.eye(8)[len(self.looks)], (count, 1)),
            TOKENS: np.full((count, 17, 256), len(self.looks)),
        }
        if self.places:
            told = (self.told + [marks(POINTS)] * count)[:count]
            self.told = self.told[count:]
            outputs[LANDMARKS] = np.stack(told)
            outputs[POSE] = np.tile([0, 0, 10.0 * len(self.looks)], (count, 1))
            outputs[GAZE] = np.zeros((count, 2))
        return {name: values.astype(np.float32) for name, values in outputs.items()}

    def close(self):
        pass


@pytest.fixture
def analyzer(toy_bundle):
    """Cuts a box of the crop's own size out as it stands: no pixel has to be computed."""
    bundle = open_bundle(toy_bundle)
    shares = tuple((x / WIDE, y / TALL) for x, y in CROP.points_px)
    preprocessing = bundle.manifest.preprocessing.model_copy(update={"mean_points": shares})
    manifest = bundle.manifest.model_copy(update={"preprocessing": preprocessing})

    def of(vision):
        return Analyzer(
            type(bundle)(bundle.root, manifest), detect=False, words=False, vision=vision
        )

    return of


@pytest.fixture(scope="module")
def picture():
    """Noise: a crop's place can be told to the pixel."""
    return np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)


def box(x, y, track=0):
    return Face((x, y, x + WIDE, y + TALL), None, 0.9, track)


def known(x, y, track=0):
    """The same place with the face's own points."""
    return Face((x, y, x + WIDE, y + TALL), POINTS + (x, y), 0.9, track)


def cut(picture, x, y):
    return picture[y : y + TALL, x : x + WIDE]


def looks_of(report):
    """The number of the last look that each reading is of."""
    return [last_look(reading) for reading in report.readings]


def last_look(reading):
    return max(EXPRESSIONS.index(word) for word, s in reading.expression.scores.items() if s > 0)


def clip(picture):
    """A frame of a video, not a photograph."""
    return Frame(picture, "clip.mp4", 3)


def test_the_second_look_is_at_the_points_that_the_first_found(analyzer, picture):
    vision = Pointing(marks(POINTS + (7, -4)))
    report = analyzer(vision).read(picture, faces=[box(100, 60)])
    first, second = vision.looks
    np.testing.assert_array_equal(first, [cut(picture, 100, 60)])
    np.testing.assert_array_equal(second, [cut(picture, 107, 56)])
    assert looks_of(report) == [2]


def test_a_face_that_lies_on_its_side_is_set_upright(analyzer):
    """A face twice the crop's size, a quarter turn clockwise: what the crop has at (x, y) lies at
    (300 - 2 y, 2 x). The picture grows brighter to the right alone, half a level a pixel."""
    turned = np.stack([300 - 2 * POINTS[:, 1], 2 * POINTS[:, 0]], 1)
    brighter = np.tile((np.arange(400) // 2).astype(np.uint8)[None, :, None], (300, 1, 3))
    vision = Pointing(marks(turned))
    analyzer(vision).read(brighter, faces=[box(0, 0)])
    (second,) = vision.looks[1]
    expected = np.repeat(150.0 - np.arange(TALL)[:, None], WIDE, 1)
    np.testing.assert_allclose(second[5:-5, 5:-5, 0], expected[5:-5, 5:-5], atol=1.5)


def test_places_are_told_of_the_second_look(analyzer, picture):
    last = marks(POINTS + (1, 2))
    vision = Pointing(marks(POINTS + (7, -4)), last)
    (reading,) = analyzer(vision).read(picture, faces=[box(100, 60)]).readings
    np.testing.assert_allclose(reading.place.landmarks, last + (107, 56), rtol=1e-5)
    assert reading.place.pose_deg[2] == pytest.approx(20)
    assert reading.box == (100, 60, 100 + WIDE, 60 + TALL)  # the detector's, as before


def test_known_points_are_looked_at_once(analyzer, picture):
    vision = Pointing(marks(POINTS + (7, -4)))
    report = analyzer(vision).read(clip(picture), faces=[known(100, 60)])
    (only,) = vision.looks
    np.testing.assert_array_equal(only, [cut(picture, 100, 60)])
    assert looks_of(report) == [1]


def test_a_photograph_is_looked_at_twice_whatever_is_known(analyzer, picture):
    vision = Pointing(marks(POINTS + (7, -4)))
    (reading,) = analyzer(vision).read(picture, faces=[known(100, 60)]).readings
    np.testing.assert_array_equal(vision.looks[1], [cut(picture, 107, 56)])
    scores = reading.expression.scores
    assert scores[EXPRESSIONS[1]] == scores[EXPRESSIONS[2]] == 0.5  # the mean of both looks


def test_each_face_by_what_is_known_of_it(analyzer, picture):
    faces = [box(100, 60, 5), known(200, 90, 6), box(20, 30, 7)]
    moves = ((7, -4), (90, 90), (-3, 10))
    vision = Pointing(*(marks(POINTS + move) for move in moves))
    report = analyzer(vision).read(clip(picture), faces=faces)
    first, second = vision.looks
    places = ((100, 60), (200, 90), (20, 30))
    np.testing.assert_array_equal(first, [cut(picture, *place) for place in places])
    np.testing.assert_array_equal(second, [cut(picture, 107, 56), cut(picture, 17, 40)])
    assert looks_of(report) == [2, 1, 2]
    assert [reading.track for reading in report.readings] == [5, 6, 7]


def test_a_whole_picture_is_a_box_too(analyzer, picture):
    vision = Pointing(marks(POINTS + (7, 4)))
    report = analyzer(vision).read(Frame(cut(picture, 0, 0), "crop.png"))
    assert looks_of(report) == [2]
    inside = vision.looks[1][0, : TALL - 4, : WIDE - 7]
    np.testing.assert_array_equal(inside, picture[4:TALL, 7:WIDE])
    assert (vision.looks[1][0, TALL - 3 :] == CROP.border).all()  # nothing lies beyond its edge


def test_a_network_without_landmarks_looks_once(analyzer, picture):
    vision = Pointing(places=False)
    report = analyzer(vision).read(picture, faces=[box(100, 60), known(10, 10)])
    assert [len(crops) for crops in vision.looks] == [2]
    assert looks_of(report) == [1, 1] and report.readings[0].place is None


def test_landmarks_that_coincide_leave_the_first_look(analyzer, picture):
    one_point = np.full((68, 2), 50.0)
    vision = Pointing(one_point)
    (reading,) = analyzer(vision).read(picture, faces=[box(100, 60)]).readings
    assert len(vision.looks) == 1
    assert last_look(reading) == 1
    np.testing.assert_allclose(reading.place.landmarks, one_point + (100, 60), rtol=1e-6)


def test_one_face_that_has_no_points_does_not_keep_the_others_from_theirs(analyzer, picture):
    vision = Pointing(np.full((68, 2), 50.0), marks(POINTS + (7, -4)))
    report = analyzer(vision).read(picture, faces=[box(100, 60), box(20, 30)])
    assert looks_of(report) == [1, 2]
    np.testing.assert_array_equal(vision.looks[1], [cut(picture, 27, 26)])
    first, second = report.readings
    np.testing.assert_allclose(first.place.landmarks[0], (150, 110))
    np.testing.assert_allclose(second.place.landmarks[NOSE], POINTS[2] + (27, 26), rtol=1e-5)


def test_a_crowd_is_looked_at_again_part_by_part(analyzer, picture):
    vision = Pointing()
    report = analyzer(vision).read(picture, faces=[box(k, k) for k in range(20)])
    assert [len(crops) for crops in vision.looks] == [16, 16, 4, 4]
    assert looks_of(report) == [2] * 16 + [4] * 4


def test_words_are_said_of_the_second_look(analyzer, picture, monkeypatch):
    given = []
    explain = Analyzer.explain

    def listening(self, reading, tokens):
        given.append((last_look(reading), float(tokens[0, 0])))
        return explain(self, reading, tokens)

    monkeypatch.setattr(Analyzer, "explain", listening)
    analyzer(Pointing()).read(clip(picture), faces=[box(9, 9), known(9, 9)], explain=True)
    assert given == [(2, 2), (1, 1)]


@pytest.mark.parametrize("still", [True, False])
def test_a_bare_picture_is_a_photograph(analyzer, picture, monkeypatch, still):
    frames = []
    find = Analyzer.find
    monkeypatch.setattr(Analyzer, "find", lambda self, f: frames.append(f) or find(self, f))
    analyzer(Pointing()).read(picture if still else Frame(picture, "clip.mp4", 3))
    assert [frame.still for frame in frames] == [still]
