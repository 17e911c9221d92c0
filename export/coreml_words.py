"""Language model -> Core ML program with its cache in states, iOS 18 and macOS 15 on, one token a
call.

Inputs: `position`; `seen` 1 where the call brings a visual token in `embedding`, else 0 where it
brings a text token in `token`. The other one is not looked at. Logits of the next token come out.
The table of embeddings lies inside, once, since the last layer is the same table. Keys and values
are kept by Core ML between calls; places after `position` are not read, so that starting again at
position 0 is all that a new answer needs.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from feallm.calibration.answers import Answer, answers
from feallm.export.coreml import STORED, judge, large_weights, write
from feallm.export.job import Job
from feallm.export.mil import MilProgram, quiet, restored
from feallm.model.language import Block, LanguageModel, RmsNorm, rotate
from feallm.model.tokenizer import BOS, special_id
from feallm.runtime.backends.coreml import EMBEDDING, LOGITS, POSITION, SEEN, TOKEN
from feallm.runtime.contract.errors import UsageError, VerificationError

KL = "kl"
BARS = {
    "fp16": {LOGITS: 0.005, KL: 2e-5, STORED + LOGITS: 1e-3},
    "int8": {LOGITS: 0.03, KL: 1e-3, STORED + LOGITS: 1e-3},
}
"""Logits: root mean square of the difference beside that of the float model's. KL: mean over the
tokens, from the float model's distribution to the file's."""
CHECKED, CHECKED_TOKENS = 2, 40
"""Faces, and tokens of the answers about them, that a file is checked on."""

_LEAST, _MOST = 0.01, 65504.0
_FAR = -1e4  # exp(-1e4) is 0 also in float16, whose range this does not leave


def safe_norm(x: Tensor, norm: RmsNorm) -> Tensor:
    """`RmsNorm` for float16, where the square of 256 is out of range: divided by the largest value
    before squaring, which leaves the quotient the same."""
    largest = x.abs().amax(-1, keepdim=True).clamp(_LEAST, _MOST)
    x = x / largest
    # A number over a tensor would become Core ML's `inverse`, which adds 1e-4 to it.
    eps = (torch.full((1, 1), norm.eps**0.5) / largest).square()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * norm.weight


def blend(cache: Tensor, row: Tensor, here: Tensor) -> Tensor:
    """Write one row (heads, 1, depth) of a cache (heads, context, depth) where `here` (1, context,
    1) is one. Writing at an index instead is what the converter drops from traced programs."""
    cache.mul_(1 - here).add_(row * here)
    return cache


class Step(nn.Module):
    """One token through the language model, its keys and values in buffers."""

    def __init__(self, language: LanguageModel) -> None:
        super().__init__()
        self.language, config = language, language.config
        self.register_buffer("places", torch.arange(config.context), persistent=False)
        self.places: Tensor
        for i in range(config.layers):
            shape = (config.heads, config.context, config.width // config.heads)
            for name in ("keys", "values"):
                self.register_buffer(f"{name}_{i}", torch.zeros(shape))

    def forward(self, token: Tensor, embedding: Tensor, seen: Tensor, position: Tensor) -> Tensor:
        """Logits (1, vocabulary)."""
        language = self.language
        x = torch.where(seen > 0, embedding, language.embed(token))[0]
        here = (self.places == position).to(x.dtype)
        cos, sin = (here[None] @ table for table in (language.cos, language.sin))
        later = (self.places > position).to(x.dtype) * _FAR
        for i, block in enumerate(language.blocks):
            assert isinstance(block, Block)
            h = safe_norm(x, block.attn_norm)
            q, k, v = (part(h).reshape(block.heads, 1, -1) for part in (block.q, block.k, block.v))
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
            keys = blend(getattr(self, f"keys_{i}"), k, here[None, :, None])
            values = blend(getattr(self, f"values_{i}"), v, here[None, :, None])
            weights = ((q * q.shape[-1] ** -0.5) @ keys.transpose(1, 2) + later).softmax(-1)
            x = x + block.o((weights @ values).reshape(1, -1))
            h = safe_norm(x, block.ffn_norm)
            x = x + block.down(nn.functional.silu(block.gate(h)) * block.up(h))
        return nn.functional.linear(safe_norm(x, language.norm), language.embed.weight)


def make(job: Job, precision: str, path: Path) -> None:
    """Write the package (a folder) at `path` in fp16 or int8 (weights a channel); nothing is left
    there where it does not answer as the model does."""
    if precision not in BARS:
        raise UsageError(f"Core ML words have no precision {precision}", hint=", ".join(BARS))
    language = _language(job)
    with quiet():
        model = _converted(language)
        write(_compressed(model, precision), path, _ABOUT)
    try:
        judge(path, measure(job, path), BARS[precision])
    except VerificationError:
        shutil.rmtree(path)
        raise


_ABOUT = {
    TOKEN: "id of a text token; not looked at where seen is 1",
    EMBEDDING: "one visual token; not looked at where seen is 0",
    SEEN: "1: this call brings a visual token, 0: a text token",
    POSITION: "place in the sequence, 0 for the opening token, one more each call",
    LOGITS: "logits of the next token",
}


def _language(job: Job) -> LanguageModel:
    if job.checkpoint.language is None or job.checkpoint.tokenizer is None:
        raise UsageError("this checkpoint has no language model")
    return job.checkpoint.language


def _converted(language: LanguageModel) -> Any:
    import coremltools as ct

    step = Step(language).eval().requires_grad_(False)
    example = (
        torch.zeros((1, 1), dtype=torch.int32),
        torch.zeros((1, 1, language.config.width)),
        torch.zeros(1, dtype=torch.int32),
        torch.zeros(1, dtype=torch.int32),
    )
    program = torch.export.export(step, example).run_decompositions({})
    return ct.convert(
        program,
        outputs=[ct.TensorType(LOGITS, dtype=np.float32)],
        convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS18,
        compute_precision=ct.precision.FLOAT16,
    )


def _compressed(model: Any, precision: str) -> Any:
    if precision == "fp16":
        return model
    import coremltools.optimize.coreml as cto

    linear = cto.OpLinearQuantizerConfig(
        mode="linear_symmetric", dtype="int8", granularity="per_block", block_size=32
    )
    chosen = dict.fromkeys(large_weights(model), linear)
    return cto.linear_quantize_weights(model, cto.OptimizationConfig(op_name_configs=chosen))


@torch.no_grad()
def measure(job: Job, path: Path) -> dict[str, float]:
    """How far the package's logits lie from the float model's over whole answers, every result
    rounded to float16, and (`STORED`) from torch's with the same weights, nothing rounded.
    `VerificationError` where the program does not write each key and value."""
    program, language = MilProgram(path), _language(job)
    writes, expected = program.kinds["coreml_update_state"], 2 * language.config.layers
    if writes < expected:
        raise VerificationError(
            f"{path.name}: writes {writes} states a step instead of {expected}: it would forget"
            " what it read"
        )
    asked = answers(job.checkpoint, job.held_out[:CHECKED], limit=CHECKED_TOKENS)
    begin = special_id(_tokenizer(job), BOS)
    rounded = torch.cat([read_answer(program, begin, one, True) for one in asked])
    plain = torch.cat([read_answer(program, begin, one, False) for one in asked])
    exact = torch.cat([_read(language, begin, one) for one in asked])
    step = Step(_copy(language))
    restored(step, program)
    same = torch.cat([_read(step.language, begin, one) for one in asked])
    true, found = exact.log_softmax(1), rounded.log_softmax(1)
    return {
        LOGITS: _relative(rounded, exact),
        KL: float((true.exp() * (true - found)).sum(1).mean()),
        STORED + LOGITS: _relative(plain, same),
    }


def _tokenizer(job: Job) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_str(str(job.checkpoint.tokenizer))


def _copy(language: LanguageModel) -> LanguageModel:
    copy = LanguageModel(language.config)
    copy.load_state_dict(language.state_dict())
    return copy.eval().requires_grad_(False)


def _relative(found: Tensor, exact: Tensor) -> float:
    return float(((found - exact).square().mean() / exact.square().mean()).sqrt())


def _read(language: LanguageModel, begin: int, one: Answer) -> Tensor:
    """Torch's logits (tokens, vocabulary) after each token of a conversation, the opening one and
    the visual ones included."""
    texts = language.embed(torch.tensor([begin, *one.question, *one.answer]))
    whole = torch.cat([texts[:1], torch.from_numpy(one.visual), texts[1:]])
    logits: Tensor = language(whole[None])[0]
    return logits


def read_answer(program: MilProgram, begin: int, one: Answer, half: bool) -> Tensor:
    """The package's logits of the same."""
    states = program.new_states()
    found = [program.run(step, states, half=half)[LOGITS] for step in _steps(begin, one)]
    return torch.from_numpy(np.concatenate(found))


def _steps(begin: int, one: Answer) -> Iterator[dict[str, NDArray[Any]]]:
    """Inputs of each call. What a call does not look at is filled with what would show."""
    nothing = np.full((1, 1, one.visual.shape[1]), 60000, np.float32)
    calls: list[tuple[int, NDArray[np.float32] | None]] = [(begin, None)]
    calls += [(0, row[None, None]) for row in one.visual]
    calls += [(token, None) for token in (*one.question, *one.answer)]
    for position, (token, embedding) in enumerate(calls):
        yield {
            TOKEN: np.array([[token]], np.int32),
            EMBEDDING: nothing if embedding is None else embedding,
            SEEN: np.array([embedding is not None], np.int32),
            POSITION: np.array([position], np.int32),
        }
