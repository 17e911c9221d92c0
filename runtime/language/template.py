"""The same explanation without a language model, worded by rule from the reading itself."""

from __future__ import annotations

from feallm.runtime.contract.reading import Explanation, Reading
from feallm.runtime.language import wording


def explain(reading: Reading, why: str) -> Explanation:
    """A template's explanation of a reading; `why` says what kept the model's own words back."""
    aus = wording.named([au for au in reading.aus.values() if au is not None])
    text = wording.au_line(aus)
    if reading.expression is not None:
        text = wording.answer(aus, reading.expression.top, wording.first)
    return Explanation(text, reading.present, "template", why)
