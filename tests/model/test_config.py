"""Sizes: there and back through plain values, and what is refused."""

import json

import pytest

from feallm.model.config import SIZES, Config, LanguageConfig, size
from feallm.runtime.contract.errors import UsageError


@pytest.mark.parametrize("name", SIZES)
def test_a_size_survives_json(name):
    config = size(name)
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_an_unknown_size_is_named():
    with pytest.raises(UsageError, match="'huge'") as error:
        size("huge")
    assert "nano" in error.value.line()


@pytest.mark.parametrize("width, heads, inner", [(192, 4, 512), (256, 4, 300), (256, 3, 512)])
def test_widths_that_k_quants_cannot_hold(width, heads, inner):
    with pytest.raises(ValueError, match="K-quants"):
        LanguageConfig(width, 1, heads, inner)


@pytest.mark.parametrize("name", SIZES)
def test_a_unit_of_both_tables_has_sixteen_regions(name):
    from dataclasses import replace

    vision = size(name).vision
    assert len(vision.regions) == len(replace(vision, table="paper16").regions) == 16


@pytest.mark.parametrize(
    "name, parameters, mult_adds", [("edge", 4e6, 150e6), ("reference", 12e6, None)]
)
def test_a_size_stays_within_its_budget(name, parameters, mult_adds):
    """Encoder, LCA, MPP and heads, the 16 regions and both looks of a mirrored answer included."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from feallm.model.vision import VisionNetwork

    config = size(name)
    network = VisionNetwork(config.vision, config.language.width).eval()
    assert sum(p.numel() for p in network.parameters()) <= parameters
    if mult_adds is not None:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.zeros((1, 128, 112, 3), dtype=torch.uint8))
        assert counter.get_total_flops() / 2 <= mult_adds
