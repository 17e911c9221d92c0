"""The runtime's tests pass at both ends: oldest libraries on Python 3.10, newest on 3.13."""

import os
import re
import shutil
import subprocess
from email.parser import HeaderParser
from pathlib import Path
from types import ModuleType
from zipfile import ZipFile

import pytest

# The lower bounds of pyproject.toml as versions that exist for Python 3.10.
OLDEST = {
    "numpy": "1.26.4",
    "onnxruntime": "1.18.1",
    "opencv-python-headless": "4.10.0.84",
    "pydantic": "2.0",
    "rich": "13.8.0",
    "typer": "0.26.0",
}
TEST_TOOLS = ("pytest", "hypothesis")


@pytest.fixture
def ready_toy(
    toy: ModuleType, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The toy bundle, written here: the bare environments lack what writes it."""
    folder = tmp_path_factory.mktemp("ready") / "toy"
    toy.write(folder)
    monkeypatch.setenv("FEALLM_TOY_BUNDLE", str(folder))


def interpreter(version: str) -> str | None:
    """A working Python of that version, from PATH or from pyenv's folder."""
    places = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    for program in (shutil.which(f"python{version}"), *map(str, places)):
        # A shim may lie on PATH for a version that is not switched on: only running it tells.
        if (
            program
            and not subprocess.run(
                [program, "-c", "import ensurepip"], capture_output=True
            ).returncode
        ):
            return program
    return None


def run(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command without this environment's own Python settings."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL"))}
    command = list(map(str, words))
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)


def environment(version: str, packages: list[str], folder: Path) -> Path:
    """A new virtual environment's Python, with the packages; skips where that cannot be had."""
    base = interpreter(version)
    if base is None:
        pytest.skip(f"Python {version} is missing")
    run(base, "-m", "venv", folder / "venv", cwd=folder)
    python = folder / "venv/bin/python"
    if run(python, "-m", "pip", "download", "--no-deps", "iniconfig", cwd=folder).returncode:
        pytest.skip("pip reaches no index")
    done = run(python, "-m", "pip", "install", "--no-compile", *packages, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return python


def words(root: Path) -> list[str]:
    """llama.cpp's wheel where `make` built one: it serves every Python 3. Else no words."""
    return [str(path) for path in sorted((root / "wheelhouse").glob("llama_cpp_python-*.whl"))]


def runtime_tests(python: Path, root: Path) -> None:
    """Run tests/runtime against the installed wheel.

    `-I` keeps the checkout off the path: its folder feallm/ would hide the installed package.
    """
    options = ("-m", "not slow and not data and not gpu and not device", "-p", "no:cacheprovider")
    done = run(python, "-I", "-m", "pytest", *options, "-q", "tests/runtime", cwd=root)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed and int(passed[1]) > 0, done.stdout


def test_the_oldest_are_the_lower_bounds(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = HeaderParser().parsestr(archive.read(name).decode())
    required = metadata.get_all("Requires-Dist") or []
    base = [line for line in required if "extra ==" not in line]
    bounds = {re.split("[<>=]", line)[0]: re.findall(r">=([\d.]+)", line)[0] for line in base}
    assert bounds.keys() == OLDEST.keys()
    for package, bound in bounds.items():
        assert f"{OLDEST[package]}.".startswith(f"{bound}."), package


@pytest.mark.usefixtures("ready_toy")
def test_oldest_versions_on_3_10(wheel: Path, root: Path, tmp_path: Path) -> None:
    pinned = [f"{name}=={version}" for name, version in OLDEST.items()]
    packages = [str(wheel), *pinned, *words(root), *TEST_TOOLS]
    runtime_tests(environment("3.10", packages, tmp_path), root)


@pytest.mark.usefixtures("ready_toy")
def test_newest_versions_on_3_13(wheel: Path, root: Path, tmp_path: Path) -> None:
    packages = [str(wheel), *words(root), *TEST_TOOLS]
    runtime_tests(environment("3.13", packages, tmp_path), root)
