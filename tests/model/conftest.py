"""What the tests of this room share: the tiny network, a pack for it, its bundle."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

PATH = Path(__file__).parents[1] / "tiny.py"


@pytest.fixture(scope="session")
def tiny():
    """The module `tests/tiny.py`, loaded once for all rooms."""
    if "tests_tiny" not in sys.modules:
        torch.set_num_threads(1)
        spec = importlib.util.spec_from_file_location("tests_tiny", PATH)
        sys.modules["tests_tiny"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["tests_tiny"])
    return sys.modules["tests_tiny"]


@pytest.fixture(scope="session")
def exported(tiny, tmp_path_factory):
    """A checkpoint file and the bundle made of it; not to be changed."""
    return tiny.exported(tmp_path_factory.mktemp("exported"))


@pytest.fixture(scope="session")
def packed(tiny, tmp_path_factory):
    """A folder with a pack of random faces; not to be changed."""
    from feallm.model.data import pack

    folder = tmp_path_factory.mktemp("pack")
    pack.write([tiny.rows()], folder)
    return folder


@pytest.fixture(scope="session")
def faces(packed):
    """The same pack in memory."""
    from feallm.model.data import pack

    return pack.read(packed)


@pytest.fixture
def feallm(capsys, monkeypatch):
    """Call the command; gives exit code, stdout and stderr."""
    from feallm.edge import cli

    def call(*words):
        monkeypatch.setattr("sys.argv", ["feallm", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capsys.readouterr()
        return stop.value.code or 0, out, err

    return call
