"""The real network at a size that is built, trained and exported in seconds, and faces for it.

Not a test module: the conftest files of `tests/model` and `tests/export` load it.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import cv2
import numpy as np
import torch

from feallm.export import bundle
from feallm.export.plan import Plan
from feallm.model import checkpoint as checkpoints
from feallm.model import tokenizer
from feallm.model.config import Config, LanguageConfig, VisionConfig
from feallm.model.data import instructions, pack
from feallm.model.language import LanguageModel
from feallm.model.vision import VisionNetwork
from feallm.runtime.contract.aus import AU_INDEX, N_AUS
from feallm.runtime.contract.geometry import CROP, MEAN_POINTS_CROP
from feallm.runtime.vision.align import points_in_box

TRAINED = ("AU1", "AU12", "AU25")
CONFIG = Config(
    "nano",
    VisionConfig((4, 8, 8, 8), (0, 1, 1, 1), shrink=2, width=32, heads=4),
    LanguageConfig(256, 1, 4, 256, vocabulary=400, context=512),
    lora_rank=4,
    lora_alpha=8.0,
)


PLAN = Plan(
    name="tiny",
    memory_mb=500,
    size_mb=20,
    vision=("vision.fp32.onnx",),
    language=("language.fp16.gguf",),
)
VISION, LANGUAGE = "vision.fp32.onnx", "language.fp16.gguf"


def vision(seed: int = 0) -> VisionNetwork:
    """An eye with random weights whose batch norms are not those of a newborn."""
    torch.manual_seed(seed)
    network = VisionNetwork(CONFIG.vision, CONFIG.language.width)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, std=0.3)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    # Larger heads: outputs that hardly differ from face to face would show nothing.
    for head in (network.au_head, network.intensity_head, network.expression_head):
        torch.nn.init.normal_(head.weight, std=0.1)
    network.temperature.fill_(1.3)
    return network.eval()


def language(seed: int = 0) -> LanguageModel:
    """A language model with random weights."""
    torch.manual_seed(seed)
    return LanguageModel(CONFIG.language).eval()


@cache
def texts() -> list[str]:
    """Questions and answers of the project."""
    rng = np.random.default_rng(3)
    chances = np.full((8, N_AUS), 0.4)
    result = []
    for _ in range(150):
        turn = instructions.turn(*instructions.imagined(TRAINED, chances, rng), rng)
        result += [turn.question + "\n", turn.answer]
    return result


@cache
def tokenizer_json() -> str:
    """A tokenizer trained on those texts."""
    return tokenizer.train(texts(), CONFIG.language.vocabulary).to_str()


def checkpoint(folder: Path) -> Path:
    """Write a checkpoint of random weights, with a language model."""
    thresholds = {key: 0.5 for key in TRAINED}
    facts = {"command": "feallm train", "seed": 3, "sources": []}
    made = checkpoints.Checkpoint(
        CONFIG, vision(), language(), tokenizer_json(), TRAINED, TRAINED[:1], thresholds, facts
    )
    path = folder / "nano.safetensors"
    checkpoints.save(made, path)
    return path


def faces(count: int = 32) -> bundle.Faces:
    """Something to calibrate on, and something else to check with."""
    return bundle.Faces(crops(count, seed=1), crops(count, seed=2), "tiny")


_exported: list[tuple[Path, Path]] = []


def exported(folder: Path) -> tuple[Path, Path]:
    """A checkpoint and its bundle, exported once a run: it takes some ten seconds."""
    if not _exported:
        path = checkpoint(folder)
        bundle.export(path, folder / "bundle", PLAN, faces=faces(), record=False)
        _exported.append((path, folder / "bundle"))
    return _exported[0]


def pictures(count: int, *, seed: int = 0, side: int = 48) -> np.ndarray:
    """Smooth random gray pictures (count, side, side)."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (count, 6, 6), dtype=np.uint8)
    return np.stack([cv2.resize(s, (side, side), interpolation=cv2.INTER_CUBIC) for s in small])


def webp(picture: np.ndarray) -> bytes:
    """An encoded picture."""
    return cv2.imencode(".webp", picture, [cv2.IMWRITE_WEBP_QUALITY, 90])[1].tobytes()


def crops(count: int, *, seed: int = 0) -> np.ndarray:
    """Random colour crops (count, H, W, 3): smooth ones and pure noise."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (count, CROP.height_px, CROP.width_px, 3), dtype=np.uint8)
    size = (CROP.width_px, CROP.height_px)
    for k in range(0, count, 2):
        noise[k] = cv2.resize(noise[k, :8, :7], size, interpolation=cv2.INTER_CUBIC)
    return noise


def rows(count: int = 96, *, seed: int = 0, name: str = "random") -> pack.Rows:
    """Rows with votes, three labelled AUs (one face in five without labels), points for most."""
    rng = np.random.default_rng(seed)
    votes = np.zeros((count, 10), np.float32)
    votes[np.arange(count), rng.integers(0, 8, count)] = 8
    votes[np.arange(count), rng.integers(0, 8, count)] += 2
    sides = np.full((count, N_AUS, 2), np.nan, np.float32)
    for key in TRAINED:
        sides[:, AU_INDEX[key]] = rng.uniform(-1, 5, (count, 2))
    sides[::5] = np.nan
    mean = points_in_box((0, 0, 48, 48), MEAN_POINTS_CROP).astype(np.float32)
    mean5 = np.tile(mean, (count, 1, 1))
    points5 = mean5 + rng.normal(0, 1, mean5.shape).astype(np.float32)
    points5[1::7] = np.nan
    return pack.Rows(
        [webp(picture) for picture in pictures(count, seed=seed)],
        votes,
        votes[:, :8] / votes[:, :8].sum(1, keepdims=True),
        sides,
        points5,
        mean5,
        np.arange(count) // 2,
        pack.Origin(name, "none: random", count, "0" * 64),
    )
