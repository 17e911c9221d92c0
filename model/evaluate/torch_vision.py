"""A float checkpoint behind the runtime's seam, so that it is scored by the same code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from feallm.model.checkpoint import load
from feallm.runtime.backends.base import ALL_OUTPUTS, IMAGE, Arrays


class TorchVision:
    """Runs the vision network of a checkpoint in torch, float32."""

    provider = "torch"

    def __init__(self, path: Path) -> None:
        checkpoint = load(path)
        self.network = checkpoint.vision
        self.aus_trained, self.aus_sided = checkpoint.aus_trained, checkpoint.aus_sided
        self.thresholds = checkpoint.thresholds

    @torch.no_grad()
    def run(self, inputs: Arrays) -> dict[str, NDArray[np.float32]]:
        """Outputs by name for `image` uint8 (N, H, W, 3)."""
        values = self.network(torch.from_numpy(np.asarray(inputs[IMAGE])))
        names = ALL_OUTPUTS[: len(values)]
        return {name: v.numpy() for name, v in zip(names, values, strict=True)}

    def close(self) -> None:
        """Nothing to give back."""
