"""What the float language model says of faces: the project's own text with the embeddings that
call it forth. Importance is measured on it, and how far a quantized file lies from float."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn

from feallm.model.checkpoint import Checkpoint
from feallm.model.language import Block, LanguageModel, rotate
from feallm.model.tokenizer import BOS, EOS, special_id
from feallm.runtime.contract.errors import InputError
from feallm.runtime.language.wording import QUESTIONS

LIMIT = 180
"""Tokens of an answer at most, as bundles ask for."""
_BATCH = 128


@dataclass(frozen=True, slots=True)
class Answer:
    """One face, a question about it, and the greedy answer."""

    visual: NDArray[np.float32]  # (visual tokens, width)
    question: tuple[int, ...]
    answer: tuple[int, ...]  # with its end token, or cut at the limit


@torch.no_grad()
def answers(
    checkpoint: Checkpoint,
    crops: NDArray[np.uint8],
    *,
    questions: Sequence[str] = QUESTIONS,
    limit: int = LIMIT,
) -> list[Answer]:
    """One answer a crop (N, H, W, 3), in their order; the questions take turns."""
    language, tokenizer = _words(checkpoint)
    begin, end = special_id(tokenizer, BOS), special_id(tokenizer, EOS)
    asked = [tuple(tokenizer.encode(question + "\n").ids) for question in questions]
    found: dict[int, Answer] = {}
    for k, question in enumerate(asked):
        places = np.arange(k, len(crops), len(asked))
        for part in np.array_split(places, -(-len(places) // _BATCH) or 1):
            if not len(part):
                continue
            visual = checkpoint.vision(torch.from_numpy(crops[part]))[3]
            prompt = _prompt(language, begin, visual, question)
            for place, seen, said in zip(
                part.tolist(), visual.numpy(), _greedy(language, prompt, end, limit), strict=True
            ):
                found[place] = Answer(seen, question, said)
    return [found[place] for place in range(len(crops))]


def sequences(checkpoint: Checkpoint, answered: Sequence[Answer]) -> Iterator[Tensor]:
    """Embeddings (tokens, width) of each whole conversation: the opening token, what is seen, the
    question, the answer."""
    language, tokenizer = _words(checkpoint)
    begin = special_id(tokenizer, BOS)
    for one in answered:
        with torch.no_grad():
            texts = language.embed(torch.tensor([begin, *one.question, *one.answer]))
            yield torch.cat([texts[:1], torch.from_numpy(one.visual), texts[1:]])


def _words(checkpoint: Checkpoint) -> tuple[LanguageModel, Tokenizer]:
    if checkpoint.language is None or checkpoint.tokenizer is None:
        raise InputError("this checkpoint has no language model")
    return checkpoint.language, Tokenizer.from_str(checkpoint.tokenizer)


def _prompt(
    language: LanguageModel, begin: int, visual: Tensor, question: tuple[int, ...]
) -> Tensor:
    texts = language.embed(torch.tensor([begin, *question])).expand(len(visual), -1, -1)
    return torch.cat([texts[:, :1], visual, texts[:, 1:]], 1)


def _greedy(language: LanguageModel, prompt: Tensor, end: int, limit: int) -> list[tuple[int, ...]]:
    """The answer to each prompt (N, T, width), one token at a time for all of them; keys and
    values of what was read are kept, else each token would cost the whole conversation again."""
    kept: list[list[Tensor]] = [[] for _ in language.blocks]
    said: list[Tensor] = []
    going = torch.ones(len(prompt), dtype=torch.bool)
    fed, at = prompt, 0
    while going.any() and len(said) < limit and at + fed.shape[1] <= language.config.context:
        x = fed
        for block, memory in zip(language.blocks, kept, strict=True):
            assert isinstance(block, Block)
            x = read_on(block, x, memory, language.cos[at:], language.sin[at:])
        logits = nn.functional.linear(language.norm(x[:, -1]), language.embed.weight)
        token = logits.argmax(1)
        said.append(torch.where(going, token, -1))
        going &= token != end
        at += fed.shape[1]
        fed = language.embed(token)[:, None]
    rows = torch.stack(said, 1).tolist()
    return [tuple(token for token in row if token >= 0) for row in rows]


def read_on(block: Block, x: Tensor, memory: list[Tensor], cos: Tensor, sin: Tensor) -> Tensor:
    """`Block.forward` for the tokens that follow those in `memory`, which then holds them too."""
    count = x.shape[1]
    h = block.attn_norm(x)
    q, k, v = (
        part(h).unflatten(-1, (block.heads, -1)).transpose(1, 2)
        for part in (block.q, block.k, block.v)
    )
    q, k = rotate(q, cos[:count], sin[:count]), rotate(k, cos[:count], sin[:count])
    if memory:
        k, v = torch.cat([memory[0], k], 2), torch.cat([memory[1], v], 2)
    memory[:] = [k, v]
    # Each token reads all that is remembered and those up to itself; torch's own `is_causal` would
    # count from the first key.
    mask = torch.ones(count, k.shape[2], dtype=torch.bool, device=q.device).tril(k.shape[2] - count)
    read = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    x = x + block.o(read.transpose(1, 2).flatten(2))
    h = block.ffn_norm(x)
    down: Tensor = block.down(nn.functional.silu(block.gate(h)) * block.up(h))
    return x + down
