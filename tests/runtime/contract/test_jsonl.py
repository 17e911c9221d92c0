"""Rows: what a program that reads them may count on."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace

import pytest

from feallm.runtime.contract import jsonl
from feallm.runtime.contract.aus import AU_KEYS
from feallm.runtime.contract.expressions import EXPRESSIONS
from feallm.runtime.contract.quality import Quality
from feallm.runtime.contract.reading import FrameReport
from feallm.runtime.language import template

FIELDS = [
    "schema", "source", "frame", "time_s", "track", "box", "score", "aus", "expression",
    "explanation", "pose_deg", "gaze_deg", "landmarks", "quality", "intensity_calibrated", "bundle",
]  # fmt: skip
SIDES = ["left", "right", "left_present", "right_present"]
AU_FIELDS = ["intensity", "present", "probability", *SIDES]


@pytest.fixture
def reading(reading_of):
    return reading_of("happiness", trained=("AU12", "AU25"), AU12=(4.0, 0.5), AU25=1.25)


def rows(*readings, **facts):
    facts = {"source": "ä.mp4", "index": 3, "time_s": 0.1 + 0.2, "bundle": "d" * 64, **facts}
    report = FrameReport(readings=readings, **facts)
    return list(jsonl.rows(report, calibrated=False))


def test_a_row_of_a_face(reading):
    (row,) = rows(reading)
    assert list(row) == FIELDS
    assert (row["schema"], row["source"], row["frame"]) == (1, "ä.mp4", 3)
    assert row["time_s"] == 0.3  # microseconds, not float dust
    assert row["box"] == [0, 0, 10, 10] and row["track"] == 0 and row["score"] == 1
    assert list(row["aus"]) == list(AU_KEYS)
    assert list(row["aus"]["AU12"]) == AU_FIELDS
    assert row["aus"]["AU12"] == {
        "intensity": 4.0, "present": True, "probability": 0.9, "left": 4.0, "right": 0.5,
        "left_present": True, "right_present": False,
    }  # fmt: skip
    assert row["aus"]["AU25"]["left"] is None and row["aus"]["AU25"]["right"] is None
    assert [key for key, au in row["aus"].items() if au is not None] == ["AU12", "AU25"]
    assert row["expression"]["top"] == "happiness"
    assert list(row["expression"]["scores"]) == list(EXPRESSIONS)
    assert row["explanation"] is None
    assert row["intensity_calibrated"] is False and row["bundle"] == "d" * 64


def test_a_frame_without_a_face_is_one_row_of_the_same_fields():
    (row,) = rows()
    assert sorted(row) == sorted(FIELDS)
    empty = {name for name, value in row.items() if value is None}
    assert empty == {
        "track", "box", "score", "aus", "expression", "explanation",
        "pose_deg", "gaze_deg", "landmarks", "quality",
    }  # fmt: skip


def test_one_row_a_face_in_their_order(reading, reading_of):
    found = rows(reading, reading_of("fear"))
    assert [row["expression"]["top"] for row in found] == ["happiness", "fear"]


def test_an_explanation(reading):
    (row,) = rows(replace(reading, explanation=template.explain(reading, "no words")))
    assert list(row["explanation"]) == ["text", "aus", "source", "why_template"]
    assert row["explanation"]["aus"] == ["AU12", "AU25"]
    assert row["explanation"]["source"] == "template"
    cells = jsonl.flat(row)
    assert cells["explanation"] == row["explanation"]["text"].replace("\n", " ")
    assert cells["explanation_source"] == "template"


def test_a_line_is_one_line_of_plain_json(reading):
    for row in rows(reading) + rows():
        line = jsonl.dumps(row)
        assert "\n" not in line and "ä" in line
        assert json.loads(line) == row


def test_numbers_that_are_none_are_never_written(reading):
    (row,) = rows(reading)
    row["time_s"] = math.nan
    with pytest.raises(ValueError, match="JSON"):
        jsonl.dumps(row)


def test_columns():
    columns = jsonl.flat_columns()
    assert len(columns) == len(set(columns)) == 10 + 8 + 20 * 7 + 3 + 2 + 68 * 2 + 4 + 3
    assert columns[:4] == ["source", "frame", "time_s", "track"]
    at = columns.index("AU12")
    assert columns[at : at + 3] == ["AU12", "AU12_present", "AU12_p"]
    assert columns[at + 3 : at + 7] == [f"AU12_{side}" for side in SIDES]


def test_a_flat_row(reading):
    (row,) = rows(reading)
    cells = jsonl.flat(row)
    assert list(cells) == jsonl.flat_columns()
    assert (cells["AU12"], cells["AU12_present"], cells["AU12_p"]) == (4.0, 1, 0.9)
    assert (cells["AU12_left"], cells["AU12_right"]) == (4.0, 0.5)
    assert (cells["AU12_left_present"], cells["AU12_right_present"]) == (1, 0)
    assert (
        cells["AU1"]
        == cells["AU1_present"]
        == cells["AU25_left"]
        == cells["AU25_left_present"]
        == ""
    )
    assert (cells["x0"], cells["y1"], cells["expression"]) == (0, 10, "happiness")
    assert cells["track"] == 0  # not an empty cell
    assert math.isclose(sum(cells[name] for name in EXPRESSIONS), 1)


def test_a_flat_row_without_a_face():
    (row,) = rows()
    filled = {name for name, value in jsonl.flat(row).items() if value != ""}
    assert filled == {"source", "frame", "time_s", "bundle"}


@pytest.mark.parametrize("seed", range(20))
def test_any_reading_survives_the_table(random_reading, seed):
    reading = random_reading(seed)
    (row,) = rows(reading, source='odd, "name"\n.mp4')
    text = io.StringIO()
    writer = csv.DictWriter(text, jsonl.flat_columns())
    writer.writeheader()
    writer.writerow(jsonl.flat(row))
    (cells,) = csv.DictReader(io.StringIO(text.getvalue(), newline=""))
    assert cells["source"] == row["source"]
    present = [key for key in AU_KEYS if cells[f"{key}_present"] == "1"]
    assert present == list(reading.present)
    for key, au in row["aus"].items():
        assert cells[key] == ("" if au is None else str(au["intensity"]))


def test_rows_from_before_the_sides_had_presence_are_still_a_table(reading):
    (row,) = rows(reading)
    for au in filter(None, row["aus"].values()):
        del au["left_present"], au["right_present"]
    cells = jsonl.flat(row)
    assert cells["AU12_left"] == 4.0 and cells["AU12_left_present"] == ""


def test_how_well_a_face_could_be_read(reading):
    quality = Quality(7.26, 0.51239, -41.26, 3.14, 0.02345, ("small", "turned"))
    (row,) = rows(replace(reading, quality=quality))
    assert row["quality"] == {
        "size_px": 7.3, "blur": 0.512, "yaw_deg": -41.3, "pitch_deg": 3.1, "occluded": 0.023,
        "below": ["small", "turned"],
    }  # fmt: skip
    cells = jsonl.flat(row)
    assert (cells["size_px"], cells["blur"], cells["occluded"]) == (7.3, 0.512, 0.023)
    assert cells["below"] == "small turned"


def test_what_nothing_measures_is_null_and_no_mark_is_an_empty_cell(reading):
    (row,) = rows(replace(reading, quality=Quality(30.0, 0.3, None, None, None)))
    assert row["quality"]["yaw_deg"] is row["quality"]["occluded"] is None
    assert row["quality"]["below"] == []
    cells = jsonl.flat(row)
    assert cells["occluded"] == cells["below"] == "" and cells["size_px"] == 30.0


def test_rows_from_before_there_was_a_quality_are_still_a_table(reading):
    (row,) = rows(reading)
    del row["quality"]
    cells = jsonl.flat(row)
    assert cells["size_px"] == cells["below"] == "" and cells["AU12"] == 4.0
