"""Local Clue Aggregator (arXiv 2505.13419, architecture figure) on 16 named face regions.

The paper cuts 16 crops and sends each through a conv block. Here a constant matrix pools each
region out of the maps F_1 and F_2: no crop or resize to export, one matrix product, and every
region has a name. The conv block is then one 1 x 1 convolution, shared by the regions.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from feallm.model.attention import Attention
from feallm.model.encoder import Level
from feallm.runtime.contract.geometry import CROP
from feallm.runtime.contract.regions import Region


def region_matrix(regions: tuple[Region, ...], rows: int, columns: int) -> Tensor:
    """Pooling weights (regions, rows * columns): 1 inside a box, fading over a cell; sum 1."""
    result = []
    for region in regions:
        x0, y0, x1, y1 = region.box_px
        across = _overlap(x0 / CROP.width_px * columns, x1 / CROP.width_px * columns, columns)
        down = _overlap(y0 / CROP.height_px * rows, y1 / CROP.height_px * rows, rows)
        cells = np.outer(down, across).ravel()
        result.append(cells / cells.sum())
    return torch.tensor(np.array(result), dtype=torch.float32)


def _overlap(start: float, end: float, cells: int) -> NDArray[np.float64]:
    centres = np.arange(cells) + 0.5
    inside: NDArray[np.float64] = np.minimum(centres - start, end - centres) + 1.0
    return inside.clip(0.0, 1.0)


class LocalClueAggregator(nn.Module):
    """R_1 … R_16 -> self-attention -> F_attn -> F'_local (16 tokens) and F_local (one token)."""

    def __init__(
        self, regions: tuple[Region, ...], first: Level, second: Level, width: int, heads: int
    ) -> None:
        super().__init__()
        for name, level in (("pool_1", first), ("pool_2", second)):
            matrix = region_matrix(regions, level.rows, level.columns)
            self.register_buffer(name, matrix, persistent=False)
        self.pool_1: Tensor
        self.pool_2: Tensor
        self.conv = nn.Linear(first.channels + second.channels, width)  # 1 x 1, shared
        self.place = nn.Parameter(torch.randn(len(regions), width) * 0.02)
        self.attention = Attention(width, heads)
        self.project = nn.Linear(width, width)

    def forward(self, f_1: Tensor, f_2: Tensor) -> tuple[Tensor, Tensor]:
        """F_attn and F'_local, both (N, 16, width), of the maps F_1 and F_2."""
        # Pooled as they lie: to turn the large maps around first takes longer than the product.
        regions = [
            nn.functional.linear(level.flatten(2), matrix)
            for level, matrix in ((f_1, self.pool_1), (f_2, self.pool_2))
        ]
        pooled = torch.cat(regions, 1).transpose(1, 2)
        local = nn.functional.gelu(self.conv(pooled)) + self.place  # R_local
        f_attn = local + self.attention(local, local)
        return f_attn, self.project(f_attn)
