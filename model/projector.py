"""Multi-perspective Projector (arXiv 2505.13419, architecture figure).

    X1 = CrossAttention(query = F_L, key = value = F_s)
    X2 = X1 + CrossAttention(query = X1, key = value = F'_local)
    X3 = X2 + SelfAttention(X2)
    visual tokens = MLP(X3)

F_s is F_1, F_2, F_3, each pooled to the cells of F_3 and projected to one width, joined along the
token axis. The figure draws no way around the first attention; `skip` adds one (docs/adr/0003).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from feallm.model.attention import Attention
from feallm.model.encoder import Level


def cell_matrix(rows: int, columns: int, tokens: int) -> Tensor:
    """Constant pooling (tokens, rows * columns) of a map to a square of tokens; rows sum to 1."""
    side = round(tokens**0.5)
    if side * side != tokens:
        raise ValueError(f"tokens must be a square, found {tokens}")

    def share(cells: int) -> Tensor:
        result = torch.zeros(side, cells)
        for i in range(side):
            start, end = i * cells / side, (i + 1) * cells / side
            for c in range(cells):
                result[i, c] = max(0.0, min(end, c + 1) - max(start, c))
        return result / result.sum(1, keepdim=True)

    return torch.einsum("ar,bc->abrc", share(rows), share(columns)).reshape(tokens, -1)


class MultiPerspectiveProjector(nn.Module):
    """Deep, shallow and local perspectives joined into `tokens` vectors X3."""

    def __init__(
        self, levels: tuple[Level, ...], width: int, heads: int, tokens: int, *, skip: bool
    ) -> None:
        super().__init__()
        first, second, third, last = levels
        self.skip = skip
        self.factors = (first.rows // third.rows, second.rows // third.rows)
        for level, factor in zip((first, second), self.factors, strict=True):
            if (level.rows, level.columns) != (third.rows * factor, third.columns * factor):
                raise ValueError(f"{level} does not pool to the cells of {third}")
        self.register_buffer(
            "cells", cell_matrix(last.rows, last.columns, tokens), persistent=False
        )
        self.cells: Tensor
        self.deep = nn.Linear(last.channels, width)
        self.shallow = nn.ModuleList(nn.Linear(level.channels, width) for level in levels[:3])
        self.place_deep = nn.Parameter(torch.randn(tokens, width) * 0.02)
        self.place_shallow = nn.Parameter(torch.randn(3 * third.rows * third.columns, width) * 0.02)
        self.read_shallow = Attention(width, heads)
        self.read_local = Attention(width, heads)
        self.read_self = Attention(width, heads)

    def forward(self, maps: list[Tensor], f_local: Tensor) -> Tensor:
        """X3 (N, tokens, width) of the maps F_1 … F_4 and F'_local (N, 16, width)."""
        f_1, f_2, f_3, f_4 = maps
        pooled = (
            nn.functional.avg_pool2d(f_1, self.factors[0]),
            nn.functional.avg_pool2d(f_2, self.factors[1]),
            f_3,
        )
        f_s = torch.cat(
            [
                project(level.flatten(2).transpose(1, 2))
                for project, level in zip(self.shallow, pooled, strict=True)
            ],
            1,
        )
        f_s = f_s + self.place_shallow
        f_l = self.deep(self.cells @ f_4.flatten(2).transpose(1, 2)) + self.place_deep
        x_1 = self.read_shallow(f_l, f_s)
        if self.skip:
            x_1 = x_1 + f_l
        x_2 = x_1 + self.read_local(x_1, f_local)
        x_3: Tensor = x_2 + self.read_self(x_2, x_2)
        return x_3
