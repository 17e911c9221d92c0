"""Thresholds of artifacts of few bits: they follow what moved, and only that."""

from __future__ import annotations

import numpy as np
import pytest

from feallm.calibration.thresholds import LEAST_NEAR, NEAR, refit
from feallm.runtime.contract.aus import AU_INDEX, AU_KEYS, N_AUS
from feallm.runtime.contract.errors import InputError

STATED = {key: 0.3 + 0.02 * k for k, key in enumerate(AU_KEYS)}


def share(logit):
    return (1 / (1 + np.exp(-logit))).astype(np.float32)


def logits(count=400, seed=0):
    return np.random.default_rng(seed).normal(-0.5, 1.5, (count, N_AUS))


def changed(exact, found, own):
    """How many decisions (20,) differ from the float network's."""
    stated, own = (np.array([t[key] for key in AU_KEYS]) for t in (STATED, own))
    return ((found >= own) != (exact >= stated)).sum(0)


def test_an_artifact_that_answers_alike_keeps_its_thresholds():
    exact = share(logits())
    assert refit(exact, STATED, exact) == pytest.approx(STATED, abs=1e-4)


@pytest.mark.parametrize("shift", [-0.8, -0.2, 0.2, 0.8])
def test_a_shift_is_undone(shift):
    exact, found = share(logits()), share(logits() + shift)
    own = refit(exact, STATED, found)
    assert changed(exact, found, STATED).sum() > 100
    assert changed(exact, found, own).sum() <= 2  # thresholds have four digits
    for key, stated in STATED.items():
        assert (own[key] > stated) == (shift > 0)


def test_on_other_faces_fewer_decisions_change_than_by_the_highest_f1():
    """The reason for the rule, on noise as coarse weights make it, without a shift to be found."""
    rng = np.random.default_rng(3)
    kept = by_f1 = 0
    for seed in range(4):
        noise = [share(logits(seed=s) + rng.normal(0, 0.3, (400, N_AUS))) for s in (seed, seed + 9)]
        exact = [share(logits(seed=s)) for s in (seed, seed + 9)]
        kept += changed(exact[1], noise[1], refit(exact[0], STATED, noise[0])).sum()
        best = {}
        for k, key in enumerate(AU_KEYS):
            true = exact[0][:, k] >= STATED[key]
            grid = STATED[key] + np.arange(-0.15, 0.151, 0.01)
            called = noise[0][:, k, None] >= grid
            f1 = 2 * (called & true[:, None]).sum(0) / (called.sum(0) + true.sum())
            best[key] = float(grid[f1.argmax()])
        by_f1 += changed(exact[1], noise[1], best).sum()
    assert kept < by_f1


def test_faces_far_from_the_threshold_have_no_say():
    true = logits()
    edge = np.log(np.array(list(STATED.values())) / (1 - np.array(list(STATED.values()))))
    far = np.abs(true - edge) > NEAR
    found = share(np.where(far, true + 3.0, true))
    assert refit(share(true), STATED, found) == pytest.approx(STATED, abs=1e-3)


@pytest.mark.parametrize(("near", "moves"), [(LEAST_NEAR - 1, False), (LEAST_NEAR, True)])
def test_too_few_faces_move_nothing(near, moves):
    key = "AU12"
    edge = np.log(STATED[key] / (1 - STATED[key]))
    true = np.full((100, N_AUS), -6.0)
    true[:near, AU_INDEX[key]] = edge + 0.1
    own = refit(share(true), STATED, share(true + 0.5))
    assert (own[key] > STATED[key] + 0.05) == moves
    assert {k: v for k, v in own.items() if k != key} == {
        k: v for k, v in STATED.items() if k != key
    }


def test_only_aus_with_a_threshold_get_one():
    exact = share(logits())
    assert list(refit(exact, {"AU4": 0.5, "AU12": 0.4}, exact)) == ["AU4", "AU12"]


def test_saturated_answers_give_a_threshold_within_bounds():
    exact = np.full((50, N_AUS), 0.5, np.float32)
    own = refit(exact, {"AU1": 0.5, "AU2": 0.5}, np.ones_like(exact))
    assert own == {"AU1": 0.999, "AU2": 0.999}


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (np.full((3, N_AUS), 0.5, "f4"), r"\(4, 20\) and \(3, 20\)"),
        (np.full((4, 19), 0.5, "f4"), r"\(4, 20\) and \(4, 19\)"),
        (np.full((4, N_AUS), np.nan, "f4"), "not finite"),
    ],
)
def test_answers_that_do_not_fit_are_refused(found, message):
    with pytest.raises(InputError, match=message):
        refit(np.full((4, N_AUS), 0.5, "f4"), STATED, found)
