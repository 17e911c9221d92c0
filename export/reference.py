"""Golden outputs: a float checkpoint in torch answers on fixed pictures, and all it says is kept.

`runtime.verify.golden_file` tells what the file holds. Pictures are the project's own frames
(`calibration.frames`), which travel in every bundle, faces of data files and packs, or both.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from feallm.calibration.frames import Frames
from feallm.export import faults, trace
from feallm.export.onnx import outputs_of
from feallm.export.torch_session import TorchSession
from feallm.model.checkpoint import Checkpoint
from feallm.model.vision import VisionNetwork
from feallm.runtime.analyze import Analyzer
from feallm.runtime.backends.base import IMAGE, TOKENS, Arrays
from feallm.runtime.bundle.open import Bundle
from feallm.runtime.contract.aus import N_AUS
from feallm.runtime.contract.errors import BackendError, InputError
from feallm.runtime.contract.expressions import N_EXPRESSIONS
from feallm.runtime.language.grammar import answer_grammar
from feallm.runtime.language.wording import QUESTIONS
from feallm.runtime.verify import ask, golden, way
from feallm.runtime.verify import trace as traced
from feallm.runtime.verify.golden import Facts, Golden, Words
from feallm.runtime.vision.align import align

Floats = NDArray[np.float32]
Tell = Callable[[str], None]
LIMIT = 180
"""Tokens of an answer at most, as bundles ask for."""
FAULTY = 8
"""Crops on which the answers of known faults are kept."""
PACKAGES = ("feallm-edge", "torch", "numpy", "opencv-python-headless")


@dataclass(frozen=True, slots=True)
class Settings:
    """How torch computes."""

    device: str = "cpu"  # or cuda
    dtype: str = "float32"  # or float64
    threads: int = 1
    onednn: bool = True

    def as_facts(self) -> dict[str, str]:
        """For the file."""
        return {
            "threads": str(self.threads),
            "oneDNN": "on" if self.onednn else "off",
            "machine": f"{platform.system()} {platform.machine()}",
        }


@dataclass(frozen=True, slots=True)
class Faces:
    """Crops (N, H, W, 3) RGB with what is known of them."""

    name: str
    sha256: str  # of the file or pack that they are of
    crops: NDArray[np.uint8]
    au: Floats  # (N, 20), NaN = unknown
    expression: NDArray[np.int64]  # (N,), -1 = unknown


class TorchEyes:
    """A vision network behind the runtime's seam, on a device and in a type of one's choice."""

    provider = "torch"

    def __init__(self, network: VisionNetwork) -> None:
        self.network = network.eval()

    @torch.no_grad()
    def run(self, inputs: Arrays) -> dict[str, Floats]:
        """Outputs by name for `image` uint8 (N, H, W, 3)."""
        crops = torch.from_numpy(np.ascontiguousarray(inputs[IMAGE]))
        crops = crops.to(next(self.network.parameters()).device)
        values = self.network(crops)
        names = outputs_of(self.network)
        return {name: v.float().cpu().numpy() for name, v in zip(names, values, strict=True)}

    def close(self) -> None:
        """Nothing to give back."""


def record(
    checkpoint: Checkpoint,
    sha256: str,
    bundle: Bundle,
    *,
    frames: Frames | None,
    faces: Sequence[Faces] = (),
    answers: int | None = None,
    settings: Settings | None = None,
    seed: int = 0,
    command: str = "",
    tell: Tell = lambda line: None,
) -> Golden:
    """What the checkpoint answers. `bundle`: whose detector and crop look at the frames. `answers`:
    at most so many faces are spoken of, spread over all; None: all, 0: none. Raises InputError
    without pictures, BackendError without the device that is asked for."""
    settings = settings or Settings()
    _set_up(checkpoint, settings)
    eyes = TorchEyes(checkpoint.vision)
    tell("frames")
    seen, encoded = _frames(checkpoint, bundle, eyes, frames)
    crops = np.concatenate([*([seen[0]] if len(seen[0]) else []), *(one.crops for one in faces)])
    if not len(crops):
        raise InputError("no pictures to record golden outputs of")
    labels = [frames_labels(frames)] if frames is not None else []
    labels += [(one.au, one.expression) for one in faces]
    tell(f"eyes, {len(crops)} faces")
    outputs = ask.outputs(eyes, crops)
    outputs[TOKENS] = golden.rounded(outputs[TOKENS])  # the words read what the file will hold
    words = None
    if checkpoint.language is not None and answers != 0:
        words = _words(checkpoint, outputs[TOKENS], answers, tell)
    sources = [f"frames {frames.sha256}"] if frames is not None else []
    sources += [f"{one.name} {one.sha256}" for one in faces]
    facts = Facts(
        model=checkpoint.config.size,
        checkpoint_sha256=sha256,
        device=_device_name(settings),
        dtype="float64" if settings.dtype == "float64" else "float32",
        settings=settings.as_facts(),
        versions=_versions(),
        seed=seed,
        pictures=tuple(sources),
        sha256=golden.hash_of(encoded, crops),
        command=command,
        aus_trained=checkpoint.aus_trained,
        thresholds=checkpoint.thresholds,
        question=QUESTIONS[0] if words is not None else "",
    )
    return Golden(
        facts,
        tuple(encoded),
        seen[1],
        seen[2],
        seen[3],
        crops,
        outputs,
        np.concatenate([one[0] for one in labels]).astype(np.float32),
        np.concatenate([one[1] for one in labels]).astype(np.int64),
        words,
        _faults(eyes, crops[:FAULTY]),
        _layers(checkpoint, crops, outputs[TOKENS], words),
    )


def frames_labels(frames: Frames) -> tuple[Floats, NDArray[np.int64]]:
    """Intensity (N, 20) of each AU, its stronger side, and the expression (N,)."""
    return frames.au_sides.max(2), frames.expression.astype(np.int64)


def _set_up(checkpoint: Checkpoint, settings: Settings) -> None:
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise BackendError("no CUDA device here", hint="--device cpu")
    torch.set_num_threads(settings.threads)
    torch.backends.mkldnn.set_flags(settings.onednn)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    kind = torch.float64 if settings.dtype == "float64" else torch.float32
    for part in (checkpoint.vision, checkpoint.language):
        if part is not None:
            part.to(settings.device, kind)


def _device_name(settings: Settings) -> str:
    return torch.cuda.get_device_name() if settings.device == "cuda" else "cpu"


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


_Seen = tuple[NDArray[np.uint8], NDArray[np.float64], Floats, Floats]


def _frames(
    checkpoint: Checkpoint, bundle: Bundle, eyes: TorchEyes, frames: Frames | None
) -> tuple[_Seen, list[bytes]]:
    """Crops, transforms, AUs and expressions of the frames, and the frames as they are encoded."""
    if frames is None:
        none = np.zeros((0, 2, 3)), np.zeros((0, N_AUS), np.float32)
        blank = np.zeros((0, 1, 1, 3), np.uint8)
        return (blank, *none, np.zeros((0, N_EXPRESSIONS), np.float32)), []
    stated = {
        "aus_trained": checkpoint.aus_trained,
        "aus_sided": checkpoint.aus_sided,
        "thresholds": checkpoint.thresholds,
    }
    own = Bundle(bundle.root, bundle.manifest.model_copy(update=stated))
    analyzer = Analyzer(own, vision=eyes, words=False)
    seen = way.look(analyzer, frames.pictures)
    # At the true points: where the network sees them differs in the last bits from one way of
    # computing to the next, and every recording must be of the same pictures.
    crops = [
        align(picture, points.astype(np.float64))[0]
        for picture, points in zip(frames.pictures, frames.points5, strict=True)
    ]
    expression = np.nan_to_num(seen.expression)
    return (np.stack(crops), seen.matrix, seen.au, expression), list(frames.encoded)


def _faults(eyes: TorchEyes, crops: NDArray[np.uint8]) -> dict[str, Floats]:
    network = eyes.network
    found = {name: eyes.run({IMAGE: wrong}) for name, wrong in faults.pictures(crops).items()}
    found["mean_std"] = TorchEyes(faults.swapped_mean_and_std(network)).run({IMAGE: crops})
    with faults.ranges_of_black(network):
        found["black_ranges"] = eyes.run({IMAGE: crops})
    return {name: golden.fingerprint(outputs) for name, outputs in found.items()}


def _words(checkpoint: Checkpoint, tokens: Floats, answers: int | None, tell: Tell) -> Words:
    """The answers within the grammar, greedy, and the logits that chose each of their tokens."""
    session = TorchSession(checkpoint)
    count = len(tokens) if answers is None else min(answers, len(tokens))
    rows = np.unique(np.linspace(0, len(tokens) - 1, count).astype(np.int64))
    question = session.tokenize(f"{QUESTIONS[0]}\n")
    grammar = answer_grammar(checkpoint.aus_trained)
    said, answered, top, logit, total = [], [], [], [], []
    for k, row in enumerate(rows.tolist()):
        if k % 25 == 0:
            tell(f"words, {k} of {len(rows)} answers")
        said.append(ask.say(session, tokens[row], question, grammar, LIMIT))
        answer = session.answer(len(question), LIMIT)
        found = ask.logits(session, tokens[row], question, answer)
        kept = np.argsort(-found, 1, kind="stable")[:, : golden.LIKELIEST]
        top.append(kept)
        logit.append(np.take_along_axis(found, kept, 1))
        highest = found.max(1, keepdims=True).astype(np.float64)
        sums = highest[:, 0] + np.log(np.exp(found - highest).sum(1))
        total.append(sums.astype(np.float32))
        answered.append(tuple(answer))
    return Words(
        rows,
        tuple(question),
        tuple(answered),
        tuple(said),
        np.concatenate(top),
        np.concatenate(logit),
        np.concatenate(total),
        tuple(tuple(session.tokenize(text)) for text in said),
    )


def _layers(
    checkpoint: Checkpoint, crops: NDArray[np.uint8], tokens: Floats, words: Words | None
) -> dict[str, NDArray[Any]]:
    """What single layers answer about the first crops, and the first that is spoken of."""
    found = trace.vision_layers(checkpoint.vision, crops[: traced.FACES])
    arrays = traced.pack(found, "eyes")
    if words is not None and checkpoint.language is not None:
        begin = TorchSession(checkpoint).begin
        first = tokens[int(words.spoken[0])]
        found = trace.language_layers(checkpoint.language, begin, first, words.question)
        arrays |= traced.pack(found, "words")
    return arrays


def sha256_of(paths: Sequence[Path]) -> str:
    """Of files, one after the other."""
    hasher = hashlib.sha256()
    for path in paths:
        hasher.update(path.read_bytes())
    return hasher.hexdigest()
