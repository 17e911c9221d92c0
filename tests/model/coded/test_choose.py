"""Which photographs are worth coding: some by chance, some that a network is sure of or doubts."""

import numpy as np
import pytest

from feallm.model.coded import choose, codes


@pytest.fixture
def strength():
    """A thousand faces; the first twenty clearly have AU12, the next thirty are at its border."""
    found = np.zeros((1000, len(codes.CODED_AUS)), np.float32)
    k = codes.CODED_AUS.index("AU12")
    found[:20, k] = np.linspace(4, 3, 20)
    found[20:50, k] = 1.1
    return found


def test_a_quarter_comes_by_chance_and_the_rest_by_its_movements(strength):
    chosen = choose.choose(strength, np.arange(1000), 40, np.random.default_rng(0))
    assert len(chosen) == len(set(chosen)) == 40
    spoken = [i for i in chosen[10:] if i < 50]
    assert len(spoken) == 30
    assert 10 <= sum(i < 20 for i in spoken) <= 20  # sure ones and doubtful ones, by turns


def test_a_group_comes_once(strength):
    group = np.arange(1000) // 2
    chosen = choose.choose(strength, group, 200, np.random.default_rng(0))
    assert len({int(group[i]) for i in chosen}) == len(chosen)


def test_no_more_than_there_are():
    nothing = np.full((5, len(codes.CODED_AUS)), np.nan, np.float32)
    chosen = choose.choose(nothing, np.arange(5), 50, np.random.default_rng(0))
    assert sorted(chosen) == list(range(5))
