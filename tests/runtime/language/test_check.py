"""Every kind of false claim is seen; nothing that is right is refused."""

from __future__ import annotations

import pytest

from feallm.runtime.contract.aus import AUS
from feallm.runtime.contract.expressions import EXPRESSIONS
from feallm.runtime.language import check, template, wording

NOT_ITS_LIST = "does not follow from its list"
SMILE = (
    "AUs: AU6 cheek raiser (slight), AU12 lip corner puller (strong), AU25 lips part (clear)\n"
    "Expression: happiness\n"
    "Why: The cheeks are raised (AU6), the lip corners are pulled up (AU12) and the lips are parted"
    " (AU25); this is the pattern called happiness."
)
SMILE_READING = {"AU6": 1.0, "AU12": 4.0, "AU25": 2.5}


@pytest.fixture
def smile(reading_of):
    return reading_of("happiness", **SMILE_READING)


@pytest.mark.parametrize("seed", range(150))
def test_right_answers_pass(random_reading, seed):
    reading = random_reading(seed)
    aus = wording.named([au for au in reading.aus.values() if au is not None])
    for k in range(4):
        text = wording.answer(aus, reading.expression.top, lambda o, k=k: o[k % len(o)])
        assert check.fault(text, reading) is None, text
    assert check.fault(template.explain(reading, "").text, reading) is None


def test_the_claims_of_an_answer():
    claims = check.parse(SMILE)
    assert claims is not None
    assert claims.aus == (("AU6", "slight"), ("AU12", "strong"), ("AU25", "clear"))
    assert claims.expression == "happiness"
    assert claims.why.startswith("The cheeks") and claims.why.endswith(".")
    assert check.parse(f"\n {SMILE} \n") == claims


def test_fewer_may_be_named_than_were_measured(smile):
    text = (
        "AUs: AU12 lip corner puller (strong)\nExpression: happiness\n"
        "Why: The lip corners are pulled up (AU12); this is the pattern called happiness."
    )
    assert check.fault(text, smile) is None


@pytest.mark.parametrize("word", ["slight", "clear", "strong"])
@pytest.mark.parametrize("intensity", [0.0, 1.9, 2.0, 3.4, 3.5, 5.0])
def test_a_degree_may_be_one_step_off(reading_of, word, intensity):
    reading = reading_of("happiness", AU12=intensity)
    text = (
        f"AUs: AU12 lip corner puller ({word})\nExpression: happiness\n"
        "Why: The lip corners are pulled up (AU12); this is the pattern called happiness."
    )
    steps = ("slight", "clear", "strong")
    apart = abs(steps.index(word) - steps.index(wording.degree(intensity)))
    assert (check.fault(text, reading) is None) == (apart <= 1)


