"""Who may import whom: read from the files (import-linter) and seen at run time (sys.modules)."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# Every module of a package, as a device without the workshop's extras would import them.
IMPORT_ALL = """
import importlib, pkgutil, sys
package = importlib.import_module({package!r})
for found in pkgutil.walk_packages(package.__path__, {package!r} + "."):
    importlib.import_module(found.name)
print("\\n".join(sys.modules))
"""
IMPORT_ONE = "import sys, {package}; print('\\n'.join(sys.modules))"
WORKSHOP = {"torch", "transformers", "pandas", "scipy", "tokenizers", "onnx", "gguf"}


def loaded(code: str, path: Path) -> set[str]:
    """Top-level names of all modules that a fresh interpreter loads, with `path` in front."""
    environment = os.environ | {"PYTHONPATH": str(path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=path)
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in done.stdout.split()}


def lint(unpacked: Path, root: Path) -> subprocess.CompletedProcess[str]:
    """Check the contracts of pyproject.toml on an unpacked wheel."""
    program = shutil.which("lint-imports", path=str(Path(sys.executable).parent))
    assert program, "import-linter is part of the extra dev"
    command = [program, "--no-cache", "--config", str(root / "pyproject.toml")]
    environment = os.environ | {"PYTHONPATH": str(unpacked), "COLUMNS": "200"}
    return subprocess.run(command, capture_output=True, text=True, cwd=unpacked, env=environment)


@pytest.mark.parametrize("package", ["feallm.runtime", "feallm.edge"])
def test_the_device_loads_nothing_of_the_workshop(package: str, unpacked: Path) -> None:
    modules = loaded(IMPORT_ALL.format(package=package), unpacked)
    assert "numpy" in modules or package == "feallm.edge"
    assert modules & WORKSHOP == set()


def test_the_front_door_is_light(unpacked: Path) -> None:
    assert (
        loaded(IMPORT_ONE.format(package="feallm"), unpacked)
        & {
            *WORKSHOP,
            *("cv2", "llama_cpp", "numpy", "onnxruntime", "pydantic", "rich", "typer"),
        }
        == set()
    )


def test_a_heavy_import_would_be_seen(unpacked: Path) -> None:
    (unpacked / "pandas.py").write_text("")
    with (unpacked / "feallm/runtime/contract/aus.py").open("a") as file:
        file.write("import pandas\n")
    with (unpacked / "feallm/__init__.py").open("a") as file:
        file.write("import pandas\n")
    assert "pandas" in loaded(IMPORT_ALL.format(package="feallm.runtime"), unpacked)
    assert "pandas" in loaded(IMPORT_ONE.format(package="feallm"), unpacked)


def test_the_contracts_hold(unpacked: Path, root: Path) -> None:
    done = lint(unpacked, root)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("where", "planted", "broken"),
    [
        ("runtime/contract/aus.py", "import torch", "the device needs no workshop library"),
        ("edge/__init__.py", "import scipy", "the device needs no workshop library"),
        ("edge/__init__.py", "import feallm.model", "what is deployed knows only the runtime"),
        ("model/__init__.py", "import feallm.edge", "the workshop does not know the apps"),
        ("runtime/vision/align.py", "import feallm.export", "a room imports only rooms below it"),
        (
            "runtime/contract/aus.py",
            "import feallm.runtime.vision.align",
            "inside the runtime, from high to low",
        ),
        (
            "runtime/vision/align.py",
            "import pydantic",
            "the crop that training shares needs only numpy and OpenCV",
        ),
    ],
)
def test_a_wrong_import_breaks_its_contract(
    unpacked: Path, root: Path, where: str, planted: str, broken: str
) -> None:
    with (unpacked / "feallm" / where).open("a") as file:
        file.write(f"\n{planted}\n")
    done = lint(unpacked, root)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{broken} BROKEN" in " ".join(done.stdout.split())
