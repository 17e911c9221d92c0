"""The model's own words where they hold; else the template's, and why."""

from __future__ import annotations

import numpy as np
import pytest

from feallm.runtime.backends import llama
from feallm.runtime.bundle.open import open_bundle
from feallm.runtime.contract.errors import BackendError
from feallm.runtime.language import template
from feallm.runtime.language.explain import Speaker

needs_llama = pytest.mark.skipif(llama.available() is not None, reason=str(llama.available()))


@pytest.fixture(scope="module")
def speaker(toy_bundle_with_words):
    speaker = Speaker(open_bundle(toy_bundle_with_words))
    yield speaker
    speaker.close()


def tokens(seed=0, count=17):
    return np.random.default_rng(seed).normal(size=(count, 256)).astype(np.float32)


def test_a_bundle_without_a_language_model(toy_bundle):
    with pytest.raises(BackendError, match="no language model"):
        Speaker(open_bundle(toy_bundle))


@needs_llama
def test_the_form_is_fixed_unless_left_free(speaker):
    assert speaker.say(tokens()).startswith("AUs: ")
    assert not speaker.say(tokens(), free=True).startswith("AUs: ")
    assert speaker.last_first_word_ms > 0 and speaker.last_tokens_per_s > 0


@needs_llama
def test_the_text_follows_from_the_visual_tokens_alone(speaker):
    first = [speaker.say(tokens(seed)) for seed in range(4)]
    assert len(set(first)) > 1
    assert [speaker.say(tokens(seed)) for seed in range(4)] == first


@needs_llama
def test_words_that_hold_are_the_models_own(speaker, reading_of, monkeypatch):
    reading = reading_of("happiness", AU12=4.0, AU25=2.0)
    text = template.explain(reading, "").text
    monkeypatch.setattr(speaker, "say", lambda tokens: f"{text}\n")
    explanation = speaker.explain(tokens(), reading)
    assert explanation.source == "model" and explanation.why_template is None
    assert explanation.text == text
    assert explanation.aus == ("AU12", "AU25")


@needs_llama
def test_words_that_do_not_hold_are_replaced(speaker, reading_of, monkeypatch):
    said = template.explain(reading_of("happiness", AU12=4.0, AU26=2.0), "").text
    monkeypatch.setattr(speaker, "say", lambda tokens: said)
    explanation = speaker.explain(tokens(), reading_of("happiness", AU12=4.0))
    assert explanation.source == "template"
    assert explanation.aus == ("AU12",) and "AU26" not in explanation.text
    assert explanation.why_template == "the model named AU26, which was not measured present"


@needs_llama
@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (np.full((17, 256), np.nan, np.float32), "not finite"),
        (np.zeros((16, 256), np.float32), "expected visual tokens"),
        (np.zeros((17, 128), np.float32), "expected visual tokens"),
        (np.zeros((1000, 256), np.float32), "expected visual tokens"),
    ],
    ids=["nan", "few", "narrow", "many"],
)
def test_bad_visual_tokens_end_in_the_template(speaker, reading_of, bad, words):
    explanation = speaker.explain(bad, reading_of("happiness", AU12=4.0))
    assert explanation.source == "template"
    assert words in explanation.why_template
    assert speaker.say(tokens())  # and the next face is asked about as before
