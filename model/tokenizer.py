"""The tokenizer: byte-level BPE trained on the project's own texts.

`ByteLevel(add_prefix_space=False, use_regex=True)` is what llama.cpp calls "gpt2" with the
pre-tokenizer "gpt-2"; any other pairing gives different tokens for the same text.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
SPECIAL = (PAD, BOS, EOS)


def special_id(tokenizer: Tokenizer, token: str) -> int:
    """Id of a token that every tokenizer of the project holds."""
    number = tokenizer.token_to_id(token)
    if number is None:
        raise ValueError(f"this tokenizer has no {token}")
    return number


def train(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """A tokenizer of exactly `vocabulary` tokens; unused places are filled with fillers."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    missing = vocabulary - tokenizer.get_vocab_size()
    tokenizer.add_special_tokens([f"<unused{i}>" for i in range(missing)])
    return tokenizer
