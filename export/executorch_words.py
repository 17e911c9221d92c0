"""Vision network and language model -> one .pte in the contract of ExecuTorch's runner for models
of pictures and words: `vision_encoder`, `token_embedding`, `text_decoder`, and what describes them.

    vision_encoder   uint8 crop (1, H, W, 3) -> visual tokens (1, n, width), then the other outputs
                     in the order of `outputs_of`
    token_embedding  int64 ids (1, n) -> (1, n, width)
    text_decoder     embeddings (1, n, width), int64 positions (n) -> logits (1, vocabulary) of the
                     last; keys and values are kept in the file's own buffers

8da4w: the decoder's matrices in 4 bits, groups of 32, given 8 bits of a range found each time; the
last one, which chooses the word, and the token table in 8; vision in int8. 8da8w: all of them in 8
bits, a scale a row; .7 MB more and a hundred times nearer to float. Weights alone in 8 bits
with float activations are not offered: XNNPACK computes them wrongly and says nothing, which is why
the file is compared with the quantized model in torch, and its size bounded.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from feallm.calibration.answers import Answer, answers, sequences
from feallm.export import executorch
from feallm.export.cached import CachedDecoder, Int8TokenTable, TokenTable
from feallm.export.job import Job
from feallm.export.onnx import outputs_of
from feallm.model.checkpoint import Checkpoint
from feallm.model.language import LanguageModel
from feallm.model.tokenizer import BOS, EOS, special_id
from feallm.model.vision import VisionNetwork
from feallm.runtime.backends.base import TOKENS
from feallm.runtime.backends.executorch import (
    CONTEXT,
    DECODE,
    EMBED,
    VOCABULARY,
    WHOLE_VISION,
)
from feallm.runtime.contract.errors import UsageError, VerificationError
from feallm.runtime.language.wording import QUESTIONS

VISION = {"fp32": "fp32", "8da8w": "int8", "8da4w": "int8"}
"""Precision of the eyes beside that of the words."""
GROUP = 32
ANSWERS = 8
"""Faces that a file is asked about; each answer has some 40 places to compare."""

EAGER = 4
"""Steps of each answer that the quantized model in torch goes alone."""


@dataclass(frozen=True, slots=True)
class Bars:
    """How far the next token of the file may lie, over places of the float model's answers."""

    eager: float  # largest difference of a logit from the same model in torch
    kl: float  # mean KL(float || file), nats


BARS = {
    "fp32": Bars(1e-3, 1e-6),
    # Rounding at ties falls differently (.2 is usual); the weight-only fault lies 7 to 9 away. The
    # rest is what 4 bits cost: .0012 for the shipped model, .02 to .04 for untrained ones, whose
    # distributions are flat; how often the first token is the same says nothing of those.
    "8da4w": Bars(1.0, 0.1),
    "8da8w": Bars(1.0, 1e-2),
}


def make(job: Job, precision: str, path: Path) -> None:
    """Write the file in fp32, 8da8w or 8da4w; nothing is left where it answers otherwise."""
    if precision not in VISION:
        raise UsageError(f"one .pte file has no precision {precision}", hint=", ".join(VISION))
    checkpoint = job.checkpoint
    language = checkpoint.language
    if language is None or checkpoint.tokenizer is None:
        raise UsageError("this checkpoint has no language model")
    language = copy.deepcopy(language).eval().requires_grad_(False)
    language.merge_lora()
    decoder, table = words(language, precision)
    vision = Eyes(copy.deepcopy(checkpoint.vision).eval().requires_grad_(False))
    programs = {
        WHOLE_VISION: executorch.traced(vision, VISION[precision], job.crops),
        **traced(decoder, table),
    }
    path.write_bytes(executorch.lower(programs, facts(checkpoint)))
    try:
        executorch.check_delegated(path)
        eyes = executorch.expected_bytes(checkpoint.vision, VISION[precision])
        executorch.check_size(path, eyes + expected_bytes(language, precision))
        executorch.agree(checkpoint.vision, path, job.held_out, VISION[precision])
        answered = answers(checkpoint, job.held_out[:ANSWERS], questions=QUESTIONS[:1])
        agree(checkpoint, decoder, path, answered, BARS[precision])
    except VerificationError:
        path.unlink()
        raise


class Eyes(nn.Module):
    """The vision network with its tokens first."""

    def __init__(self, network: VisionNetwork) -> None:
        super().__init__()
        self.network = network
        names = outputs_of(network)
        first = names.index(TOKENS)
        self.order = (first, *(k for k in range(len(names)) if k != first))

    def forward(self, crops: Tensor) -> tuple[Tensor, ...]:
        """Of uint8 crops (1, H, W, 3)."""
        found = self.network(crops)
        return tuple(found[k] for k in self.order)


def words(language: LanguageModel, precision: str) -> tuple[CachedDecoder, nn.Module]:
    """Decoder and token table in a precision, over the weights of `language` (LoRA merged)."""
    decoder = CachedDecoder(language).eval().requires_grad_(False)
    if precision == "fp32":
        return decoder, TokenTable(language.embed.weight)
    quantize(decoder, precision)
    return decoder, Int8TokenTable(language.embed.weight)


def quantize(decoder: CachedDecoder, precision: str) -> None:
    """8da4w or 8da8w, in place; the last matrix in 8 bits, a scale a row, in both."""
    with executorch.quiet():
        from torchao.quantization import Int8DynamicActivationIntxWeightConfig, quantize_
        from torchao.quantization.granularity import PerAxis, PerGroup

        four = Int8DynamicActivationIntxWeightConfig(
            weight_dtype=torch.int4,  # type: ignore[attr-defined]  # not in its stubs
            weight_granularity=PerGroup(GROUP),
        )
        eight = Int8DynamicActivationIntxWeightConfig(
            weight_dtype=torch.int8, weight_granularity=PerAxis(0)
        )
        quantize_(decoder.blocks, four if precision == "8da4w" else eight)
        quantize_(decoder, eight, filter_fn=lambda module, name: module is decoder.head)


