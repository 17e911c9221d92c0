"""The whole base install resolves to ready wheels on aarch64: nothing is compiled on a board."""

import subprocess
import sys
from pathlib import Path

import pytest

# glibc 2.35 and Python 3.10: JetPack 6. 2.36 and 3.11: Debian 12 on a Raspberry Pi.
BOARDS = [("3.10", 35), ("3.11", 36), ("3.13", 36)]


def resolve(what: str, python: str, glibc: int, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Let pip choose wheels for an aarch64 board; only their descriptions are fetched."""
    platforms = ["manylinux2014_aarch64"]
    platforms += [f"manylinux_2_{minor}_aarch64" for minor in range(17, glibc + 1)]
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed"]
    command += ["--only-binary", ":all:", "--python-version", python, "--implementation", "cp"]
    command += ["--target", str(tmp_path / "board")]
    command += [word for name in platforms for word in ("--platform", name)]
    return subprocess.run([*command, what], capture_output=True, text=True)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skip where pip reaches no index; a small pure package tells."""
    done = resolve("iniconfig", "3.11", 36, tmp_path_factory.mktemp("index"))
    if done.returncode:
        pytest.skip("pip reaches no index")


@pytest.mark.usefixtures("index")
@pytest.mark.parametrize(("python", "glibc"), BOARDS)
def test_wheels_resolve(python: str, glibc: int, wheel: Path, tmp_path: Path) -> None:
    done = resolve(str(wheel), python, glibc, tmp_path)
    assert done.returncode == 0, done.stderr
    chosen = done.stdout.splitlines()[-1].split()
    for name in ("numpy", "onnxruntime", "opencv-python-headless", "pydantic", "typer"):
        assert any(word.startswith(f"{name}-") for word in chosen), f"{name} is not in {chosen}"


@pytest.mark.usefixtures("index")
def test_a_source_only_package_would_be_seen(wheel: Path, tmp_path: Path) -> None:
    """llama.cpp has no ready wheel, so the same question about the extra `words` must fail."""
    assert resolve(f"{wheel}[words]", "3.11", 36, tmp_path).returncode != 0
