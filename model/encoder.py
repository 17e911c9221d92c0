"""Visual encoder: a crop in, four maps F_1 … F_4 out (arXiv 2505.13419, architecture figure).

The seam is `Encoder`: anything that yields maps and describes them by `levels` fits, a vision
transformer with its tokens folded back into maps included (tests/model/test_encoder.py has one).
`PlainEncoder` is 3 x 3 convolutions with residual blocks: docs/training.md measured that style to
train two to three times as fast on a CPU as inverted residuals, and to run faster in int8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Level:
    """One map of the encoder: its channels and its size in cells."""

    channels: int
    rows: int
    columns: int


class Encoder(Protocol):
    """What the rest of the network knows of an encoder."""

    levels: tuple[Level, Level, Level, Level]

    def __call__(self, picture: Tensor) -> list[Tensor]:
        """Maps F_1 … F_4, each (N, channels, rows, columns), of a picture (N, 1, H, W)."""


class ConvUnit(nn.Sequential):
    """Convolution, batch norm, ReLU. The norm is folded into the convolution at export.

    `fold`: on maps that many times as large, each of the 3 x 3 weights spread over fold x fold
    cells: the finer map is read at the price of the coarser one.
    """

    def __init__(self, inside: int, outside: int, *, stride: int = 1, fold: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inside, outside, 3 * fold, stride * fold, fold, bias=False),
            nn.BatchNorm2d(outside),
            nn.ReLU(inplace=True),
        )


class Residual(nn.Module):
    """Two convolutions and a way around them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = ConvUnit(channels, channels)
        self.second = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as x."""
        return torch.relu(x + self.norm(self.second(self.first(x))))


class PlainEncoder(nn.Module):
    """Plain 3 x 3 convolutions: four levels, each half the size of the one before. With `fold` the
    first convolution reads a picture of fold times the size."""

    def __init__(
        self,
        channels: tuple[int, int, int, int],
        blocks: tuple[int, int, int, int],
        *,
        rows: int,
        columns: int,
        fold: int = 1,
    ) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        levels, inside = [], 1
        rows, columns = rows // fold, columns // fold
        for width, count in zip(channels, blocks, strict=True):
            rows, columns = (rows + 1) // 2, (columns + 1) // 2
            first = ConvUnit(inside, width, stride=2, fold=1 if stages else fold)
            stage = [first, *(Residual(width) for _ in range(count))]
            stages.append(nn.Sequential(*stage))
            levels.append(Level(width, rows, columns))
            inside = width
        self.stages = nn.ModuleList(stages)
        self.levels = (levels[0], levels[1], levels[2], levels[3])

    def forward(self, picture: Tensor) -> list[Tensor]:
        """Maps F_1 … F_4 of a picture (N, 1, rows, columns)."""
        maps = []
        for stage in self.stages:
            picture = stage(picture)
            maps.append(picture)
        return maps
