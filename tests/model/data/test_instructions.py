"""Instruction texts: their three families, what they may name, and their tokens."""

import numpy as np
from tokenizers import Tokenizer

from feallm.model.data import instructions
from feallm.runtime.contract.aus import N_AUS
from feallm.runtime.language import check, wording

CHANCES = np.full((8, N_AUS), 0.5)


def turns(tiny, count=400):
    rng = np.random.default_rng(0)
    for _ in range(count):
        aus, expression = instructions.imagined(tiny.TRAINED, CHANCES, rng)
        yield aus, expression, instructions.turn(aus, expression, rng)


def test_whole_answers_parse_to_what_they_were_made_of(tiny):
    families = {"whole": 0, "aus": 0, "expression": 0}
    for aus, expression, turn in turns(tiny):
        assert {au.key for au in aus} <= set(tiny.TRAINED)
        if turn.question in wording.QUESTIONS:
            families["whole"] += 1
            claims = check.parse(turn.answer)
            assert claims.expression == expression
            assert claims.aus == tuple((au.key, au.degree) for au in aus)
        elif turn.question in wording.AU_QUESTIONS:
            families["aus"] += 1
            assert turn.answer == wording.au_line(aus)
        else:
            families["expression"] += 1
            assert turn.question in wording.EXPRESSION_QUESTIONS
            assert turn.answer == f"Expression: {expression}"
    assert 300 < families["whole"] < 370 and min(families.values()) > 10


def test_the_devices_question_is_asked_most(tiny):
    asked = [turn.question for _, _, turn in turns(tiny)]
    assert asked.count(wording.QUESTIONS[0]) > len(asked) / 3


def test_the_same_randomness_gives_the_same_texts(tiny):
    assert list(turns(tiny, 30)) == list(turns(tiny, 30))


def test_tokens_end_with_the_end(tiny):
    tokenizer = Tokenizer.from_str(tiny.tokenizer_json())
    question, answer = instructions.encode(tokenizer, "Why?", "Because.")
    assert tokenizer.decode(question) == "Why?\n"
    assert answer[-1] == tokenizer.token_to_id("<eos>")
    assert tokenizer.decode(answer[:-1]) == "Because."
