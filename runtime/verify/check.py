"""A bundle's artifacts against golden outputs: numbers, decisions, answers.

Each part of each artifact that runs here is asked what the golden model was asked. What differs is
held against the tolerances that the manifest states for this artifact. No torch, no network.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, get_args

from feallm.runtime.backends.base import TOKENS, LanguageBackend, VisionBackend
from feallm.runtime.backends.choose import ENGINES, missing, open_language, open_vision
from feallm.runtime.bundle.open import Bundle
from feallm.runtime.contract.errors import BackendError, BundleError, FeallmError, UsageError
from feallm.runtime.contract.manifest import Artifact, Manifest, Part
from feallm.runtime.verify import ask, causes, eyes, spoken, trace, trace_llama, trace_onnx
from feallm.runtime.verify.golden import Golden
from feallm.runtime.verify.lines import NO_LIMITS
from feallm.runtime.verify.trace import FACES, Layer
from feallm.runtime.verify.verdict import Line, Report, Result

PACKAGES = ("feallm-edge", "numpy", "opencv-python-headless", "onnxruntime", "llama-cpp-python",
            "executorch", "coremltools")  # fmt: skip

Tell = Callable[[str], None]


class Doors:
    """How artifacts are opened. Another door may be put in its place: the workshop interprets
    Core ML programs where there is no Core ML."""

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        self.bundle, self.threads = bundle, threads

    def missing(self, artifact: Artifact) -> str | None:
        """None where an artifact runs here, else why not."""
        return missing(artifact)

    def eyes(self, name: str) -> VisionBackend:
        """The engine with a vision artifact."""
        manifest, path = self.bundle.manifest, self.bundle.file(name)
        engine = ENGINES[manifest.artifacts[name].format]
        return open_vision(path, engine, manifest.profile, self.threads)

    def words(self, name: str) -> LanguageBackend:
        """The engine with a language artifact."""
        manifest, language = self.bundle.manifest, self.bundle.manifest.language
        if language is None:
            raise BackendError(f"{self.bundle.root}: this bundle has no language model")
        return open_language(
            self.bundle.file(name),
            ENGINES[manifest.artifacts[name].format],
            language,
            tokenizer=self.bundle.file(language.tokenizer) if language.tokenizer else None,
            profile=manifest.profile,
            threads=self.threads,
        )

    def layers(self, part: Part, name: str, golden: Golden, names: Sequence[str]) -> list[Layer]:
        """What the named layers answer, in an artifact whose engine shows them; else none."""
        path, kind = self.bundle.file(name), self.bundle.manifest.artifacts[name].format
        language, words = self.bundle.manifest.language, golden.words
        if part == "eyes" and kind == "onnx":
            return trace_onnx.layers(path, golden.crops[:FACES], names)
        if part == "words" and kind == "gguf" and language is not None and words is not None:
            tokens = golden.outputs[TOKENS][int(words.spoken[0])]
            return trace_llama.layers(path, tokens, words.question, context=language.context)
        return []

    @property
    def count(self) -> int:
        """Threads of an inference."""
        profile = self.bundle.manifest.profile
        return self.threads or (profile.threads if profile else 1)


def verify(
    bundle: Bundle,
    golden: Golden,
    *,
    only: str | None = None,
    threads: int | None = None,
    doors: Doors | None = None,
    parts: Collection[Part] = get_args(Part),
    frames: bool = True,
    tell: Tell = lambda line: None,
) -> Report:
    """Every artifact that runs here against the golden outputs. `only`: an engine, or an artifact's
    name; `frames`: False leaves out detector and crop. Raises UsageError where the bundle has none
    of that, BackendError where none runs here, BundleError where the golden outputs are of another
    kind of network."""
    doors = doors or Doors(bundle, threads)
    _fits(bundle.manifest, golden)
    skipped: dict[str, str] = {}
    if golden.words is None and only is None and (language := bundle.manifest.language):
        told = "the golden outputs hold no words"
        skipped = {f"{name} (words)": told for name in language.artifacts}
    results: list[Result] = []
    for part, name in _asked(bundle.manifest, golden, only, parts):
        reason = doors.missing(bundle.manifest.artifacts[name])
        if reason is not None:
            skipped[name] = reason
            continue
        tell(f"{name}: {part}")
        results.append(_judged(doors, part, name, golden, frames))
    if not results:
        told = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
        raise BackendError(f"nothing of this bundle runs here: {told}")
    return Report(
        bundle.manifest.name,
        bundle.digest,
        golden.facts.model_dump(mode="json"),
        len(golden),
        machine(),
        tuple(results),
        skipped,
    )


def _judged(doors: Doors, part: Part, name: str, golden: Golden, frames: bool) -> Result:
    """One part of one artifact; what fails is its result, and stops nothing else."""
    clock, bundle = ask.Clock(), doors.bundle
    artifact = bundle.manifest.artifacts[name]
    faces = len(golden.words.spoken) if part == "words" and golden.words else len(golden)
    result = Result(
        name,
        part,
        ENGINES[artifact.format],
        "",
        doors.count,
        faces,
        0.0,
        judged=artifact.tolerance.get(part, NO_LIMITS) != NO_LIMITS,
    )
    backend: VisionBackend | LanguageBackend | None = None
    try:
        if part == "eyes":
            backend = sight = doors.eyes(name)
            result = replace(result, provider=sight.provider)
            result = eyes.judge(bundle, sight, golden, result, frames)
        elif golden.words is not None:
            backend = speech = doors.words(name)
            result = replace(result, provider=speech.provider)
            result = spoken.judge(bundle, speech, golden, golden.words, result)
    except FeallmError as error:
        result = replace(
            result,
            failure=error.message,
            causes=causes.of_failure(error.message, artifact.precision == "fp16"),
        )
    finally:
        if backend is not None:
            backend.close()
    try:
        result = _looked_into(doors, result, golden)
    except FeallmError as error:  # of an engine that names them in another way; answers count
        result = replace(result, layers=(f"its layers are not shown: {error.message}",))
    return replace(result, seconds=clock.seconds())


def _looked_into(doors: Doors, result: Result, golden: Golden) -> Result:
    """`result` with what its layers tell: where one drifts it is named, and does not pass."""
    expected = trace.unpack(golden.layers, result.part)
    if not expected:
        return result
    names = [layer.name for layer in expected]
    drifts = trace.drifts(expected, doors.layers(result.part, result.artifact, golden, names))
    if not drifts:
        return result
    tolerance = doors.bundle.manifest.artifacts[result.artifact].tolerance.get(result.part)
    limit = tolerance.layers if tolerance is not None else None
    result = replace(result, layers=tuple(one.line() for one in drifts))
    if limit is None:
        return result
    beyond = [one for one in drifts if trace.drifted(one, limit)]
    line = Line("tensor", f"layers that drift, of {len(drifts)}", float(len(beyond)), 0)
    likely = (*result.causes, *causes.of_layers(drifts, limit))
    return replace(result, lines=(*result.lines, line), causes=likely)


def _fits(manifest: Manifest, golden: Golden) -> None:
    geometry = manifest.geometry
    if golden.crops.shape[1:3] != (geometry.height_px, geometry.width_px):
        raise BundleError(
            f"golden crops of {golden.crops.shape[2]} x {golden.crops.shape[1]} pixels, the"
            f" bundle's are {geometry.width_px} x {geometry.height_px}"
        )
    if (words := manifest.language) is not None and TOKENS in golden.outputs:
        expected = (words.visual_tokens, words.width)
        if golden.outputs[TOKENS].shape[1:] != expected:
            raise BundleError(
                f"golden visual tokens {golden.outputs[TOKENS].shape[1:]}, the bundle's {expected}"
            )


def _asked(
    manifest: Manifest, golden: Golden, only: str | None, parts: Collection[Part]
) -> list[tuple[Part, str]]:
    held: list[tuple[Part, str]] = [("eyes", name) for name in manifest.vision]
    if manifest.language is not None:
        held += [("words", name) for name in manifest.language.artifacts]
    engine = {name: ENGINES[manifest.artifacts[name].format] for _, name in held}
    named = [(part, name) for part, name in held if only in (None, name, engine[name])]
    if not named:
        there = ", ".join(dict.fromkeys([*engine.values(), *engine]))
        raise UsageError(f"no {only!r} to verify in this bundle", hint=f"it has {there}")
    wanted = [(part, name) for part, name in named if part in parts]
    wanted = [one for one in wanted if one[0] == "eyes" or golden.words is not None]
    if not wanted:
        raise UsageError(f"the golden outputs hold no words to compare {named[0][1]} with")
    return wanted


def machine() -> dict[str, Any]:
    """What figures depend on."""
    found: dict[str, str] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "python": platform.python_version(),
        "packages": found,
    }


def _processor() -> str:
    if platform.system() != "Linux":
        return platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    named = (line for line in lines if line.startswith(("model name", "Model", "CPU part")))
    return next(named, "").partition(":")[2].strip()
