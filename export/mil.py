"""A saved Core ML program (.mlpackage), run in torch: there is no Core ML on Linux.

It reads what was written, not what was meant. It cannot show speed, which processor Apple's
compiler chooses, nor that one's own rounding.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from feallm.export.mil_ops import OPERATIONS
from feallm.runtime.contract.errors import InputError, VerificationError

States = dict[str, Tensor]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps off the terminal what coremltools says of every model: progress bars, versions it was
    not tested with, libraries that only a Mac has. Errors are raised all the same."""
    level = logging.root.manager.disable
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(level)


class MilProgram:
    """The function `main` of a package, which `run` interprets."""

    def __init__(self, path: Path) -> None:
        with quiet():
            import coremltools as ct
            from coremltools.converters.mil.frontend.milproto.load import load
            from coremltools.converters.mil.mil import types

        try:
            with quiet():
                model = ct.models.MLModel(str(path), skip_model_load=True)
                self.spec: Any = model.get_spec()
                program = load(
                    self.spec,
                    specification_version=self.spec.specificationVersion,
                    file_weights_dir=model.weights_dir,
                )
            function = program.functions["main"]
        except Exception as error:  # coremltools raises many kinds, its parser bare ones
            raise InputError(f"{path}: not a readable Core ML package: {error}") from error
        self.path = path
        self._operations = [op for op in function.operations if not _is_stored(op)]
        self.kinds = Counter(op.op_type for op in self._operations)
        self.stored_as = Counter(op.op_type for op in function.operations if _is_stored(op))
        states = {name for name, var in function.inputs.items() if types.is_state(var.sym_type)}
        self._states = {
            name: tuple(int(size) for size in function.inputs[name].shape) for name in states
        }
        self.inputs = tuple(name for name in function.inputs if name not in states)
        self._outputs = [var.name for var in function.outputs]
        stored = (op for op in function.operations if _is_stored(op))
        self._constants = {op.outputs[0].name: _constant(op) for op in stored}

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """Every stored float array by its name, as the program uses it: dequantized."""
        return {
            name: value.numpy()
            for name, value in self._constants.items()
            if isinstance(value, Tensor)
        }

    def new_states(self) -> States:
        """What `run` reads and writes of a stateful program: zeros at first, as Core ML has it."""
        return {name: torch.zeros(shape) for name, shape in self._states.items()}

    @torch.no_grad()
    def run(
        self,
        inputs: Mapping[str, NDArray[Any]],
        states: States | None = None,
        *,
        half: bool = False,
        keep: dict[str, Tensor] | None = None,
    ) -> dict[str, NDArray[np.float32]]:
        """Outputs by name; `states` are changed in place.

        half: each result that the program holds in float16 is rounded to it. keep: is given every
        value under its name. `VerificationError` names the operation whose result is the first that
        is not finite, or whose kind is not known.
        """
        values: dict[str, Any] = {} if keep is None else keep
        values |= {name: _given(value) for name, value in inputs.items()}
        values |= self._constants
        if missing := [name for name in self.inputs if name not in inputs]:
            raise VerificationError(f"{self.path.name}: no value for its input {missing[0]}")
        for op in self._operations:
            found = self._one(op, values, states, half)
            for var, value in zip(op.outputs, found, strict=True):
                values[var.name] = value
        return {name: values[name].float().numpy() for name in self._outputs}

    def _one(
        self, op: Any, values: dict[str, Any], states: States | None, half: bool
    ) -> tuple[Tensor, ...]:
        name, kind = op.name, op.op_type

        def rounded(value: Tensor) -> Tensor:
            value = value.half().float() if half else value
            if not bool(torch.isfinite(value).all()):
                raise VerificationError(
                    f"{self.path.name}: {name} ({kind}) is the first whose result is not finite",
                    hint="float16 ends at 65504: scale before squaring or adding up"
                    if half
                    else None,
                )
            return value

        if kind in ("read_state", "coreml_update_state"):
            state = op.inputs["input" if kind == "read_state" else "state"].name
            if states is None or state not in states:
                raise VerificationError(f"{self.path.name}: no state {state} was given")
            if kind == "coreml_update_state":
                states[state] = values[op.inputs["value"].name]
            return (states[state],)
        if kind not in OPERATIONS:
            raise VerificationError(f"{self.path.name}: {name} is of the unknown kind {kind}")
        given = {key: _resolve(var, values) for key, var in op.inputs.items()}
        result = OPERATIONS[kind](given, rounded if half else _as_it_is)
        results = result if isinstance(result, tuple) else (result,)
        in_half = [var.dtype.__name__ == "fp16" for var in op.outputs]
        return tuple(
            rounded(value) if in_half[k] and value.is_floating_point() else value
            for k, value in enumerate(results)
        )


def restored(module: nn.Module, program: MilProgram) -> None:
    """Put the weights that a package stores, dequantized, into the module that it was made of;
    `VerificationError` where one is missing or has another shape."""
    stored = program.weights()
    trained = dict(module.named_parameters())
    for name, value in {**dict(module.named_buffers()), **trained}.items():
        plain = re.escape(name.replace(".", "_"))
        form = re.compile(rf"[pb]_{plain}(_to_fp16)?(_quantized|_palettized)?$")
        found = [stored[one] for one in stored if form.match(one)]
        if not found:  # equal arrays are stored once, under the name of one of them
            half = value.half().float().numpy()
            found = [one for one in stored.values() if np.array_equal(one, half)][:1]
        neutral = bool((value == 0).all() or (value == 1).all())  # of a norm that nobody trained
        if not found and (neutral or name not in trained):
            continue  # left out, or joined with another
        shapes = [one.shape for one in found]
        if shapes != [tuple(value.shape)]:
            raise VerificationError(
                f"{program.path.name}: stores {shapes or 'nothing'} as {name}, which is"
                f" {tuple(value.shape)}"
            )
        value.data.copy_(torch.from_numpy(found[0]))


def _as_it_is(value: Tensor) -> Tensor:
    return value


def _is_stored(op: Any) -> bool:
    return bool(op.op_type == "const" or op.op_type.startswith("constexpr_"))


def _constant(op: Any) -> Any:
    """A stored value, dequantized."""
    return _given(op.outputs[0].val if op.op_type == "const" else op.materialized_val_inference())


def _given(value: Any) -> Any:
    """Floats as float32 tensors, all else as numpy has it."""
    if isinstance(value, np.ndarray | np.generic) and np.issubdtype(value.dtype, np.floating):
        return torch.from_numpy(np.array(value, np.float32))
    return value


def _resolve(var: Any, values: dict[str, Any]) -> Any:
    if isinstance(var, list | tuple):
        return [_resolve(one, values) for one in var]
    return None if var is None else values[var.name]
