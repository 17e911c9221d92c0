"""Each measure beside a computation of another kind."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest

from feallm.runtime.backends.base import AU_PROBABILITY, AU_SIDES
from feallm.runtime.contract.aus import AU_INDEX, AU_KEYS
from feallm.runtime.verify import agree
from feallm.runtime.verify.agree import Stated, Truth

NAN = float("nan")


def test_apart_by_hand():
    gap = agree.apart(np.array([[3.0, 4.0]]), np.array([[4.0, 4.0]]))
    assert gap.max == 1
    assert gap.cosine == pytest.approx((12 + 16) / (5 * math.sqrt(32)))
    assert gap.sqnr_db == pytest.approx(10 * math.log10(32 / 1))


def test_apart_of_many_values():
    rng = np.random.default_rng(0)
    golden = rng.normal(0, 2, (6, 7, 3)).astype(np.float32)
    found = golden + rng.normal(0, 0.1, golden.shape).astype(np.float32)
    a, b = found.ravel().tolist(), golden.ravel().tolist()
    noise = sum((x - y) ** 2 for x, y in zip(a, b, strict=True))
    power = sum(y * y for y in b)
    gap = agree.apart(found, golden)
    assert gap.max == pytest.approx(max(abs(x - y) for x, y in zip(a, b, strict=True)))
    assert gap.sqnr_db == pytest.approx(10 * math.log10(power / noise))
    inner = sum(x * y for x, y in zip(a, b, strict=True))
    assert gap.cosine == pytest.approx(inner / math.sqrt(power * sum(x * x for x in a)))


@pytest.mark.parametrize(
    ("found", "golden", "sqnr_db", "cosine"),
    [
        ([1.0, -2.0], [1.0, -2.0], agree.MOST_DB, 1.0),
        ([0.0, 0.0], [0.0, 0.0], agree.MOST_DB, 1.0),
        ([1.0, 0.0], [0.0, 0.0], -agree.MOST_DB, 0.0),
        ([0.0, 0.0], [1.0, 1.0], 0.0, 0.0),
        ([-1.0, -1.0], [1.0, 1.0], 10 * math.log10(0.25), -1.0),
        ([1.0, 1e-30], [1.0, 0.0], agree.MOST_DB, 1.0),
    ],
)
def test_apart_at_the_ends(found, golden, sqnr_db, cosine):
    gap = agree.apart(np.array(found), np.array(golden))
    assert gap.sqnr_db == pytest.approx(sqnr_db) and gap.cosine == pytest.approx(cosine)


def test_large_float16_values_do_not_overflow():
    golden = np.array([60000.0, -60000.0], np.float16)
    assert agree.apart(golden, golden).cosine == pytest.approx(1)


def test_sides_are_compared_by_size():
    one, other = np.array([[[0.4, 0.6]]], np.float32), np.array([[[0.6, 0.4]]], np.float32)
    np.testing.assert_array_equal(agree.in_order(AU_SIDES, one), agree.in_order(AU_SIDES, other))
    assert (agree.in_order(AU_PROBABILITY, one) != agree.in_order(AU_PROBABILITY, other)).all()


def test_f1():
    called = np.array([[1, 0, 1], [1, 0, 0], [0, 0, 1], [1, 1, 0]], bool)
    true = np.array([[1, 0, 1], [0, 1, 1], [1, 0, 1], [1, 0, 1]], bool)
    known = np.array([[1, 1, 1], [1, 1, 1], [1, 1, 0], [1, 1, 1]], bool)
    found = agree.f1_of_aus(called, true, known, 1)
    assert found == pytest.approx({0: 2 / 3, 1: 0.0, 2: 0.5})
    assert agree.f1_of_aus(called, true, known, 3) == pytest.approx({0: 2 / 3, 2: 0.5})
    assert agree.f1_of_aus(called, true, known, 4) == {}


def test_mean_kl():
    golden = np.array([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]], np.float32)
    found = np.array([[0.25, 0.75, 0.0], [0.2, 0.3, 0.5]], np.float32)
    first = 0.5 * math.log(2) + 0.5 * math.log(0.5 / 0.75)
    assert agree.mean_kl(found, golden) == pytest.approx(first / 2, abs=1e-7)
    assert agree.mean_kl(golden, golden) == 0
    assert agree.mean_kl(found, golden) != pytest.approx(agree.mean_kl(golden, found))
    certain = np.array([[1.0, 0, 0], [0, 1, 0]], np.float32)
    assert math.isfinite(agree.mean_kl(certain, golden)), "what was thought impossible"


def test_correlation():
    rng = np.random.default_rng(1)
    a, b = rng.normal(0, 1, 30), rng.normal(0, 1, 30)
    assert agree.correlation(a, b) == pytest.approx(statistics.correlation(a.tolist(), b.tolist()))
    assert agree.correlation(2 * a + 3, a) == pytest.approx(1)
    assert math.isnan(agree.correlation(np.ones(3), a[:3]))
    assert math.isnan(agree.correlation(a[:1], b[:1]))


def anova(found, golden):
    """ICC(A,1) by the sums of squares of nested linear models, fitted by least squares."""
    count = len(found)
    values = np.concatenate([found, golden])
    rows = np.tile(np.eye(count), (2, 1))
    columns = np.repeat(np.eye(2), count, 0)

    def left(*parts):
        design = np.concatenate([np.ones((2 * count, 1)), *parts], 1)
        return float(((values - design @ np.linalg.lstsq(design, values, None)[0]) ** 2).sum())

    both = left(rows, columns)
    msr = (left(columns) - both) / (count - 1)
    msc = left(rows) - both  # one degree of freedom
    mse = both / (count - 1)
    return (msr - mse) / (msr + mse + 2 * (msc - mse) / count)


def test_icc_by_hand():
    """1 2 3 beside 2 3 4. Rows' means 1.5 2.5 3.5: MSR 2; columns' 2 and 3: MSC 1.5; MSE 0."""
    assert agree.icc_agreement(np.array([1.0, 2, 3]), np.array([2.0, 3, 4])) == pytest.approx(
        2 / (2 + 2 / 3 * 1.5)
    )


@pytest.mark.parametrize("seed", range(5))
def test_icc_against_an_analysis_of_variance(seed):
    rng = np.random.default_rng(seed)
    golden = rng.uniform(0, 5, 12)
    found = rng.uniform(0.5, 1.5) * golden + rng.normal(0.3, 0.5, 12)
    assert agree.icc_agreement(found, golden) == pytest.approx(anova(found, golden))


def test_icc_counts_a_shift_and_a_scale_which_r_does_not():
    golden = np.linspace(0, 5, 40)
    assert agree.icc_agreement(golden, golden) == pytest.approx(1)
    for found in (golden + 1, 1.5 * golden):
        assert agree.correlation(found, golden) == pytest.approx(1)
        assert agree.icc_agreement(found, golden) < 0.93


@pytest.mark.parametrize("values", [[], [1.0], [2.0, 2.0, 2.0]])
def test_icc_of_nothing_that_varies(values):
    assert math.isnan(agree.icc_agreement(np.array(values), np.array(values)))


def stated(expression, *keys):
    present = np.zeros((1, len(AU_KEYS)), bool)
    present[0, [AU_INDEX[key] for key in keys]] = True
    return Stated(present, np.array([expression]))


def truth(expression, **aus):
    intensities = np.full((1, len(AU_KEYS)), NAN, np.float32)
    for key, value in aus.items():
        intensities[0, AU_INDEX[key]] = value
    return Truth(intensities, np.array([expression]))


HAPPY, SAD, NEUTRAL, NO_FORM = 1, 2, 0, -1
SMILE = {"AU6": 2.0, "AU12": 3.0, "AU4": 0.0}


@pytest.mark.parametrize(
    ("found", "golden", "known", "no_worse", "changed"),
    [
        ("right where the golden answer is right",
         (stated(HAPPY), stated(HAPPY), truth(HAPPY)), (), True, False),
        ("wrong where the golden answer is right",
         (stated(SAD), stated(HAPPY), truth(HAPPY)), (), False, True),
        ("no form of an answer where the golden one is right",
         (stated(NO_FORM), stated(HAPPY), truth(HAPPY)), (), False, True),
        ("right where the golden answer is wrong",
         (stated(HAPPY), stated(SAD), truth(HAPPY)), (), True, True),
        ("another wrong one", (stated(SAD), stated(NEUTRAL), truth(HAPPY)), (), True, True),
        ("an AU more that is wrong",
         (stated(HAPPY, "AU6", "AU12", "AU4"), stated(HAPPY, "AU6", "AU12"), truth(HAPPY, **SMILE)),
         (), False, True),
        ("an AU less that was right",
         (stated(HAPPY, "AU6"), stated(HAPPY, "AU6", "AU12"), truth(HAPPY, **SMILE)),
         (), False, True),
        ("one wrong AU for another",
         (stated(HAPPY, "AU6"), stated(HAPPY, "AU12"), truth(HAPPY, **SMILE)), (), True, True),
        ("an AU more that is right",
         (stated(HAPPY, "AU6", "AU12"), stated(HAPPY, "AU12"), truth(HAPPY, **SMILE)),
         (), True, True),
        ("an AU of which nothing is known",
         (stated(HAPPY, "AU1"), stated(HAPPY), truth(HAPPY)), (), True, True),
        ("AUs alone are known, the expression is another",
         (stated(SAD, "AU12"), stated(HAPPY, "AU12"), truth(-1, AU12=2.0)), (), True, True),
        ("better AUs, yet a worse expression",
         (stated(SAD, "AU6", "AU12"), stated(HAPPY), truth(HAPPY, **SMILE)), (), False, True),
        ("nothing is known, and the same is said",
         (stated(SAD, "AU1"), stated(SAD, "AU1"), truth(-1)), (), True, False),
        ("nothing is known, and another AU is said",
         (stated(SAD, "AU1"), stated(SAD), truth(-1)), (), False, True),
        ("nothing is known, and another expression is said",
         (stated(SAD), stated(HAPPY), truth(-1)), (), False, True),
        ("FACS A counts as there",
         (stated(HAPPY, "AU12"), stated(HAPPY), truth(-1, AU12=1.0)), (), True, True),
        ("less than that does not",
         (stated(HAPPY, "AU12"), stated(HAPPY), truth(-1, AU12=0.9)), (), False, True),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_no_worse(found, golden, known, no_worse, changed):
    told = agree.told(*golden, least=1)
    assert (bool(told.no_worse[0]), bool(told.changed[0])) == (no_worse, changed)


def test_what_is_told_of_several_faces():
    faces = [
        (stated(HAPPY, "AU12"), stated(HAPPY, "AU12"), truth(HAPPY, AU12=2.0)),
        (stated(SAD), stated(HAPPY, "AU12"), truth(HAPPY, AU12=2.0)),
        (stated(SAD, "AU12"), stated(SAD), truth(NEUTRAL, AU12=0.0)),
        (stated(SAD), stated(SAD), truth(-1)),
    ]

    def joined(kind, part):
        rows = [one[part] for one in faces]
        names = ("present", "expression") if kind is Stated else ("au", "expression")
        return kind(*(np.concatenate([getattr(row, name) for row in rows]) for name in names))

    found, golden, known = joined(Stated, 0), joined(Stated, 1), joined(Truth, 2)
    told = agree.told(found, golden, known, least=2)
    assert told.no_worse.tolist() == [True, False, False, True]
    assert told.changed.tolist() == [False, True, True, False]
    assert told.accuracy == pytest.approx((1 / 3, 2 / 3)) and told.labelled == 3
    assert told.f1 == pytest.approx((1 / 2, 1)) and told.aus == 1 and told.judged
    bare = agree.told(found, golden, Truth(np.full((4, 20), NAN, np.float32), np.full(4, -1)), 1)
    assert bare.accuracy is None and bare.f1 is None and not bare.judged


def softmax(row):
    most = max(row)
    shares = [math.exp(value - most) for value in row]
    return [share / sum(shares) for share in shares]


@pytest.fixture
def logits():
    """Golden ones (40, 50) and those of an artifact."""
    rng = np.random.default_rng(6)
    golden = rng.normal(0, 4, (40, 50))
    return golden, golden + rng.normal(0, 0.3, golden.shape)


def test_divergence_of_tokens(logits):
    golden, found = logits
    expected = [
        sum(p * math.log(p / q) for p, q in zip(softmax(a), softmax(b), strict=True))
        for a, b in zip(golden.tolist(), found.tolist(), strict=True)
    ]
    np.testing.assert_allclose(agree.divergence(golden, found), expected, rtol=1e-9)
    np.testing.assert_allclose(agree.divergence(golden + 700, found - 700), expected, rtol=1e-6)


def of_likeliest(golden, found, count):
    top = np.argsort(-golden, 1)[:, :count]
    total = np.log(np.exp(golden).sum(1))
    logit = np.take_along_axis(golden, top, 1)
    return agree.divergence_of_likeliest(top, logit, total, found)


def test_divergence_of_the_likeliest(logits):
    """All of them: the true one. Fewer: never more than that, and that of the rest as one token."""
    golden, found = logits
    full = agree.divergence(golden, found)
    np.testing.assert_allclose(of_likeliest(golden, found, 50), full, atol=1e-9)
    for count in (1, 4, 16):
        part = of_likeliest(golden, found, count)
        assert (part <= full + 1e-9).all() and (part >= 0).all()
        for k in range(len(golden)):
            p, q = softmax(golden[k].tolist()), softmax(found[k].tolist())
            top = np.argsort(-golden[k])[:count].tolist()
            rest = [1 - sum(one[t] for t in top) for one in (p, q)]
            pairs = [*((p[t], q[t]) for t in top), (rest[0], rest[1])]
            expected = sum(a * math.log(a / b) for a, b in pairs)
            assert part[k] == pytest.approx(expected, abs=1e-9)
    assert of_likeliest(golden, found, 16).mean() > 0.9 * full.mean()


def test_the_likeliest_of_the_same_logits_do_not_diverge(logits):
    golden, _ = logits
    assert of_likeliest(golden, golden, 4).max() < 1e-9


def test_next_tokens():
    rng = np.random.default_rng(8)
    kl = rng.exponential(1, 2001)
    told = agree.next_tokens(kl, np.arange(2001) % 4 > 0)
    ordered = sorted(kl.tolist())
    assert told.tokens == 2001 and told.mean == pytest.approx(statistics.fmean(ordered))
    assert told.median == pytest.approx(ordered[1000]) and told.tail == pytest.approx(ordered[1998])
    assert told.same_top == pytest.approx(1500 / 2001)


def test_thresholds_of_aus_that_were_not_trained():
    least = agree.shares({"AU12": 0.5}, AU_KEYS)
    assert least[AU_INDEX["AU12"]] == 0.5
    assert (np.delete(least, AU_INDEX["AU12"]) > 1).all()
