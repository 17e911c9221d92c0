"""Instruction texts, made by rule from readings: questions and AU-first answers.

The paper's three families: describe the AUs, describe the expression, explain one by the other.
No text of the paper's data is used; the words are those of `runtime.language.wording`, which the
template and the check of claims use too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from feallm.runtime.contract.aus import AU_KEYS
from feallm.runtime.contract.expressions import EXPRESSIONS
from feallm.runtime.language import wording
from feallm.runtime.language.wording import Named

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

WHOLE, AUS_ONLY = 0.84, 0.92  # cumulative shares of the families; the rest asks the expression


@dataclass(frozen=True, slots=True)
class Turn:
    """One question and its answer."""

    question: str
    answer: str


def turn(aus: Sequence[Named], expression: str, rng: np.random.Generator) -> Turn:
    """A random question about a face with these AUs and this expression, and its answer."""

    def pick(options: Sequence[str]) -> str:
        return options[int(rng.integers(len(options)))]

    family = rng.random()
    if family < WHOLE:
        # Half of the whole answers follow the question that the device asks.
        question = wording.QUESTIONS[0] if rng.random() < 0.5 else pick(wording.QUESTIONS)
        return Turn(question, wording.answer(aus, expression, pick))
    if family < AUS_ONLY:
        return Turn(pick(wording.AU_QUESTIONS), wording.au_line(aus))
    return Turn(pick(wording.EXPRESSION_QUESTIONS), wording.expression_line(expression))


def imagined(
    trained: Sequence[str], chances: NDArray[np.float64], rng: np.random.Generator
) -> tuple[tuple[Named, ...], str]:
    """AUs and expression without a face: AUs drawn one by one by `chances` (8, 20) of each
    expression, for the language model's first lessons."""
    k = int(rng.integers(len(EXPRESSIONS)))
    aus = [
        Named(key, wording.DEGREES[int(rng.integers(3))])
        for i, key in enumerate(AU_KEYS)
        if key in trained and rng.random() < chances[k, i]
    ]
    return tuple(aus), EXPRESSIONS[k]


def encode(tokenizer: Tokenizer, question: str, answer: str) -> tuple[list[int], list[int]]:
    """Tokens of the question with its line end, and of the answer with `<eos>`."""
    from feallm.model.tokenizer import EOS, special_id

    end = special_id(tokenizer, EOS)
    return tokenizer.encode(question + "\n").ids, [*tokenizer.encode(answer).ids, end]
