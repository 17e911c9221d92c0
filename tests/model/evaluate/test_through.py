"""Expressions through the whole of `analyze`: how pictures are framed, and what a miss costs."""

from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from feallm.model.evaluate import through
from feallm.model.evaluate.sets import Labelled
from feallm.runtime.contract.errors import UsageError
from feallm.runtime.contract.expressions import EXPRESSIONS

RED = (200, 30, 10)


def plain(height, width, colour=RED):
    return np.full((height, width, 3), colour, np.uint8)


@pytest.mark.parametrize(
    "height, width, tall, wide",
    [
        (48, 48, 171, 171),
        (171, 171, 171, 171),
        (90, 60, 171, 114),
        (60, 90, 114, 171),
        (400, 300, 171, 128),  # 128.25
        (1000, 1, 171, 1),  # never nothing
    ],
)
def test_the_longer_side_of_a_face_is_171_in_a_square_of_256(height, width, tall, wide):
    square = through.framed(plain(height, width))
    assert square.shape == (256, 256, 3) and square.dtype == np.uint8
    own = (square == RED).all(2)
    rows, columns = np.flatnonzero(own.any(1)), np.flatnonzero(own.any(0))
    assert (len(rows), len(columns)) == (tall, wide)
    assert own.sum() == tall * wide  # one block of it
    assert (square[~own] == 128).all()
    for where, size in ((rows, tall), (columns, wide)):
        assert where[0] == (256 - size) // 2 and abs(where[0] - (255 - where[-1])) <= 1


def test_nothing_is_turned_around():
    picture = plain(90, 60)
    picture[:30, 30:] = (10, 20, 220)  # upper right
    square = through.framed(picture)
    assert square[60, 160].tolist() == [10, 20, 220]
    for y, x in ((60, 90), (190, 90), (190, 160)):
        assert square[y, x].tolist() == list(RED)


class Fake:
    """Says a word of each picture, by its number, at a score; none where no face is found."""

    def __init__(self, **said):
        self.said, self.frames = said, []

    def read(self, frame):
        self.frames.append(frame)
        words = self.said[f"n{frame.source}"]
        readings = [
            SimpleNamespace(
                score=score, expression=None if word is None else SimpleNamespace(top=word)
            )
            for word, score in words
        ]
        return SimpleNamespace(readings=tuple(readings))


def labelled(*classes):
    images = [
        cv2.imencode(".png", plain(48, 48, (0, 0, 200 - k)))[1].tobytes()  # red, as OpenCV has it
        for k in range(len(classes))
    ]
    return Labelled(Path("valid.npz"), images, np.array(classes), None, None)


def test_a_missed_face_is_a_wrong_answer():
    """Right, missed, wrong, (no class), right, found but not named."""
    data = labelled(0, 1, 2, -1, 3, 0)
    analyzer = Fake(
        n0=[("neutral", 0.9), ("anger", 0.8)],  # the largest comes first
        n1=[],
        n2=[("happiness", 0.6)],
        n4=[("sadness", 0.59)],
        n5=[(None, 0.3)],
    )
    steps = []
    found = through.score(analyzer, data, steps.append)
    low, high = found.pop("accuracy_95")
    assert low < 0.4 < high
    assert found == {
        "n": 5,
        "found": 3,
        "accuracy": 0.4,
        "accuracy_found": pytest.approx(2 / 3),
        "rows": [0, 2, 4],
    }
    assert sum(steps) == 5
    assert EXPRESSIONS[3] == "sadness"


def test_pictures_come_framed_as_photographs_in_rgb():
    analyzer = Fake(n0=[], n1=[])
    through.score(analyzer, labelled(0, 1))
    assert [frame.source for frame in analyzer.frames] == ["0", "1"]
    for k, frame in enumerate(analyzer.frames):
        assert frame.still and frame.pixels.shape == (256, 256, 3)
        assert frame.pixels[128, 128].tolist() == [200 - k, 0, 0]
        assert frame.pixels[5, 5].tolist() == [128] * 3


def test_pictures_as_they_are_stored():
    analyzer = Fake(n0=[], n1=[])
    data = labelled(0, 1)
    through.score(analyzer, data, laid=through.as_stored)
    stored = [
        cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR) for image in data.images
    ]
    for frame, picture in zip(analyzer.frames, stored, strict=True):
        assert frame.still and np.array_equal(frame.pixels, picture[..., ::-1])


def test_where_no_face_is_found_there_is_no_accuracy_of_those_found():
    found = through.score(Fake(n0=[], n1=[]), labelled(0, 1))
    assert found["accuracy"] == 0 and found["accuracy_found"] is None
    assert found["found"] == 0 and found["rows"] == []


def test_a_set_without_expressions():
    data = labelled(0)
    data = Labelled(data.path, data.images, None, np.zeros((1, 20)), None)
    with pytest.raises(UsageError, match="no expressions"):
        through.score(Fake(), data)
