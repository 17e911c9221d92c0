"""Vision and words through ExecuTorch's Python door.

That door imports torch, so the library is an extra and loaded on use; apps take the C++ door, which
needs no torch (`tests/native`). A .pte file holds no names: what a method's outputs are follows
from their order, which the contract fixes. `forward` gives them in the order of `ALL_OUTPUTS` (the
file of the eyes alone); `vision_encoder` gives the visual tokens first, as ExecuTorch's runner for
models of pictures and words expects, then the others in that order (the file of the whole model).
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feallm.runtime.backends.base import (
    ALL_OUTPUTS,
    AU_INTENSITY,
    AU_PROBABILITY,
    AU_SIDES,
    EXPRESSION,
    GAZE,
    IMAGE,
    LANDMARKS,
    PLACE_OUTPUTS,
    POSE,
    TOKENS,
    VISION_OUTPUTS,
    Arrays,
)
from feallm.runtime.backends.session import TextSession, finite_rows
from feallm.runtime.contract.aus import N_AUS
from feallm.runtime.contract.errors import BackendError
from feallm.runtime.contract.expressions import N_EXPRESSIONS
from feallm.runtime.contract.geometry import CROP
from feallm.runtime.contract.landmarks import GAZE as GAZE_AXES
from feallm.runtime.contract.landmarks import N_LANDMARKS
from feallm.runtime.contract.landmarks import POSE as POSE_AXES

VISION, WHOLE_VISION = "forward", "vision_encoder"
EMBED, DECODE = "token_embedding", "text_decoder"
VOCABULARY, CONTEXT = "get_vocab_size", "get_max_context_len"
"""Methods of a file."""
XNNPACK = "XnnpackBackend"
"""The name by which a file asks for XNNPACK."""

_BYTE = 0  # torch's number of uint8
_KNOWN = (VISION_OUTPUTS, (*VISION_OUTPUTS, *PLACE_OUTPUTS), ALL_OUTPUTS)
_SHAPES = {
    AU_PROBABILITY: (1, N_AUS),
    AU_INTENSITY: (1, N_AUS, 2),
    EXPRESSION: (1, N_EXPRESSIONS),
    LANDMARKS: (1, N_LANDMARKS, 2),
    POSE: (1, len(POSE_AXES)),
    GAZE: (1, len(GAZE_AXES)),
    AU_SIDES: (1, N_AUS, 2),
}


def available() -> str | None:
    """None where ExecuTorch can be used, else why not."""
    for name in ("torch", "executorch"):
        if find_spec(name) is None:
            return f"{name} is not installed (pip install 'feallm-edge[executorch]')"
    return None


class Program:
    """A file's methods; each object has memory of its own."""

    def __init__(self, path: Path, threads: int) -> None:
        if (reason := available()) is not None:
            raise BackendError(reason)
        self.path = path
        try:
            size, wanted = path.stat().st_size, _length(path)
            if wanted is None or size < wanted:
                raise ValueError("it is cut off" if wanted else "it is no .pte file")
            with _quiet():
                from executorch.extension.pybindings import portable_lib
                from executorch.runtime import Runtime

                # The pool of threads is the whole process's: the file that was loaded last rules.
                if portable_lib._threadpool_get_thread_count() != threads:
                    portable_lib._unsafe_reset_threadpool(threads)
                self._program: Any = Runtime.get().load_program(path)
                self.methods: set[str] = set(self._program.method_names)
        except Exception as error:  # its own errors are RuntimeError, a missing library's anything
            raise BackendError(f"{path}: ExecuTorch cannot load it: {error}") from error

    @property
    def provider(self) -> str:
        """What runs the file: portable kernels are a hundred times slower."""
        found = XNNPACK.encode() in self.path.read_bytes()
        return f"executorch ({'XNNPACK' if found else 'portable kernels'})"

    def shapes(self, method: str) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]], list[int]]:
        """Shapes of a method's inputs (largest, where they may vary) and outputs, and the inputs'
        types by torch's numbers."""
        if method not in self.methods:
            raise BackendError(f"{self.path}: no method {method}, only {_told(self.methods)}")
        try:
            facts = self._program.metadata(method)
            inputs = [facts.input_tensor_meta(k) for k in range(facts.num_inputs())]
            outputs = [facts.output_tensor_meta(k) for k in range(facts.num_outputs())]
        except RuntimeError as error:
            raise BackendError(f"{self.path}: {method} cannot be read: {error}") from error
        return (
            [tuple(one.sizes()) for one in inputs],
            [tuple(one.sizes()) for one in outputs],
            [int(one.dtype()) for one in inputs],
        )

    def number(self, method: str) -> int:
        """What a method without inputs says of the model."""
        if method not in self.methods:
            raise BackendError(f"{self.path}: no method {method}, only {_told(self.methods)}")
        return int(self.run(method, [])[0])

    def run(self, method: str, inputs: Sequence[Any]) -> Sequence[Any]:
        """Outputs of a method."""
        try:
            result: Sequence[Any] = self._program.load_method(method).execute(inputs)
        except RuntimeError as error:
            raise BackendError(f"{self.path}: ExecuTorch failed in {method}: {error}") from error
        return result


