"""A finished vision artifact on crops, by the engine that its format needs. Core ML has none on
Linux: its saved program is interpreted (`mil`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from feallm.export.onnx import outputs_of
from feallm.model.vision import VisionNetwork
from feallm.runtime.backends.base import IMAGE, Arrays, VisionBackend
from feallm.runtime.backends.executorch import ExecutorchVision
from feallm.runtime.backends.onnx import OnnxVision

Outputs = dict[str, NDArray[np.float32]]
_BATCH = 32


def open_vision(path: Path, threads: int = 1) -> VisionBackend:
    """The engine with an artifact loaded."""
    if path.suffix == ".onnx":
        return OnnxVision(path, threads=threads)
    if path.suffix == ".pte":
        return ExecutorchVision(path, threads=threads)
    return MilVision(path)


class MilVision:
    """A Core ML package behind the runtime's seam: interpreted, each result rounded to float16
    where the program holds it so."""

    provider = "interpreted"

    def __init__(self, path: Path) -> None:
        from feallm.export.mil import MilProgram

        self._program = MilProgram(path)

    def run(self, inputs: Arrays) -> dict[str, NDArray[np.float32]]:
        """Outputs by name for `image` uint8 (N, H, W, 3)."""
        pictures = np.asarray(inputs[IMAGE]).transpose(0, 3, 1, 2).astype(np.float32)
        rows = [self._program.run({IMAGE: picture[None]}, half=True) for picture in pictures]
        return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}

    def close(self) -> None:
        """Nothing to give back."""


def answers(path: Path, crops: NDArray[np.uint8]) -> Outputs:
    """Outputs by name of an artifact for crops (N, H, W, 3)."""
    backend = open_vision(path)
    parts = [backend.run({IMAGE: part}) for part in _parts(crops)]
    backend.close()
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@torch.no_grad()
def float_answers(network: VisionNetwork, crops: NDArray[np.uint8]) -> Outputs:
    """The same of the float network in torch."""
    names = outputs_of(network)
    parts = [network(torch.from_numpy(part)) for part in _parts(crops)]
    return {name: torch.cat([p[k] for p in parts]).numpy() for k, name in enumerate(names)}


def _parts(crops: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    return [crops[k : k + _BATCH] for k in range(0, len(crops), _BATCH)]
