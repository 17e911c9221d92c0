"""A checkpoint: tensors in safetensors, and a JSON beside them of all that is not a tensor.

`NAME.safetensors` holds `vision.*` and `language.*`; `NAME.json` the configuration, the AUs that
were trained, thresholds, how it was trained; `NAME.tokenizer.json` the tokenizer. Never pickle.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from feallm.model.config import Config
from feallm.model.language import LanguageModel
from feallm.model.vision import VisionNetwork
from feallm.runtime.contract.errors import InputError


@dataclass(slots=True)
class Checkpoint:
    """A network and what is known of it. `language` has its LoRA merged."""

    config: Config
    vision: VisionNetwork
    language: LanguageModel | None = None
    tokenizer: str | None = None  # JSON of `tokenizers`
    aus_trained: tuple[str, ...] = ()
    aus_sided: tuple[str, ...] = ()  # with labels of each side apart
    thresholds: dict[str, float] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)


def write_atomically(path: Path, data: bytes) -> None:
    """All of it or nothing: written beside, flushed to the disk, renamed."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """A safetensors file, atomically."""
    partial = path.with_name(f".{path.name}.partial")
    save_file({name: value.detach().contiguous() for name, value in tensors.items()}, partial)
    os.replace(partial, path)


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write `path` (ending in .safetensors) as float16, and its JSON files beside it."""
    tensors = _half("vision", checkpoint.vision)
    if checkpoint.language is not None:
        checkpoint.language.merge_lora()
        tensors |= _half("language", checkpoint.language)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(path, tensors)
    facts = {
        "config": checkpoint.config.to_dict(),
        "aus_trained": list(checkpoint.aus_trained),
        "aus_sided": list(checkpoint.aus_sided),
        "thresholds": checkpoint.thresholds,
        "training": checkpoint.training,
    }
    write_atomically(path.with_suffix(".json"), (json.dumps(facts, indent=1) + "\n").encode())
    if checkpoint.tokenizer is not None:
        write_atomically(path.with_suffix(".tokenizer.json"), checkpoint.tokenizer.encode())


def _half(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    return {
        f"{prefix}.{name}": value.half() if value.is_floating_point() else value
        for name, value in module.state_dict().items()
    }


def load(path: Path) -> Checkpoint:
    """The network of a checkpoint, float32, in evaluation mode.

    Every weight must be there with its shape, and nothing else: all that differ are named.
    """
    try:
        facts = json.loads(path.with_suffix(".json").read_text())
        tensors = load_file(path)
        config = Config.from_dict(facts["config"])
        aus = (tuple(facts["aus_trained"]), tuple(facts["aus_sided"]))
        known = (*aus, dict(facts["thresholds"]), dict(facts["training"]))
        vision = VisionNetwork(config.vision, config.language.width)
    except Exception as error:  # safetensors raises its own type, not exported by name
        raise InputError(f"{path}: not a readable checkpoint: {error}") from error
    language = None
    expected = {f"vision.{name}": value for name, value in vision.state_dict().items()}
    if any(name.startswith("language.") for name in tensors):
        language = LanguageModel(config.language)
        expected |= {f"language.{name}": value for name, value in language.state_dict().items()}
    _same_weights(path, expected, tensors)
    for prefix, module in (("vision.", vision), ("language.", language)):
        if module is not None:
            part = {
                name.removeprefix(prefix): value.float() if value.is_floating_point() else value
                for name, value in tensors.items()
                if name.startswith(prefix)
            }
            module.load_state_dict(part)
            module.eval()
    tokenizer = path.with_suffix(".tokenizer.json")
    return Checkpoint(
        config,
        vision,
        language,
        tokenizer.read_text() if tokenizer.is_file() else None,
        *known,
    )


def _same_weights(path: Path, expected: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    wrong = [f"missing {name}" for name in expected if name not in found]
    wrong += [f"unknown {name}" for name in found if name not in expected]
    wrong += [
        f"{name} is {tuple(found[name].shape)} instead of {tuple(value.shape)}"
        for name, value in expected.items()
        if name in found and found[name].shape != value.shape
    ]
    if wrong:
        raise InputError(f"{path}: weights do not fit the configuration: {'; '.join(wrong)}")


def tensors_of(modules: dict[str, nn.Module]) -> dict[str, Tensor]:
    """State of several modules under their names, for resuming."""
    return {
        f"{prefix}.{name}": value
        for prefix, module in modules.items()
        for name, value in module.state_dict().items()
    }


def restore(modules: dict[str, nn.Module], tensors: dict[str, Tensor]) -> None:
    """The way back from `tensors_of`."""
    for prefix, module in modules.items():
        head = f"{prefix}."
        module.load_state_dict(
            {n.removeprefix(head): v for n, v in tensors.items() if n.startswith(head)}
        )


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's moments, flat."""
    state = optimizer.state_dict()["state"]
    return {
        f"optimizer.{i}.{name}": torch.as_tensor(value)
        for i, values in state.items()
        for name, value in values.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """The way back from `optimizer_tensors`."""
    fields = optimizer.state_dict()
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, number, name = key.split(".", 2)
            state.setdefault(int(number), {})[name] = value
    fields["state"] = state
    optimizer.load_state_dict(fields)
