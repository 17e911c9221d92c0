"""Ask an artifact what the golden model was asked."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from feallm.runtime.backends.base import IMAGE, LanguageBackend, VisionBackend
from feallm.runtime.contract.errors import BackendError
from feallm.runtime.vision import decode

Floats = NDArray[np.float32]
_AT_ONCE = 16  # crops: memory stays flat


def outputs(eyes: VisionBackend, crops: NDArray[np.uint8]) -> dict[str, Floats]:
    """Outputs by name of crops (N, H, W, 3); `BackendError` where one is not finite, or is not as
    the contract has it."""
    parts = []
    for k in range(0, len(crops), _AT_ONCE):
        part = crops[k : k + _AT_ONCE]
        answer = eyes.run({IMAGE: part})
        decode.check(answer, len(part))
        parts.append(answer)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def logits(
    words: LanguageBackend, tokens: Floats, question: Sequence[int], answer: Sequence[int]
) -> Floats:
    """(tokens of the answer, vocabulary): logits that choose each, for visual tokens (N, width).

    Token by token, as answers are made: reading many at once takes other kernels.
    """
    words.restart()
    words.see(tokens)
    words.feed(list(question))
    rows = [words.logits()]
    for token in answer[:-1]:
        words.feed([token])
        rows.append(words.logits())
    found = np.stack(rows)
    if not np.isfinite(found).all():
        raise BackendError(f"{words.provider} gave logits that are not finite")
    return found


def say(
    words: LanguageBackend, tokens: Floats, question: Sequence[int], grammar: str, limit: int
) -> str:
    """The answer that a person would get."""
    words.restart()
    words.see(tokens)
    words.feed(list(question))
    return b"".join(words.generate(limit, grammar)).decode("utf-8", "replace")


class Clock:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def seconds(self) -> float:
        """Rounded to a hundredth."""
        return round(time.perf_counter() - self._start, 2)
