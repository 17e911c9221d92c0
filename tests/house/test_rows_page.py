"""docs/rows.md describes every field of a row and every column of the table."""

import re
from pathlib import Path

from feallm.runtime.contract.aus import AU_KEYS
from feallm.runtime.contract.expressions import EXPRESSIONS
from feallm.runtime.contract.jsonl import Row, flat_columns, rows
from feallm.runtime.contract.quality import BELOW, Gate, Quality
from feallm.runtime.contract.reading import (
    AUReading,
    Explanation,
    ExpressionReading,
    FrameReport,
    PlaceReading,
    Reading,
)

ENDS = ("_present", "_p", "_left", "_right", "_left_present", "_right_present")


def full_row() -> Row:
    """A row in which nothing is null."""
    au = AUReading("AU1", 1.0, True, 0.9, 1.0, 0.5, True, False)
    scores = dict.fromkeys(EXPRESSIONS, 1 / len(EXPRESSIONS))
    explanation = Explanation("text", ("AU1",), "template", "no bundle")
    place = PlaceReading(((1.0, 2.0),) * 68, (1.0, 2.0, 3.0), (4.0, 5.0))
    aus = dict.fromkeys(AU_KEYS, au)
    named = ExpressionReading(scores)
    quality = Quality(30.0, 0.3, 10.0, -5.0, 0.1, BELOW)
    face = Reading(0, (0, 0, 9, 9), 1.0, aus, named, explanation, place, quality)
    return next(rows(FrameReport("a.jpg", 0, 0.0, (face,), "0" * 64), calibrated=False))


def names(value: object) -> set[str]:
    """Every key of a row, at any depth."""
    if not isinstance(value, dict):
        return set()
    return set(value).union(*(names(inner) for inner in value.values()))


def test_every_name_is_on_the_page(root: Path) -> None:
    page = (root / "docs/rows.md").read_text(encoding="utf-8")
    told = {word for code in re.findall(r"`([^`]+)`", page) for word in re.split(r"[\s.]+", code)}
    points = {f"{axis}_{k}" for axis in "xy" for k in range(1, 67)}
    per_au = {f"{key}{end}" for key in AU_KEYS[1:] for end in ENDS}
    assert names(full_row()) - told == set(), "fields of the JSON line"
    assert set(flat_columns()) - per_au - points - told == set(), "columns of the table"
    assert f"version of this page: {full_row()['schema']}" in page


def test_every_mark_and_its_limit_are_on_the_page(root: Path) -> None:
    page = (root / "docs/rows.md").read_text(encoding="utf-8")
    lines = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", page, re.M))
    gate = Gate()
    assert lines["small"] == f"`size_px` under {gate.least_size_px:g}"
    assert lines["blurred"] == f"`blur` over {gate.most_blur:g}"
    assert lines["dark"] == f"mean gray of the face under {gate.least_light:g} of 255"
    turned = f"yaw beyond {gate.most_yaw_deg:g} or pitch beyond {gate.most_pitch_deg:g} degrees"
    assert lines["turned"] == turned
    assert lines["occluded"] == f"`occluded` over {gate.most_occluded:g}"
    assert lines["cut"] == f"over {gate.most_cut:g} of the face beyond the frame's edge"
    assert set(BELOW) <= set(lines)
