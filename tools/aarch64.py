"""An aarch64 board in a folder, run by qemu: Debian's Python with ONNX Runtime, and the C++ program
of tests/native with ExecuTorch's libraries. Good for what files answer there, useless for speed.

python tools/aarch64.py FOLDER    makes it: a minute or two, 250 MB, once
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

CPU = "cortex-a76"
"""Of a Raspberry Pi 5. A processor must be named: the one that qemu takes unasked has extensions
that it emulates wrongly, and int8 answers come out wrong there, without a message."""

SUITE, PYTHON = "bookworm", "3.11"
INSIDE = ("onnxruntime", "numpy")
QEMU, COMPILER = "qemu-aarch64-static", "aarch64-linux-gnu-g++"
SOURCE = Path(__file__).parent.parent / "tests" / "native"


class MissingError(Exception):
    """This machine cannot emulate a board, and why."""


@dataclass(frozen=True, slots=True)
class Board:
    """A folder that `prepare` filled."""

    folder: Path
    cpu: str = CPU

    def __post_init__(self) -> None:
        if self.cpu in ("", "max"):
            raise ValueError(f"name a processor that is built, as {CPU}, not {self.cpu!r}")

    @property
    def root(self) -> Path:
        """The board's file system."""
        return self.folder / "root"

    def python(self, *words: str) -> list[str]:
        """The command that runs the board's Python; paths are those within `root`.

        In a chroot: ONNX Runtime 1.31 dies at its import where it sees this machine's /sys.
        """
        qemu = [f"/usr/bin/{QEMU}", "-cpu", self.cpu, "-E", "PYTHONPATH=/opt/site"]
        return [
            *_as_root(),
            _found("chroot"),
            str(self.root),
            *qemu,
            f"/usr/bin/python{PYTHON}",
            *words,
        ]

    def face(self, *words: str) -> list[str]:
        """The command that runs the C++ program; paths are those of this machine.

        In no chroot: XNNPACK does not start where it sees no /sys.
        """
        program = str(self.folder / "face" / "face")
        return [_found(QEMU), "-cpu", self.cpu, "-L", str(self.root), program, *words]


def prepare(folder: Path) -> Board:
    """The board in `folder`, made there where it is not yet, with this environment's versions.

    `MissingError` where a program, a library or the network is missing.
    """
    for program, package in (
        (QEMU, "qemu-user-static"),
        ("mmdebstrap", "mmdebstrap"),
        ("chroot", "coreutils"),
        ("unshare", "util-linux"),
        (COMPILER, "g++-aarch64-linux-gnu"),
    ):
        if not _found(program):
            raise MissingError(f"needs {program} (apt install {package})")
    cmake = Path(sys.executable).with_name("cmake")
    if not cmake.is_file():
        raise MissingError("needs CMake 3.28 or newer beside Python (pip install cmake)")
    try:
        wanted = {name: version(name) for name in (*INSIDE, "executorch")}
    except PackageNotFoundError as error:
        raise MissingError(f"needs {error.name} here, to compare with") from error
    facts = "\n".join([SUITE, PYTHON, *(f"{name}=={number}" for name, number in wanted.items())])
    stamp = folder / "made.txt"
    if not stamp.is_file() or stamp.read_text() != facts:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _fill(folder, wanted)
        stamp.write_text(facts)
    _build(cmake, folder)
    return Board(folder)


def _fill(folder: Path, wanted: dict[str, str]) -> None:
    root = folder / "root"
    _call(
        "the board's file system cannot be fetched",
        [*_as_root(), "mmdebstrap", "--mode=chrootless", "--variant=extract", "--quiet"]
        + ["--architectures=arm64", "--include=python3,libgomp1,libstdc++6", SUITE, str(root)],
    )
    shutil.copy(_found(QEMU), root / "usr" / "bin" / QEMU)
    (root / "tmp").mkdir(exist_ok=True)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    platforms = ["manylinux2014_aarch64", *(f"manylinux_2_{n}_aarch64" for n in (17, 27, 28))]
    which = ["--only-binary=:all:", "--python-version", PYTHON, "--implementation", "cp"]
    which += [word for name in platforms for word in ("--platform", name)]
    _call(
        "the board's wheels cannot be fetched",
        [*pip, "install", "--target", str(root / "opt" / "site"), *which]
        + [f"{name}=={wanted[name]}" for name in INSIDE],
    )
    name = f"executorch=={wanted['executorch']}"
    _call(
        "executorch's wheel for the board cannot be fetched",
        [*pip, "download", "--no-deps", "--dest", str(folder / "wheel"), *which, name],
    )
    (wheel,) = (folder / "wheel").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            if member.startswith(
                tuple(f"executorch/{part}/" for part in ("lib", "include", "share"))
            ):
                archive.extract(member, folder)
    shutil.rmtree(folder / "wheel")


def _build(cmake: Path, folder: Path) -> None:
    settings = {
        "CMAKE_SYSTEM_NAME": "Linux",
        "CMAKE_SYSTEM_PROCESSOR": "aarch64",
        "CMAKE_CXX_COMPILER": COMPILER,
        "CMAKE_PREFIX_PATH": str(folder / "executorch"),
    }
    words = [f"-D{name}={value}" for name, value in settings.items()]
    for command in (
        ["-S", str(SOURCE), "-B", str(folder / "face"), *words],
        ["--build", str(folder / "face")],
    ):
        done = subprocess.run([str(cmake), *command], capture_output=True, text=True)
        if done.returncode:  # not a reason to skip: the program is ours
            raise RuntimeError(
                f"tests/native cannot be built for aarch64:\n{done.stdout}{done.stderr}"
            )


def _as_root() -> list[str]:
    """What comes before a command that only root may call: root of a name space of its own."""
    return [] if os.geteuid() == 0 else ["unshare", "--map-root-user"]


def _call(what: str, command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "?").splitlines()[-1]
        raise MissingError(f"{what}: {last}")


def _found(program: str) -> str:
    """Its full path, also where only root's search path has it; empty where it is not there."""
    places = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    return shutil.which(program, path=places) or ""


def main() -> None:
    """Make the board, or say in one line why it cannot be made here."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path)
    try:
        print(prepare(parser.parse_args().folder.resolve()).root)
    except MissingError as error:
        sys.exit(f"no aarch64 board: {error}")


if __name__ == "__main__":
    main()
