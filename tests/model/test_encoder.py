"""The encoder's seam: levels say what the maps are, and a vision transformer fits it too."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from feallm.model.config import size
from feallm.model.encoder import Level, PlainEncoder
from feallm.model.vision import VisionNetwork
from feallm.runtime.contract.geometry import CROP


@pytest.mark.parametrize("rows, columns", [(64, 56), (128, 112), (50, 30)])
def test_levels_are_the_shapes_of_the_maps(rows, columns):
    encoder = PlainEncoder((4, 6, 8, 10), (1, 0, 2, 1), rows=rows, columns=columns).eval()
    maps = encoder(torch.zeros(2, 1, rows, columns))
    for level, found in zip(encoder.levels, maps, strict=True):
        assert found.shape == (2, level.channels, level.rows, level.columns)


@pytest.mark.parametrize("name", ["nano", "edge"])
def test_each_level_is_half_of_the_one_before(name):
    vision = size(name).vision
    rows, columns = CROP.height_px // vision.shrink, CROP.width_px // vision.shrink
    levels = PlainEncoder(vision.channels, vision.blocks, rows=rows, columns=columns).levels
    for k, level in enumerate(levels, 1):
        assert (level.rows, level.columns) == (-(-rows // 2**k), -(-columns // 2**k))


class TinyTransformer(nn.Module):
    """Patches of 8 x 8 pixels, four layers; the tokens after each are folded into a map."""

    def __init__(self, rows, columns, width=16):
        super().__init__()
        self.rows, self.columns = rows // 8, columns // 8
        self.patches = nn.Conv2d(1, width, 8, 8)
        self.place = nn.Parameter(torch.randn(self.rows * self.columns, width) * 0.1)
        layer = [nn.TransformerEncoderLayer(width, 2, 32, batch_first=True) for _ in range(4)]
        self.layers = nn.ModuleList(layer)
        level = Level(width, self.rows, self.columns)
        self.levels = (level, level, level, level)

    def forward(self, picture):
        tokens = self.patches(picture).flatten(2).transpose(1, 2) + self.place
        maps = []
        for layer in self.layers:
            tokens = layer(tokens)
            maps.append(tokens.transpose(1, 2).unflatten(2, (self.rows, self.columns)))
        return maps


def test_a_vision_transformer_runs_through_the_whole_network(tiny):
    torch.manual_seed(0)
    encoder = TinyTransformer(CROP.height_px, CROP.width_px)
    config = replace(tiny.CONFIG.vision, shrink=1)
    network = VisionNetwork(config, 256, encoder)
    probability, intensity, expression, tokens = network(torch.from_numpy(tiny.crops(3)))
    assert probability.shape == (3, 20) and intensity.shape == (3, 20, 2)
    assert expression.shape == (3, 8) and tokens.shape == (3, 17, 256)
    (expression[:, 0].sum() + tokens.square().sum() + probability.sum()).backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
