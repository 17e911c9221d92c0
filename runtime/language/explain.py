"""Ask the language model about a face, and let through only what the readings bear out."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from feallm.runtime.backends.choose import choose, open_language
from feallm.runtime.bundle.open import Bundle
from feallm.runtime.contract.errors import BackendError
from feallm.runtime.contract.reading import Explanation, Reading
from feallm.runtime.language import check, template
from feallm.runtime.language.grammar import answer_grammar


class Speaker:
    """A bundle's language model. It reads visual tokens and a question, never the readings."""

    def __init__(
        self, bundle: Bundle, *, engine: str | None = None, threads: int | None = None
    ) -> None:
        """`engine`: one of `choose.ENGINES` or an artifact's name; else the bundle's best here."""
        manifest, language = bundle.manifest, bundle.manifest.language
        if language is None:
            raise BackendError(f"{bundle.root}: this bundle has no language model")
        self._language = language
        self.choice = choose(manifest.artifacts, language.artifacts, engine)
        self._session = open_language(
            bundle.file(self.choice.artifact),
            self.choice.engine,
            language,
            tokenizer=bundle.file(language.tokenizer) if language.tokenizer else None,
            profile=manifest.profile,
            threads=threads,
        )
        self._question = self._session.tokenize(language.question + "\n")
        self._grammar = answer_grammar(bundle.manifest.aus_trained)
        self.last_first_word_ms: float | None = None
        self.last_tokens_per_s: float | None = None

    def say(self, tokens: NDArray[np.float32], *, free: bool = False) -> str:
        """The model's own text for visual tokens (N, width); `free` leaves the grammar out."""
        expected = (self._language.visual_tokens, self._language.width)
        if tokens.shape != expected:
            raise BackendError(f"expected visual tokens {expected}, found {tokens.shape}")
        start = time.perf_counter()
        self._session.restart()
        self._session.see(tokens)
        self._session.feed(self._question)
        pieces: list[bytes] = []
        first = start
        grammar = None if free else self._grammar
        for piece in self._session.generate(self._language.max_new_tokens, grammar):
            if not pieces:
                first = time.perf_counter()
                self.last_first_word_ms = (first - start) * 1e3
            pieces.append(piece)
        spent = time.perf_counter() - first
        self.last_tokens_per_s = (len(pieces) - 1) / spent if len(pieces) > 1 else None
        return b"".join(pieces).decode("utf-8", "replace")

    def explain(self, tokens: NDArray[np.float32], reading: Reading) -> Explanation:
        """The model's words where they hold, else the template's with the reason."""
        try:
            text = self.say(tokens)
        except BackendError as error:
            return template.explain(reading, error.message)
        if (wrong := check.fault(text, reading)) is not None:
            return template.explain(reading, wrong)
        claims = check.parse(text)
        listed: Sequence[str] = [key for key, _ in claims.aus] if claims else []
        return Explanation(text.strip(), tuple(listed), "model")

    @property
    def provider(self) -> str:
        """What really runs the model."""
        return self._session.provider

    def close(self) -> None:
        """Give the model's memory back."""
        self._session.close()