FALSE = {
    "nothing": ("", "form"),
    "talk": ("What a nice smile!", "form"),
    "another number": (SMILE.replace("AU6", "AU8"), "form"),
    "another name": (SMILE.replace("cheek raiser", "lid tightener"), "form"),
    "another degree": (SMILE.replace("(strong)", "(huge)"), "form"),
    "no degree": (SMILE.replace(" (strong)", ""), "form"),
    "another expression's name": (SMILE.replace("n: happiness", "n: joy"), "form"),
    "lines in another order": ("\n".join(reversed(SMILE.split("\n"))), "form"),
    "no reason": (SMILE.split("\nWhy")[0], "form"),
    "cut in its list": (SMILE[:60], "form"),
    "cut in its reason": (SMILE[:-20], NOT_ITS_LIST),
    "said twice": (f"{SMILE}\n{SMILE}", ""),
    "wrong expression": (SMILE.replace("happiness", "anger"), "the model said anger, the heads"),
    "absent in the list": (
        SMILE.replace("\nExp", ", AU26 jaw drop (slight)\nExp"),
        "named AU26, which was not measured present",
    ),
    "absent in the reason": (SMILE.replace("(AU6)", "(AU7)"), "named AU7, which was not"),
    "absent and unknown": (SMILE.replace("(AU6)", "(AU99)"), "named AU99, which was not"),
    "absent by its movement": (
        SMILE.replace("The cheeks are raised (AU6)", "The inner brows are raised"),
        "named AU1, which was not",
    ),
    "absent by its name": (
        SMILE.replace("; this", " and eyes closed; this"),
        "named AU43, which was not",
    ),
    "absent by a spaced number": (SMILE.replace("(AU6)", "(AU 7)"), ""),
    "absent by a small number": (SMILE.replace("(AU6)", "(au7)"), ""),
    "absent by a bare number": (
        SMILE.replace("(AU25);", "(AU25), the measured action unit 26 is active;"),
        NOT_ITS_LIST,
    ),
    "twice": (
        SMILE.replace("AU25 lips part", "AU12 lip corner puller (strong), AU25 lips part"),
        "twice or out of order",
    ),
    "unordered": (
        SMILE.replace("AU6 cheek raiser (slight), AU12 lip corner puller (strong)",
                      "AU12 lip corner puller (strong), AU6 cheek raiser (slight)"),
        "twice or out of order",
    ),
    "in the reason alone": (
        SMILE.replace("AU6 cheek raiser (slight), ", ""),
        "reason named AU6, which its list does not",
    ),
    "another expression in the reason": (
        SMILE.replace("called happiness", "called anger"),
        "spoke of anger",
    ),
    "another expression at a beginning": (f"{SMILE} Anger reads as anger.", "spoke of anger"),
    "a capital other expression": (f"{SMILE} Fear as well.", "spoke of fear"),
    "degree off by two": (SMILE.replace("(slight)", "(strong)"), "called AU6 strong"),
    "a feeling": (SMILE.replace("this is", "this person is glad and"), NOT_ITS_LIST),
    "a false sentence of true words": (SMILE.replace("are pulled", "are not pulled"), NOT_ITS_LIST),
    "none of them": (
        "AUs: none\nExpression: happiness\nWhy: The measured action units do not show happiness;"
        " it is read from the face as a whole.",
        "none",
    ),
    "denied after the list": (
        SMILE.split("Why:")[0] + "Why: None of the measured action units is active; this reads as"
        " happiness.",
        "",
    ),
    "a capital denial": (
        SMILE.split("Why:")[0] + "Why: The lips are parted (AU25). Do not show happiness.",
        "",
    ),
    "a pattern denied that is there": (
        SMILE.split("Why:")[0] + "Why: The lip corners are pulled up (AU12), which is not part of"
        " the pattern of happiness; the word rests on the face as a whole.",
        "",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "words"), FALSE.values(), ids=FALSE.keys())
def test_false_claims_are_seen(smile, text, words):
    assert check.fault(SMILE, smile) is None
    fault = check.fault(text, smile)
    assert fault is not None
    assert words in fault and "\n" not in fault


@pytest.mark.parametrize("au", AUS, ids=lambda au: au.key)
@pytest.mark.parametrize("how", ["{key}", "{key} {name}", "{name}", "the {name}", "{movement}"])
def test_each_au_is_heard_however_it_is_said(au, how):
    said = how.format(key=au.key, name=au.name, movement=au.movement)
    for text in (f"{said}.", f"The lips and {said}, too.", said.capitalize()):
        if how == "{key}" and text.startswith("Au"):
            continue  # refused as an unknown word
        assert check.spoken(text) == {au.key}


def test_an_au_that_was_not_trained_is_not_present(reading_of):
    reading = reading_of("happiness", trained=("AU12",), AU12=4.0)
    text = template.explain(reading_of("happiness", AU12=4.0, AU25=4.0), "").text
    assert "AU25" in (check.fault(text, reading) or "")


@pytest.mark.parametrize(
    "expression", [e for e in EXPRESSIONS if e not in ("neutral", "happiness")]
)
def test_a_pattern_that_is_not_there_is_not_called_on(reading_of, expression):
    reading = reading_of(expression, AU28=3.0)
    text = (
        f"AUs: AU28 lip suck (clear)\nExpression: {expression}\n"
        f"Why: The lips are sucked in (AU28); this is the pattern called {expression}."
    )
    assert check.fault(text, reading) is not None
    again = text.replace("; this is", ". This is")
    assert check.fault(again, reading) is not None


def test_contempt_on_both_sides_is_no_pattern(reading_of):
    text = (
        "AUs: AU12 lip corner puller (strong)\nExpression: contempt\n"
        "Why: The lip corners are pulled up (AU12); this is the pattern called contempt."
    )
    assert check.fault(text, reading_of("contempt", AU12=(4.0, 0.5))) is None
    assert check.fault(text, reading_of("contempt", AU12=(4.0, 3.9))) is not None


def test_neutral_may_not_pass_over_what_was_measured(reading_of):
    """ "Nothing else is seen" is false when the list leaves out a measured AU."""
    reading = reading_of("neutral", AU2=2.5, AU25=2.5)
    text = (
        "AUs: AU2 outer brow raiser (clear)\nExpression: neutral\n"
        "Why: The outer brows are raised (AU2); nothing else is seen, which reads as neutral."
    )
    assert "passed over" in (check.fault(text, reading) or "")
    assert check.fault(text, reading_of("neutral", AU2=2.5)) is None
