"""Clips of walking people: who is where, how much of each is seen, and when nobody is."""

import csv
import sys

import cv2
import numpy as np
import pytest

from feallm.model.detector import moving
from feallm.model.detector.moving import Take, film
from feallm.runtime.contract.errors import InputError, UsageError

SMALL = Take(people=6, seconds=1.0, fps=10, width=320, height=240, seed=3)


@pytest.fixture(scope="module")
def clip():
    from pathlib import Path

    return list(film(Path(__file__).parent / "heads.npz", SMALL))


def test_everybody_is_told_in_every_frame(clip):
    assert [seen.time_s for seen in clip] == pytest.approx(np.arange(10) / 10)
    for seen in clip:
        assert seen.picture.shape == (240, 320, 3) and seen.picture.dtype == np.uint8
        assert seen.people.tolist() == list(range(6))
        assert seen.boxes.shape == (6, 4) and seen.share.shape == (6,)
        heights = seen.boxes[:, 3] - seen.boxes[:, 1]
        assert (heights > 15).all() and (heights < 60).all()


def test_people_move_a_little_from_frame_to_frame(clip):
    boxes = np.array([seen.boxes for seen in clip])
    steps = np.abs(np.diff((boxes[..., :2] + boxes[..., 2:]) / 2, axis=0)).max(2)
    assert steps.max() < 20 and (steps.max(0) > 0.3).all(), "nobody leaps, nobody stands still"


def test_a_face_is_drawn_where_its_box_is(clip):
    """The walls are of one colour a row: what is not is somebody."""
    for seen in clip[::3]:
        wall = seen.picture[:, :1] if (seen.boxes[:, 0] > 2).all() else seen.picture[:, -1:]
        drawn = (np.abs(seen.picture.astype(int) - wall) > 3).any(2)
        for (x0, y0, x1, y1), share in zip(seen.boxes.round().astype(int), seen.share, strict=True):
            part = drawn[max(0, y0) : y1, max(0, x0) : x1]
            assert share < 0.9 or part.mean() > 0.6


def test_the_share_that_is_seen(heads):
    """Nobody is before the last; nobody is seen more than the nearer boxes and the edge allow."""
    take = Take(people=14, seconds=0.6, fps=5, width=200, height=300, seed=1)
    hidden = 0
    for seen in film(heads, take):
        end = np.array([take.width, take.height] * 2)
        inside = np.clip(seen.boxes, 0, end)
        areas = (seen.boxes[:, 2:] - seen.boxes[:, :2]).prod(1)
        in_picture = np.clip(inside[:, 2:] - inside[:, :2], 0, None).prod(1) / areas
        assert seen.share[-1] == pytest.approx(in_picture[-1], abs=0.07)
        for k, box in enumerate(seen.boxes[:-1]):
            later = seen.boxes[k + 1 :]
            low, high = np.maximum(box[:2], later[:, :2]), np.minimum(box[2:], later[:, 2:])
            covered = (np.clip(high - low, 0, None).prod(1) / areas[k]).max()
            assert -1e-9 <= seen.share[k] <= min(1 - covered, in_picture[k]) + 0.08
            hidden += covered > 0.5
    assert hidden > 3, "nobody was covered: this take shows nothing"


def test_a_person_alone_is_wholly_seen(heads):
    take = Take(people=1, seconds=0.2, fps=5, width=320, height=240)
    (seen,) = film(heads, take)
    assert seen.share.tolist() == [1.0] and seen.people.tolist() == [0]


def test_the_same_take_gives_the_same_frames(clip, heads):
    again = next(film(heads, SMALL))
    assert (again.picture == clip[0].picture).all()
    np.testing.assert_array_equal(again.boxes, clip[0].boxes)


def test_everybody_goes_away_and_comes_back(heads):
    take = Take(people=2, seconds=1.0, fps=5, width=160, height=120, away_s=(0.4, 0.8))
    counts = [len(seen.people) for seen in film(heads, take)]
    assert counts == [2, 2, 0, 0, 2]
    empty = list(film(heads, take))[2]
    assert empty.boxes.shape == (0, 4) and empty.share.shape == (0,)
    assert (empty.picture == empty.picture[:, :1]).all(), "a wall alone"


def test_more_people_than_heads(heads):
    with pytest.raises(InputError, match="heads.npz: 16 whole heads, 17 are wanted"):
        next(film(heads, Take(people=17)))


def call(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["moving", *map(str, words)])
    moving.main()


def test_the_command_writes_clip_and_truth(heads, tmp_path, monkeypatch):
    out = tmp_path / "clip.mp4"
    call(monkeypatch, "--heads", heads, "--out", out, "--people", 3, "--seconds", 0.2)
    with out.with_suffix(".csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["frame"], row["person"]) for row in rows] == [
        (str(k), str(p)) for k in range(5) for p in range(3)
    ]
    first = next(film(heads, Take(3, 0.2)))
    told = [[float(row[name]) for name in ("x0", "y0", "x1", "y1")] for row in rows[:3]]
    np.testing.assert_allclose(told, first.boxes, atol=0.01)
    video = cv2.VideoCapture(str(out))
    frame = video.read()[1]
    video.release()
    assert np.abs(frame.astype(int) - first.picture).mean() < 8


def test_a_place_that_cannot_be_written_is_one_line(heads, tmp_path, monkeypatch, capfd):
    (tmp_path / "file").write_text("x")
    out = tmp_path / "file" / "clip.mp4"
    with pytest.raises(UsageError, match="no clip can be written"):
        call(monkeypatch, "--heads", heads, "--out", out)
