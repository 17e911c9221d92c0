"""The language model: LLaMA as llama.cpp knows it, with LoRA beside its attention matrices.

RMSNorm, rotary positions in the half-rotation order of the Hugging Face checkpoints (the exporter
reorders q and k for GGUF), SwiGLU, no biases, tied embeddings. Visual tokens enter as embeddings.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from feallm.model.config import LanguageConfig


class LoraLinear(nn.Module):
    """x W^T + (alpha / rank) x A^T B^T (E. Hu et al., arXiv 2106.09685); at first W alone."""

    lora_a: nn.Parameter | None
    lora_b: nn.Parameter | None

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outside, inside) * inside**-0.5)
        self.register_parameter("lora_a", None)
        self.register_parameter("lora_b", None)
        self.scale = 0.0

    def add_lora(self, rank: int, alpha: float) -> tuple[nn.Parameter, nn.Parameter]:
        """Put a zero correction (A, B) beside W and freeze W."""
        outside, inside = self.weight.shape
        self.weight.requires_grad_(False)
        self.lora_a = nn.Parameter(torch.randn(rank, inside) * inside**-0.5)
        self.lora_b = nn.Parameter(torch.zeros(outside, rank))
        self.scale = alpha / rank
        return self.lora_a, self.lora_b

    def merge(self) -> None:
        """Add the correction into W, in float32, and drop it."""
        if self.lora_a is not None and self.lora_b is not None:
            with torch.no_grad():
                self.weight.add_(self.scale * (self.lora_b @ self.lora_a))
            self.lora_a = self.lora_b = None

    def forward(self, x: Tensor) -> Tensor:
        """(…, outside) of (…, inside)."""
        out = nn.functional.linear(x, self.weight)
        if self.lora_a is not None and self.lora_b is not None:
            low = nn.functional.linear(x, self.lora_a)
            out = out + self.scale * nn.functional.linear(low, self.lora_b)
        return out


class RmsNorm(nn.Module):
    """x / rms(x) * weight (B. Zhang, R. Sennrich, arXiv 1910.07467)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as x."""
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions (J. Su et al., arXiv 2104.09864), first half against second half."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


class Block(nn.Module):
    """Attention and feed-forward, each with a norm before and a way around."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        width, inner = config.width, config.feed_forward
        self.heads = config.heads
        self.attn_norm, self.ffn_norm = (RmsNorm(width, config.norm_eps) for _ in range(2))
        self.q, self.k, self.v, self.o = (LoraLinear(width, width) for _ in range(4))
        self.gate, self.up = LoraLinear(width, inner), LoraLinear(width, inner)
        self.down = LoraLinear(inner, width)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """(N, T, width), each token reading itself and those before."""
        h = self.attn_norm(x)
        q, k, v = (
            part(h).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.q, self.k, self.v)
        )
        read = nn.functional.scaled_dot_product_attention(
            rotate(q, cos, sin), rotate(k, cos, sin), v, is_causal=True
        )
        x = x + self.o(read.transpose(1, 2).flatten(2))
        h = self.ffn_norm(x)
        down: Tensor = self.down(nn.functional.silu(self.gate(h)) * self.up(h))
        return x + down


class LanguageModel(nn.Module):
    """Embeddings in, next-token logits out."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocabulary, config.width)
        nn.init.normal_(self.embed.weight, std=config.width**-0.5)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = RmsNorm(config.width, config.norm_eps)
        depth = config.width // config.heads
        step = config.rope_theta ** (-torch.arange(0, depth, 2, dtype=torch.float64) / depth)
        angle = torch.outer(torch.arange(config.context, dtype=torch.float64), step).repeat(1, 2)
        self.register_buffer("cos", angle.cos().float(), persistent=False)
        self.register_buffer("sin", angle.sin().float(), persistent=False)
        self.cos: Tensor
        self.sin: Tensor

    def forward(self, embeddings: Tensor) -> Tensor:
        """Logits (N, T, vocabulary) after each of the embeddings (N, T, width)."""
        length = embeddings.shape[1]
        cos, sin = self.cos[:length], self.sin[:length]
        for block in self.blocks:
            embeddings = block(embeddings, cos, sin)
        return nn.functional.linear(self.norm(embeddings), self.embed.weight)

    def add_lora(self, rank: int, alpha: float) -> list[nn.Parameter]:
        """Freeze everything and return what is trained from now on: LoRA on q, k, v and o."""
        self.requires_grad_(False)
        trained: list[nn.Parameter] = []
        for block in self.blocks:
            assert isinstance(block, Block)
            for part in (block.q, block.k, block.v, block.o):
                trained += part.add_lora(rank, alpha)
        return trained

    def merge_lora(self) -> None:
        """Fold LoRA into the plain matrices, which is all that an exporter sees."""
        for module in self.modules():
            if isinstance(module, LoraLinear):
                module.merge()
