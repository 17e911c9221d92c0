"""What sessions have in common whose engine, unlike llama.cpp, knows neither text nor grammar."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from feallm.runtime.contract.errors import BackendError

if TYPE_CHECKING:
    from feallm.runtime.backends.tokens import Tokens


def finite_rows(embeddings: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """Visual tokens (N, width) as float32, rows end to end; `BackendError` for another shape and
    for what is not finite, which engines answer without an error."""
    rows = np.ascontiguousarray(embeddings, np.float32)
    if rows.ndim != 2 or rows.shape[1] != width:
        raise BackendError(f"expected visual tokens (N, {width}), found {rows.shape}")
    if not np.isfinite(rows).all():
        raise BackendError("visual tokens are not finite")
    return rows


class TextSession:
    """Text in and out by a tokenizer beside the model, and room for so many tokens."""

    provider: str
    width: int
    context: int
    vocabulary: int
    _tokens: Tokens
    _at: int
    _logits: NDArray[np.float32] | None = None

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text; names of special tokens in it are plain text."""
        return self._tokens.encode(text)

    def piece(self, token: int) -> bytes:
        """Bytes of a token; empty for special ones."""
        return self._tokens.piece(token)

    def feed(self, tokens: list[int]) -> None:
        """Append tokens; logits are kept of the last one."""
        raise NotImplementedError  # each engine's own

    def logits(self) -> NDArray[np.float32]:
        """Logits (vocabulary,) after the last token."""
        self._check_open()
        assert self._logits is not None  # the opening token left some
        return self._logits.copy()

    def generate(self, limit: int, grammar: str | None = None) -> Iterator[bytes]:
        """Greedy pieces of the answer within a GBNF grammar, until its end or `limit` tokens."""
        from feallm.runtime.backends import guide

        return guide.generate(self, self._tokens, limit, grammar)

    def _check_open(self) -> None:
        raise NotImplementedError

    def _check_known(self, tokens: Sequence[int]) -> None:
        if unknown := [token for token in tokens if not 0 <= token < self.vocabulary]:
            raise BackendError(f"no token {unknown[0]} among the model's {self.vocabulary}")

    def _check_room(self, count: int) -> None:
        """Before anything is read: a place beyond the states would be lost without a word."""
        self._check_open()
        if count < 1:
            raise BackendError("no tokens to read")
        if self._at + count > self.context:
            raise BackendError(f"more than {self.context} tokens in one answer")
