"""The tokenizer: exactly as many tokens as asked for, and every text survives it."""

import json

import pytest
from tokenizers import Tokenizer

from feallm.model import tokenizer


def test_it_has_exactly_the_vocabulary(tiny):
    found = Tokenizer.from_str(tiny.tokenizer_json())
    assert found.get_vocab_size() == tiny.CONFIG.language.vocabulary
    assert sorted(found.get_vocab().values()) == list(range(found.get_vocab_size()))
    assert [tokenizer.special_id(found, token) for token in tokenizer.SPECIAL] == [0, 1, 2]


def test_unused_places_are_filled():
    found = tokenizer.train(["aa"], 300)
    assert found.get_vocab_size() == 300
    assert "<unused0>" in found.get_vocab()


@pytest.mark.parametrize(
    "text", ["AU12 lip corner puller (strong)", "naïve 你好 🙂\n\n  x", "", "  a"]
)
def test_every_text_survives(tiny, text):
    found = Tokenizer.from_str(tiny.tokenizer_json())
    assert found.decode(found.encode(text).ids) == text


def test_the_same_texts_give_the_same_tokenizer(tiny):
    again = tokenizer.train(tiny.texts(), tiny.CONFIG.language.vocabulary)
    assert json.loads(again.to_str()) == json.loads(tiny.tokenizer_json())


def test_a_tokenizer_without_the_token_is_refused():
    from tokenizers import models

    with pytest.raises(ValueError, match="<eos>"):
        tokenizer.special_id(Tokenizer(models.BPE()), "<eos>")
