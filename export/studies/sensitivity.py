"""Which layer's rounding to int8 costs most: one layer alone, and all but one.

    python -m feallm.export.studies.sensitivity --checkpoint model/checkpoints/edge.safetensors \
        --fer ../shared/data/fer --renders packs/frozen --faces 400

Rounding is emulated in torch as ONNX Runtime's QDQ form does it: weights int8, symmetric, a scale a
channel; what goes into a layer and what comes out uint8, a scale a tensor, ranges as
`calibration.ranges` takes them, of the committed faces; batch norms are folded in before. Columns
are explained under the printed table.
"""

from __future__ import annotations

import argparse
import copy
import functools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from feallm.calibration import faces as calibration
from feallm.calibration.ranges import KEPT
from feallm.export.decisions import Outputs, compare
from feallm.export.run import float_answers
from feallm.export.studies import judge
from feallm.model.checkpoint import load
from feallm.model.encoder import ConvUnit, Residual
from feallm.model.vision import VisionNetwork
from feallm.runtime.backends.base import AU_INTENSITY, AU_PROBABILITY, LANDMARKS, TOKENS

Ends = tuple[float, float]
GROUPS = {
    "all": ("",),
    "encoder": ("encoder",),
    "encoder but its first": ("encoder.stages.0.1", *(f"encoder.stages.{k}" for k in (1, 2, 3))),
    "LCA": ("lca",),
    "MPP": ("mpp",),
    "heads": (
        "au_head",
        "intensity_head",
        "expression_head",
        "place_head",
        "place_conv",
        "near_conv",
    ),
    "tokens": ("token_mlp", "local_token"),
}
_FOOT = """
Changed decisions in ‰ of all AU decisions, and changed expressions in % of the faces, against the
float network. `alone`: only this layer is int8; `weights`, `values`: only its weights, or only what
goes in and comes out; `spared`: how many changed decisions (‰) fewer where all layers are int8 but
this one. Errors are of `alone`: mean |difference| of probabilities and of intensities, tokens as a
share of their size."""


@dataclass(frozen=True, slots=True)
class Ranges:
    """Between which values a layer's input and output run."""

    inside: Ends
    outside: Ends


@dataclass(frozen=True, slots=True)
class Cost:
    """How far answers lie from the float network's."""

    decisions: float  # share of AU decisions that changed
    words: float  # share of first expressions that changed
    probability: float  # mean |difference|
    intensity: float  # mean |difference|, of 5
    tokens: float  # root mean square, as a share of the tokens'
    landmarks_px: float  # mean |difference| in the crop; NaN where the network has none

    @staticmethod
    def of(found: Outputs, exact: Outputs, thresholds: dict[str, float]) -> Cost:
        """The cost of answering `found` where the float network answers `exact`."""
        all_of_it = compare(found, exact, thresholds)
        error = all_of_it["error"]
        return Cost(
            1 - all_of_it["au_decisions_same"],
            1 - all_of_it["expression_same"],
            error[AU_PROBABILITY]["mean"],
            error[AU_INTENSITY]["mean"],
            error[TOKENS]["relative"],
            error.get(LANDMARKS, {"mean": float("nan")})["mean"],
        )


@dataclass(frozen=True, slots=True)
class Row:
    """What rounding a layer, or a group of them, costs."""

    name: str
    weights: int  # how many numbers
    alone: Cost
    only_weights: Cost
    only_values: Cost
    without: Cost | None  # all others in int8; None where there are none


def folded(network: VisionNetwork) -> VisionNetwork:
    """A copy without batch norms: they are part of the convolutions, as in an artifact."""
    network = copy.deepcopy(network).eval()
    for module in network.modules():
        if isinstance(module, ConvUnit):
            module[0] = _joined(module[0], module[1])
            module[1] = nn.Identity()
        elif isinstance(module, Residual):
            module.second = _joined(module.second, module.norm)
            module.norm = nn.Identity()  # type: ignore[assignment]  # as callable as the norm
    return network


def _joined(convolution: nn.Module, norm: nn.Module) -> nn.Conv2d:
    assert isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
    return fuse_conv_bn_eval(convolution, norm)


def layers(network: VisionNetwork) -> dict[str, nn.Conv2d | nn.Linear]:
    """Every convolution and matrix by its name in torch."""
    modules = network.named_modules()
    return {name: layer for name, layer in modules if isinstance(layer, nn.Conv2d | nn.Linear)}


