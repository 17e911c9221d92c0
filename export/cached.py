"""The language model as a device runs it: new embeddings in, logits of the last one out, keys and
values of what was read kept in buffers. Its weights are the language model's own, not copies.

Means and turns are written as products with constants, and heads are the batch of plain products:
XNNPACK takes those, and each operation that it does not take cuts the graph into pieces.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from feallm.model.language import Block, LanguageModel, LoraLinear, RmsNorm

NOT_READ = -1e4
"""Put on places that a token may not read. Finite: softmax gives exactly nothing there, and no
infinity meets a nothing."""


def _plain(part: LoraLinear) -> nn.Linear:
    """The same product as the layer that quantizers know."""
    if part.lora_a is not None:
        raise ValueError("LoRA must be merged before export")
    return _linear(part.weight)


def _linear(weight: Tensor) -> nn.Linear:
    outside, inside = weight.shape
    result = nn.Linear(inside, outside, bias=False, device="meta")
    result.weight = nn.Parameter(weight.detach(), requires_grad=False)
    return result


class Norm(nn.Module):
    """`RmsNorm`, its mean a product."""

    def __init__(self, norm: RmsNorm) -> None:
        super().__init__()
        width = len(norm.weight)
        self.eps = norm.eps
        self.register_buffer("weight", norm.weight.detach())
        self.weight: Tensor
        self.register_buffer("mean", torch.full((width, 1), 1 / width), persistent=False)
        self.mean: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as x (n, width)."""
        return x * torch.rsqrt(torch.mm(x * x, self.mean) + self.eps) * self.weight


def _turn(depth: int) -> Tensor:
    """Matrix (depth, depth) that `model.language.rotate` turns a row with: the second half,
    negative, comes first."""
    half = torch.eye(depth // 2)
    none = torch.zeros_like(half)
    return torch.cat([torch.cat([none, half], 1), torch.cat([-half, none], 1)])


class CachedBlock(nn.Module):
    """A block with room for the keys and values of `context` tokens."""

    def __init__(self, block: Block, context: int) -> None:
        super().__init__()
        self.heads = block.heads
        self.attn_norm, self.ffn_norm = Norm(block.attn_norm), Norm(block.ffn_norm)
        self.q, self.k, self.v, self.o = map(_plain, (block.q, block.k, block.v, block.o))
        self.gate, self.up, self.down = map(_plain, (block.gate, block.up, block.down))
        depth = block.q.weight.shape[0] // block.heads
        for name in ("keys", "values"):
            self.register_buffer(name, torch.zeros(block.heads, context, depth))
        turn = _turn(depth).repeat(block.heads, 1, 1)
        self.register_buffer("turn", turn, persistent=False)
        self.turn: Tensor
        self.keys: Tensor
        self.values: Tensor

    def forward(
        self, x: Tensor, positions: Tensor, cos: Tensor, sin: Tensor, mask: Tensor
    ) -> Tensor:
        """(n, width) of x at positions (n), with the rotary waves there and a mask (n, context)
        to add to what is read."""
        h = self.attn_norm(x)
        q, k, v = (
            part(h).unflatten(-1, (self.heads, -1)).transpose(0, 1)
            for part in (self.q, self.k, self.v)
        )
        q, k = (part * cos + torch.bmm(part, self.turn) * sin for part in (q, k))
        self.keys.index_copy_(1, positions, k)
        self.values.index_copy_(1, positions, v)
        read = torch.bmm(q * q.shape[-1] ** -0.5, self.keys.transpose(1, 2))
        weights = (read + mask).softmax(-1)
        x = x + self.o(torch.bmm(weights, self.values).transpose(0, 1).flatten(1))
        h = self.ffn_norm(x)
        down: Tensor = self.down(nn.functional.silu(self.gate(h)) * self.up(h))
        return x + down


class CachedDecoder(nn.Module):
    """Logits (1, vocabulary) after the last of n embeddings (1, n, width) at positions (n); what
    lies at other positions up to theirs was read before."""

    def __init__(self, language: LanguageModel) -> None:
        super().__init__()
        context = language.config.context
        blocks = [block for block in language.blocks if isinstance(block, Block)]
        self.blocks = nn.ModuleList(CachedBlock(block, context) for block in blocks)
        self.norm = Norm(language.norm)
        self.head = _linear(language.embed.weight)
        for name, value in (("cos", language.cos), ("sin", language.sin)):
            self.register_buffer(name, value.detach(), persistent=False)
        self.cos: Tensor
        self.sin: Tensor
        self.register_buffer("places", torch.arange(context), persistent=False)
        self.places: Tensor

    def forward(self, embeddings: Tensor, positions: Tensor) -> Tensor:
        """As the class says."""
        cos, sin = self.cos[positions], self.sin[positions]
        unread = self.places.unsqueeze(0) > positions.unsqueeze(1)
        mask = unread.float() * NOT_READ
        x = embeddings.squeeze(0)
        for block in self.blocks:
            x = block(x, positions, cos, sin, mask)
        logits: Tensor = self.head(self.norm(x[-1:]))
        return logits

    def restart(self) -> None:
        """Forget what was read."""
        for block in self.blocks:
            assert isinstance(block, CachedBlock)
            block.keys.zero_()
            block.values.zero_()


class TokenTable(nn.Module):
    """Embeddings (1, n, width) of token ids (1, n)."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach())
        self.weight: Tensor

    def forward(self, ids: Tensor) -> Tensor:
        """As the class says."""
        rows: Tensor = nn.functional.embedding(ids, self.weight)
        return rows


class Int8TokenTable(nn.Module):
    """The same from a byte a number, each token with a scale of its own."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        weight = weight.detach()
        scale = weight.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
        self.register_buffer("scale", scale)
        self.register_buffer("weight", (weight / scale).round().to(torch.int8))
        self.scale: Tensor
        self.weight: Tensor

    def forward(self, ids: Tensor) -> Tensor:
        """As the class says."""
        rows = nn.functional.embedding(ids, self.weight).float()
        return rows * nn.functional.embedding(ids, self.scale)
