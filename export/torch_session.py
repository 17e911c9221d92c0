"""The float language model behind the runtime's seam: it answers as every engine is asked to."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from feallm.calibration.answers import read_on
from feallm.model.checkpoint import Checkpoint
from feallm.model.language import Block
from feallm.runtime.backends.session import TextSession, finite_rows
from feallm.runtime.backends.tokens import Tokens
from feallm.runtime.contract.errors import BackendError


class TorchSession(TextSession):
    """A checkpoint's language model and one sequence, on the device and in the type it is in."""

    provider = "torch"

    def __init__(self, checkpoint: Checkpoint) -> None:
        if checkpoint.language is None or checkpoint.tokenizer is None:
            raise BackendError("this checkpoint has no language model")
        self._model = checkpoint.language.eval()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "tokenizer.json"
            path.write_text(checkpoint.tokenizer, encoding="utf-8")
            self._tokens = Tokens(path)
        config = self._model.config
        self.width, self.context, self.vocabulary = config.width, config.context, config.vocabulary
        self._memory: list[list[Tensor]] = []
        self._at = 0
        self._fed: list[int] = []

    @property
    def begin(self) -> int:
        """The opening token."""
        return self._tokens.begin

    def restart(self) -> None:
        """Forget the sequence and begin with the opening token."""
        self._memory = [[] for _ in self._model.blocks]
        self._at, self._fed = 0, []
        self.feed([self._tokens.begin])

    def feed(self, tokens: list[int]) -> None:
        """Append tokens; logits are kept of the last one."""
        self._check_room(len(tokens))
        self._check_known(tokens)
        self._fed += tokens
        weight = self._model.embed.weight
        self._read(nn.functional.embedding(torch.tensor([tokens], device=weight.device), weight))

    def see(self, embeddings: NDArray[np.float32]) -> None:
        """Append visual tokens (N, width) as embeddings."""
        rows = finite_rows(embeddings, self.width)
        self._check_room(len(rows))
        weight = self._model.embed.weight
        self._read(torch.from_numpy(rows)[None].to(weight.device, weight.dtype))

    def answer(self, question: int, limit: int) -> list[int]:
        """Tokens that were generated after a question of so many, with the end token where the
        answer ended before `limit`."""
        said = self._fed[1 + question :]
        return said if len(said) >= limit else [*said, self._tokens.end]

    @torch.no_grad()
    def _read(self, x: Tensor) -> None:
        count, model = x.shape[1], self._model
        cos, sin = model.cos[self._at :], model.sin[self._at :]
        for block, memory in zip(model.blocks, self._memory, strict=True):
            assert isinstance(block, Block)
            x = read_on(block, x, memory, cos, sin)
        logits = nn.functional.linear(model.norm(x[:, -1]), model.embed.weight)[0]
        self._logits = logits.float().cpu().numpy()
        self._at += count

    def _check_open(self) -> None:
        """It is never closed: there is nothing to give back."""

    def close(self) -> None:
        """Nothing to give back."""
