"""Crop to readings and visual tokens: encoder, LCA, MPP and the two direct heads.

The heads serve every video frame; the language model, which reads `tokens`, explains on demand.
AU first: the expression head reads the AU probabilities beside the features.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from feallm.model.config import VisionConfig
from feallm.model.encoder import Encoder, PlainEncoder
from feallm.model.lca import LocalClueAggregator
from feallm.model.pixels import Pixels
from feallm.model.projector import MultiPerspectiveProjector
from feallm.runtime.contract.aus import INTENSITY_MAX, N_AUS
from feallm.runtime.contract.expressions import N_EXPRESSIONS
from feallm.runtime.contract.geometry import CROP


class Seen(NamedTuple):
    """Outputs for N crops, before the words."""

    au_logits: Tensor  # (N, 20)
    intensity: Tensor  # (N, 20, 2) left and right of the subject, about 0–5, not clipped
    expression_logits: Tensor  # (N, 8), not yet divided by the temperature
    x_3: Tensor  # (N, tokens, width)
    f_attn: Tensor  # (N, 16, width)


class VisionNetwork(nn.Module):
    """Everything but the language model."""

    def __init__(
        self, config: VisionConfig, language_width: int, encoder: Encoder | None = None
    ) -> None:
        super().__init__()
        self.pixels = Pixels(shrink=config.shrink)
        rows, columns = CROP.height_px // config.shrink, CROP.width_px // config.shrink
        self.encoder = encoder or PlainEncoder(
            config.channels, config.blocks, rows=rows, columns=columns
        )
        levels, width = self.encoder.levels, config.width
        self.lca = LocalClueAggregator(config.regions, levels[0], levels[1], width, config.heads)
        self.mpp = MultiPerspectiveProjector(
            levels, width, config.heads, config.tokens, skip=config.skip
        )
        clues = len(config.regions) * width
        self.norm_clues, self.norm_x = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(0.2)
        self.au_head = nn.Linear(clues + width, N_AUS)
        self.intensity_head = nn.Linear(clues + width, N_AUS * 2)
        deep = levels[3].channels
        self.expression_head = nn.Linear(clues + width + deep + N_AUS, N_EXPRESSIONS)
        self.register_buffer("temperature", torch.ones(()))
        self.temperature: Tensor
        self.token_mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, language_width)
        )
        self.local_token = nn.Linear(clues, language_width)  # F_attn, flat -> F_local

    def see(self, crops: Tensor) -> Seen:
        """Features and head outputs of uint8 crops (N, H, W, 3), or gray (N, H, W)."""
        maps = self.encoder(self.pixels(crops))
        f_attn, f_local = self.lca(maps[0], maps[1])
        x_3 = self.mpp(maps, f_local)
        clues = self.norm_clues(f_attn).flatten(1)
        features = self.dropout(torch.cat([clues, self.norm_x(x_3).mean(1)], 1))
        au_logits = self.au_head(features)
        intensity = self.intensity_head(features).unflatten(1, (N_AUS, 2))
        deep = self.dropout(maps[3].mean((2, 3)))
        # Stopped gradient: the AU head answers to its own labels only.
        with_aus = torch.cat([features, deep, au_logits.detach().sigmoid()], 1)
        return Seen(au_logits, intensity, self.expression_head(with_aus), x_3, f_attn)

    def tokens(self, seen: Seen) -> Tensor:
        """Visual tokens and F_local for the language model: (N, tokens + 1, language width)."""
        local = self.local_token(self.norm_clues(seen.f_attn).flatten(1))
        return torch.cat([self.token_mlp(self.norm_x(seen.x_3)), local.unsqueeze(1)], 1)

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What the device gets: AU probabilities (N, 20), intensities (N, 20, 2) in 0–5,
        expression scores (N, 8) that sum to 1, and tokens (N, tokens + 1, language width)."""
        seen = self.see(crops)
        return (
            seen.au_logits.sigmoid(),
            seen.intensity.clamp(0.0, INTENSITY_MAX),
            (seen.expression_logits / self.temperature).softmax(1),
            self.tokens(seen),
        )
