"""The detector's network, whose outputs OpenCV's FaceDetectorYN decodes by itself.

Three levels of 8, 16 and 32 pixels a cell. Each cell gives what YuNet's does (W. Wu, H. Peng,
S. Yu, "YuNet: a tiny millisecond-level face detector", Machine Intelligence Research 20, 2023): a
class and an objectness logit, a box and five points. What is ours is the inside: separable
residual blocks all through, more of them the smaller the map, since OpenCV spends its time on the
large ones.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

STRIDES = (8, 16, 32)
PARTS = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
"""Outputs of a cell, in the order of FaceDetectorYN: sqrt(cls x obj) is the score; the box's centre
from the cell's corner and the logarithm of its size; five points from the cell's corner; all in
cells."""


@dataclass(frozen=True, slots=True)
class DetectorConfig:
    """Widths of the network, and separable blocks at each size; 2 and 4 pixels a cell first."""

    stem: int = 16
    early: int = 32
    levels: tuple[int, int, int] = (64, 96, 96)
    neck: int = 64
    early_blocks: int = 1
    blocks: tuple[int, int, int] = (3, 3, 3)

    def to_dict(self) -> dict[str, Any]:
        """As a checkpoint's page holds it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> DetectorConfig:
        """The way back."""
        tuples = {name: tuple(fields[name]) for name in ("levels", "blocks")}
        return cls(**{**fields, **tuples})


class Unit(nn.Module):
    """Convolution, normalisation, and a cut at zero unless `linear`."""

    def __init__(
        self,
        inner: int,
        outer: int,
        size: int,
        *,
        stride: int = 1,
        groups: int = 1,
        linear: bool = False,
    ) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(
            inner, outer, size, stride, size // 2, groups=groups, bias=False
        )
        self.normal = nn.BatchNorm2d(outer, momentum=0.03, eps=1e-3)
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        """[B, inner, H, W] -> [B, outer, H / stride, W / stride]."""
        x = self.normal(self.convolution(x))
        return x if self.linear else functional.relu(x)


class Block(nn.Module):
    """Separable residual block: each channel by itself, then all of them mixed."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.apart = Unit(width, width, 3, groups=width)
        self.mixed = Unit(width, width, 1, linear=True)

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, H, W], same shape."""
        return functional.relu(x + self.mixed(self.apart(x)))


class Down(nn.Module):
    """Half the size: each channel by itself, then mixed into another width."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.apart = Unit(inner, inner, 3, stride=2, groups=inner, linear=True)
        self.mixed = Unit(inner, outer, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inner, H, W] -> [B, outer, H / 2, W / 2]."""
        smaller: Tensor = self.mixed(self.apart(x))
        return smaller


class Detector(nn.Module):
    """Pictures [B, 3, H, W] BGR 0–255, sides multiples of 32 -> what is said of every cell."""

    def __init__(self, config: DetectorConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or DetectorConfig()
        self.stem = Unit(3, c.stem, 3, stride=2)
        self.early = _stage(c.stem, c.early, c.early_blocks)
        widths = (c.early, *c.levels)
        self.levels = nn.ModuleList(
            _stage(inner, outer, blocks)
            for inner, outer, blocks in zip(widths, c.levels, c.blocks, strict=False)
        )
        self.across = nn.ModuleList(
            nn.Identity() if width == c.neck else Unit(width, c.neck, 1, linear=True)
            for width in c.levels
        )
        self.merge = nn.ModuleList(Block(c.neck) for _ in STRIDES)
        self.heads = nn.ModuleList(Head(c.neck) for _ in STRIDES)

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """One tensor [B, 16, H / stride, W / stride] a level: logits of cls and obj, bbox, kps."""
        x = self.early(self.stem(pictures))
        found = []
        for level, across in zip(self.levels, self.across, strict=True):
            x = level(x)
            found.append(across(x))
        above = self.merge[2](found[2])
        merged = [above]
        for k in (1, 0):
            above = self.merge[k](found[k] + functional.interpolate(above, scale_factor=2.0))
            merged.insert(0, above)
        return [head(x) for head, x in zip(self.heads, merged, strict=True)]


def _stage(inner: int, outer: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(Down(inner, outer), *(Block(outer) for _ in range(blocks)))


class Head(nn.Module):
    """What is said of each cell."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.apart = Unit(width, width, 3, groups=width)
        self.said = nn.Conv2d(width, sum(PARTS.values()), 1)
        nn.init.normal_(self.said.weight, std=0.01)
        assert self.said.bias is not None
        with torch.no_grad():
            self.said.bias.zero_()
            self.said.bias[:2] = -4.0  # nearly all cells hold no face

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, H, W] -> [B, 16, H, W]."""
        said: Tensor = self.said(self.apart(x))
        return said
