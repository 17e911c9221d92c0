"""The device never loads the workshop, and the shared crop loads next to nothing."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import pytest

import feallm.runtime

WORKSHOP = {"torch", "transformers", "pandas", "scipy", "tokenizers", "onnx", "gguf", "safetensors"}
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(feallm.runtime.__path__, "feallm.runtime.")
    if not module.ispkg
)


def loaded(code: str) -> set[str]:
    """Top-level modules of a fresh interpreter after some code.

    `-I`: the checkout's folder feallm/, if current, would hide an installed package.
    """
    code += "\nimport sys; print(*{name.split('.')[0] for name in sys.modules})"
    command = [sys.executable, "-I", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_no_module_of_the_runtime_loads_the_workshop():
    assert "feallm.runtime.analyze" in MODULES
    found = loaded("\n".join(f"import {name}" for name in MODULES))
    assert not found & WORKSHOP
    assert "llama_cpp" not in found  # on use only


@pytest.mark.parametrize(
    ("module", "not_needed"),
    [
        ("vision.align", {"pydantic", "onnxruntime", "llama_cpp"}),
        ("contract.jsonl", {"cv2", "pydantic", "onnxruntime"}),
        ("contract.errors", {"numpy", "cv2", "pydantic", "onnxruntime"}),
        ("language.check", {"cv2", "onnxruntime", "llama_cpp"}),
    ],
)
def test_what_a_module_does_without(module, not_needed):
    assert not loaded(f"import feallm.runtime.{module}") & not_needed
