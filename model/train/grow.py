"""A network begins as a smaller one that is trained already: it answers alike at first, and has
room to do better.

Residual blocks that the smaller one lacks begin as nothing (their last norm is 0; P. Goyal et al.,
"Accurate, Large Minibatch SGD", 2017, begin all blocks so). A first convolution that reads finer
pixels begins with each weight spread over the pixels whose mean the smaller one read (T. Chen,
I. Goodfellow, J. Shlens, "Net2Net", 2016, for the idea of a function that is kept). Heads that read
more features begin with nothing for the new ones.
"""

from __future__ import annotations

import torch
from torch import Tensor

from feallm.model.vision import VisionNetwork
from feallm.runtime.contract.errors import UsageError

_STEM = "encoder.stages.0.0.0.weight"
_HEADS = tuple(f"{name}_head.weight" for name in ("au", "intensity", "expression", "place"))


@torch.no_grad()
def grow(network: VisionNetwork, start: VisionNetwork) -> None:
    """Put `start`'s weights into `network`; `UsageError` where they do not fit."""
    mine, theirs = network.state_dict(), start.state_dict()
    if lost := sorted(set(theirs) - set(mine)):
        raise UsageError(f"--start: this size has no {', '.join(lost[:3])}")
    for name, value in mine.items():
        if name in theirs:
            found = theirs[name]
            if found.shape != value.shape and name == _STEM:
                found = _spread(found, value.shape[-1])
            if name in _HEADS and found.shape[0] == value.shape[0]:
                found = _widened(found, value.shape[1], start.au_head.in_features)
            if found.shape != value.shape:
                raise UsageError(
                    f"--start: {name} is {tuple(found.shape)} there, {tuple(value.shape)} here"
                )
            value.copy_(found)
        elif name.startswith("near_conv."):
            continue  # the heads begin by not reading it
        elif name.startswith("encoder.stages."):
            if name.endswith(".norm.weight"):
                value.zero_()
        else:
            raise UsageError(f"--start: has no {name}")


def _widened(weight: Tensor, size: int, after: int) -> Tensor:
    """A head's weights (O, I) with nothing for the `size - I` features that come in after the
    first `after`."""
    nothing = weight.new_zeros(weight.shape[0], max(0, size - weight.shape[1]))
    return torch.cat([weight[:, :after], nothing, weight[:, after:]], 1)


def _spread(weight: Tensor, size: int) -> Tensor:
    """Weights (O, I, k, k) for pixels `size / k` times as fine."""
    factor, rest = divmod(size, weight.shape[-1])
    if rest or factor < 1:
        return weight
    fine = weight.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    return fine / factor**2
