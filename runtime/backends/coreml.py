"""Vision and words through Core ML, which macOS alone has.

Written against coremltools' documented calls (`MLModel.predict`, `make_state`) and tested with a
stand-in for them, never yet on a Mac. What the packages answer is checked where they are made, by
interpreting them (`feallm.export.mil`). An app needs none of this: it opens the packages itself.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feallm.runtime.backends.base import (
    ALL_OUTPUTS,
    IMAGE,
    PLACE_OUTPUTS,
    VISION_OUTPUTS,
    Arrays,
)
from feallm.runtime.backends.session import TextSession, finite_rows
from feallm.runtime.contract.errors import BackendError
from feallm.runtime.contract.geometry import CROP

TOKEN, EMBEDDING, SEEN, POSITION, LOGITS = "token", "embedding", "seen", "position", "logits"
"""Inputs of the words' package, each of one token: int32 (1, 1), float32 (1, 1, width), int32 (1,),
int32 (1,); `embedding` is read where `seen` is 1, `token` where it is 0. Output: float32 (1,
vocabulary). Its states hold keys and values."""

NOT_HERE = "Core ML runs on macOS alone"
MISSING = "coremltools or Pillow is not installed (pip install 'feallm-edge[coreml]' pillow)"


def available() -> str | None:
    """None where Core ML can be used, else why not."""
    if platform.system() != "Darwin":
        return NOT_HERE
    try:
        import coremltools  # noqa: F401
        import PIL.Image  # noqa: F401
    except ImportError:
        return MISSING
    except (OSError, RuntimeError) as error:
        return f"coremltools cannot be loaded: {error}"
    return None


def _opened(path: Path) -> tuple[Any, Any]:
    """A package as coremltools has it, and its description."""
    if (reason := available()) is not None:
        raise BackendError(reason)
    import coremltools

    try:
        model = coremltools.models.MLModel(str(path), compute_units=coremltools.ComputeUnit.ALL)
        return model, model.get_spec().description
    except Exception as error:  # coremltools raises plain Exception
        raise BackendError(f"{path}: Core ML cannot load it: {error}") from error


def _shape(feature: Any) -> tuple[int, ...]:
    return tuple(int(size) for size in feature.type.multiArrayType.shape)


class CoremlVision:
    """A vision package, checked against the names that the contract gives it."""

    provider = "CoreML"  # which processor it takes, Core ML does not tell

    def __init__(self, path: Path, *, threads: int = 1) -> None:
        """`threads` is for other engines: Core ML decides on its own."""
        model, description = _opened(path)
        inputs = [(value.name, value.type.WhichOneof("Type")) for value in description.input]
        self._shapes = {value.name: _shape(value) for value in description.output}
        known = (set(VISION_OUTPUTS), {*VISION_OUTPUTS, *PLACE_OUTPUTS}, set(ALL_OUTPUTS))
        if inputs != [(IMAGE, "imageType")] or set(self._shapes) not in known:
            raise BackendError(f"{path}: unexpected signature {inputs} -> {list(self._shapes)}")
        size = description.input[0].type.imageType
        if (size.width, size.height) != (CROP.width_px, CROP.height_px):
            raise BackendError(f"{path}: takes pictures of {size.width} x {size.height} pixels")
        self._model: Any = model
        # A package that this macOS cannot run is loaded all the same, and refused when it is asked.
        blank = np.full((1, CROP.height_px, CROP.width_px, 3), CROP.border, np.uint8)
        self.run({IMAGE: blank})

    def run(self, inputs: Arrays) -> dict[str, NDArray[np.float32]]:
        """Outputs by name for `image` uint8 (N, H, W, 3), one face after the other."""
        if self._model is None:
            raise BackendError("this Core ML model is closed")
        crops = inputs[IMAGE]
        expected = (CROP.height_px, CROP.width_px, 3)
        if crops.dtype != np.uint8 or crops.shape[1:] != expected:
            raise BackendError(
                f"expected uint8 crops (N, {', '.join(map(str, expected))}), found {crops.dtype}"
                f" {crops.shape}"
            )
        from PIL import Image

        rows = [_predicted(self._model, {IMAGE: Image.fromarray(crop)}) for crop in crops]
        result = {}
        for name, shape in self._shapes.items():
            if any(name not in row for row in rows):
                raise BackendError(f"Core ML gave no {name}")
            values = [np.asarray(row[name], np.float32).reshape(shape) for row in rows]
            result[name] = np.concatenate([np.empty((0, *shape[1:]), np.float32), *values])
        return result

    def close(self) -> None:
        """Drop the model; a second call does nothing."""
        self._model = None


def _predicted(model: Any, inputs: dict[str, Any], *state: Any) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = model.predict(inputs, *state)
    except Exception as error:
        raise BackendError(f"Core ML failed: {error}") from error
    return answer


class CoremlSession(TextSession):
    """A words' package and one sequence, one token a call."""

    provider = "CoreML"

    def __init__(self, path: Path, *, tokenizer: Path, width: int, context: int) -> None:
        model, description = _opened(path)
        from feallm.runtime.backends.tokens import Tokens

        self._tokens = Tokens(tokenizer)
        shapes = {value.name: _shape(value) for value in (*description.input, *description.output)}
        if set(shapes) != {TOKEN, EMBEDDING, SEEN, POSITION, LOGITS}:
            raise BackendError(f"{path}: unexpected signature {list(shapes)}")
        self.width, self.vocabulary = shapes[EMBEDDING][-1], shapes[LOGITS][-1]
        if self.width != width:
            raise BackendError(f"{path}: embeddings of {self.width} values instead of {width}")
        if self.vocabulary != self._tokens.vocabulary:
            raise BackendError(
                f"{path}: {self.vocabulary} tokens, but {tokenizer.name} has"
                f" {self._tokens.vocabulary}"
            )
        rooms = {int(state.type.stateType.arrayType.shape[1]) for state in description.state}
        if not rooms or min(rooms) < context:
            raise BackendError(f"{path}: no room for {context} tokens")
        self.context = context
        self._model: Any = model
        self.restart()

    def restart(self) -> None:
        """Forget the sequence and begin with the opening token."""
        self._check_open()
        try:
            self._state = self._model.make_state()
        except Exception as error:
            raise BackendError(f"Core ML cannot keep states: {error}") from error
        self._at = 0
        self.feed([self._tokens.begin])

    def feed(self, tokens: list[int]) -> None:
        """Append tokens; logits are kept of the last one."""
        self._check_room(len(tokens))
        self._check_known(tokens)
        nothing = np.zeros((1, 1, self.width), np.float32)
        for token in tokens:
            self._step(token, nothing, seen=0)

    def see(self, embeddings: NDArray[np.float32]) -> None:
        """Append visual tokens (N, width) as embeddings."""
        rows = finite_rows(embeddings, self.width)
        self._check_room(len(rows))
        for row in rows:
            self._step(0, row[None, None], seen=1)

    def _check_open(self) -> None:
        if self._model is None:
            raise BackendError("this Core ML session is closed")

    def _step(self, token: int, embedding: NDArray[np.float32], *, seen: int) -> None:
        inputs = {
            TOKEN: np.array([[token]], np.int32),
            EMBEDDING: embedding,
            SEEN: np.array([seen], np.int32),
            POSITION: np.array([self._at], np.int32),
        }
        answer = _predicted(self._model, inputs, self._state)
        if LOGITS not in answer:
            raise BackendError(f"Core ML gave no {LOGITS}")
        self._logits = np.array(answer[LOGITS], np.float32).reshape(self.vocabulary)
        self._at += 1

    def close(self) -> None:
        """Drop the model and its states; a second call does nothing."""
        self._model = self._state = None
