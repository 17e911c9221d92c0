"""Answers from memory: the pipeline can be tested, and shown, without weights."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from feallm.runtime.backends.base import IMAGE, Arrays
from feallm.runtime.contract.errors import BackendError


class ReplayVision:
    """Gives the same recorded outputs, one row, for every crop."""

    provider = "replay"

    def __init__(self, outputs: dict[str, NDArray[np.float32]]) -> None:
        """`outputs` without the batch axis, by the names of `base.VISION_OUTPUTS`."""
        self._outputs = outputs
        self.seen: list[NDArray[np.generic]] = []

    def run(self, inputs: Arrays) -> dict[str, NDArray[np.float32]]:
        """The recorded row, once for every picture."""
        if IMAGE not in inputs:
            raise BackendError(f"no input named {IMAGE!r}")
        self.seen.append(inputs[IMAGE])
        count = len(inputs[IMAGE])
        return {name: np.stack([value] * count) for name, value in self._outputs.items()}

    def close(self) -> None:
        """Nothing to give back."""