def _told(methods: set[str]) -> str:
    return ", ".join(sorted(methods)) or "none"


def _length(path: Path) -> int | None:
    """Bytes that a .pte file says it has, or None where it is none. ExecuTorch maps the file and
    believes it: reading on behind its end would kill the process."""
    with path.open("rb") as file:
        head = file.read(40)
    if head[4:6] != b"ET" or head[8:12] != b"eh00" or len(head) < 40:
        return None
    header, program, start, data = (
        int.from_bytes(head[a:b], "little") for a, b in ((12, 16), (16, 24), (24, 32), (32, 40))
    )
    return max(program, start + data) if header >= 32 else program


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the C++ library writes to the error output while it loads: what matters of it
    comes back as an exception."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nothing, contextlib.redirect_stderr(nothing):
            os.dup2(nothing.fileno(), 2)
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


class ExecutorchVision:
    """A .pte vision artifact, or the eyes of a whole model, checked by the shapes of its outputs:
    they have no names. `threads` holds for all of ExecuTorch in this process."""

    def __init__(self, path: Path, *, threads: int = 1) -> None:
        program = Program(path, threads)
        self._method = VISION if VISION in program.methods else WHOLE_VISION
        inputs, outputs, kinds = program.shapes(self._method)
        names = names_of(self._method, outputs)
        crop = (1, CROP.height_px, CROP.width_px, 3)
        if inputs != [crop] or kinds != [_BYTE] or names is None:
            raise BackendError(f"{path}: unexpected signature {inputs} -> {outputs}")
        self._names, self._program = names, program
        self._shapes = dict(zip(names, outputs, strict=True))
        self.provider = program.provider

    def run(self, inputs: Arrays) -> dict[str, NDArray[np.float32]]:
        """Outputs by name for `image` uint8 (N, H, W, 3), one face after the other."""
        if self._program is None:
            raise BackendError("this ExecuTorch program is closed")
        import torch

        crops = inputs[IMAGE]
        expected = (CROP.height_px, CROP.width_px, 3)
        if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[1:] != expected:
            raise BackendError(
                f"expected uint8 crops (N, {', '.join(map(str, expected))}), found {crops.dtype}"
                f" {crops.shape}"
            )
        parts: dict[str, list[NDArray[np.float32]]] = {name: [] for name in self._names}
        for k in range(len(crops)):
            crop = torch.from_numpy(np.array(crops[k : k + 1]))
            found = self._program.run(self._method, [crop])
            for name, value in zip(self._names, found, strict=True):
                parts[name].append(value.numpy())
        return {
            name: np.concatenate(rows)
            if rows
            else np.empty((0, *self._shapes[name][1:]), np.float32)
            for name, rows in parts.items()
        }

    def close(self) -> None:
        """Drop the program; a second call does nothing."""
        self._program = None  # type: ignore[assignment]  # nothing is asked of it any more


