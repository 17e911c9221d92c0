"""When a line, a part and a report pass, and how figures are told."""

from __future__ import annotations

import json

import pytest

from feallm.runtime.verify.verdict import FEW, Line, Report, Result, Worst, beside, number

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("value", "limit", "least", "of", "passed"),
    [
        (5.0, None, False, 0, True),
        (NAN, None, False, 0, True),
        (0.5, 0.5, False, 0, True),
        (0.51, 0.5, False, 0, False),
        (0.5, 0.5, True, 0, True),
        (0.49, 0.5, True, 0, False),
        (INF, 0.5, False, 0, False),
        (NAN, 0.5, False, 0, False),
        (NAN, 0.5, True, 0, False),
        (NAN, 0.0, True, 30, False),
        (NAN, 0.5, True, 0, False),
        (1.0, 0.99, True, 30, True),
        (28 / 30, 0.99, True, 30, True),  # two of thirty
        (27 / 30, 0.99, True, 30, False),
        (0.99, 0.99, True, 1000, True),
        (0.989, 0.99, True, 1000, False),
        (1 - 10 / 3579, 1 - 10 / 3579, True, 3579, True),  # rounding takes no face away
        (0.0, 0.99, True, FEW, True),
        (0.0, 0.99, True, FEW + 1, False),
    ],
)
def test_when_a_line_passes(value, limit, least, of, passed):
    assert Line("head", "share", value, limit, least, of).passed is passed


def test_what_is_excused_is_told():
    assert Line("head", "share", 28 / 30, 0.99, True, 30).excused == "2 of 30 may differ"
    for value, of in ((1.0, 30), (27 / 30, 30), (28 / 30, 0)):
        assert Line("head", "share", value, 0.99, True, of).excused == ""


def result(*lines, **fields):
    return Result("eyes.onnx", "eyes", "onnx", "cpu", 1, 3, 0.5, lines, **fields)


def report(*results, **fields):
    return Report("toy", "0" * 64, {}, 3, {}, results, **fields)


GOOD, BAD = Line("head", "share", 1.0, 0.9, True), Line("tensor", "gap", 0.3, 0.2)
PLAIN = Line("tensor", "gap", 0.3)


@pytest.mark.parametrize(
    ("results", "passed"),
    [
        ((result(GOOD),), True),
        ((result(GOOD), result(GOOD, BAD)), False),
        ((), False),
        ((result(PLAIN, judged=False),), False),
        ((result(GOOD), result(PLAIN, judged=False)), True),
        ((result(GOOD), result(judged=False, failure="it broke")), False),
        ((result(GOOD), result(BAD, judged=False)), False),
        ((result(failure="it broke"),), False),
        ((result(GOOD, failure="it broke"),), False),
    ],
)
def test_when_a_report_passes(results, passed):
    assert report(*results).passed is passed
    assert report(*results).as_dict()["passed"] is passed


def test_faults_are_clauses():
    assert result(GOOD, BAD).faults == ("gap: 0.3, expected at most 0.2",)
    low = Line("head", "share", 0.5, 0.9, True)
    assert result(low).faults == ("share: 0.5, expected at least 0.9",)
    assert result(GOOD, BAD, failure="it broke").faults == ("it broke",)
    assert result(GOOD).faults == ()
    nothing = Line("way", "share", NAN, 0.9, True)
    assert result(nothing).faults == ("share: none, expected at least 0.9",)


def test_as_json():
    worst = Worst(2, "neutral: no AU", "anger: AU4", 0.4)
    nothing = Line("way", "share", NAN, 0.9, True)
    whole = report(result(GOOD, nothing, worst=(worst,)), skipped={"a.mlpackage": "no Mac"})
    found = json.loads(json.dumps(whole.as_dict(), allow_nan=False))
    assert found["passed"] is False and found["skipped"] == {"a.mlpackage": "no Mac"}
    (one,) = found["results"]
    assert one["passed"] is False and one["faults"] == ["share: none, expected at least 0.9"]
    assert [line["passed"] for line in one["lines"]] == [True, False]
    assert [line["value"] for line in one["lines"]] == [1.0, None]
    assert one["worst"][0]["row"] == 2


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (None, "–"),
        (NAN, "none"),
        (INF, "none"),
        (0.0, "0"),
        (1.0, "1"),
        (-2.5, "-2.5"),
        (0.12345, "0.1235"),
        (200.0, "200"),
        (0.001, "0.001"),
        (0.00042, "4.2e-04"),
        (123456.0, "1.2e+05"),
    ],
)
def test_numbers_as_a_person_reads_them(value, told):
    assert number(value) == told


@pytest.mark.parametrize(
    ("value", "limit", "told"),
    [
        (0.5, 0.9, ("0.5", "0.9")),
        (0.998999, 0.999, ("0.998999", "0.999")),
        (0.9, 0.9, ("0.9", "0.9")),
        (1.04e-5, 1e-5, ("1.04e-05", "1.00e-05")),
        (0.5, None, ("0.5", "–")),
    ],
)
def test_a_figure_never_looks_like_the_limit_that_it_misses(value, limit, told):
    assert beside(Line("head", "share", value, limit)) == told
