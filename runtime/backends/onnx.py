"""Vision through ONNX Runtime, on one thread: two that spin on busy cores are slower.

ONNX Runtime drops a provider that this machine lacks, or that fails to start, and says nothing:
`provider` is the one that really runs, `passed_over` names those that were wanted before it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
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
from feallm.runtime.contract.errors import BackendError
from feallm.runtime.contract.manifest import Provider

NAMES: dict[Provider, str] = {
    "cpu": "CPUExecutionProvider",
    "xnnpack": "XnnpackExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}


def _onnxruntime() -> Any:
    """The library with its telemetry off.

    From 1.29 on the published wheels write a device id under ~/.cache and report to their maker;
    only these variables, set before the first import, keep them from both. Nothing that runs here
    may send or store what the user did not ask for, so they are set whatever they were.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = os.environ["ORT_TELEMETRY_DISABLED"] = "1"
    import onnxruntime

    onnxruntime.disable_telemetry_events()  # the way that Windows listens to
    return onnxruntime


def available(only_on: Sequence[Provider] = ()) -> str | None:
    """None where ONNX Runtime can be used, and one of these providers is built in, else why not."""
    try:
        ort = _onnxruntime()
    except ImportError:
        return "onnxruntime is not installed (pip install onnxruntime)"
    there = ort.get_available_providers()
    if only_on and not any(NAMES[name] in there for name in only_on):
        return f"this onnxruntime has none of {', '.join(only_on)}"
    return None


def _with_options(provider: str) -> str | tuple[str, dict[str, str]]:
    """TensorRT takes minutes to build its engine: it is kept where a service says that its cache
    lies (systemd's CacheDirectory), and nowhere else."""
    folder = os.environ.get("CACHE_DIRECTORY", "")
    if provider != NAMES["tensorrt"] or not folder:
        return provider
    return provider, {"trt_engine_cache_enable": "1", "trt_engine_cache_path": folder}


class OnnxVision:
    """An ONNX vision artifact, checked against the names that the contract gives it."""

    def __init__(
        self, path: Path, *, threads: int = 1, providers: Sequence[Provider] = ("cpu",)
    ) -> None:
        """`providers`: best first; the processor itself is always the last resort."""
        try:
            ort = _onnxruntime()
        except ImportError as error:
            raise BackendError(
                "ONNX Runtime is not installed", hint="pip install onnxruntime"
            ) from error
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        wanted = list(dict.fromkeys([*(NAMES[name] for name in providers), NAMES["cpu"]]))
        there = [name for name in wanted if name in ort.get_available_providers()]
        try:
            self._session: Any = ort.InferenceSession(
                str(path), options, providers=[_with_options(name) for name in there]
            )
        except Exception as error:  # ONNX Runtime's own types differ between versions
            raise BackendError(f"{path}: ONNX Runtime cannot load it: {error}") from error
        self.provider: str = self._session.get_providers()[0]
        self.passed_over = tuple(wanted[: wanted.index(self.provider)])
        inputs = [value.name for value in self._session.get_inputs()]
        outputs = [value.name for value in self._session.get_outputs()]
        known = (set(VISION_OUTPUTS), {*VISION_OUTPUTS, *PLACE_OUTPUTS}, set(ALL_OUTPUTS))
        if inputs != [IMAGE] or set(outputs) not in known:
            raise BackendError(f"{path}: unexpected signature {inputs} -> {outputs}")
        self._outputs = outputs

    def run(self, inputs: Arrays) -> dict[str, NDArray[np.float32]]:
        """Outputs by name for `image` uint8 (N, H, W, 3)."""
        if self._session is None:
            raise BackendError("this ONNX Runtime session is closed")
        try:
            values = self._session.run(self._outputs, dict(inputs))
        except Exception as error:
            raise BackendError(f"ONNX Runtime failed: {error}") from error
        return dict(zip(self._outputs, values, strict=True))

    def close(self) -> None:
        """Drop the session; a second call does nothing."""
        self._session = None
