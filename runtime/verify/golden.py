"""Golden outputs: what a float model answered on fixed pictures.

The pictures are held too, whole frames (a face each) and crops, so that a device checks detector,
crop, colour order, eyes and words against the same thing. `golden_file` reads and writes them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from feallm.runtime.backends.base import AU_PROBABILITY, EXPRESSION, TOKENS
from feallm.runtime.contract.manifest import Share

FILE = "golden.npz"
"""Of a bundle."""
LIKELIEST = 16
"""Tokens kept of each place, of 768; divergences come out 2 % below those of all tokens."""


Floats = NDArray[np.float32]
Arrays = dict[str, NDArray[Any]]


class Facts(BaseModel):
    """What answered."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    model: str  # the checkpoint's size
    checkpoint_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    device: str  # "cpu", or the name of a GPU
    dtype: Literal["float32", "float64"]
    settings: dict[str, str]  # threads, oneDNN, processor
    versions: dict[str, str]
    seed: int  # nothing is drawn: answers are greedy; pictures that were chosen, by this
    pictures: tuple[str, ...]  # sources: names and sha256
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]  # of the pictures, `Golden.pictures`
    command: str
    aus_trained: tuple[str, ...]
    thresholds: dict[str, Share]
    question: str = ""


@dataclass(frozen=True, slots=True)
class Words:
    """M answers. `begins` (M+1): where each begins among the T tokens of all."""

    spoken: NDArray[np.int64]
    question: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]
    said: tuple[str, ...]
    top: NDArray[np.int64]  # (T, K)
    logit: Floats  # (T, K)
    total: Floats  # (T,)
    cut: tuple[tuple[int, ...], ...] = ()  # tokens of each text, as the model's own tokenizer cuts

    @property
    def begins(self) -> NDArray[np.int64]:
        """(M+1,)"""
        return np.cumsum([0, *map(len, self.answers)])


@dataclass(frozen=True, slots=True)
class Golden:
    """Pictures and answers; N crops, of which the first F are of frames."""

    facts: Facts
    frames: tuple[bytes, ...]
    frame_matrix: NDArray[np.float64]
    frame_au: Floats
    frame_expression: Floats
    crops: NDArray[np.uint8]  # (N, H, W, 3) RGB
    outputs: dict[str, Floats]
    au: Floats
    expression: NDArray[np.int64]
    words: Words | None = None
    faults: dict[str, Floats] = field(default_factory=dict)  # (R, values), see `causes`
    layers: Arrays = field(default_factory=dict)  # see `trace`

    def __len__(self) -> int:
        return len(self.crops)

    def frame(self, number: int) -> NDArray[np.uint8]:
        """A frame (H, W, 3) RGB."""
        return decoded(self.frames[number], f"frame {number}")

    def pictures_sha256(self) -> str:
        """Names the set: pictures alone, whoever answered."""
        return hash_of(self.frames, self.crops)

    def few(self, count: int) -> Golden:
        """`count` faces spread over the set, with what belongs to them."""
        frames, n = len(self.frames), len(self)
        if count >= n:
            return self
        rows = np.linspace(0, (frames or n) - 1, count).astype(int) if count else np.zeros(0, int)
        rows = np.unique(rows)
        kept = [int(row) for row in rows if row < frames]
        return replace(
            self,
            frames=tuple(self.frames[row] for row in kept),
            frame_matrix=self.frame_matrix[kept],
            frame_au=self.frame_au[kept],
            frame_expression=self.frame_expression[kept],
            crops=self.crops[rows],
            outputs={name: value[rows] for name, value in self.outputs.items()},
            au=self.au[rows],
            expression=self.expression[rows],
            words=None if self.words is None else _some(self.words, rows),
            faults={},
            layers={},
        )


def _some(words: Words, rows: NDArray[np.int64]) -> Words | None:
    """The answers about these crops, which are numbered anew."""
    place = {int(row): k for k, row in enumerate(rows)}
    chosen = [m for m, row in enumerate(words.spoken.tolist()) if row in place]
    if not chosen:
        return None
    begins = words.begins
    tokens = np.concatenate([np.arange(begins[m], begins[m + 1]) for m in chosen])
    return replace(
        words,
        spoken=np.array([place[int(words.spoken[m])] for m in chosen], np.int64),
        answers=tuple(words.answers[m] for m in chosen),
        said=tuple(words.said[m] for m in chosen),
        cut=tuple(words.cut[m] for m in chosen) if words.cut else (),
        top=words.top[tokens],
        logit=words.logit[tokens],
        total=words.total[tokens],
    )


def hash_of(frames: Sequence[bytes], crops: NDArray[np.uint8]) -> str:
    """sha256 over frames as they are encoded, and pixels of crops."""
    hasher = hashlib.sha256()
    for part in (*frames, np.ascontiguousarray(crops).tobytes()):
        hasher.update(len(part).to_bytes(8, "little"))
        hasher.update(part)
    return hasher.hexdigest()


def decoded(data: bytes, what: str) -> NDArray[np.uint8]:
    """(H, W, 3) RGB."""
    found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if found is None:
        raise ValueError(f"{what} cannot be decoded")
    return np.asarray(cv2.cvtColor(found, cv2.COLOR_BGR2RGB), np.uint8)


def rounded(values: Floats) -> Floats:
    """To 17 bits of mantissa, four millionths: what is no number's own packs no smaller."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    kept = (bits + 0x20 + ((bits >> 6) & 1) - 1) & 0xFFFFFFC0
    found: Floats = kept.astype(np.uint32).view(np.float32)
    return found


VECTOR = (AU_PROBABILITY, EXPRESSION, TOKENS)
"""What a fault is known by: `fingerprint`."""


def fingerprint(outputs: Mapping[str, Floats]) -> Floats:
    """(N, values): what the outputs of crops are, short enough to be kept for every known fault:
    probabilities, scores, and every 64th value of the tokens."""
    rows = [outputs[name].reshape(len(outputs[name]), -1) for name in VECTOR]
    return np.concatenate([rows[0], rows[1], rows[2][:, ::64]], 1, dtype=np.float32)
