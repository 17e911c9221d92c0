"""The One-Euro filter: against the paper's recurrence written out, and what people expect of it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from feallm.runtime.contract.aus import INTENSITY_MAX
from feallm.runtime.contract.errors import UsageError
from feallm.runtime.contract.expressions import EXPRESSIONS
from feallm.runtime.contract.reading import ExpressionReading, FrameReport
from feallm.runtime.vision.smooth import Smoother


@pytest.fixture
def face(reading_of):
    """One face with AU12 (sides apart) and AU25 (no sides) at these intensities."""

    def made(smile=1.0, lips=1.0, *, right=None, track=0, scores=None):
        right = smile if right is None else right
        found = reading_of("happiness", trained=("AU12", "AU25"), AU12=(smile, right), AU25=lips)
        if scores is not None:
            found = replace(found, expression=ExpressionReading(scores))
        return replace(found, track=track)

    return made


def report(time_s, *readings):
    return FrameReport("clip.mp4", 0, time_s, readings, "0" * 64)


def lips(found):
    return found.readings[0].aus["AU25"].intensity


def paper(times, values, min_cutoff, beta, slope_cutoff=1.0):
    """Casiez et al. (2012), algorithms 1 and 2, in scalars and with the paper's time constants."""

    def alpha(cutoff, rate):
        tau = 1.0 / (2 * math.pi * cutoff)
        return 1.0 / (1.0 + tau * rate)

    smoothed, slope, out = values[0], 0.0, [values[0]]
    for k in range(1, len(values)):
        rate = 1.0 / (times[k] - times[k - 1])
        change = (values[k] - smoothed) * rate
        a = alpha(slope_cutoff, rate)
        slope = a * change + (1 - a) * slope
        a = alpha(min_cutoff + beta * abs(slope), rate)
        smoothed = a * values[k] + (1 - a) * smoothed
        out.append(smoothed)
    return out


@pytest.mark.parametrize(("min_cutoff", "beta"), [(1.0, 0.25), (0.3, 0.0), (2.0, 3.0)])
def test_every_number_is_filtered_as_the_paper_has_it(face, min_cutoff, beta):
    rng = np.random.default_rng(4)
    times = np.cumsum(rng.uniform(0.01, 0.3, 60))  # a variable frame rate
    left, right, open_lips = (rng.uniform(1, 5, 60).round(3) for _ in range(3))
    smoother = Smoother(min_cutoff_hz=min_cutoff, beta=beta)
    found = [
        smoother.smooth(report(t, face(a, c, right=b))).readings[0].aus
        for t, a, b, c in zip(times, left, right, open_lips, strict=True)
    ]
    for values, of in (
        (left, lambda aus: aus["AU12"].left),
        (right, lambda aus: aus["AU12"].right),
        (open_lips, lambda aus: aus["AU25"].intensity),
    ):
        expected = paper(times.tolist(), values.tolist(), min_cutoff, beta)
        np.testing.assert_allclose([of(aus) for aus in found], expected, atol=1e-9)
    assert all(a["AU12"].intensity == max(a["AU12"].left, a["AU12"].right) for a in found)


def test_a_constant_stays(face):
    smoother = Smoother()
    for k in range(100):
        same = face(2.5, 1.25)
        found = smoother.smooth(report(k / 25, same)).readings[0]
        assert found.aus["AU25"].intensity == 1.25
        assert found.aus["AU12"].intensity == 2.5
        assert found.expression.scores == pytest.approx(same.expression.scores)


@pytest.mark.parametrize("rate_hz", [8, 25, 60])
def test_a_step_is_followed_within_a_fifth_of_a_second(face, rate_hz):
    smoother = Smoother()
    times = np.arange(3 * rate_hz) / rate_hz
    found = [lips(smoother.smooth(report(t, face(lips=1.0 if t < 1 else 4.0)))) for t in times]
    late = times[np.argmax(np.array(found) >= 1 + 0.9 * 3)] - 1
    assert late <= 0.2 + 1 / rate_hz
    assert max(found) <= 4.0  # no overshoot
    assert found[-1] == pytest.approx(4.0, abs=0.05)


@pytest.mark.parametrize(("rate_hz", "left"), [(10, 0.65), (25, 0.5), (60, 0.4)])
def test_jitter_falls(face, rate_hz, left):
    rng = np.random.default_rng(2)
    raw = 2 + rng.normal(0, 0.15, 400)
    smoother = Smoother()
    found = [lips(smoother.smooth(report(k / rate_hz, face(lips=v)))) for k, v in enumerate(raw)]
    assert np.std(found[20:]) < left * np.std(raw[20:])
    assert np.mean(found[20:]) == pytest.approx(2, abs=0.05)


