"""The lists that every array and text of the project is ordered by."""

from __future__ import annotations

import re

import pytest

from feallm.runtime.contract import aus
from feallm.runtime.contract.aus import AU_BY_KEY, AU_INDEX, AU_KEYS, AUS, intensity_letter
from feallm.runtime.contract.expressions import (
    EXPRESSION_INDEX,
    EXPRESSIONS,
    PATTERNS,
    speaking_for,
)
from feallm.runtime.contract.regions import REGION_NAMES

NUMBERS = (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 18, 20, 23, 24, 25, 26, 28, 43)


def test_the_twenty_in_order():
    assert tuple(au.number for au in AUS) == NUMBERS
    assert AU_KEYS == tuple(f"AU{n}" for n in NUMBERS)
    assert [AU_INDEX[key] for key in AU_KEYS] == list(range(aus.N_AUS)) == list(range(20))
    assert all(AU_BY_KEY[au.key] is au for au in AUS)


@pytest.mark.parametrize("au", AUS, ids=lambda au: au.key)
def test_each_au_is_described(au):
    assert re.fullmatch("[a-z ]+", au.name) and re.fullmatch("[a-z ]+", au.movement)
    assert au.muscle
    assert au.regions and set(au.regions) <= set(REGION_NAMES)
    if au.sided:  # evidence on one side has its mirror image
        mirrored = {name.replace("_left", "_RIGHT").replace("_right", "_left").lower()
                    for name in au.regions}  # fmt: skip
        assert mirrored == set(au.regions)


def test_no_two_are_called_the_same():
    for field in ("name", "movement", "key"):
        assert len({getattr(au, field) for au in AUS}) == 20


@pytest.mark.parametrize(
    ("intensity", "letter"),
    [(-1, ""), (0, ""), (0.4, ""), (0.6, "A"), (1, "A"), (2.2, "B"), (3, "C"), (4.4, "D"),
     (4.6, "E"), (5, "E"), (9, "E")],
)  # fmt: skip
def test_letters(intensity, letter):
    assert intensity_letter(intensity) == letter


def test_the_eight_expressions_in_the_order_of_the_votes():
    assert EXPRESSIONS == (
        "neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt",
    )  # fmt: skip
    assert [EXPRESSION_INDEX[name] for name in EXPRESSIONS] == list(range(8))


def test_patterns_are_made_of_known_aus():
    assert tuple(PATTERNS) == EXPRESSIONS
    for name, pattern in PATTERNS.items():
        keys = (*pattern.core, *pattern.support)
        assert set(keys) <= set(AU_KEYS)
        assert len(set(keys)) == len(keys)
        assert list(pattern.core) == sorted(pattern.core, key=AU_INDEX.__getitem__)
        assert (pattern.core == ()) == (name == "neutral")
        if pattern.core:
            assert 1 <= pattern.enough <= len(pattern.core)


@pytest.mark.parametrize(
    ("expression", "present", "one_sided", "core", "support"),
    [
        ("happiness", ["AU25", "AU12", "AU4"], [], ("AU12",), ("AU25",)),
        ("surprise", ["AU26", "AU5", "AU2", "AU1"], [], ("AU1", "AU2", "AU5", "AU26"), ()),
        ("neutral", ["AU12"], [], (), ()),
        ("contempt", ["AU12", "AU14"], [], (), ()),
        ("contempt", ["AU12", "AU14"], ["AU14"], ("AU14",), ()),
        ("contempt", ["AU12"], ["AU14"], (), ()),
        ("fear", [], [], (), ()),
    ],
)
def test_what_speaks_for_an_expression(expression, present, one_sided, core, support):
    assert speaking_for(expression, present, one_sided) == (core, support)
