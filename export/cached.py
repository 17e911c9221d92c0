"""The language model as a device runs it: new embeddings in, logits of the last one out, keys and
values of what was read kept in buffers. Its weights are the language model's own, not copies."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from feallm.model.language import Block, LanguageModel, LoraLinear, rotate

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


class CachedBlock(nn.Module):
    """A block with room for the keys and values of `context` tokens."""

    def __init__(self, block: Block, context: int) -> None:
        super().__init__()
        self.heads = block.heads
        self.attn_norm, self.ffn_norm = block.attn_norm, block.ffn_norm
        self.q, self.k, self.v, self.o = map(_plain, (block.q, block.k, block.v, block.o))
        self.gate, self.up, self.down = map(_plain, (block.gate, block.up, block.down))
        depth = block.q.weight.shape[0] // block.heads
        for name in ("keys", "values"):
            self.register_buffer(name, torch.zeros(1, block.heads, context, depth))
        self.keys: Tensor
        self.values: Tensor

    def forward(
        self, x: Tensor, positions: Tensor, cos: Tensor, sin: Tensor, mask: Tensor
    ) -> Tensor:
        """(1, n, width) of x at positions (n), with the rotary waves there and a mask
        (n, context) to add to what is read."""
        h = self.attn_norm(x)
        q, k, v = (
            part(h).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.q, self.k, self.v)
        )
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        self.keys.index_copy_(2, positions, k)
        self.values.index_copy_(2, positions, v)
        weights = (q @ self.keys.transpose(2, 3) * q.shape[-1] ** -0.5 + mask).softmax(-1)
        x = x + self.o((weights @ self.values).transpose(1, 2).flatten(2))
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
        self.norm = language.norm
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
        x = embeddings
        for block in self.blocks:
            x = block(x, positions, cos, sin, mask)
        logits: Tensor = self.head(self.norm(x[:, -1]))
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
