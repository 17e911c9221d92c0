"""What every exporter is given. An exporter is a plain function `make(job, precision, path)` that
writes one artifact, one short file a format; `matrix` names them all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from feallm.model.checkpoint import Checkpoint


@dataclass(frozen=True, slots=True)
class Job:
    """One export of one checkpoint."""

    checkpoint: Checkpoint  # float32, evaluation mode, LoRA merged
    crops: NDArray[np.uint8]  # (N, H, W, 3) RGB: ranges and importance are measured on these
    held_out: NDArray[np.uint8]  # (N, H, W, 3) RGB: faces that no range was measured on
    scratch: Path  # folder for what one exporter leaves to another: float files, an imatrix


Exporter = Callable[[Job, str, Path], None]
"""Writes the artifact of a precision at a path that does not exist yet. Raises `VerificationError`
where what was written does not answer as the checkpoint does."""
