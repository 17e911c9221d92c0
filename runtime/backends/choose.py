"""Which of a bundle's artifacts this machine runs, with which engine, and why.

The manifest names them in the order that its profile measured to be best. The first whose engine
works here is taken; what was passed over is told with its reason. A format that was asked for is
taken or refused, never replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from feallm.runtime.backends import coreml, executorch, llama, onnx
from feallm.runtime.backends.base import LanguageBackend, VisionBackend
from feallm.runtime.contract.errors import BackendError, UsageError
from feallm.runtime.contract.manifest import Artifact, Language, Profile

ENGINES: dict[str, str] = {
    "onnx": "onnx",
    "gguf": "llama",
    "pte": "executorch",
    "mlpackage": "coreml",
}
"""Engine of each format, as it is named in commands."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What was taken."""

    artifact: str  # its name in the manifest
    engine: str
    why: str  # one line for a person


def missing(artifact: Artifact) -> str | None:
    """None where an artifact runs here, else why not."""
    reasons: dict[str, Callable[[], str | None]] = {
        "onnx": lambda: onnx.available(artifact.only_on),
        "llama": llama.available,
        "executorch": executorch.available,
        "coreml": coreml.available,
    }
    return reasons[ENGINES[artifact.format]]()


def choose(
    artifacts: Mapping[str, Artifact],
    names: Sequence[str],
    asked: str | None = None,
    missing: Callable[[Artifact], str | None] = missing,
) -> Choice:
    """The best of these artifacts that runs here. `asked`: an engine, or an artifact's name.

    Raises UsageError for an engine that none of them is for, BackendError where none runs.
    """
    engine_of = {name: ENGINES[artifacts[name].format] for name in names}
    wanted = [name for name in names if asked in (None, name, engine_of[name])]
    if not wanted:
        there = dict.fromkeys([*engine_of.values(), *names])
        raise UsageError(f"no {asked!r} in this bundle", hint=f"it has {', '.join(there)}")
    passed: list[str] = []
    for name in wanted:
        reason = missing(artifacts[name])
        if reason is None:
            best = "was asked for" if asked else "is the bundle's first choice"
            why = "; ".join(passed) if passed else f"{name} {best}"
            return Choice(name, engine_of[name], why)
        passed.append(f"not {name}: {reason}")
    raise BackendError("; ".join(dict.fromkeys(passed)))


def open_vision(
    path: Path, engine: str, profile: Profile | None = None, threads: int | None = None
) -> VisionBackend:
    """The engine with a vision artifact loaded. `threads`: else the profile's."""
    count = threads or (profile.threads if profile else 1)
    if engine == "executorch":
        return executorch.ExecutorchVision(path, threads=count)
    if engine == "coreml":
        return coreml.CoremlVision(path, threads=count)
    return onnx.OnnxVision(
        path, threads=count, providers=profile.providers if profile else ("cpu",)
    )


def open_language(
    path: Path,
    engine: str,
    language: Language,
    *,
    tokenizer: Path | None = None,
    profile: Profile | None = None,
    threads: int | None = None,
) -> LanguageBackend:
    """The engine with a language artifact loaded. `tokenizer`: what all but llama.cpp need."""
    count = threads or (profile.threads if profile else 1)
    width, context = language.width, language.context
    if engine == "llama":
        return llama.LlamaSession(path, width=width, context=context, threads=count)
    if tokenizer is None:
        raise BackendError(f"{path.name}: {engine} needs a tokenizer, and the bundle has none")
    opener = executorch.ExecutorchSession if engine == "executorch" else coreml.CoremlSession
    return opener(path, tokenizer=tokenizer, width=width, context=context)
