"""The gate: which measures mark a face, and on which side of a limit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from feallm.runtime.contract.quality import BELOW, Gate, Quality

GOOD = Quality(30.0, 0.3, 5.0, -5.0, 0.02)
GATE = Gate(10.0, 0.5, 15.0, 40.0, 25.0, 0.15, 0.1)


def below(quality=GOOD, *, light=100.0, cut=0.0):
    return GATE.below(quality, light=light, cut=cut)


def test_a_good_face_is_not_marked():
    assert below() == ()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"size_px": 9.9}, "small"),
        ({"blur": 0.51}, "blurred"),
        ({"yaw_deg": 41.0}, "turned"),
        ({"yaw_deg": -41.0}, "turned"),
        ({"pitch_deg": 26.0}, "turned"),
        ({"pitch_deg": -26.0}, "turned"),
        ({"occluded": 0.16}, "occluded"),
    ],
)
def test_beyond_a_limit(change, reason):
    assert below(replace(GOOD, **change)) == (reason,)


@pytest.mark.parametrize(
    "change",
    [{"size_px": 10.0}, {"blur": 0.5}, {"yaw_deg": -40.0}, {"pitch_deg": 25.0}, {"occluded": 0.15}],
)
def test_on_a_limit_is_good_enough(change):
    assert below(replace(GOOD, **change)) == ()


def test_dark_and_cut():
    assert below(light=14.9) == ("dark",) and below(light=15.0) == ()
    assert below(cut=0.11) == ("cut",) and below(cut=0.1) == ()


def test_what_was_not_measured_marks_nothing():
    unknown = replace(GOOD, yaw_deg=None, pitch_deg=None, occluded=None)
    assert below(unknown) == ()


def test_all_reasons_in_their_order():
    assert below(Quality(1.0, 1.0, 90.0, 90.0, 1.0), light=0.0, cut=1.0) == BELOW
