"""Words for a face that could not be read well begin with saying so, whoever wrote them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from feallm.runtime.analyze import Analyzer
from feallm.runtime.backends.base import AU_INTENSITY, AU_PROBABILITY, EXPRESSION, TOKENS
from feallm.runtime.backends.replay import ReplayVision
from feallm.runtime.contract.frame import Face, Frame
from feallm.runtime.contract.quality import BELOW, Gate, Quality
from feallm.runtime.contract.reading import Explanation
from feallm.runtime.language import template, wording


@pytest.fixture
def marked(reading_of):
    def made(*below):
        quality = Quality(8.0, 0.3, 0.0, 0.0, None, below)
        return replace(reading_of("happiness", AU12=3.0), quality=quality)

    return made


def test_every_mark_has_its_words():
    assert set(wording.CARE) == set(BELOW)


def test_the_first_line_is_the_mark(marked):
    said = Explanation("AUs: AU12\nExpression: happiness\nWhy: so.", ("AU12",), "model")
    found = template.with_care(said, marked("small", "occluded"))
    first, rest = found.text.split("\n", 1)
    assert first == "Small, partly covered face: read with care."
    assert replace(found, text=rest) == said


def test_an_unmarked_face_keeps_its_words(marked, reading_of):
    said = Explanation("AUs: none", (), "model")
    assert template.with_care(said, marked()) is said
    assert template.with_care(said, reading_of("happiness")) is said


@pytest.fixture
def analyzer(toy_bundle):
    """Reads the same smile everywhere."""
    present = np.zeros(20, np.float32)
    present[8] = 1
    outputs = {
        AU_PROBABILITY: present,
        AU_INTENSITY: np.zeros((20, 2), np.float32),
        EXPRESSION: np.full(8, 0.125, np.float32),
        TOKENS: np.zeros((17, 256), np.float32),
    }

    def made(gate=None):
        vision = ReplayVision(outputs)
        return Analyzer(toy_bundle, detect=False, words=False, vision=vision, gate=gate)

    return made


def frame(side):
    noise = np.random.default_rng(0).integers(60, 200, (side, side, 3), dtype=np.uint8)
    return Frame(noise, "a.png")


def test_the_analyzer_marks_what_it_reads_and_says_so(analyzer):
    faces = [Face((0.0, 0.0, 20.0, 20.0), None, 1.0), Face((0.0, 0.0, 90.0, 90.0), None, 1.0, 1)]
    small, large = analyzer().read(frame(90), faces=faces, explain=True).readings
    assert small.quality.below == ("small",) and large.quality.below == ()
    assert small.explanation.text.startswith("Small face: read with care.\nAUs: ")
    assert large.explanation.text.startswith("AUs: ")
    assert small.aus == large.aus  # the mark takes nothing away
    assert small.quality.occluded is None  # no layer was fitted to this bundle


def test_another_gate(analyzer):
    gate = Gate(least_size_px=100.0)
    (reading,) = analyzer(gate).read(frame(90)).readings
    assert reading.quality.below == ("small",)
    assert reading.quality.size_px == pytest.approx(90 * 0.36, abs=2)


def test_a_face_beyond_the_edge_of_the_frame(analyzer):
    (reading,) = (
        analyzer().read(frame(90), faces=[Face((-45.0, 0.0, 45.0, 90.0), None, 1.0)]).readings
    )
    assert reading.quality.below == ("cut",)
