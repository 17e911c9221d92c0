"""Several processes that train one network together: each draws crops of its own, and their
gradients are averaged at every step (torch.distributed; `torchrun` starts them)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed

_PATIENCE = timedelta(hours=1)
"""The others wait so long while the first scores and saves."""


@dataclass(frozen=True, slots=True)
class Team:
    """This process's place among `size`; the first one (rank 0) scores, logs and saves."""

    rank: int = 0
    size: int = 1

    @staticmethod
    def join(device: str = "cpu") -> Team:
        """The team that `torchrun` called together, or this process alone."""
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            return Team()
        if not distributed.is_initialized():
            distributed.init_process_group("gloo" if device == "cpu" else "nccl", timeout=_PATIENCE)
        return Team(distributed.get_rank(), distributed.get_world_size())

    @property
    def first(self) -> bool:
        """Whether this process speaks for the team."""
        return self.rank == 0

    def steps(self, start: int, stop: int) -> range:
        """Numbers of this process's own batches for the steps from `start` to `stop`."""
        return range(start * self.size + self.rank, stop * self.size, self.size)

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Put the mean over all processes into `grad` of each parameter that has one."""
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        distributed.all_reduce(flat)
        flat /= self.size
        parts = flat.split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view(gradient.shape))
