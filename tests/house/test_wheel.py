"""The wheel holds every file of the six folders as it lies in the checkout, and nothing else."""

import re
import subprocess
import sys
import zipfile
from email.parser import HeaderParser
from pathlib import Path

FOLDERS = {"feallm": "feallm"} | {
    room: f"feallm/{room}" for room in ("runtime", "model", "calibration", "export", "edge")
}
CHECKPOINTS = "model/checkpoints"  # they belong to the repository, not to the device


def source_files(root: Path) -> dict[str, bytes]:
    """Name in the wheel -> content, for every file of the checkout that should be shipped."""
    return {
        f"{inside}/{path.relative_to(root / folder).as_posix()}": path.read_bytes()
        for folder, inside in FOLDERS.items()
        for path in (root / folder).rglob("*")
        if path.is_file() and path.suffix != ".pyc" and root / CHECKPOINTS not in path.parents
    }


def wheel_files(wheel: Path) -> dict[str, bytes]:
    """Name -> content of every file of a wheel, its description left out."""
    with zipfile.ZipFile(wheel) as archive:
        names = [n for n in archive.namelist() if ".dist-info/" not in n]
        return {name: archive.read(name) for name in names}


def test_the_wheel_is_the_source_tree(wheel: Path, root: Path) -> None:
    shipped, wanted = wheel_files(wheel), source_files(root)
    assert sorted(shipped.keys() - wanted.keys()) == [], "in the wheel, not in the checkout"
    assert sorted(wanted.keys() - shipped.keys()) == [], "in the checkout, not in the wheel"
    assert [name for name in wanted if shipped[name] != wanted[name]] == []


def test_a_wheel_by_way_of_the_sdist_is_the_same(wheel: Path, root: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path)]
    done = subprocess.run([*command, str(root)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (released,) = tmp_path.glob("*.whl")
    assert wheel_files(released) == wheel_files(wheel)


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        described = {n.split(".dist-info/")[1]: n for n in archive.namelist() if ".dist-info/" in n}
        metadata = HeaderParser().parsestr(archive.read(described["METADATA"]).decode())
        commands = archive.read(described["entry_points.txt"]).decode()
    assert {"licenses/LICENSE", "licenses/NOTICE"} <= described.keys()
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.10"
    assert "feallm = feallm.edge.cli:main" in commands
    required = metadata.get_all("Requires-Dist") or []
    base = {re.split("[<>=]", line)[0] for line in required if "extra ==" not in line}
    device = {"numpy", "onnxruntime", "opencv-python-headless", "pydantic", "rich", "typer"}
    assert base == device, "the base install is the device, and no more"