@torch.no_grad()
def measure(network: VisionNetwork, crops: NDArray[np.uint8]) -> dict[str, Ranges]:
    """Ranges of every layer over crops: what `KEPT` percent of the faces stay within."""
    seen: dict[str, list[Tensor]] = {name: [] for name in layers(network)}

    def note(name: str, _: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        ends = [x.flatten(1).aminmax(dim=1) for x in (given[0], made)]
        seen[name].append(torch.stack([end for pair in ends for end in pair], 1))

    with ExitStack() as stack:
        for name, layer in layers(network).items():
            hook = layer.register_forward_hook(functools.partial(note, name))
            stack.callback(hook.remove)
        float_answers(network, crops)
    result = {}
    for name, parts in seen.items():
        low, high, low_out, high_out = torch.cat(parts).numpy().T
        if name in _rectified(network):
            low_out = np.zeros_like(low_out)
        result[name] = Ranges(_kept(low, high), _kept(low_out, high_out))
    return result


def _rectified(network: VisionNetwork) -> set[str]:
    """Layers before a ReLU: what it cuts off needs no steps, so it is rounded as one with them."""
    units = {f"{n}.0" for n, one in network.named_modules() if isinstance(one, ConvUnit)}
    return units | {"place_conv", "near_conv"}


def _kept(low: NDArray[np.float32], high: NDArray[np.float32]) -> Ends:
    start, end = np.percentile(low, 100 - KEPT), np.percentile(high, KEPT)
    return min(float(start), 0.0), max(float(end), 0.0)


def _rounded_values(x: Tensor, ends: Ends) -> Tensor:
    scale = max(ends[1] - ends[0], 1e-8) / 255
    return torch.fake_quantize_per_tensor_affine(x, scale, round(-ends[0] / scale), 0, 255)


def _rounded_weights(weight: Tensor) -> Tensor:
    scale = weight.abs().flatten(1).amax(1).clamp_min(1e-8) / 127
    zero = torch.zeros(len(scale), dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -127, 127)


@contextmanager
def rounded(
    network: VisionNetwork,
    names: Sequence[str],
    ranges: dict[str, Ranges],
    *,
    weights: bool = True,
    values: bool = True,
) -> Iterator[None]:
    """Within it these layers answer as int8 ones do; afterwards as before."""

    def before(ends: Ends, _: nn.Module, given: tuple[Tensor, ...]) -> Tensor:
        return _rounded_values(given[0], ends)

    def after(ends: Ends, _: nn.Module, given: Any, made: Tensor) -> Tensor:
        return _rounded_values(made, ends)

    found = layers(network)
    with ExitStack() as stack:
        for name in names:
            layer, span = found[name], ranges[name]
            if weights:
                exact = layer.weight.data
                stack.callback(setattr, layer.weight, "data", exact)
                layer.weight.data = _rounded_weights(exact)
            if values:
                for hook in (
                    layer.register_forward_pre_hook(functools.partial(before, span.inside)),
                    layer.register_forward_hook(functools.partial(after, span.outside)),
                ):
                    stack.callback(hook.remove)
        yield


def table(
    network: VisionNetwork,
    thresholds: dict[str, float],
    seen: NDArray[np.uint8],
    judged: NDArray[np.uint8],
) -> list[Row]:
    """A row for every group of layers, then one for every layer, the costliest first."""
    network = folded(network)
    ranges, exact = measure(network, seen), float_answers(network, judged)
    every = list(ranges)

    def cost(names: list[str], **what: bool) -> Cost:
        with rounded(network, names, ranges, **what):
            return Cost.of(float_answers(network, judged), exact, thresholds)

    def row(name: str, inside: list[str]) -> Row:
        found = layers(network)
        size = sum(found[one].weight.numel() for one in inside)
        others = [one for one in every if one not in inside]
        return Row(
            name,
            size,
            cost(inside),
            cost(inside, values=False),
            cost(inside, weights=False),
            cost(others) if others else None,
        )

    groups = [
        row(f"**{name}**", inside)
        for name, starts in GROUPS.items()
        if (inside := [one for one in every if one.startswith(starts)])
    ]
    single = [row(name, [name]) for name in every]
    return groups + sorted(single, key=lambda one: one.alone.probability, reverse=True)


def text(rows: list[Row]) -> str:
    """The table in Markdown."""
    lines = [
        "| layer | numbers | alone: AUs ‰ | expr. % | weights: AUs ‰ | values: AUs ‰ | spared ‰"
        " | probability | intensity | tokens | landmarks px |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    whole = rows[0].alone.decisions
    for row in rows:
        spared = "" if row.without is None else f"{1000 * (whole - row.without.decisions):.1f}"
        lines.append(
            f"| {row.name} | {row.weights:,} | {1000 * row.alone.decisions:.1f} |"
            f" {100 * row.alone.words:.1f} | {1000 * row.only_weights.decisions:.1f} |"
            f" {1000 * row.only_values.decisions:.1f} | {spared} | {row.alone.probability:.4f} |"
            f" {row.alone.intensity:.4f} | {row.alone.tokens:.4f} | {row.alone.landmarks_px:.3f} |"
        )
    return "\n".join(lines) + "\n" + _FOOT


def main() -> None:
    """Print the table of a checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True, type=Path)
    parser.add_argument("--fer", type=Path, help="folder with valid.npz of FER+")
    parser.add_argument("--renders", type=Path, help="pack of renders that no training saw")
    parser.add_argument("--faces", type=int, default=400)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    checkpoint = load(asked.checkpoint)
    committed = calibration.load()
    if asked.fer or asked.renders:
        judged = judge.faces(asked.faces, asked.fer, asked.renders)
    else:
        judged = committed.held_out
    rows = table(checkpoint.vision, checkpoint.thresholds, committed.crops, judged)
    print(f"{len(judged)} faces, ranges of {len(committed.crops)}\n\n{text(rows)}")


if __name__ == "__main__":
    main()