def test_two_tracks_do_not_mix(face):
    rng = np.random.default_rng(5)
    one, two = rng.uniform(1, 2, 50), rng.uniform(4, 5, 50)
    both, alone = Smoother(), Smoother()
    for k in range(50):
        first, second = face(lips=one[k], track=3), face(lips=two[k], track=8)
        order = (first, second) if k % 2 else (second, first)
        found = {r.track: r for r in both.smooth(report(k / 25, *order)).readings}
        only = alone.smooth(report(k / 25, second)).readings[0]
        assert found[8] == only
        assert found[3].aus["AU25"].intensity < 2.1


def test_a_short_gap_is_bridged_and_a_long_one_is_not(face):
    for gap_s, bridged in ((0.9, True), (1.1, False)):
        smoother = Smoother(min_cutoff_hz=0.1, beta=0.0)
        for k in range(10):
            smoother.smooth(report(k / 25, face(lips=1.0)))
        smoother.smooth(report(9 / 25 + gap_s / 2))  # frames without a face pass in between
        found = lips(smoother.smooth(report(9 / 25 + gap_s, face(lips=4.0))))
        assert (found < 4.0) is bridged


@pytest.mark.parametrize("back_to_s", [0.0, -5.0, 0.5])
def test_time_that_goes_back_begins_anew(face, back_to_s):
    smoother = Smoother()
    for k in range(30):
        smoother.smooth(report(1 + k / 25, face(lips=1.0)))
    assert lips(smoother.smooth(report(back_to_s, face(lips=4.0)))) == 4.0
    assert 1.0 < lips(smoother.smooth(report(back_to_s + 0.04, face(lips=1.0)))) < 4.0


def test_a_frame_at_the_same_time_again(face):
    smoother = Smoother()
    smoother.smooth(report(0.0, face(lips=1.0)))
    before = lips(smoother.smooth(report(0.04, face(lips=2.0))))
    assert lips(smoother.smooth(report(0.04, face(lips=5.0)))) == before


def test_presence_and_probability_stay_as_measured(face):
    smoother = Smoother()
    smoother.smooth(report(0.0, face(smile=0.0, lips=0.0)))
    raw = face(smile=4.0, lips=4.0)
    found = smoother.smooth(report(0.01, raw)).readings[0]
    for key in ("AU12", "AU25"):
        assert found.aus[key].intensity < 4.0
        same = replace(
            found.aus[key],
            intensity=raw.aus[key].intensity,
            left=raw.aus[key].left,
            right=raw.aus[key].right,
        )
        assert same == raw.aus[key]
    assert found.present == raw.present and found.aus["AU1"] is None


def test_scores_sum_to_one_all_the_way(face):
    rng = np.random.default_rng(6)
    smoother = Smoother()
    tops = []
    for k in range(80):
        shares = rng.dirichlet(np.full(8, 0.05 if k % 20 else 5.0))
        scores = dict(zip(EXPRESSIONS, shares.tolist(), strict=True))
        found = smoother.smooth(report(k / 15, face(scores=scores))).readings[0].expression
        assert math.isclose(sum(found.scores.values()), 1)
        assert list(found.scores) == list(EXPRESSIONS) and min(found.scores.values()) >= 0
        tops.append(found.top)
    assert len(set(tops)) > 1  # it moves


def test_without_expressions_and_with_them_from_one_frame_to_the_next(face):
    smoother = Smoother()
    bare = replace(face(lips=1.0), expression=None)
    smoother.smooth(report(0.0, bare))
    assert smoother.smooth(report(0.04, bare)).readings[0].expression is None
    found = smoother.smooth(report(0.08, face(lips=4.0))).readings[0]
    assert found.expression is not None and found.aus["AU25"].intensity == 4.0


def test_intensities_stay_within_the_scale(face):
    rng = np.random.default_rng(7)
    smoother = Smoother(beta=100.0)
    for k in range(200):
        wanted = float(rng.choice([0.0, INTENSITY_MAX]))
        found = smoother.smooth(report(k / 30, face(wanted, wanted))).readings[0]
        for key in ("AU12", "AU25"):
            assert 0 <= found.aus[key].intensity <= INTENSITY_MAX


def test_what_is_forgotten_takes_no_room(face):
    smoother = Smoother()
    for track in range(5000):  # months of passers-by
        smoother.smooth(report(track * 0.5, face(track=track)))
        assert len(smoother._tracks) <= 4
    smoother.smooth(report(5000.0))
    assert not smoother._tracks


def test_the_report_is_otherwise_the_same(face):
    given = report(0.5, face(track=7))
    assert replace(Smoother().smooth(given), readings=given.readings) == given


@pytest.mark.parametrize(
    "wrong",
    [{"min_cutoff_hz": 0.0}, {"min_cutoff_hz": math.nan}, {"beta": -0.1}, {"beta": math.inf}],
)
def test_what_is_no_setting_is_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Smoother(**wrong)