def traced(decoder: CachedDecoder, table: nn.Module) -> dict[str, torch.export.ExportedProgram]:
    """Both as graphs for any number of tokens up to the context."""
    context, width = len(decoder.places), decoder.head.in_features
    count = torch.export.Dim("count", min=1, max=context)
    several = torch.arange(3)
    decoder.restart()
    with executorch.quiet(), torch.no_grad():
        programs = {
            EMBED: torch.export.export(table, (several[None],), dynamic_shapes=({1: count},)),
            DECODE: torch.export.export(
                decoder,
                (torch.zeros(1, len(several), width), several),
                dynamic_shapes=({1: count}, {0: count}),
            ),
        }
    decoder.restart()
    return programs


def facts(checkpoint: Checkpoint) -> dict[str, Any]:
    """Methods that give a constant: ExecuTorch's runner asks for them, and an app may."""
    from tokenizers import Tokenizer

    assert checkpoint.tokenizer is not None
    config, tokenizer = checkpoint.config, Tokenizer.from_str(checkpoint.tokenizer)
    return {
        "get_max_seq_len": config.language.context,
        CONTEXT: config.language.context,
        VOCABULARY: config.language.vocabulary,
        "get_bos_id": special_id(tokenizer, BOS),
        "get_eos_ids": [special_id(tokenizer, EOS)],
        "use_kv_cache": True,
        "use_sdpa_with_kv_cache": False,
        "enable_dynamic_shape": True,
        "get_visual_tokens": config.vision.tokens + 1,
    }


def expected_bytes(language: LanguageModel, precision: str) -> int:
    """What the words' constants should weigh: the matrices, the table twice (it is the last matrix
    too), waves and turns."""
    config, decoder = language.config, CachedDecoder(language)
    table = config.vocabulary * config.width
    matrices = rows = 0
    for module in decoder.blocks.modules():
        if isinstance(module, nn.Linear):
            matrices += module.weight.numel()
            rows += module.out_features
    kept = 2 * config.layers * config.context * config.width
    rest = executorch.numbers(decoder) - table - matrices - kept
    if precision == "fp32":
        return 4 * (rest + matrices + 2 * table)
    if precision == "8da8w":
        return matrices + 4 * rows + 2 * table + 4 * rest
    # A scale a group is a float32: 4 bits and 4 bytes in 32.
    return round((0.5 + 4 / GROUP) * matrices) + 2 * table + 4 * rest


@dataclass(frozen=True, slots=True)
class Words:
    """How far a file's next tokens lie, over the places that choose a token of an answer."""

    tokens: int
    eager: float  # largest difference of a logit from the same model in torch
    kl: float  # mean KL(float || file), nats
    alike: float  # share of places where float torch puts the same token first


@torch.no_grad()
def measure(
    checkpoint: Checkpoint, decoder: CachedDecoder, path: Path, answered: Sequence[Answer]
) -> Words:
    """The file reads whole answers, the same model in torch reads them too, and the float model
    says what should have come."""
    assert checkpoint.language is not None
    file = _File(path)
    worst, kl, same = 0.0, [], 0
    for one, whole in zip(answered, sequences(checkpoint, answered), strict=True):
        end, start = len(whole) - 1, len(whole) - len(one.answer)
        rows = torch.cat(
            [file(whole, 0, start), *(file(whole, k, k + 1) for k in range(start, end))]
        )
        if not rows.isfinite().all():
            raise VerificationError(f"{path.name}: logits that are not finite")
        exact = checkpoint.language(whole[None])[0, -len(one.answer) - 1 : -1]
        p, q = exact.double().log_softmax(1), rows.double().log_softmax(1)
        kl += (p.exp() * (p - q)).sum(1).tolist()
        same += int((exact.argmax(1) == rows.argmax(1)).sum())
        # The quantized model in torch is slow: its first steps, and the rest at once.
        decoder.restart()
        middle = min(start + EAGER, end)
        steps = [(0, start), *((k, k + 1) for k in range(start, middle)), (middle, end)]
        for a, b in steps:
            if a < b:
                expected = decoder(whole[None, a:b], torch.arange(a, b))[0]
                worst = max(worst, float((rows[b - start] - expected).abs().max()))
    decoder.restart()
    return Words(len(kl), worst, float(np.mean(kl)), same / len(kl))


class _File:
    """The decoder of a file on disk: logits (1, vocabulary) after embeddings start … end - 1."""

    def __init__(self, path: Path) -> None:
        from feallm.runtime.backends.executorch import Program

        self._program = Program(path, threads=1)

    def __call__(self, whole: Tensor, start: int, end: int) -> Tensor:
        part = whole[None, start:end].contiguous()
        (logits,) = self._program.run(DECODE, [part, torch.arange(start, end)])
        result: Tensor = logits.clone()
        return result


def agree(
    checkpoint: Checkpoint,
    decoder: CachedDecoder,
    path: Path,
    answered: Sequence[Answer],
    bars: Bars,
) -> Words:
    """How far the file lies; `VerificationError` where that is too far."""
    found = measure(checkpoint, decoder, path, answered)
    if not (found.eager <= bars.eager and found.kl <= bars.kl):
        raise VerificationError(
            f"{path.name}: over {found.tokens} places of answers a logit differs from the same"
            f" model's in torch by {found.eager:.2g} (at most {bars.eager:g}), the next token lies"
            f" {found.kl:.2g} nats from float torch's (at most {bars.kl:g})"
        )
    return found
