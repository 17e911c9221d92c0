"""Boxes and points stay with what is drawn, and covered faces are no longer sure."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feallm.model.detector.places import box_of, points_of
from feallm.model.detector.scene import Composition, lay_head, lay_picture, mirrored, moved
from feallm.model.detector.sources import Heads

COLOURS = [(0, 0, 255), (0, 255, 0), (255, 0, 0), (0, 255, 255), (255, 0, 255)]


def one_face(box=(20.0, 30.0, 60.0, 90.0)):
    rng = np.random.default_rng(2)
    low, high = np.array(box[:2]), np.array(box[2:])
    points = low + rng.uniform(0.1, 0.9, (1, 5, 2)) * (high - low)
    return Composition(np.zeros((120, 100, 3), np.uint8), np.array([box]), points, np.array([True]))


def dotted(picture, points):
    """Draw a dot of its own colour at each point."""
    for (x, y), colour in zip(points * 8, COLOURS, strict=True):
        cv2.circle(picture, (round(x), round(y)), 3 * 8, colour, -1, cv2.LINE_AA, 3)


def seen_dots(picture):
    """Where the middle of each colour is seen (5, 2)."""
    places = []
    for colour in COLOURS:
        off = [k for k in range(3) if not colour[k]]
        on = [k for k in range(3) if colour[k]]
        weight = picture[..., on].min(2).astype(float) - picture[..., off].max(2)
        weight = np.clip(weight - 40, 0, None)
        y, x = np.mgrid[: picture.shape[0], : picture.shape[1]]
        assert weight.sum() > 0, f"colour {colour} is not seen"
        places.append(((x * weight).sum() / weight.sum(), (y * weight).sum() / weight.sum()))
    return np.array(places)


turns, scales, places = st.floats(-180, 180), st.floats(0.1, 5), st.floats(-300, 300)


@settings(max_examples=60, deadline=None)
@given(scale=scales, turn=turns, x=places, y=places)
def test_moved_there_and_back(scale, turn, x, y):
    found = one_face()
    about, place = np.array([40.0, 60.0]), np.array([x, y])
    matrix, boxes, points = moved(found, scale, turn, place, about)
    np.testing.assert_allclose(matrix @ (*about, 1), place, atol=1e-6)
    there = Composition(found.picture, boxes, points, found.sure)
    _, back, points_back = moved(there, 1 / scale, -turn, about, place)
    np.testing.assert_allclose(points_back, found.points, atol=1e-6)
    np.testing.assert_allclose(
        back[:, :2] + back[:, 2:], found.boxes[:, :2] + found.boxes[:, 2:], atol=1e-6
    )


@pytest.mark.parametrize(
    ("turn", "sides"), [(0, (40, 60)), (90, (60, 40)), (180, (40, 60)), (45, (50.99, 50.99))]
)
def test_a_turned_face_lies_in_an_upright_box(turn, sides):
    """At 45 degrees that of an ellipse of 40 x 60: sqrt((40^2 + 60^2) / 2) = 50.99."""
    _, boxes, _ = moved(one_face(), 2.0, turn, np.zeros(2), np.zeros(2))
    np.testing.assert_allclose(boxes[0, 2:] - boxes[0, :2], np.array(sides) * 2, atol=0.01)


def test_a_mirror_twice_is_none():
    rng = np.random.default_rng(0)
    scene = one_face()
    scene.picture = rng.integers(0, 256, (120, 101, 3), np.uint8)
    once, twice = mirrored(scene), mirrored(mirrored(scene))
    np.testing.assert_array_equal(twice.picture, scene.picture)
    np.testing.assert_allclose(twice.boxes, scene.boxes)
    np.testing.assert_allclose(twice.points, scene.points)
    assert once.boxes[0].tolist() == [41, 30, 81, 90] and once.sure.tolist() == [True]


def test_points_are_where_a_mirrored_picture_shows_them():
    scene = one_face((20.0, 20.0, 90.0, 110.0))
    scene.points = np.array([[[35.0, 40], [70, 45], [50, 60], [40, 85], [72, 90]]])
    dotted(scene.picture, scene.points[0])
    seen = mirrored(scene)
    expected = seen_dots(seen.picture)[[1, 0, 2, 4, 3]]
    np.testing.assert_allclose(seen.points[0], expected, atol=0.3)


@pytest.mark.parametrize(
    ("scale", "turn"), [(1.0, 0.0), (2.5, 20.0), (1.5, -75.0), (0.7, 10.0), (0.5, -30.0)]
)
def test_points_are_where_a_laid_photograph_shows_them(scale, turn):
    found = one_face((20.0, 20.0, 90.0, 110.0))
    found.points = np.array([[[35.0, 40], [70, 45], [50, 60], [40, 85], [72, 90]]])
    dotted(found.picture, found.points[0])
    scene = Composition(np.full((260, 280, 3), 30, np.uint8))
    lay_picture(scene, found, scale, turn, np.array([140.0, 130.0]), np.array([55.0, 65.0]))
    np.testing.assert_allclose(scene.points[0], seen_dots(scene.picture), atol=0.4)
    assert scene.sure.tolist() == [True]


@pytest.fixture
def head(heads):
    """A head whose five points are marked, and its landmarks."""
    bgra, marks = Heads.read(heads).take(1)
    bgra = bgra.copy()
    bgra[..., :3] = 90
    opaque = np.ascontiguousarray(bgra[..., :3])
    dotted(opaque, points_of(marks))
    return np.dstack([opaque, bgra[..., 3]]), marks


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(
    ("size", "turn"), [(90.0, 0.0), (200.0, 25.0), (150.0, -70.0), (38.0, 5.0)]
)
def test_points_are_where_a_laid_head_shows_them(head, size, turn, flip):
    bgra, marks = head
    scene = Composition(np.full((400, 420, 3), 30, np.uint8))
    place = np.array([210.0, 200.0])
    assert lay_head(scene, bgra, marks, size=size, turn=turn, place=place, mirrored=flip)
    shown = seen_dots(scene.picture)
    np.testing.assert_allclose(scene.points[0], shown[[1, 0, 2, 4, 3]] if flip else shown, atol=0.5)
    x0, y0, x1, y1 = scene.boxes[0]
    if turn == 0:
        np.testing.assert_allclose([y1 - y0, (x0 + x1) / 2, (y0 + y1) / 2], [size, *place])


def test_the_box_of_a_laid_head_is_that_of_its_landmarks(head):
    bgra, marks = head
    box = box_of(marks)
    scene = Composition(np.full((400, 420, 3), 30, np.uint8))
    middle = (box[:2] + box[2:]) / 2
    lay_head(scene, bgra, marks, size=box[3] - box[1], turn=0.0, place=middle + 60)
    np.testing.assert_allclose(scene.boxes[0], box + 60, atol=1e-6)


def test_a_head_outside_the_picture_changes_no_pixel(head):
    bgra, marks = head
    scene = Composition(np.full((100, 100, 3), 30, np.uint8))
    assert lay_head(scene, bgra, marks, size=50, turn=0.0, place=np.array([-400.0, 50.0]))
    assert (scene.picture == 30).all() and len(scene.boxes) == 1


def test_a_head_that_would_hide_another_is_not_laid(head):
    scene = Composition(np.full((300, 300, 3), 30, np.uint8))
    lay = {"size": 80.0, "turn": 0.0}
    assert lay_head(scene, *head, **lay, place=np.array([100.0, 120.0]))
    before = scene.picture.copy()
    assert not lay_head(scene, *head, **lay, place=np.array([120.0, 120.0]))
    assert len(scene.boxes) == 1 and (scene.picture == before).all()
    assert lay_head(scene, *head, **lay, place=np.array([110.0, 120.0]), crowded=1.0)
    assert scene.sure.tolist() == [False, True], "the first is nearly hidden now"


def test_shoulders_hide_the_face_below(head):
    scene = Composition(np.full((400, 300, 3), 30, np.uint8))
    assert lay_head(scene, *head, size=60.0, turn=0.0, place=np.array([150.0, 250.0]))
    clothes = np.array([200.0, 40.0, 40.0])
    near = {"size": 90.0, "turn": 0.0, "place": np.array([150.0, 120.0])}
    assert lay_head(scene, *head, **near, shoulders=clothes)
    assert scene.sure.tolist() == [False, True]
    x, y = scene.points[0, 2].round().astype(int)
    assert scene.picture[y, x].tolist() == clothes.tolist()


@pytest.mark.parametrize(("columns", "sure"), [(0, True), (20, True), (23, False), (40, False)])
def test_a_face_is_sure_while_half_of_it_is_seen(columns, sure):
    scene = one_face()  # 40 columns wide
    mask = np.zeros((120, 100), np.float32)
    mask[:, 20 : 20 + columns] = 1
    scene.cover(mask)
    assert scene.sure.tolist() == [sure]