def names_of(method: str, shapes: Sequence[tuple[int, ...]]) -> tuple[str, ...] | None:
    """What each output of a vision method is, or None where their number or shapes are not the
    contract's."""
    names: tuple[str, ...] | None = next((one for one in _KNOWN if len(one) == len(shapes)), None)
    if names is None:
        return None
    if method == WHOLE_VISION:
        names = (TOKENS, *(name for name in names if name != TOKENS))
    fit = (
        len(shape) == 3 and shape[0] == 1 if name == TOKENS else shape == _SHAPES[name]
        for name, shape in zip(names, shapes, strict=True)
    )
    return names if all(fit) else None


class ExecutorchSession(TextSession):
    """The words of a whole model and one sequence. Keys and values are kept in the file's own
    buffers."""

    def __init__(
        self, path: Path, *, tokenizer: Path, width: int, context: int, threads: int = 1
    ) -> None:
        from feallm.runtime.backends.tokens import Tokens

        self._program = Program(path, threads)
        self._tokens = Tokens(tokenizer)
        (ids,), (embedded,), _ = _single(self._program, EMBED, 1)
        (read, places), (logits,), _ = _single(self._program, DECODE, 2)
        self.vocabulary = self._program.number(VOCABULARY)
        room = min(self._program.number(CONTEXT), ids[-1], read[1], places[0])
        for what, found, wanted in (
            ("embeddings", embedded[-1], width),
            ("embeddings to read", read[-1], width),
            ("logits", logits[-1], self.vocabulary),
        ):
            if found != wanted:
                raise BackendError(f"{path}: {what} of {found} values instead of {wanted}")
        if self.vocabulary != self._tokens.vocabulary:
            raise BackendError(
                f"{path}: {self.vocabulary} tokens, but {tokenizer.name} has"
                f" {self._tokens.vocabulary}"
            )
        if room < context:
            raise BackendError(f"{path}: room for {room} tokens instead of {context}")
        self.width, self.context = width, context
        self.provider = self._program.provider
        self._open = True
        self.restart()

    def restart(self) -> None:
        """Forget the sequence and begin with the opening token."""
        self._check_open()
        self._at = 0
        self.feed([self._tokens.begin])

    def feed(self, tokens: list[int]) -> None:
        """Append tokens; logits are kept of the last one."""
        self._check_room(len(tokens))
        self._check_known(tokens)
        import torch

        self._decode(self._program.run(EMBED, [torch.tensor([tokens], dtype=torch.int64)])[0])

    def see(self, embeddings: NDArray[np.float32]) -> None:
        """Append visual tokens (N, width) as embeddings."""
        rows = finite_rows(embeddings, self.width)
        self._check_room(len(rows))
        import torch

        self._decode(torch.from_numpy(rows.copy()[None]))

    def _check_open(self) -> None:
        if not self._open:
            raise BackendError("this ExecuTorch session is closed")

    def _decode(self, embeddings: Any) -> None:
        import torch

        places = torch.arange(self._at, self._at + embeddings.shape[1])
        (logits,) = self._program.run(DECODE, [embeddings, places])
        self._logits = logits.numpy().reshape(self.vocabulary).astype(np.float32)
        self._at += embeddings.shape[1]

    def close(self) -> None:
        """Drop the program; a second call does nothing."""
        self._program = None  # type: ignore[assignment]  # `_open` guards it
        self._open = False


def _single(
    program: Program, method: str, count: int
) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]], list[int]]:
    """Shapes of a method that takes `count` tensors and gives one."""
    found = program.shapes(method)
    if len(found[0]) != count or len(found[1]) != 1:
        raise BackendError(f"{program.path}: unexpected signature of {method}")
    return found
