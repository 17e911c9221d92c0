"""The same explanation without a language model, worded by rule from the reading itself."""

from __future__ import annotations

from dataclasses import replace

from feallm.runtime.contract.reading import Explanation, Reading
from feallm.runtime.language import wording


def explain(reading: Reading, why: str) -> Explanation:
    """A template's explanation of a reading; `why` says what kept the model's own words back."""
    aus = wording.named([au for au in reading.aus.values() if au is not None])
    text = wording.au_line(aus)
    if reading.expression is not None:
        text = wording.answer(aus, reading.expression.top, wording.first)
    return Explanation(text, reading.present, "template", why)


def with_care(explanation: Explanation, reading: Reading) -> Explanation:
    """The explanation, whoever wrote it, of a reading as sure as its quality lets it be: of a
    marked one the first line is the mark."""
    if reading.quality is None or not reading.quality.below:
        return explanation
    return replace(
        explanation, text=f"{wording.care_line(reading.quality.below)}\n{explanation.text}"
    )
