"""Multi-head attention in plain products: no guards, so that every exporter takes all of it."""

from __future__ import annotations

from torch import Tensor, nn


class Attention(nn.Module):
    """Queries (N, Q, width) read from keys (N, K, width); layer norm before, as is usual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_query = nn.LayerNorm(width)
        self.norm_key = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def _split(self, x: Tensor) -> Tensor:
        heads: Tensor = x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return heads  # (N, heads, tokens, depth)

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """(N, Q, width), without a way around."""
        normed = self.norm_key(keys)
        q, k = self._split(self.query(self.norm_query(queries))), self._split(self.key(normed))
        v = self._split(self.value(normed))
        weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
        result: Tensor = self.out((weights @ v).transpose(1, 2).flatten(2))
        return result
