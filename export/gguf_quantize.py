"""GGUF F16 -> fewer bits, by llama.cpp's own quantizer, and what became of each tensor.

llama.cpp says nothing where it does not do what was asked: a width that a K-quant cannot hold gets
another type, a name of the importance matrix that it does not know is passed over. So the written
file is read back.
"""

from __future__ import annotations

import ctypes
import os
import tempfile
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

from feallm.calibration.importance import Importance
from feallm.runtime.contract.errors import BackendError, VerificationError

TYPES: dict[str, tuple[str, ...]] = {
    "fp16": ("F16",),
    "q8_0": ("Q8_0",),
    "q6_k": ("Q6_K",),
    "q4_k_m": ("Q4_K", "Q6_K"),  # the mixture that its name stands for
}
"""Types that a precision's matrices may have; the first must be there."""

NORM = "F32"
_K_BLOCK = 256
_ERROR = 4  # a level of ggml's log


def quantize(source: Path, out: Path, precision: str, importance: Importance | None = None) -> None:
    """Write the F16 file `source` as "q8_0", "q6_k" or "q4_k_m".

    `VerificationError` where a matrix got a type that was not asked for, or the importance matrix
    had no effect.
    """
    if importance is not None:
        check_names(importance, source)  # before: llama.cpp passes over a name it does not know
    _run(source, out, precision, importance)
    check_types(out, precision)
    if importance is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "plain.gguf"
        _run(source, plain, precision, None)
        if _tensors(plain) == _tensors(out):
            raise VerificationError(f"{out.name}: the importance matrix changed nothing")


def _run(source: Path, out: Path, precision: str, importance: Importance | None) -> None:
    import llama_cpp.llama_cpp as library

    lib: Any = library
    listener, said = _listener()
    said.clear()
    lib.llama_log_set(listener, ctypes.c_void_p(0))
    parameters = lib.llama_model_quantize_default_params()
    parameters.nthread = 1
    parameters.ftype = getattr(lib, f"LLAMA_FTYPE_MOSTLY_{precision.upper()}")
    if importance is not None:
        # An array that an entry without a name ends.
        entries = (lib.llama_model_imatrix_data * (len(importance) + 1))()
        for entry, (name, values) in zip(entries, sorted(importance.items()), strict=False):
            entry.name = name.encode()
            entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            entry.size = len(values)
        parameters.imatrix = entries
    code = lib.llama_model_quantize(os.fsencode(source), os.fsencode(out), ctypes.byref(parameters))
    if code != 0:
        why = " ".join("".join(said).split()) or f"code {code}"
        raise BackendError(f"{out.name}: llama.cpp's quantizer failed: {why}")


@cache
def _listener() -> tuple[Any, list[str]]:
    """What llama.cpp logs through, and the errors that it told. It keeps one pointer for the whole
    process, so this is never thrown away."""
    import llama_cpp.llama_cpp as lib

    said: list[str] = []

    def note(level: int, text: bytes, _: object) -> None:
        if level == _ERROR:
            said.append(text.decode("utf-8", "replace"))

    return lib.llama_log_callback(note), said


def tensor_types(path: Path) -> dict[str, str]:
    """The type of each tensor of a GGUF file."""
    import gguf

    return {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}


def check_types(path: Path, precision: str) -> None:
    """`VerificationError` where a tensor of the file is not what `precision` stands for."""
    import gguf

    wanted = TYPES[precision]
    wrong: Counter[str] = Counter()
    found: set[str] = set()
    widths: set[int] = set()
    for tensor in gguf.GGUFReader(path).tensors:
        kind, matrix = tensor.tensor_type.name, len(tensor.shape) > 1
        if kind not in (wanted if matrix else (NORM,)):
            wrong[f"{tensor.name} is {kind}"] += 1
            widths.add(int(tensor.shape[0]))
        elif matrix:
            found.add(kind)
    if wrong:
        first = next(iter(wrong))
        odd = sorted(width for width in widths if width % _K_BLOCK)
        hint = f"K-quants need widths in multiples of {_K_BLOCK}, found {odd}" if odd else None
        raise VerificationError(
            f"{path.name}: {len(wrong)} tensors are not what {precision} stands for: {first}"
            f" instead of {' or '.join(wanted)}",
            hint=hint,
        )
    if wanted[0] not in found:
        raise VerificationError(f"{path.name}: no tensor is {wanted[0]}, so this is no {precision}")


def check_names(importance: Importance, path: Path) -> None:
    """`VerificationError` where the file has no tensor of a name in the importance matrix, or has a
    matrix without importance."""
    import gguf

    matrices = {t.name for t in gguf.GGUFReader(path).tensors if len(t.shape) > 1}
    unknown, missing = sorted(set(importance) - matrices), sorted(matrices - set(importance))
    if unknown or missing:
        raise VerificationError(
            f"{path.name}: the importance matrix does not fit:"
            f" {len(unknown)} unknown names {unknown[:3]}, {len(missing)} missing {missing[:3]}"
        )


def _tensors(path: Path) -> list[tuple[str, bytes]]:
    import gguf

    return [(tensor.name, tensor.data.tobytes()) for tensor in gguf.GGUFReader(path).tensors]
