"""The wheel of this checkout, built once a run, and what the house tests do with it."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that a plain `pip install .` would make.

    build/ goes first: setuptools would pack again what an earlier build left there.
    """
    shutil.rmtree(ROOT / "build", ignore_errors=True)
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    done = subprocess.run([*command, str(ROOT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    shutil.rmtree(ROOT / "build", ignore_errors=True)
    (found,) = out.glob("*.whl")
    return found


@pytest.fixture
def unpacked(wheel: Path, tmp_path: Path) -> Path:
    """A folder with the wheel's files, fresh for each test: a fault may be planted in it."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "unpacked")
    return tmp_path / "unpacked"
