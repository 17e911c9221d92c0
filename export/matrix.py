"""Every artifact that can be made, and the exporter that makes it.

An exporter is `make(job, precision, path)` in a module of its own, loaded when it is called, so
that a laptop without coremltools still writes ONNX. docs/artifacts.md has the table of their sizes,
speeds and errors.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from feallm.runtime.contract.errors import BackendError
from feallm.runtime.contract.manifest import Format, Precision

if TYPE_CHECKING:
    from feallm.export.job import Job

EXTRAS = {
    "onnx": "export",
    "onnxscript": "export",
    "gguf": "export",
    "llama_cpp": "words",
    "executorch": "executorch",
    "torchao": "executorch",
    "coremltools": "coreml",
}
"""Which extra of this project brings a library."""

Part = Literal["vision", "language"]


@dataclass(frozen=True, slots=True)
class Exporter:
    """How one artifact is made."""

    parts: tuple[Part, ...]  # what it holds
    format: Format
    precision: Precision
    module: str

    @property
    def libraries(self) -> tuple[str, ...]:
        """What must be installed to make it."""
        if self.format == "gguf":
            return ("gguf",) if self.precision == "fp16" else ("gguf", "llama_cpp")
        by_format: dict[str, tuple[str, ...]] = {
            "onnx": ("onnx", "onnxscript"),
            "pte": ("executorch", "torchao"),
            "mlpackage": ("coremltools",),
        }
        return by_format[self.format]

    def make(self, job: Job, path: Path) -> None:
        """Write the artifact."""
        import_module(self.module).make(job, self.precision, path)


def missing(files: Iterable[str]) -> BackendError | None:
    """The error that names every library which these artifacts need and which is not installed."""
    lacking: dict[str, list[str]] = {}
    for file in files:
        for library in EXPORTERS[file].libraries:
            if find_spec(library) is None:
                lacking.setdefault(library, []).append(file)
    if not lacking:
        return None
    told = "; ".join(f"{library} for {', '.join(names)}" for library, names in lacking.items())
    extras = ",".join(dict.fromkeys(EXTRAS[library] for library in lacking))
    return BackendError(f"not installed: {told}", hint=f"pip install 'feallm-edge[{extras}]'")


def _of(
    part: str, parts: tuple[Part, ...], kind: Format, precisions: tuple[Precision, ...]
) -> dict[str, Exporter]:
    modules = {
        ("onnx", "vision"): "onnx",
        ("pte", "vision"): "executorch",
        ("pte", "feallm"): "executorch_words",
        ("mlpackage", "vision"): "coreml",
        ("mlpackage", "language"): "coreml_words",
        ("gguf", "language"): "gguf",
    }
    module = f"feallm.export.{modules[kind, part]}"
    return {
        f"{part}.{precision}.{kind}": Exporter(parts, kind, precision, module)
        for precision in precisions
    }


EXPORTERS: dict[str, Exporter] = {
    **_of("vision", ("vision",), "onnx", ("fp32", "fp16", "int8")),
    **_of("vision", ("vision",), "pte", ("fp32", "int8")),
    **_of("vision", ("vision",), "mlpackage", ("fp16", "int8", "int6")),
    **_of("language", ("language",), "gguf", ("fp16", "q8_0", "q6_k", "q4_k_m")),
    **_of("feallm", ("vision", "language"), "pte", ("fp32", "8da8w", "8da4w")),
    **_of("language", ("language",), "mlpackage", ("fp16",)),
}
"""By file name: PART.PRECISION.FORMAT; `feallm` holds both parts."""
