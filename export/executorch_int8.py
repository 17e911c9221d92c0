"""What of the vision network becomes int8 in a .pte, and how.

Convolutions of the encoder with ranges measured on faces as the ONNX file's are; matrices with the
range of what they are given each time: with measured ranges the file missed the float network's
decisions (mean F1 .936 of .97 that are asked, at the same speed). In float: the first convolution,
which sees every level of gray and is no slower so; the matrices of LCA; the heads of AUs and
expressions, since their outputs would be cut off at the ranges that were seen; and all that is
added or joined (docs/calibration.md says what each of these brings).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import nn

from feallm.calibration import ranges

ENCODER = "encoder"
FLOAT = {"lca", "au_head", "intensity_head", "expression_head"}
"""Matrices that stay float, or are of a part that does."""
FINEST_WEIGHT, FINEST_VALUE = 2.0**-20, 2.0**-12
"""Least steps. The library's own, 2 ** -12 for both, left one convolution of the shipped network,
whose weights are small, some 25 of 255 values."""


def quantizer(network: nn.Module) -> Any:
    """What becomes int8, and how. By kind of operation: one that is given for all kinds
    (`set_global`) rounds concatenations too, wherever they are, and asks no filter."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import XNNPACKQuantizer
    from torchao.quantization.pt2e.quantizer import ComposableQuantizer

    first, _ = next(iter(convolutions(network)), ("", None))
    small = matrices(network)

    def of_encoder(node: torch.fx.Node) -> bool:  # a convolution's weights and its ReLU are asked
        layer = _layer(node)
        return _in_encoder(layer) and layer != first

    def of_matrix(node: torch.fx.Node) -> bool:
        return _layer(node) in small

    ops = torch.ops.aten
    return ComposableQuantizer(
        [
            XNNPACKQuantizer()
            .set_operator_type(ops.conv2d.default, _steps(is_dynamic=False))
            .set_filter_function(of_encoder),
            XNNPACKQuantizer()
            .set_operator_type(ops.linear.default, _steps(is_dynamic=True))
            .set_filter_function(of_matrix),
        ]
    )


def _steps(*, is_dynamic: bool) -> Any:
    """How values and weights are rounded: weights a channel, values by measured ranges, or by that
    of what is there each time."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.observer import PerChannelMinMaxObserver

    steps = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=is_dynamic)
    finest = PerChannelMinMaxObserver.with_args(eps=FINEST_WEIGHT)
    weight = dataclasses.replace(steps.weight, observer_or_fake_quant_ctr=finest)
    steps = dataclasses.replace(steps, weight=weight)
    if is_dynamic:
        return steps
    measured = _ends().with_args(eps=FINEST_VALUE)
    values = dataclasses.replace(steps.input_activation, observer_or_fake_quant_ctr=measured)
    return dataclasses.replace(steps, input_activation=values, output_activation=values)


def _ends() -> Any:
    """An observer that finds ranges as `calibration.ranges` does."""
    from torchao.quantization.pt2e.observer import UniformQuantizationObserverBase

    class Ends(UniformQuantizationObserverBase):  # type: ignore[misc]  # the library ships no types
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.faces: list[tuple[float, float]] = []

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            self.faces.append((values.min().item(), values.max().item()))
            return values

        def calculate_qparams(self) -> Any:
            low, high = ranges.within(np.array(self.faces))
            return self._calculate_qparams(torch.tensor(low), torch.tensor(high))

    return Ends


def _in_encoder(layer: str) -> bool:
    return ENCODER in layer.split(".")


def convolutions(network: nn.Module) -> list[tuple[str, nn.Conv2d]]:
    """The encoder's, by name, in their order."""
    return [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d) and _in_encoder(name)
    ]


def matrices(network: nn.Module) -> dict[str, nn.Linear]:
    """Those that become int8, by name."""
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and not FLOAT & set(name.split("."))
    }


def _layer(node: torch.fx.Node) -> str:
    """Name of the layer that a node of a traced graph is of, a weight's too."""
    if node.op == "get_attr":
        return str(node.target).rpartition(".")[0]
    above = list(node.meta.get("nn_module_stack", {}).values())
    return str(above[-1][0]).removeprefix("L['self']").lstrip(".") if above else ""


def weights(network: nn.Module) -> list[torch.Tensor]:
    """Those that become int8."""
    convolved = [module.weight for _, module in convolutions(network)[1:]]
    return [module.weight for module in matrices(network).values()] + convolved
