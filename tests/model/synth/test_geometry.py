"""Points moved by hand, without any shape: the labels say what a coder would see."""

import numpy as np
import pytest

from feallm.model.synth.head import SHAPES
from feallm.model.synth.labels import Reader
from feallm.runtime.contract.aus import AU_INDEX

LEFT, RIGHT = 0, 1
UPPER_LID, LOWER_LID = ((43, 44), (37, 38)), ((46, 47), (40, 41))
UPPER_LIP = [*range(49, 54), 61, 62, 63]
LOWER_LIP = [*range(55, 60), 65, 66, 67]
JAW = [6, 7, 8, 9, 10]
TEETH = slice(68 + 24, None)


@pytest.fixture
def read(head):
    """The labels of the mean head with points moved: rows of them, and how far (x, y, z)."""
    reader = Reader.of(head)
    rest = head.mean[reader.vertices].astype(np.float64)

    def of(*moves):
        points = rest.copy()
        for rows, way in moves:
            points[rows] += way
        found = reader.read(rest, points)
        return {key: found[k] for key, k in AU_INDEX.items()}

    return of


def test_a_face_at_rest_shows_nothing(read):
    assert not any(sides.any() for sides in read().values())


@pytest.mark.parametrize("cm, least, most", [(0.03, 0, 0), (0.14, 1, 1), (0.75, 3, 3), (3, 5, 5)])
def test_lips_that_part(read, cm, least, most):
    found = read((UPPER_LIP, (0, cm / 2, 0)), (LOWER_LIP, (0, -cm / 2, 0)))
    assert (found["AU25"] >= least - 1e-9).all() and (found["AU25"] <= most + 1e-9).all()
    assert (found["AU26"] == 0).all()  # the jaw stayed


def test_lips_that_are_pressed_do_not_part(read):
    found = read((LOWER_LIP, (0, 0.1, 0)))
    assert (found["AU25"] == 0).all()


@pytest.mark.parametrize("cm, level", [(0.1, 0), (0.3, 1), (1.05, 3), (2.5, 5)])
def test_a_jaw_that_drops(read, cm, level):
    found = read((TEETH, (0, -cm, 0)), (LOWER_LIP + JAW, (0, -cm, 0)))
    np.testing.assert_allclose(found["AU26"], level, atol=1e-6)
    assert (found["AU25"] >= min(level, 4)).all() and (found["AU25"] > 0).all()


def test_a_jaw_that_drops_behind_lips_kept_shut(read):
    found = read((TEETH, (0, -1.05, 0)), (JAW, (0, -1.05, 0)))
    np.testing.assert_allclose(found["AU26"], 3, atol=1e-6)
    assert (found["AU25"] == 0).all()


@pytest.mark.parametrize("side", [LEFT, RIGHT])
@pytest.mark.parametrize("left_open, level", [(1, 0), (0.5, 0), (0.26, 1), (0.14, 3), (0, 5)])
def test_lids_that_close(read, head, side, left_open, level):
    rest = head.mean[head.landmarks68]
    slit = rest[list(UPPER_LID[side]), 1].mean() - rest[list(LOWER_LID[side]), 1].mean()
    found = read((list(UPPER_LID[side]), (0, -(1 - left_open) * slit, 0)))
    np.testing.assert_allclose(found["AU43"][side], level, atol=0.01)
    assert found["AU43"][1 - side] == 0 and (found["AU5"] == 0).all()


def test_lids_that_open_wide(read):
    found = read((list(UPPER_LID[LEFT]), (0, 0.3, 0)))
    assert found["AU5"][LEFT] >= 2 and found["AU5"][RIGHT] == 0 and (found["AU43"] == 0).all()


def test_an_eye_that_only_moves_up_is_not_wide(read):
    """Both lids go up and the eye is no wider: no AU5."""
    rows = [*UPPER_LID[LEFT], *LOWER_LID[LEFT]]
    lower = (list(LOWER_LID[LEFT]), (0, 0.01, 0))
    assert (read((rows, (0, 0.3, 0)), lower)["AU5"] == 0).all()


INNER = {LEFT: (22, 23), RIGHT: (21, 20)}
OUTER = {LEFT: (24, 25, 26), RIGHT: (19, 18, 17)}


@pytest.mark.parametrize("side", [LEFT, RIGHT])
def test_inner_brows_that_go_up(read, side):
    found = read((list(INNER[side]), (0, 0.6, 0)))
    assert found["AU1"][side] >= 2 and found["AU1"][1 - side] < 0.5
    assert max(found[key].max() for key in ("AU2", "AU4")) < found["AU1"][side] - 1


