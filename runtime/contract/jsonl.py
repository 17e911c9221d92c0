"""A report as JSON lines: one object a face and frame; and the same rows as a flat table.

A frame without a face gives one row whose `track`, `box`, `aus`, `expression` are null: durations
are counted in rows. docs/rows.md describes every field.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from feallm.runtime.contract.aus import AU_KEYS
from feallm.runtime.contract.expressions import EXPRESSIONS
from feallm.runtime.contract.landmarks import GAZE, N_LANDMARKS, POSE
from feallm.runtime.contract.quality import MEASURES, Quality
from feallm.runtime.contract.reading import AUReading, FrameReport, Reading

SCHEMA = 1
_OF_A_FACE = (
    *("track", "box", "score", "aus", "expression", "explanation"),
    *("pose_deg", "gaze_deg", "landmarks", "quality"),
)
_QUALITY_CELLS = ("size_px", "blur", "occluded")  # the turn has columns already
Row = dict[str, Any]


def rows(report: FrameReport, *, calibrated: bool) -> Iterator[Row]:
    """The rows of a frame; `calibrated` says whether its intensities were fitted to FACS codes."""
    head: Row = {
        "schema": SCHEMA,
        "source": report.source,
        "frame": report.index,
        "time_s": round(report.time_s, 6),
    }
    tail: Row = {"intensity_calibrated": calibrated, "bundle": report.bundle}
    if not report.readings:
        empty = dict.fromkeys(_OF_A_FACE)
        yield {**head, **empty, **tail}
    for reading in report.readings:
        yield {**head, **_face(reading), **tail}


def _face(reading: Reading) -> Row:
    explanation, expression, place = reading.explanation, reading.expression, reading.place
    return {
        "track": reading.track,
        "box": [round(v, 2) for v in reading.box],
        "score": round(reading.score, 4),
        "aus": {key: _au(reading.aus.get(key)) for key in AU_KEYS},
        "expression": None
        if expression is None
        else {
            "top": expression.top,
            "scores": {name: round(expression.scores[name], 4) for name in EXPRESSIONS},
        },
        "explanation": None
        if explanation is None
        else {
            "text": explanation.text,
            "aus": list(explanation.aus),
            "source": explanation.source,
            "why_template": explanation.why_template,
        },
        "pose_deg": None if place is None else _axes(POSE, place.pose_deg),
        "gaze_deg": None if place is None else _axes(GAZE, place.gaze_deg),
        "landmarks": None
        if place is None
        else [[round(x, 1), round(y, 1)] for x, y in place.landmarks],
        "quality": None if reading.quality is None else _quality(reading.quality),
    }


def _quality(quality: Quality) -> Row:
    measures: Row = {}
    for name in MEASURES:
        value = getattr(quality, name)
        digits = 1 if name.endswith(("_px", "_deg")) else 3
        measures[name] = None if value is None else round(value, digits)
    return {**measures, "below": list(quality.below)}


def _axes(names: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    return {name: round(value, 1) for name, value in zip(names, values, strict=True)}


def _au(au: AUReading | None) -> Row | None:
    if au is None:
        return None
    return {
        "intensity": round(au.intensity, 3),
        "present": au.present,
        "probability": round(au.probability, 4),
        "left": None if au.left is None else round(au.left, 3),
        "right": None if au.right is None else round(au.right, 3),
        "left_present": au.left_present,
        "right_present": au.right_present,
    }


def dumps(row: Row) -> str:
    """One line of JSON, without its line end."""
    return json.dumps(row, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def flat_columns() -> list[str]:
    """Columns of the table: one a field, `AU12` the intensity, `AU12_p` the probability, …"""
    columns = ["source", "frame", "time_s", "track", "x0", "y0", "x1", "y1", "score", "expression"]
    columns += list(EXPRESSIONS)
    for key in AU_KEYS:
        columns += [key, f"{key}_present", f"{key}_p", f"{key}_left", f"{key}_right"]
        columns += [f"{key}_left_present", f"{key}_right_present"]
    columns += [*POSE, *(f"gaze_{axis}" for axis in GAZE)]
    columns += [f"{axis}_{k}" for axis in "xy" for k in range(N_LANDMARKS)]
    columns += [*_QUALITY_CELLS, "below"]
    return [*columns, "explanation", "explanation_source", "bundle"]


def flat(row: Row) -> dict[str, object]:
    """A row as cells; what was not measured is an empty cell."""
    cells: dict[str, object] = {name: row[name] for name in ("source", "frame", "time_s")}
    cells["track"], cells["score"], cells["bundle"] = row["track"], row["score"], row["bundle"]
    if row["box"] is not None:
        cells.update(zip(("x0", "y0", "x1", "y1"), row["box"], strict=True))
    if row["expression"] is not None:
        cells["expression"] = row["expression"]["top"]
        cells.update(row["expression"]["scores"])
    for key, au in (row["aus"] or {}).items():
        if au is not None:
            cells[key], cells[f"{key}_p"] = au["intensity"], au["probability"]
            cells[f"{key}_present"] = int(au["present"])
            for side in ("left", "right"):
                there = au.get(f"{side}_present")  # older rows lack it
                cells[f"{key}_{side}"] = au[side]
                cells[f"{key}_{side}_present"] = None if there is None else int(there)
    cells.update(row["pose_deg"] or {})
    cells.update({f"gaze_{axis}": angle for axis, angle in (row["gaze_deg"] or {}).items()})
    for k, (x, y) in enumerate(row["landmarks"] or ()):
        cells[f"x_{k}"], cells[f"y_{k}"] = x, y
    if (quality := row.get("quality")) is not None:  # older rows lack it
        cells.update({name: quality[name] for name in _QUALITY_CELLS})
        cells["below"] = " ".join(quality["below"])
    if row["explanation"] is not None:
        cells["explanation"] = row["explanation"]["text"].replace("\n", " ")
        cells["explanation_source"] = row["explanation"]["source"]
    return {name: "" if (v := cells.get(name)) is None else v for name in flat_columns()}
