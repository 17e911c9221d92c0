"""A small network of AUs: the crop in, presence and intensity of 20 AUs per side out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from feallm.runtime.contract.aus import N_AUS


class Residual(nn.Module):
    """Two 3 x 3 convolutions around which the input passes."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = _conv(channels, channels), _conv(channels, channels, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        return torch.relu(x + self.second(self.first(x)))


def _conv(before: int, after: int, *, stride: int = 1, relu: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(before, after, 3, stride, 1, bias=False),
        nn.BatchNorm2d(after),
    ]
    return nn.Sequential(*layers, nn.ReLU(inplace=True)) if relu else nn.Sequential(*layers)


class SmallNetwork(nn.Module):
    """Under a million parameters, all of them for 112 x 128 pixels. The last map is kept as a map:
    where a movement is seen tells left from right."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv(1, 16, stride=2),  # 64 x 56
            _conv(16, 32, stride=2),  # 32 x 28
            _conv(32, 64, stride=2),  # 16 x 14
            Residual(64),
            _conv(64, 112, stride=2),  # 8 x 7
            Residual(112),
            _conv(112, 128, stride=2),  # 4 x 4
            Residual(128),
            nn.Conv2d(128, 40, 1),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Dropout(0.25),
        )
        self.presence = nn.Linear(40 * 16, N_AUS * 2)
        self.intensity = nn.Linear(40 * 16, N_AUS * 2)

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Crops (N, H, W) uint8 gray to logits of presence and intensities 0-5, (N, 20, 2)."""
        x = (crops[:, None].float() - 127.5) / 64
        x = x.contiguous(memory_format=torch.channels_last)
        mean, spread = x.mean((2, 3), keepdim=True), x.std((2, 3), keepdim=True)
        seen = self.body((x - mean) / (spread + 0.1))
        shape = (-1, N_AUS, 2)
        return self.presence(seen).view(shape), self.intensity(seen).view(shape)
