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
    """llama.cpp answers about each crop (N, H, W, 3), greedily; torch reads each whole answer and
    says which token it would have put at every place."""
    language, facts = checkpoint.language, bundle.manifest.language
    if language is None or checkpoint.tokenizer is None or facts is None:
        raise BackendError("checkpoint or bundle has no language model")
    tokenizer = Tokenizer.from_str(checkpoint.tokenizer)
    question = tokenizer.encode(facts.question + "\n").ids
    begin, end = special_id(tokenizer, BOS), special_id(tokenizer, EOS)
    session = LlamaSession(bundle.file(facts.artifact), width=facts.width, context=facts.context)
    same, count, worst = 0, 0, 0.0
    for visual in checkpoint.vision(torch.from_numpy(crops))[3]:
        session.restart()
        session.see(visual.numpy())
        session.feed(question)
        found, answer = _answer(session, end, facts.max_new_tokens)
        texts = language.embed(torch.tensor([begin, *question, *answer]))
        whole = torch.cat([texts[:1], visual, texts[1:]])[None]
        expected = language(whole)[0, -len(answer) - 1 : -1].numpy()
        same += int((found.argmax(1) == expected.argmax(1)).sum())
        worst = max(worst, float(np.abs(found - expected).max()))
        count += len(answer)
    session.close()
    return Agreement(count, same / count, worst)


def _answer(session: LlamaSession, end: int, limit: int) -> tuple[NDArray[np.float32], list[int]]:
    """llama.cpp's greedy answer with its end token, and the logits that chose each token."""
    rows: list[NDArray[np.float32]] = []
    answer: list[int] = []
    while len(answer) < limit:
        rows.append(session.logits())
        answer.append(int(rows[-1].argmax()))
        if answer[-1] == end:
            break
        session.feed([answer[-1]])
    return np.stack(rows), answer
