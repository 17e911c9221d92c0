"""Bundle against checkpoint: llama.cpp's next token over whole answers, and ONNX's outputs. A GGUF
file against checkpoint: how far its distribution over the next token lies from float's.

python -m feallm.export.parity --checkpoint NAME.safetensors --data FILE.npz
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from feallm.calibration.answers import LIMIT, Answer, answers, sequences
from feallm.export.onnx import difference
from feallm.model.checkpoint import Checkpoint, load
from feallm.model.evaluate import sets
from feallm.model.tokenizer import BOS, EOS, special_id
from feallm.runtime.backends.llama import LlamaSession
from feallm.runtime.bundle.open import Bundle, open_bundle
from feallm.runtime.contract.errors import BackendError, VerificationError
from feallm.runtime.contract.geometry import CROP
from feallm.runtime.language.wording import QUESTIONS

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
    found = next_token_agreement(checkpoint, language_file(bundle), crops)
    if found.share < LEAST_SAME:
        raise VerificationError(
            f"{bundle.root.name}: llama.cpp chooses torch's next token in {found.share:.1%} of"
            f" {found.tokens}, at least {LEAST_SAME:.0%} is asked"
        )
    return found


def language_file(bundle: Bundle) -> Path:
    """The bundle's first GGUF file."""
    facts, artifacts = bundle.manifest.language, bundle.manifest.artifacts
    for name in facts.artifacts if facts is not None else ():
        if artifacts[name].format == "gguf":
            return bundle.file(name)
    raise BackendError(f"{bundle.root}: no GGUF file in this bundle")


@torch.no_grad()
def next_token_agreement(checkpoint: Checkpoint, path: Path, crops: NDArray[np.uint8]) -> Agreement:
    """llama.cpp answers a bundle's question about each crop (N, H, W, 3), greedily; torch reads
    each whole answer and says which token it would have put at every place."""
    language = checkpoint.language
    if language is None or checkpoint.tokenizer is None:
        raise BackendError("this checkpoint has no language model")
    tokenizer = Tokenizer.from_str(checkpoint.tokenizer)
    question = tokenizer.encode(QUESTIONS[0] + "\n").ids
    begin, end = special_id(tokenizer, BOS), special_id(tokenizer, EOS)
    config = language.config
    session = LlamaSession(path, width=config.width, context=config.context)
    same, count, worst = 0, 0, 0.0
    for visual in checkpoint.vision(torch.from_numpy(crops))[3]:
        session.restart()
        session.see(visual.numpy())
        session.feed(question)
        found, answer = _answer(session, end, LIMIT)
        texts = language.embed(torch.tensor([begin, *question, *answer]))
        whole = torch.cat([texts[:1], visual, texts[1:]])[None]
        expected = language(whole)[0, -len(answer) - 1 : -1].numpy()
        same += int((found.argmax(1) == expected.argmax(1)).sum())
        worst = max(worst, float(np.abs(found - expected).max()))
        count += len(answer)
    session.close()
    return Agreement(count, same / count, worst)


@dataclass(frozen=True, slots=True)
class Divergence:
    """Of llama.cpp's distributions over the next token from float's, over the places that choose a
    token of an answer; KL(float || file) in nats."""

    tokens: int
    mean: float
    median: float
    tail: float  # 99.9 % of the places lie below
    share: float  # where both put the same token first
    worst_logit: float  # largest absolute difference


@torch.no_grad()
def divergence(checkpoint: Checkpoint, path: Path, answered: Sequence[Answer]) -> Divergence:
    """Both read the same answers, whatever they would have said themselves.

    llama.cpp keeps keys and values in float16, so even a float file lies a little off.
    """
    config = checkpoint.config.language
    session = LlamaSession(path, width=config.width, context=config.context)

    def read(one: Answer) -> NDArray[np.float32]:
        session.restart()
        session.see(one.visual)
        session.feed([*one.question, *one.answer[:-1]], every_logit=True)
        first = len(one.question) - 1
        return np.stack([session.logits(first + k) for k in range(len(one.answer))])

    try:
        return divergence_of(checkpoint, path.name, answered, read)
    finally:
        session.close()


@torch.no_grad()
def divergence_of(
    checkpoint: Checkpoint,
    name: str,
    answered: Sequence[Answer],
    read: Callable[[Answer], NDArray[np.float32]],
) -> Divergence:
    """The same of any engine: `read` gives logits (tokens of the answer, vocabulary), those that
    choose each token. `VerificationError` where one is not finite."""
    language = checkpoint.language
    if language is None or not answered:
        raise BackendError("no language model, or no answer, to compare the file with")
    gaps, same, worst = [], 0, 0.0
    for one, whole in zip(answered, sequences(checkpoint, answered), strict=True):
        found = read(one)
        expected = language(whole[None])[0, -len(one.answer) - 1 : -1].numpy()
        if not np.isfinite(found).all():
            raise VerificationError(f"{name}: gives logits that are not finite")
        gaps.append(_divergence(expected, found))
        same += int((found.argmax(1) == expected.argmax(1)).sum())
        worst = max(worst, float(np.abs(found - expected).max()))
    kl = np.concatenate(gaps)
    return Divergence(
        len(kl),
        float(kl.mean()),
        float(np.median(kl)),
        float(np.quantile(kl, 0.999)),
        same / len(kl),
        worst,
    )


def _divergence(exact: NDArray[np.float32], found: NDArray[np.float32]) -> NDArray[np.float64]:
    """KL (places,) between logits (places, vocabulary)."""
    p, q = (_log_softmax(logits.astype(np.float64)) for logits in (exact, found))
    result: NDArray[np.float64] = (np.exp(p) * (p - q)).sum(1)
    return result


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    lowered = logits - logits.max(1, keepdims=True)
    result: NDArray[np.float64] = lowered - np.log(np.exp(lowered).sum(1, keepdims=True))
    return result


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
    gaps = difference(checkpoint.vision, bundle.file(bundle.in_format("onnx")), crops)
    print(f"ONNX against torch on {len(crops)} faces, largest difference:")
    for name, gap in gaps.items():
        print(f"  {name:15} {gap:.2e}")
    path = language_file(bundle)
    found = next_token_agreement(checkpoint, path, crops)
    print(
        f"{path.name} against torch: {found.share:.4%} of {found.tokens} next tokens alike,"
        f" largest difference of a logit {found.worst_logit:.2e}"
    )
    apart = divergence(checkpoint, path, answers(checkpoint, crops))
    print(
        f"  KL of {apart.tokens} next tokens: mean {apart.mean:.2e}, median {apart.median:.2e},"
        f" 99.9 % below {apart.tail:.2e}"
    )


if __name__ == "__main__":
    main()
