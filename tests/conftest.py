"""What tests of several rooms share. Test folders are no packages, so modules come as fixtures."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

READY = "FEALLM_TOY_BUNDLE"
"""Names a folder that `python tests/toy.py FOLDER` filled elsewhere: for environments without the
libraries that write one."""


@pytest.fixture(scope="session", autouse=True)
def _own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test writes into the user's own folders, in no process that it starts; and one such place
    for all tests, so that the check at a bundle's first start is made once."""
    with pytest.MonkeyPatch.context() as patch:
        folder = str(tmp_path_factory.mktemp("state"))
        patch.setenv("XDG_STATE_HOME", folder)
        patch.setenv("LOCALAPPDATA", folder)
        patch.delenv("STATE_DIRECTORY", raising=False)
        yield


@pytest.fixture(scope="session")
def toy() -> ModuleType:
    """The module toy.py: its colours, its thresholds, its writers."""
    return _module("toy")


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


@pytest.fixture(scope="session")
def record(toy: ModuleType) -> ModuleType:
    """The module record.py: golden outputs of the toy's own answers, and bundles with them."""
    return _module("record")


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """The module tiny.py: a tiny network, a pack for it, its bundle. Needs torch."""
    torch = pytest.importorskip("torch", reason="the tiny network needs torch")
    torch.set_num_threads(1)
    return _module("tiny")


@pytest.fixture(scope="session")
def exported(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint file and the bundle made of it; not to be changed."""
    made: tuple[Path, Path] = tiny.exported(tmp_path_factory.mktemp("exported"))
    return made


@pytest.fixture(scope="session")
def packed(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a pack of random faces; not to be changed."""
    from feallm.model.data import pack

    folder = tmp_path_factory.mktemp("pack")
    pack.write([tiny.rows()], folder)
    return folder


@pytest.fixture(scope="session")
def faces(packed: Path) -> Any:
    """The same pack in memory."""
    from feallm.model.data import pack

    return pack.read(packed)


@pytest.fixture
def feallm(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Call the command; gives exit code, stdout and stderr."""
    from feallm.edge import cli

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["feallm", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return call


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[f"tests_{name}"] = module  # dataclasses in it look for their module
    spec.loader.exec_module(module)
    return module
