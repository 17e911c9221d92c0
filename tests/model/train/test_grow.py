"""A network that begins as a smaller one answers as that one does."""

from dataclasses import replace

import pytest
import torch

from feallm.model.config import VisionConfig
from feallm.model.train.grow import grow
from feallm.model.vision import VisionNetwork
from feallm.runtime.contract.errors import UsageError

SMALL = VisionConfig((4, 8, 8, 8), (0, 1, 1, 1), shrink=2, width=32, heads=4)


def network(config) -> VisionNetwork:
    torch.manual_seed(3)
    found = VisionNetwork(config, 256).eval()
    for module in found.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
    return found


def apart(first: VisionNetwork, second: VisionNetwork) -> float:
    crops = torch.randint(0, 256, (3, 128, 112, 3), dtype=torch.uint8)
    with torch.no_grad():
        pairs = zip(first(crops), second(crops), strict=True)
        return max(float((a - b).abs().max()) for a, b in pairs)


@pytest.mark.parametrize(
    "larger",
    [
        {"blocks": (1, 1, 2, 1)},
        {"shrink": 1, "fold": 2},
        {"blocks": (1, 2, 1, 1), "shrink": 1, "fold": 2},
    ],
)
def test_the_larger_one_answers_alike(larger):
    small, large = network(SMALL), network(replace(SMALL, **larger))
    assert apart(small, large) > 1e-3
    grow(large, small)
    assert apart(small, large) < 1e-4


def test_heads_that_read_more_answer_alike_and_learn():
    small = network(replace(SMALL, place=4))
    large = network(replace(SMALL, place=4, near=3))
    assert large.au_head.in_features == small.au_head.in_features + 3 * 7 * 8
    grow(large, small)
    assert apart(small, large) < 1e-4
    seen = large.see(torch.randint(0, 256, (2, 128, 112), dtype=torch.uint8))
    seen.place.landmarks.sum().backward()
    more = large.place_head.weight.grad[:, small.au_head.in_features :]
    assert more.abs().sum() > 0


def test_what_was_added_learns():
    small, large = network(SMALL), network(replace(SMALL, blocks=(1, 1, 1, 1)))
    grow(large, small)
    seen = large.see(torch.randint(0, 256, (2, 128, 112), dtype=torch.uint8))
    seen.au_logits.sum().backward()
    added = large.encoder.stages[0][1].norm.weight
    assert added.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "other", [{"channels": (8, 8, 8, 8)}, {"blocks": (0, 0, 1, 1)}, {"place": 4}]
)
def test_a_network_that_is_no_smaller_one_is_refused(other):
    with pytest.raises(UsageError, match="--start"):
        grow(network(replace(SMALL, **other)), network(SMALL))
