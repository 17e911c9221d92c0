"""`feallm verify` in the workshop: Core ML programs are interpreted where there is no Core ML.

    python -m feallm.export.verify BUNDLE [--reference FILE.npz] [--faces N] [--only ENGINE]

Same judge, same tolerances; what it says of a .mlpackage is said of the file, not of Apple's
compiler.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from feallm.export import trace as layers_of
from feallm.export.mil import MilProgram, States
from feallm.export.run import MilVision
from feallm.runtime.backends.base import LanguageBackend, VisionBackend
from feallm.runtime.backends.coreml import CoremlSession
from feallm.runtime.backends.tokens import Tokens
from feallm.runtime.bundle.open import Bundle, open_bundle
from feallm.runtime.contract.errors import BackendError, FeallmError, InputError
from feallm.runtime.contract.manifest import Artifact, Part
from feallm.runtime.verify import golden_file
from feallm.runtime.verify.check import Doors, verify
from feallm.runtime.verify.golden import Golden
from feallm.runtime.verify.trace import FACES, Layer
from feallm.runtime.verify.verdict import Report, number


class Interpreting(Doors):
    """Doors that open Core ML packages too."""

    def missing(self, artifact: Artifact) -> str | None:
        """None where an artifact runs, or can be interpreted, here."""
        return None if artifact.format == "mlpackage" else super().missing(artifact)

    def eyes(self, name: str) -> VisionBackend:
        """The engine, or the interpreter, with a vision artifact."""
        if self.bundle.manifest.artifacts[name].format != "mlpackage":
            return super().eyes(name)
        try:
            return MilVision(self.bundle.file(name))
        except InputError as error:
            raise BackendError(error.message) from error

    def words(self, name: str) -> LanguageBackend:
        """The engine, or the interpreter, with a language artifact."""
        language = self.bundle.manifest.language
        if language is None or self.bundle.manifest.artifacts[name].format != "mlpackage":
            return super().words(name)
        if language.tokenizer is None:
            raise BackendError(f"{name} needs a tokenizer, and the bundle has none")
        tokenizer = self.bundle.file(language.tokenizer)
        return MilSession(
            self.bundle.file(name), tokenizer, width=language.width, context=language.context
        )

    def layers(self, part: Part, name: str, golden: Golden, names: Sequence[str]) -> list[Layer]:
        """What the named layers answer; a Core ML package shows those of its eyes."""
        if self.bundle.manifest.artifacts[name].format != "mlpackage":
            return super().layers(part, name, golden, names)
        if part == "words":
            return []
        return layers_of.coreml_layers(self.bundle.file(name), golden.crops[:FACES], names)


class MilSession(CoremlSession):
    """A words' package, interpreted, each result rounded to float16 where the program has it so."""

    provider = "interpreted"

    def __init__(self, path: Path, tokenizer: Path, *, width: int, context: int) -> None:
        self._tokens = Tokens(tokenizer)
        self.width, self.context, self.vocabulary = width, context, self._tokens.vocabulary
        self._model = _Model(MilProgram(path))
        self.restart()


class _Model:
    """coremltools' door to a model, as `CoremlSession` uses it."""

    def __init__(self, program: MilProgram) -> None:
        self._program = program

    def make_state(self) -> States:
        return self._program.new_states()

    def predict(self, inputs: Mapping[str, Any], states: States) -> dict[str, Any]:
        return dict(self._program.run(inputs, states, half=True))


def check(
    bundle: Bundle, reference: Golden, *, only: str | None = None, frames: bool = True
) -> Report:
    """`runtime.verify` with those doors."""

    def tell(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    return verify(
        bundle, reference, only=only, doors=Interpreting(bundle), frames=frames, tell=tell
    )


_COLUMNS = {
    "points lost in accuracy": "expression accuracy lost, points",
    "in mean AU F1": "mean AU F1 lost, points",
    "no worse": "faces no worse than the golden answer",
    "changed": "faces whose answer changed",
    "AU decisions": "AU decisions that are the same",
    "expression": "same expression first",
    "KL, mean": "KL of the next token, nats, mean",
    "99.9 %": "KL of the next token, 99.9 % below",
}


def table(report: Report) -> str:
    """A row a result."""
    head = ["artifact", "part", "ran by", *_COLUMNS, ""]
    rows = [head, ["---"] * len(head)]
    for result in report.results:
        known = {line.what: line.value for line in result.lines}
        values = [number(known[what]) if what in known else "–" for what in _COLUMNS.values()]
        word = "agrees" if result.passed else "**does not**"
        word = word if result.judged or not result.passed else "not judged"
        rows.append([result.artifact, result.part, result.provider, *values, word])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """Print a table, or JSON; exit code 6 where something does not agree."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--reference", type=Path, help="golden outputs; else those in the bundle")
    parser.add_argument("--only", help="an engine, or a file of the bundle")
    parser.add_argument("--faces", type=int, help="at most so many of the reference's")
    parser.add_argument("--no-frames", action="store_true", help="crops alone")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # two that wait for each other on busy cores are far slower
    try:
        bundle = open_bundle(arguments.bundle)
        stated = bundle.manifest.golden
        path = arguments.reference or (bundle.file(stated.artifact) if stated else None)
        if path is None:
            raise InputError(f"{bundle.root}: no golden outputs in it", hint="--reference FILE")
        reference = golden_file.read(path)
        if arguments.faces is not None:
            reference = reference.few(arguments.faces)
        frames = not arguments.no_frames
        report = check(bundle, reference, only=arguments.only, frames=frames)
    except FeallmError as error:
        parser.exit(error.exit_code, f"{error.line()}\n")
    print(json.dumps(report.as_dict()) if arguments.json else table(report))
    for result in report.results:
        for fault in result.faults:
            print(f"{result.artifact}, {result.part}: {fault}", file=sys.stderr)
    if not report.passed:
        parser.exit(6)


if __name__ == "__main__":
    main()
