"""The toy bundle of toy.py, for every test. Test folders are no packages, so it is a fixture."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest

READY = "FEALLM_TOY_BUNDLE"
"""Names a folder that `python tests/toy.py FOLDER` filled elsewhere: for environments without the
libraries that write one."""


@pytest.fixture(scope="session")
def toy() -> ModuleType:
    """The module toy.py: its colours, its thresholds, its writers."""
    spec = importlib.util.spec_from_file_location("toy", Path(__file__).parent / "toy.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def toy_bundle(toy: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the real signature without words. Read only: copy it to change it."""
    if READY in os.environ:
        return Path(os.environ[READY], toy.PLAIN)
    pytest.importorskip("onnx", reason=f"the toy bundle needs onnx, or {READY}")
    folder = tmp_path_factory.mktemp("toy") / toy.PLAIN
    toy.write_plain(folder)
    return folder


@pytest.fixture(scope="session")
def toy_bundle_with_words(toy: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a random language model; `tokens.json` lies beside it. Skips without torch."""
    if READY in os.environ:
        folder = Path(os.environ[READY])
        if not (folder / toy.WORDS).is_dir():
            pytest.skip(f"{READY} holds no words")
        return folder / toy.WORDS
    for name in ("onnx", "torch", "gguf", "tokenizers"):
        pytest.importorskip(name, reason=f"toy words need {name}, or {READY}")
    folder = tmp_path_factory.mktemp("toy-words")
    toy.write_words(folder)
    return folder / toy.WORDS
