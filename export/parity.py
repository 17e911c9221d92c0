"""Bundle against checkpoint: llama.cpp's next token over whole answers, and ONNX's outputs.

python -m feallm.export.parity --checkpoint NAME.safetensors --data FILE.npz
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from feallm.export.onnx import difference
from feallm.model.checkpoint import Checkpoint, load
from feallm.model.evaluate import sets
from feallm.model.tokenizer import BOS, EOS, special_id
from feallm.runtime.backends.llama import LlamaSession
from feallm.runtime.bundle.open import Bundle, open_bundle
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


def main() -> None:
    """Print how far a bundle's files are from their checkpoint, on faces of a data file."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="data file .npz")
    parser.add_argument("--bundle", type=Path, help="without it, the shipped one")
    parser.add_argument("--faces", type=int, default=64)
    arguments = parser.parse_args()
    bundle, checkpoint = open_bundle(arguments.bundle), load(arguments.checkpoint)
    labelled = sets.read(arguments.data, arguments.data.stem)
    rows = labelled.rows[np.linspace(0, len(labelled.rows) - 1, arguments.faces).astype(int)]
    crops = np.concatenate(list(sets.crops(labelled, rows, bundle.manifest.geometry.crop())))
    gaps = difference(checkpoint.vision, bundle.file(bundle.manifest.vision), crops)
    print(f"ONNX against torch on {len(crops)} faces, largest difference:")
    for name, gap in gaps.items():
        print(f"  {name:15} {gap:.2e}")
    found = next_token_agreement(checkpoint, bundle, crops)
    print(
        f"llama.cpp against torch: {found.share:.4%} of {found.tokens} next tokens alike,"
        f" largest difference of a logit {found.worst_logit:.2e}"
    )


if __name__ == "__main__":
    main()
