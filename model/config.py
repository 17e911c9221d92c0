"""Sizes of the network: one frozen dataclass a part, one that holds them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from feallm.runtime.contract.errors import UsageError
from feallm.runtime.contract.regions import PAPER16, REGIONS, Region

Four = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class VisionConfig:
    """Encoder, Local Clue Aggregator, Multi-perspective Projector and heads."""

    channels: Four  # of F_1 … F_4
    blocks: Four  # residual blocks of each level
    shrink: int  # the crop is averaged over shrink x shrink pixels first
    width: int  # of LCA and MPP
    heads: int  # of their attentions
    table: Literal["named", "paper16"] = "named"
    skip: bool = True  # a way around the first cross-attention; docs/adr/0003
    tokens: int = 16
    fold: int = 1  # the first convolution reads fold x fold pixels where it would read one
    mirror: bool = False  # answers are the mean over the crop and its mirror image
    place: int = 0  # channels of F_4 that reach the heads cell by cell; 0: no landmarks, no sides
    near: int = 0  # channels of F_3 that reach them so, too

    @property
    def regions(self) -> tuple[Region, ...]:
        """The 16 regions that the LCA pools."""
        return {"named": REGIONS, "paper16": PAPER16}[self.table]


@dataclass(frozen=True, slots=True)
class LanguageConfig:
    """LLaMA: RMSNorm, rotary positions, SwiGLU, no biases, tied embeddings.

    Width and feed-forward are multiples of 256, llama.cpp's K-quant block.
    """

    width: int
    layers: int
    heads: int
    feed_forward: int
    vocabulary: int = 512
    context: int = 256
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        if self.width % 256 or self.feed_forward % 256 or self.width % self.heads:
            raise ValueError(f"not a width that K-quants can hold: {self}")


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that builds a network."""

    size: str
    vision: VisionConfig
    language: LanguageConfig
    lora_rank: int = 16
    lora_alpha: float = 32.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for the checkpoint."""
        return asdict(self)

    @staticmethod
    def from_dict(fields: dict[str, Any]) -> Config:
        """The way back from `to_dict`."""
        vision = dict(fields["vision"])
        vision["channels"], vision["blocks"] = tuple(vision["channels"]), tuple(vision["blocks"])
        return Config(
            **{
                **fields,
                "vision": VisionConfig(**vision),
                "language": LanguageConfig(**fields["language"]),
            }
        )


SIZES: dict[str, Config] = {
    "nano": Config(
        "nano",
        VisionConfig((24, 48, 96, 192), (0, 1, 1, 1), shrink=2, width=96, heads=4),
        LanguageConfig(256, 3, 4, 512),
    ),
    "teacher": Config(
        "teacher",
        VisionConfig(
            (24, 48, 96, 192), (0, 1, 1, 1), shrink=2, width=96, heads=4, mirror=True, place=32
        ),
        LanguageConfig(256, 3, 4, 512),
    ),
    "edge": Config(
        "edge",
        VisionConfig(
            (24, 48, 96, 192),
            (1, 1, 2, 1),
            shrink=1,
            width=96,
            heads=4,
            fold=2,
            mirror=True,
            place=32,
            near=32,
        ),
        LanguageConfig(256, 3, 4, 512, vocabulary=768),
    ),
    "reference": Config(
        "reference",
        VisionConfig((48, 96, 192, 384), (1, 2, 2, 1), shrink=1, width=192, heads=6, place=48),
        LanguageConfig(512, 8, 8, 1280, vocabulary=2048, context=512),
    ),
}


def size(name: str) -> Config:
    """The configuration of a size; `UsageError` where there is none of that name."""
    if name not in SIZES:
        raise UsageError(f"no size named {name!r}", hint=f"there are {', '.join(SIZES)}")
    return SIZES[name]
