"""ONNX files of a bundle, run on an emulated aarch64 board, against golden outputs.

    python tools/verify_aarch64.py BUNDLE --reference FILE.npz [--faces 500] [--only NAME]

The board's Python answers; the judge is `feallm.runtime.verify`, here. A second or so a face.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from aarch64 import CPU, Board, prepare
from numpy.typing import NDArray

from feallm.runtime.backends.base import IMAGE, Arrays, VisionBackend
from feallm.runtime.bundle.open import Bundle, open_bundle
from feallm.runtime.contract.errors import BackendError
from feallm.runtime.contract.manifest import Artifact, Part
from feallm.runtime.verify import golden_file
from feallm.runtime.verify.check import Doors, verify
from feallm.runtime.verify.golden import Golden
from feallm.runtime.verify.trace import Layer
from feallm.runtime.verify.verdict import number

ANSWERS = Path(__file__).parent.parent / "tests" / "native" / "onnx_answers.py"


class BoardEyes:
    """A vision file on the board: `run` starts a Python there."""

    provider = f"CPUExecutionProvider on an emulated {CPU}"

    def __init__(self, board: Board, path: Path) -> None:
        self._board, self._path = board, path

    def run(self, inputs: Arrays) -> dict[str, NDArray[np.float32]]:
        """Outputs by name for `image` uint8 (N, H, W, 3)."""
        with tempfile.TemporaryDirectory(dir=self._board.root / "tmp") as name:
            folder = Path(name)
            shutil.copy(self._path, folder / "vision.onnx")
            shutil.copy(ANSWERS, folder)
            np.save(folder / "crops.npy", inputs[IMAGE])
            inside = f"/tmp/{folder.name}"
            command = self._board.python(f"{inside}/{ANSWERS.name}", inside)
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise BackendError(f"the board failed: {done.stderr.strip()[-300:]}")
            with np.load(folder / "vision.npz") as found:
                return {key: found[key] for key in found.files}

    def close(self) -> None:
        """Nothing to give back."""


class OnBoard(Doors):
    """Doors to the board: ONNX eyes alone."""

    def __init__(self, bundle: Bundle, board: Board) -> None:
        super().__init__(bundle, 1)
        self._board = board

    def missing(self, artifact: Artifact) -> str | None:
        """None for what is run on the board."""
        return None if artifact.format == "onnx" else "not run on the board"

    def eyes(self, name: str) -> VisionBackend:
        """The file on the board."""
        return BoardEyes(self._board, self.bundle.file(name))

    def layers(self, part: Part, name: str, golden: Golden, names: Sequence[str]) -> list[Layer]:
        """None: those of the file are looked at elsewhere."""
        return []


def main() -> None:
    """Print a line a file and JSON; exit code 6 where something does not agree."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--faces", type=int, default=500)
    parser.add_argument("--only")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    board = prepare(Path(sys.prefix) / "aarch64")
    bundle = open_bundle(arguments.bundle)
    few = golden_file.read(arguments.reference).few(arguments.faces)
    report = verify(
        bundle, few, only=arguments.only, doors=OnBoard(bundle, board), frames=False, tell=print
    )
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(report.as_dict(), indent=1) + "\n")
    for result in report.results:
        print(f"{result.artifact} {result.provider}: {'agrees' if result.passed else 'DOES NOT'}")
        for line in result.lines:
            print(f"  {line.what}: {number(line.value)}{'' if line.passed else '  does not hold'}")
        print(result.failure or "", *result.causes)
    sys.exit(0 if report.passed else 6)


if __name__ == "__main__":
    main()
