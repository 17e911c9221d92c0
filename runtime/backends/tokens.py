"""Text to tokens and back, for engines that know nothing of text; llama.cpp has its own.

The file is what `tokenizers` writes, a byte-level BPE. The library is imported on use: only the
backends that need it bring it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from feallm.runtime.contract.errors import BackendError

BEGIN, END = "<bos>", "<eos>"
"""Names of the tokens that open a sequence and end an answer."""


class Tokens:
    """A tokenizer file. Its special and unused tokens can neither be written nor read as text."""

    begin: int
    end: int
    vocabulary: int

    def __init__(self, path: Path) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise BackendError(
                "tokenizers is not installed", hint="pip install tokenizers"
            ) from error
        try:
            self._tokenizer: Any = Tokenizer.from_str(path.read_text(encoding="utf-8"))
        except Exception as error:  # the library raises plain Exception
            raise BackendError(f"{path}: not a readable tokenizer: {error}") from error
        self._tokenizer.encode_special_tokens = True  # what a person types ends no answer
        names: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        if missing := [name for name in (BEGIN, END) if name not in names]:
            raise BackendError(f"{path}: this tokenizer has no {' and no '.join(missing)}")
        self.begin, self.end = names[BEGIN], names[END]
        self.vocabulary = len(names)
        if sorted(names.values()) != list(range(self.vocabulary)):
            raise BackendError(f"{path}: the tokenizer's ids have gaps")
        added = self._tokenizer.get_added_tokens_decoder()
        alphabet = _alphabet()
        self._pieces = [b""] * self.vocabulary
        for name, number in names.items():
            if number not in added:
                try:
                    self._pieces[number] = bytes(alphabet[letter] for letter in name)
                except KeyError as error:
                    raise BackendError(
                        f"{path}: not a byte-level tokenizer: token {name!r}"
                    ) from error

    def encode(self, text: str) -> list[int]:
        """Token ids of a text; names of special tokens in it are plain text."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def piece(self, token: int) -> bytes:
        """Bytes of a token; empty for special and unused ones."""
        return self._pieces[token]


def _alphabet() -> dict[str, int]:
    """Byte of each letter that byte-level BPE writes it with: printable ones as themselves, the
    others, in order, from U+0100 on (the alphabet of GPT-2)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    moved = {chr(256 + k): byte for k, byte in enumerate(others)}
    return {chr(byte): byte for byte in plain} | moved