@pytest.mark.parametrize("side", [LEFT, RIGHT])
def test_outer_brows_that_go_up(read, side):
    moves = [([row], (0, cm, 0)) for row, cm in zip(OUTER[side], (0.4, 0.7, 0.55), strict=True)]
    found = read(*moves)
    assert found["AU2"][side] >= 3 and found["AU2"][1 - side] < 0.5
    assert max(found[key].max() for key in ("AU1", "AU4")) < found["AU2"][side] - 1


@pytest.mark.parametrize("side", [LEFT, RIGHT])
def test_brows_that_go_down_and_together(read, side):
    inward = -0.3 if side == LEFT else 0.3
    rows = (*INNER[side], *OUTER[side][:2])
    moves = [
        ([row], (inward, -cm, 0.2)) for row, cm in zip(rows, (0.4, 0.6, 0.5, 0.25), strict=True)
    ]
    found = read(*moves)
    assert found["AU4"][side] >= 1.5 and found["AU4"][1 - side] < 0.5
    assert max(found[key][side] for key in ("AU1", "AU2")) < found["AU4"][side] - 1


CORNER = {LEFT: ([54, 64], [53, 55]), RIGHT: ([48, 60], [49, 59])}


@pytest.mark.parametrize("side", [LEFT, RIGHT])
@pytest.mark.parametrize("key, other, cm", [("AU12", "AU15", 0.5), ("AU15", "AU12", -0.5)])
def test_corners_of_the_mouth_that_go_up_and_down(read, side, key, other, cm):
    end, beside = CORNER[side]
    found = read((end, (0, cm, 0)), (beside, (0, cm / 2, 0)))
    assert found[key][side] >= 1.2 and found[key][1 - side] < found[key][side] - 1
    assert (found[other] < 0.3).all()


@pytest.fixture
def shapes(head):
    """Labels of the mean head moved by named shapes; `gaze` are shapes that follow the eyes."""
    reader = Reader.of(head)
    rest = head.mean[reader.vertices].astype(np.float64)

    def sum_of(weights):
        moved = np.zeros_like(rest)
        for name, weight in weights.items():
            moved += weight * head.expression[SHAPES.index(name)][reader.vertices]
        return moved

    def of(weights, gaze=None):
        by_gaze = None if gaze is None else sum_of(gaze)
        moved = rest + sum_of(weights) + (0 if by_gaze is None else by_gaze)
        found = reader.read(rest, moved, by_gaze)
        return {key: found[k] for key, k in AU_INDEX.items()}

    return of


@pytest.mark.parametrize("side, letter", [(LEFT, "L"), (RIGHT, "R")])
def test_a_wrinkled_nose_lifts_the_lip(shapes, side, letter):
    """`noseSneer` alone: nobody asked for AU10, and it is there to be seen."""
    found = shapes({f"noseSneer_{letter}": 1.0})
    assert found["AU9"][side] > 4 and found["AU10"][side] > 2
    assert found["AU9"][1 - side] < 0.5 and found["AU10"][1 - side] < 0.5
    weaker = shapes({f"noseSneer_{letter}": 0.4})
    assert 0 < weaker["AU10"][side] < found["AU10"][side]


def test_a_funnelled_mouth_parts_the_lips(shapes):
    assert (shapes({"mouthFunnel": 0.8})["AU25"] >= 1).all()


DOWN = {"eyeLookDown_L": 1.0, "eyeLookDown_R": 1.0}
UP = {"eyeLookUp_L": 1.0, "eyeLookUp_R": 1.0}


def test_lids_that_follow_the_eyes_are_no_muscle_of_their_own(shapes):
    down, up = shapes({}, DOWN), shapes({}, UP)
    for key in ("AU5", "AU7"):
        assert (down[key] == 0).all() and (up[key] == 0).all()


def test_the_same_lids_without_a_gaze_would_be(shapes):
    assert (shapes(UP)["AU5"] > 1).all()


def test_looking_down_counts_for_closing(shapes):
    half = {"eyeBlink_L": 0.45, "eyeBlink_R": 0.45}
    assert (shapes(half, DOWN)["AU43"] >= shapes(half)["AU43"] + 1).all()


def test_a_mouth_drawn_aside_is_no_smile(shapes):
    found = shapes({"mouthLeft": 0.4})
    assert max(found[key].max() for key in ("AU12", "AU15", "AU20", "AU14")) < 0.5


def test_blown_cheeks_are_no_raised_cheeks(shapes):
    found = shapes({"cheekPuff_L": 0.7, "cheekPuff_R": 0.7})
    assert (found["AU6"] < 0.5).all() and (found["AU12"] < 0.5).all()
