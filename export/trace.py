"""What the float network's layers answer, for `runtime.verify.trace` to compare a file's with."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from feallm.export.mil import MilProgram
from feallm.export.onnx import outputs_of
from feallm.model.language import Block, LanguageModel
from feallm.model.vision import VisionNetwork
from feallm.runtime.backends.base import AU_SIDES, IMAGE
from feallm.runtime.verify.trace import Layer, sample
from feallm.runtime.verify.trace_llama import LOGITS

_PASSING = (nn.Dropout, nn.Identity)
_WEIGHT = re.compile(r"[pb]_(.+)_weight(_to_fp16)?(_quantized|_palettized)?$")
_FOLDED = {"1": "0", "norm": "second"}  # norms, and the convolutions that they are folded into


@torch.no_grad()
def vision_layers(network: VisionNetwork, crops: NDArray[np.uint8]) -> list[Layer]:
    """Each layer, then each output, for crops (N, H, W, 3): `FACES` are enough.

    Without presence on either side: where both move alike, rounding chooses the stronger one.
    """
    network = network.eval()
    device = next(network.parameters()).device
    with _kept(network) as layers:
        answers = network(torch.from_numpy(crops).to(device))
    layers += [
        _sampled(name, value)
        for name, value in zip(outputs_of(network), answers, strict=True)
        if name != AU_SIDES
    ]
    return layers


@torch.no_grad()
def language_layers(
    language: LanguageModel, opening: int, visual: NDArray[np.float32], question: Sequence[int]
) -> list[Layer]:
    """Each layer for one conversation: the opening token, visual tokens (N, width), a question's
    tokens; `blocks.N.read` is what attention reads, `blocks.N.o` is given it."""
    language = language.eval()
    weight = language.embed.weight
    tokens = torch.tensor([opening, *question], device=weight.device)
    with _kept(language) as layers:
        texts = language.embed(tokens)
        seen = torch.from_numpy(visual).to(weight)
        logits = language(torch.cat([texts[:1], seen, texts[1:]])[None])
    return [*layers, _sampled(LOGITS, logits)]


def coreml_layers(path: Path, crops: NDArray[np.uint8], names: Sequence[str]) -> list[Layer]:
    """Those of the named layers that a Core ML package shows, interpreted with float16's rounding,
    for crops (N, H, W, 3).

    Its operations have numbers, but their weights have the names of the network's. Of equal arrays
    only one is stored, so that norms which nobody trained are not told apart.
    """
    program = MilProgram(path)
    shown = _shown(program, names)
    answers: dict[str, list[NDArray[np.float32]]] = {name: [] for name in shown}
    for crop in crops:
        kept: dict[str, Tensor] = {}
        picture = np.ascontiguousarray(crop.transpose(2, 0, 1)[None], np.float32)
        program.run({IMAGE: picture}, half=True, keep=kept)
        for name, tensor in shown.items():
            answers[name].append(kept[tensor].float().numpy())
    # A network that looks twice answers for all crops, then for all their mirror images.
    whole = {name: np.stack(parts, 1) for name, parts in answers.items()}
    return [
        sample(name, whole[name].reshape(-1, *whole[name].shape[2:]))
        for name in names
        if name in whole
    ]


def _shown(program: MilProgram, names: Sequence[str]) -> dict[str, str]:
    """Layer -> the program's name of what it answers."""
    plain = {name.replace(".", "_"): name for name in names}
    for name in names:
        head, _, last = name.rpartition(".")
        if last in _FOLDED:
            plain.setdefault(f"{head}.{_FOLDED[last]}".replace(".", "_"), name)
    shown = {one.name: one.name for one in program.spec.description.output if one.name in names}
    (block,) = program.spec.mlProgram.functions["main"].block_specializations.values()
    for operation in block.operations:
        for given in operation.inputs.values():
            forms = [_WEIGHT.match(argument.name) for argument in given.arguments]
            for form in filter(None, forms):
                if form[1] in plain and not operation.type.startswith("const"):
                    shown.setdefault(plain[form[1]], operation.outputs[0].name)
    return shown


def _sampled(name: str, value: Tensor) -> Layer:
    return sample(name, value.float().cpu().numpy())


@contextmanager
def _kept(network: nn.Module) -> Iterator[list[Layer]]:
    """Fills a list with each layer's first answer, in the order in which they come.

    Left out is what no file has: convolutions whose norm is folded into them (they have no bias of
    their own), and modules that only hand on what the last one in them answered.
    """
    layers: list[Layer] = []
    seen: set[str] = set()
    answers: list[Tensor] = []  # kept, so that none is taken for another at the same place

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, _: Any, answer: Any) -> None:
            if name in seen or not isinstance(answer, Tensor):
                return
            seen.add(name)
            parts = any(True for _ in module.children())
            if not (parts and any(answer is one for one in answers)):
                layers.append(_sampled(name, answer))
            answers.append(answer)

        return hook

    def read(name: str) -> Callable[[nn.Module, Any], None]:
        def hook(module: nn.Module, given: Any) -> None:
            if name not in seen:
                seen.add(name)
                layers.append(_sampled(name, given[0]))

        return hook

    handles = []
    for name, module in network.named_modules():
        folded = isinstance(module, nn.Conv2d) and module.bias is None
        if name and not folded and not isinstance(module, _PASSING):
            handles.append(module.register_forward_hook(keep(name)))
        if isinstance(module, Block):
            handles.append(module.o.register_forward_pre_hook(read(f"{name}.read")))
    try:
        yield layers
    finally:
        for handle in handles:
            handle.remove()
