"""Importance matrix: how much each input of each linear layer of the language model matters, which
llama.cpp weighs rounding errors by. The mean of its square over the project's conversations,
visual tokens included, under the tensor's name in the GGUF file.

Columns are inputs, so the other order of q's and k's rows in GGUF changes nothing here.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from feallm.model.language import Block, LanguageModel
from feallm.runtime.contract.errors import InputError

Importance = dict[str, NDArray[np.float32]]
"""By GGUF tensor name: (inputs,)."""

LAYERS = {
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "o": "attn_output",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}
"""Linear layers of a block: their names here and in GGUF."""

_BITS = 10


def measure(language: LanguageModel, conversations: Iterable[Tensor]) -> Importance:
    """Importance over embeddings (tokens, width) of whole conversations."""
    sums: dict[str, NDArray[np.float64]] = {}
    counts: dict[str, int] = {}

    def watch(name: str, layer: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            rows = inputs[0].detach().flatten(0, -2).double().square().sum(0).numpy()
            sums[name] = sums.get(name, np.zeros(len(rows))) + rows
            counts[name] = counts.get(name, 0) + inputs[0].shape[:-1].numel()

        return layer.register_forward_pre_hook(note)

    handles = []
    for i, block in enumerate(language.blocks):
        assert isinstance(block, Block)
        for own, name in LAYERS.items():
            handles.append(watch(f"blk.{i}.{name}.weight", getattr(block, own)))
    tied = _Tied()
    handles.append(watch("token_embd.weight", tied))
    # The table of embeddings is the last layer too; what enters it there leaves the last norm.
    handles.append(language.norm.register_forward_hook(lambda *seen: tied(seen[2])))
    try:
        with torch.no_grad():
            for one in conversations:
                language(one[None])
    finally:
        for handle in handles:
            handle.remove()
    if not sums:
        raise InputError("no conversation to measure importance on")
    return {name: _rounded(total / counts[name]) for name, total in sums.items()}


class _Tied(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        """x itself: only its hook matters."""
        return x


def _rounded(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """To ten bits: what the number of threads changes in a sum must not reach the file."""
    mantissa, exponent = np.frexp(values)
    rounded = np.ldexp(np.rint(mantissa * 2**_BITS) / 2**_BITS, exponent)
    return np.asarray(rounded, np.float32)


def save(importance: Importance, path: Path) -> None:
    """Write it as .npz; equal values give equal bytes."""
    ordered: dict[str, Any] = dict(sorted(importance.items()))
    with path.open("wb") as file:
        np.savez(file, **ordered)


def read(path: Path) -> Importance:
    """The way back from `save`; `InputError` where the file is none of its kind."""
    try:
        with path.open("rb") as file, np.load(file) as held:
            return {name: held[name].astype(np.float32) for name in held.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not a readable importance matrix: {error}") from error
