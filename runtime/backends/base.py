"""The seam between the project and an inference library."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[np.generic]]

IMAGE = "image"
AU_PROBABILITY = "au_probability"
AU_INTENSITY = "au_intensity"
EXPRESSION = "expression"
TOKENS = "tokens"
VISION_OUTPUTS = (AU_PROBABILITY, AU_INTENSITY, EXPRESSION, TOKENS)
"""Names of the vision artifact's input, uint8 (N, H, W, 3) RGB, and outputs, float32: (N, 20),
(N, 20, 2) left and right, (N, 8), (N, visual tokens, language width). Zipped by name, never by
place: engines differ in their order."""

LANDMARKS = "landmarks"
POSE = "pose_deg"
GAZE = "gaze_deg"
AU_SIDES = "au_side_probability"
PLACE_OUTPUTS = (LANDMARKS, POSE, GAZE)
"""Outputs that a vision artifact has all of or none: (N, 68, 2) pixels of the crop, (N, 3) and
(N, 2) degrees in the order of `contract.landmarks`, of the head as it stands in the crop. One that
has them may also have `AU_SIDES` (N, 20, 2): presence on the subject's left and right, whose larger
one is `AU_PROBABILITY`."""
ALL_OUTPUTS = (*VISION_OUTPUTS, *PLACE_OUTPUTS, AU_SIDES)


class VisionBackend(Protocol):
    """Runs a vision artifact."""

    provider: str  # what really runs it

    def run(self, inputs: Arrays) -> dict[str, NDArray[np.float32]]:
        """Outputs by name; `BackendError` where the library fails."""

    def close(self) -> None:
        """Give the library's memory back."""


class LanguageBackend(Protocol):
    """A language model and one sequence: the opening token, visual tokens, then text."""

    provider: str  # what really runs it
    vocabulary: int
    width: int  # values of an embedding
    context: int  # tokens at most

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text; names of special tokens in it are plain text."""

    def piece(self, token: int) -> bytes:
        """Bytes of a token; empty for special ones."""

    def restart(self) -> None:
        """Forget the sequence and begin with the opening token."""

    def feed(self, tokens: list[int]) -> None:
        """Append tokens; logits are kept of the last one."""

    def see(self, embeddings: NDArray[np.float32]) -> None:
        """Append visual tokens (N, width) as embeddings; `BackendError` where one is not finite."""

    def logits(self) -> NDArray[np.float32]:
        """Logits (vocabulary,) after the last token."""

    def generate(self, limit: int, grammar: str | None = None) -> Iterator[bytes]:
        """Greedy pieces of the answer within a GBNF grammar, until its end or `limit` tokens."""

    def close(self) -> None:
        """Give the library's memory back; a second call does nothing."""
