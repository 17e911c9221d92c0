"""llama.cpp against torch: the same next token, over whole answers, with injected embeddings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from feallm.model.checkpoint import Checkpoint
from feallm.model.tokenizer import BOS, EOS, special_id
from feallm.runtime.backends.llama import LlamaSession
from feallm.runtime.bundle.open import Bundle
from feallm.runtime.contract.errors import BackendError, VerificationError
from feallm.runtime.contract.geometry import CROP

LEAST_SAME = 0.99
"""Share of the answers' tokens that both must choose alike; F16 and the cache's F16 round."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Over all answer tokens of all faces."""

    tokens: int
    share: float  # where both put the same token first
    worst_logit: float  # largest absolute difference


def agree(checkpoint: Checkpoint, bundle: Bundle) -> Agreement:
    """`VerificationError` where llama.cpp does not read the file as torch does, on 8 crops."""
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 256, (8, 8, 7, 3), dtype=np.uint8)
    crops = levels.repeat(CROP.height_px // 8, 1).repeat(CROP.width_px // 7, 2)
    found = next_token_agreement(checkpoint, bundle, crops)
    if found.share < LEAST_SAME:
        raise VerificationError(
            f"{bundle.root.name}: llama.cpp chooses torch's next token in {found.share:.1%} of"
            f" {found.tokens}, at least {LEAST_SAME:.0%} is asked"
        )
    return found


@torch.no_grad()
def next_token_agreement(
    checkpoint: Checkpoint, bundle: Bundle, crops: NDArray[np.uint8]
) -> Agreement:
    """Torch writes an answer to each crop (N, H, W, 3); llama.cpp reads along, token by token."""
    language, facts = checkpoint.language, bundle.manifest.language
    if language is None or checkpoint.tokenizer is None or facts is None:
        raise BackendError("checkpoint or bundle has no language model")
    tokenizer = Tokenizer.from_str(checkpoint.tokenizer)
    question = tokenizer.encode(facts.question + "\n").ids
    session = LlamaSession(bundle.file(facts.artifact), width=facts.width, context=facts.context)
    same, count, worst = 0, 0, 0.0
    tokens = checkpoint.vision(torch.from_numpy(crops))[3]
    for visual in tokens:
        expected, answer = _answer(checkpoint, visual, question, facts.max_new_tokens)
        session.restart()
        session.see(visual.numpy())
        session.feed(question)
        found = [session.logits()]
        if len(answer) > 1:
            session.feed(answer[:-1], every_logit=True)
            found += [session.logits(i) for i in range(len(answer) - 1)]
        rows = np.stack(found)
        same += int((rows.argmax(1) == expected.argmax(1)).sum())
        worst = max(worst, float(np.abs(rows - expected).max()))
        count += len(answer)
    session.close()
    return Agreement(count, same / count, worst)


def _answer(
    checkpoint: Checkpoint, visual: torch.Tensor, question: list[int], limit: int
) -> tuple[NDArray[np.float32], list[int]]:
    """Torch's greedy answer with its end token, and the logits that chose each token."""
    language, tokenizer = checkpoint.language, Tokenizer.from_str(checkpoint.tokenizer or "")
    assert language is not None
    begin = language.embed(torch.tensor([[special_id(tokenizer, BOS)]]))
    prefix = torch.cat([begin, visual[None], language.embed(torch.tensor([question]))], 1)
    end = special_id(tokenizer, EOS)
    answer: list[int] = []
    while len(answer) < limit and (not answer or answer[-1] != end):
        embeddings = prefix
        if answer:
            embeddings = torch.cat([prefix, language.embed(torch.tensor([answer]))], 1)
        answer.append(int(language(embeddings)[0, -1].argmax()))
    whole = torch.cat([prefix, language.embed(torch.tensor([answer]))], 1)
    logits = language(whole)[0, prefix.shape[1] - 1 : -1]
    return logits.numpy(), answer
