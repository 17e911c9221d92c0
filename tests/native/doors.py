"""What the C++ program wrote, and the same .pte file through Python's own door.

Not a test module: `tests/house/test_native.py` and `test_emulated.py` load it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Method = Callable[..., list[Any]]


def arrays(out: Path, told: str) -> tuple[list[Any], list[int]]:
    """What was written, by the shapes that were printed, and the answer's tokens."""
    shapes, tokens = [], []
    for line in told.splitlines():
        word, *numbers = line.split()
        assert word in ("output", "logits", "tokens")
        if word == "tokens":
            tokens = [int(number) for number in numbers]
        else:
            shapes.append(tuple(int(number) for number in numbers))
    values = np.fromfile(out, np.float32)
    ends = np.cumsum([np.prod(shape, dtype=int) for shape in shapes])
    assert ends[-1] == len(values)
    parts = np.split(values, ends[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)], tokens


def methods(path: Path) -> Method:
    """A function that runs a method of the file, by its name, on arrays."""
    import torch
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(path)
    names = {"vision_encoder", "token_embedding", "text_decoder", "forward"}
    loaded = {name: program.load_method(name) for name in sorted(names & program.method_names)}

    def ask(name: str, *inputs: Any) -> list[Any]:
        given = [torch.from_numpy(np.ascontiguousarray(value)) for value in inputs]
        return [value.numpy().copy() for value in loaded[name].execute(given)]

    return ask


def greedy(
    ask: Method, crop: Any, begin: int, question: Sequence[int], count: int
) -> tuple[list[Any], Any, list[int]]:
    """Vision outputs, logits (count, vocabulary) and `count` tokens as Python finds them."""
    seen = ask("vision_encoder", crop)
    at, logits, answer = 0, [], []
    last = None
    for part in (np.array([[begin]]), seen[0], np.array([question])):
        embeddings = part if part.dtype == np.float32 else ask("token_embedding", part)[0]
        positions = np.arange(at, at + embeddings.shape[1])
        (last,) = ask("text_decoder", embeddings, positions)
        at += embeddings.shape[1]
    while True:
        logits.append(last[0])
        answer.append(int(last.argmax()))
        if len(answer) == count:
            return seen, np.stack(logits), answer
        (embeddings,) = ask("token_embedding", np.array([[answer[-1]]]))
        (last,) = ask("text_decoder", embeddings, np.array([at]))
        at += 1
