"""What finished artifacts weigh, how fast they are here, and how far they lie from the float
network: the table that `feallm export` prints, writes into the bundle, and docs/artifacts.md holds.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feallm.calibration.answers import Answer
from feallm.calibration.answers import answers as answers_of
from feallm.export import timing
from feallm.export.decisions import compare
from feallm.export.job import Job
from feallm.export.matrix import EXPORTERS
from feallm.export.parity import divergence, divergence_of
from feallm.export.run import answers, float_answers
from feallm.runtime.backends.executorch import ExecutorchSession
from feallm.runtime.backends.tokens import Tokens
from feallm.runtime.bundle.open import measure as weigh
from feallm.runtime.language.wording import QUESTIONS

HELD_OUT = "held-out renders"
MOST_INTERPRETED = 500
"""Faces of a set that a Core ML program is interpreted on: it takes some 30 ms a face."""
MOST_SPOKEN = 6
"""Answers that a Core ML program is interpreted on, for the same reason: a second or two each."""
PACKAGES = ("torch", "onnxruntime", "executorch", "coremltools", "llama-cpp-python", "numpy")

Crops = NDArray[np.uint8]
Thresholds = Mapping[str, Mapping[str, float]]  # of artifacts that have their own, by name


def report(
    sets: Mapping[str, Crops],
    tell: Callable[[str], None] = lambda line: None,
) -> Callable[[Job, dict[str, Path], Thresholds], dict[str, Any]]:
    """The function that `bundle.export` asks: measures artifacts on these faces, by name, beside
    those that no range was measured on."""

    def measured(job: Job, made: dict[str, Path], own: Thresholds) -> dict[str, Any]:
        return _measured(job, made, {**sets, HELD_OUT: job.held_out}, own, tell)

    return measured


def _measured(
    job: Job,
    made: dict[str, Path],
    sets: dict[str, Crops],
    own: Thresholds,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    network, thresholds = job.checkpoint.vision, job.checkpoint.thresholds
    exact = {name: float_answers(network, crops) for name, crops in sets.items()}
    times = {threads: timing.measure(made, threads, _shape(job)) for threads in (1, 2)}
    answered = answers_of(job.checkpoint, job.held_out) if job.checkpoint.language else []
    rows = []
    for file, path in made.items():
        tell(f"measuring  {file}")
        exporter = EXPORTERS[file]
        row: dict[str, Any] = {
            "file": file,
            "format": exporter.format,
            "precision": exporter.precision,
            "mb": weigh(path, absent=file)[0] / 1e6,
        }
        speeds = {str(n): found[file] for n, found in times.items() if file in found}
        if speeds:
            row["ms" if file.startswith("vision") else "tokens_per_s"] = speeds
        if "vision" in exporter.parts:
            row["on"] = {
                name: _compared(path, crops, exact[name], thresholds, own.get(file))
                for name, crops in sets.items()
            }
        if "language" in exporter.parts:
            row["words"] = _words(job, path, answered)
        rows.append(row)
    return {"machine": _machine(), "artifacts": rows}


def _compared(
    path: Path,
    crops: Crops,
    exact: dict[str, NDArray[np.float32]],
    thresholds: Mapping[str, float],
    own: Mapping[str, float] | None,
) -> dict[str, Any]:
    if path.suffix == ".mlpackage" and len(crops) > MOST_INTERPRETED:
        rows = np.linspace(0, len(crops) - 1, MOST_INTERPRETED).astype(int)
        crops, exact = crops[rows], {name: value[rows] for name, value in exact.items()}
    return compare(answers(path, crops), exact, thresholds, own)


def _words(job: Job, path: Path, answered: Sequence[Answer]) -> dict[str, Any]:
    """How far the next token's distribution lies from float's, on answers about held-out faces."""
    checkpoint = job.checkpoint
    if path.suffix == ".gguf":
        return asdict(divergence(checkpoint, path, answered))
    if path.suffix == ".mlpackage":
        few = answered[:: max(1, len(answered) // MOST_SPOKEN)]
        return asdict(divergence_of(checkpoint, path.name, few, _interpreted(job, path)))
    config = checkpoint.config.language
    session = ExecutorchSession(
        path, tokenizer=_tokenizer(job), width=config.width, context=config.context
    )

    def read(one: Answer) -> NDArray[np.float32]:
        session.restart()
        session.see(one.visual)
        session.feed([*one.question])
        rows = [session.logits()]
        for token in one.answer[:-1]:
            session.feed([token])
            rows.append(session.logits())
        return np.stack(rows)

    try:
        return asdict(divergence_of(checkpoint, path.name, answered, read))
    finally:
        session.close()


def _interpreted(job: Job, path: Path) -> Callable[[Answer], NDArray[np.float32]]:
    from feallm.export.coreml_words import read_answer
    from feallm.export.mil import MilProgram

    program, begin = MilProgram(path), Tokens(_tokenizer(job)).begin
    # It answers after each token of the conversation; the answer's own are chosen one place before.
    return lambda one: read_answer(program, begin, one, True).numpy()[-len(one.answer) - 1 : -1]


def _tokenizer(job: Job) -> Path:
    path = job.scratch / "tokenizer.json"
    path.write_text(job.checkpoint.tokenizer or "", encoding="utf-8")
    return path


def _shape(job: Job) -> dict[str, Any] | None:
    if job.checkpoint.tokenizer is None:
        return None
    config = job.checkpoint.config
    return {
        "question": QUESTIONS[0],
        "width": config.language.width,
        "context": config.language.context,
        "visual_tokens": config.vision.tokens + 1,
        "tokenizer": str(_tokenizer(job)),
    }


def _machine() -> dict[str, Any]:
    found: dict[str, str] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "packages": found,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
