"""Tables for people: faces that could not be read well carry a mark, and one line explains it."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from feallm.edge import tables
from feallm.runtime.contract.aus import AU_KEYS
from feallm.runtime.contract.expressions import EXPRESSIONS


def row(*below, frame=0, track=0, quality=True):
    scores = dict.fromkeys(EXPRESSIONS, 0.125)
    made = {
        "source": "a.jpg", "frame": frame, "time_s": frame / 25, "track": track,
        "box": [0, 0, 9, 9], "score": 0.9, "aus": dict.fromkeys(AU_KEYS),
        "expression": {"top": "neutral", "scores": scores}, "explanation": None,
        "intensity_calibrated": True,
    }  # fmt: skip
    if quality:
        made["quality"] = {
            "size_px": 9.0, "blur": 0.3, "yaw_deg": 0.0, "pitch_deg": 0.0, "occluded": None,
            "below": list(below),
        }  # fmt: skip
    return made


def no_face(frame):
    empty = ("track", "box", "score", "aus", "expression", "explanation", "quality")
    return {**row(frame=frame), **dict.fromkeys(empty)}


def shown(kind, *rows):
    text = io.StringIO()
    tables.show_rows(Console(file=text, width=200), "a.jpg", kind, rows)
    return text.getvalue()


def test_marked_faces_of_a_photo():
    text = shown("picture", row(), row("small", "turned", track=1), row("cut", track=2))
    lines = [line.strip() for line in text.splitlines()]
    assert "face 0: box 0,0 to 9,9 px, score 0.90" in lines
    assert "face 1: box 0,0 to 9,9 px, score 0.90; read with care: small, turned" in lines
    assert "face 2: box 0,0 to 9,9 px, score 0.90; read with care: cut" in lines
    assert text.count(tables.CARE) == 1


@pytest.mark.parametrize("kind", ["picture", "video"])
@pytest.mark.parametrize("rows", [[row()], [row(quality=False)], [no_face(0)]])
def test_without_a_mark_nothing_is_said_of_it(kind, rows):
    assert "with care" not in shown(kind, *rows)


def test_marked_frames_of_a_track():
    rows = [row("turned", frame=k) for k in range(3)]
    rows += [row("turned", "small", frame=3), row(frame=4), no_face(5)]
    text = shown("video", *rows)
    assert "read with care: 4 of its frames (turned 4, small 1)" in text
    assert text.count(tables.CARE) == 1


def test_frames_are_counted_once_however_many_faces_they_have():
    table = tables.VideoTracks("a.mp4")
    for frame in range(4):
        for track in range(3):
            table.add(row(frame=frame, track=track))
    table.add(no_face(4))
    assert table.count == 5
