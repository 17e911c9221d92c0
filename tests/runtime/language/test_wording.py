"""How answers are worded: by the readings alone, AUs first."""

from __future__ import annotations

import re
from itertools import combinations

import pytest

from feallm.runtime.contract.aus import AU_BY_KEY, AU_KEYS, AUS
from feallm.runtime.contract.expressions import EXPRESSIONS, PATTERNS
from feallm.runtime.language import template, wording
from feallm.runtime.language.wording import Named, first


def named(*keys, one_sided=()):
    return [Named(key, "clear", key in one_sided) for key in keys]


@pytest.mark.parametrize(
    ("intensity", "word"),
    [
        (0, "slight"),
        (1.99, "slight"),
        (2, "clear"),
        (3.49, "clear"),
        (3.5, "strong"),
        (5, "strong"),
    ],
)
def test_degrees(intensity, word):
    assert wording.degree(intensity) == word


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [(4, 0, True), (0, 2, True), (4, 3, False), (None, 4, False), (None, None, False)],
)
def test_one_sided(left, right, expected):
    assert wording.one_sided(left, right) is expected


def test_a_smile():
    text = wording.answer(named("AU12", "AU25"), "happiness", first)
    assert text == (
        "AUs: AU12 lip corner puller (clear), AU25 lips part (clear)\n"
        "Expression: happiness\n"
        "Why: The lip corners are pulled up (AU12) and the lips are parted (AU25);"
        " this is the pattern called happiness."
    )


def test_no_au():
    text = wording.answer([], "neutral", first)
    assert text.startswith("AUs: none\nExpression: neutral\nWhy: No measured action unit")


@pytest.mark.parametrize("expression", EXPRESSIONS)
@pytest.mark.parametrize("k", range(3))
def test_a_text_names_all_that_it_is_given_and_nothing_else(expression, k):
    def pick(options):
        return options[k % len(options)]

    for keys in [(), *((key,) for key in AU_KEYS), *combinations(AU_KEYS[::3], 3), AU_KEYS]:
        text = wording.answer(named(*keys), expression, pick)
        lines = text.split("\n")
        assert len(lines) == 3
        assert re.findall(r"AU\d+", lines[0]) == list(keys)
        assert lines[1] == f"Expression: {expression}"
        assert sorted(re.findall(r"AU\d+", lines[2])) == sorted(keys)
        for key in keys:
            assert AU_BY_KEY[key].movement in lines[2].lower()
        assert "{" not in text and "  " not in text and lines[2].endswith(".")


def test_contempt_asks_for_one_side():
    both = wording.why_line(named("AU12"), "contempt", first)
    one = wording.why_line(named("AU12", one_sided=["AU12"]), "contempt", first)
    assert "not part of the pattern" in both
    assert "this is the pattern called contempt" in one


def test_a_pattern_needs_enough_of_its_core():
    for expression, pattern in PATTERNS.items():
        if expression == "neutral":
            continue
        for count in range(len(pattern.core) + 1):
            keys = pattern.core[:count]
            text = wording.why_line(named(*keys, one_sided=keys), expression, first)
            made = "this is the pattern called" in text
            assert made == (count >= pattern.enough), (expression, keys)


def test_readings_become_names_in_order_with_their_sides(reading_of):
    reading = reading_of("contempt", AU25=1.0, AU12=(4.0, 0.5), AU1=2.5)
    aus = [au for au in reversed(reading.aus.values()) if au is not None]
    assert wording.named(aus) == (
        Named("AU1", "clear"),
        Named("AU12", "strong", one_sided=True),
        Named("AU25", "slight"),
    )


def test_movements_are_told_apart():
    """The check knows an AU by its movement: none may stand inside another's, or in a name."""
    for one, other in combinations(AUS, 2):
        assert one.movement not in other.movement and other.movement not in one.movement
        assert one.name not in other.movement and other.name not in one.movement
    for au in AUS:
        assert au.name not in au.movement


def test_every_line_that_can_be_worded_is_among_those_that_the_check_allows():
    for keys in [(), ("AU12",), ("AU6", "AU12"), ("AU25",), ("AU9",), ("AU1", "AU2")]:
        for expression in EXPRESSIONS:
            allowed = wording.why_lines(named(*keys), expression)
            for k in range(2):
                line = wording.why_line(named(*keys), expression, lambda o, k=k: o[k % len(o)])
                assert line in allowed


def test_neutral_does_not_deny_a_pattern_that_is_there():
    made = wording.why_line(named("AU1", "AU2"), "neutral", first)
    assert "makes no pattern" not in made and "nothing else" not in made
    assert "makes no pattern" in wording.why_line(named("AU2"), "neutral", first)


def test_the_template_speaks_of_what_was_measured(reading_of):
    reading = reading_of("happiness", trained=("AU1", "AU12", "AU25"), AU12=4.0, AU25=2.0)
    explanation = template.explain(reading, "no words were asked for")
    assert explanation.source == "template"
    assert explanation.aus == ("AU12", "AU25")
    assert explanation.why_template == "no words were asked for"
    assert explanation.text.startswith(
        "AUs: AU12 lip corner puller (strong), AU25 lips part (clear)"
    )
