"""Pixels to the encoder's input, inside the graph, so that no caller can get it wrong."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LUMA = (0.299, 0.587, 0.114)
"""Rec. 601: most training faces are gray, so colour must carry nothing."""


class Pixels(nn.Module):
    """uint8 RGB crops (N, H, W, 3), or gray ones (N, H, W), to float (N, 1, H/shrink, W/shrink)."""

    def __init__(self, *, shrink: int) -> None:
        super().__init__()
        self.shrink = shrink
        self.register_buffer("luma", torch.tensor(LUMA).reshape(3, 1), persistent=False)
        self.luma: Tensor

    def forward(self, crop: Tensor) -> Tensor:
        """Zero at mid-gray, ±2 at black and white."""
        picture = crop.to(self.luma.dtype)
        if crop.dim() == 4:
            picture = torch.matmul(picture, self.luma).squeeze(-1)
        picture = picture.unsqueeze(1) * (4 / 255) - 2.0
        if self.shrink > 1:
            picture = nn.functional.avg_pool2d(picture, self.shrink)
        return picture
