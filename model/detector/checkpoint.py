"""A detector's weights: float16 safetensors, and a page of JSON on what they were made of.

A tensor that float16 cannot hold stays float32: the first variances are those of bright pixels.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from feallm.model.detector.network import Detector, DetectorConfig
from feallm.runtime.contract.errors import InputError

PAGE = ("command", "seed", "sources", "config")
"""What a page says at least."""


def save_weights(network: Detector, page: dict[str, Any], path: Path) -> None:
    """Write both; `page`: command, seed, sources."""
    narrow = {name: _narrow(value) for name, value in network.state_dict().items()}
    partial = path.with_suffix(".partial")
    save_file(narrow, partial)
    os.replace(partial, path)
    text = json.dumps({**page, "config": network.config.to_dict()}, indent=1)
    path.with_suffix(".json").write_text(text + "\n", encoding="utf-8")


def _narrow(value: Tensor) -> Tensor:
    if not value.is_floating_point():
        return value.contiguous()
    half = value.half()
    return (half if half.isfinite().all() else value).contiguous()


def read_page(path: Path) -> dict[str, Any]:
    """What the weights at `path` were made of, `PAGE`. Raises InputError."""
    page = path.with_suffix(".json")
    try:
        found = json.loads(page.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{page}: not a readable page of a checkpoint: {error}") from error
    if not isinstance(found, dict):
        raise InputError(f"{page}: expected a JSON object, found {type(found).__name__}")
    if missing := [name for name in PAGE if name not in found]:
        raise InputError(f"{page}: says no {', '.join(missing)}")
    return found


def load_weights(path: Path) -> Detector:
    """The network at `path`, ready to answer. Raises InputError where it is none."""
    fields = read_page(path)["config"]
    try:
        network = Detector(DetectorConfig.from_dict(fields))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{path.with_suffix('.json')}: config of no detector: {error}") from error
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: not a readable checkpoint: {error}") from error
    wide = {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}
    try:
        network.load_state_dict(wide)
    except RuntimeError as error:
        raise InputError(f"{path}: its tensors do not fit its page") from error
    return network.eval()
