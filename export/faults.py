"""The float network with one thing done wrongly: what a device recognizes a fault by.

Golden outputs hold these answers on a few crops (`runtime.verify.causes`).
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from feallm.model.encoder import ConvUnit, Residual
from feallm.model.vision import VisionNetwork
from feallm.runtime.contract.geometry import CROP

Crops = NDArray[np.uint8]
OFF = 0.08
"""Share by which a crop is off."""

_GAIN, _LOSS = 1 + OFF, 1 / (1 + OFF)


def pictures(crops: Crops) -> dict[str, Crops]:
    """Crops (N, H, W, 3) as a wrong way of cutting or reading them would give them, by the names of
    `causes.KNOWN`."""
    return {
        "bgr": np.ascontiguousarray(crops[..., ::-1]),
        "inverted": 255 - crops,
        "mirrored": np.ascontiguousarray(crops[:, :, ::-1]),
        "unit": np.round(crops / 255).astype(np.uint8),
        "larger": moved(crops, scale=_GAIN),
        "smaller": moved(crops, scale=_LOSS),
        "right": moved(crops, right=OFF),
        "left": moved(crops, right=-OFF),
        "down": moved(crops, down=OFF),
        "up": moved(crops, down=-OFF),
    }


def moved(crops: Crops, *, scale: float = 1.0, right: float = 0.0, down: float = 0.0) -> Crops:
    """Crops in which the face stands larger, or shares of the sides elsewhere."""
    width, height = crops.shape[2], crops.shape[1]
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    matrix = np.hstack([np.eye(2) * scale, (middle * (1 - scale))[:, None]])
    matrix[:, 2] += (right * width, down * height)
    return np.stack([
        cv2.warpAffine(
            crop, matrix, (width, height), borderMode=cv2.BORDER_CONSTANT,
            borderValue=(CROP.border,) * 3,
        )
        for crop in crops
    ]).astype(np.uint8)  # fmt: skip


class _Swapped(nn.Module):
    """Mean and standard deviation of pixels in 0–1 in each other's place: 4x - 2 is (x - .5) / .25,
    and becomes (x - .25) / .5."""

    def __init__(self, pixels: nn.Module) -> None:
        super().__init__()
        self.pixels = pixels

    def forward(self, crops: Tensor) -> Tensor:
        right: Tensor = self.pixels(crops)
        return right / 2 + 0.5


def swapped_mean_and_std(network: VisionNetwork) -> VisionNetwork:
    """A copy with that fault."""
    wrong = copy.deepcopy(network)
    wrong.pixels = _Swapped(wrong.pixels)  # type: ignore[assignment]  # stands in for it
    return wrong


@contextlib.contextmanager
def ranges_of_black(network: VisionNetwork) -> Iterator[None]:
    """While it lasts, values of the encoder's units end where they do on black pictures, as in an
    int8 file whose ranges were measured on those."""
    units: list[nn.Module] = [m for m in network.modules() if isinstance(m, ConvUnit | Residual)]
    ranges: dict[nn.Module, tuple[float, float]] = {}

    def note(module: nn.Module, _: object, out: Tensor) -> None:
        ranges[module] = (min(0.0, float(out.min())), float(out.max()))

    def cut(module: nn.Module, _: object, out: Tensor) -> Tensor:
        return out.clamp(*ranges[module])

    black = torch.zeros((1, CROP.height_px, CROP.width_px, 3), dtype=torch.uint8)
    black = black.to(next(network.parameters()).device)
    with _hooked(units, note), torch.no_grad():
        network(black)
    with _hooked(units, cut):
        yield


@contextlib.contextmanager
def _hooked(modules: list[nn.Module], hook: Callable[..., Tensor | None]) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
