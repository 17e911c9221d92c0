"""A clone without symbolic links (core.symlinks=false) still installs: git tracks none."""

import shutil
import subprocess
from pathlib import Path

import pytest

LINK = "120000"


def tracked_links(folder: Path) -> list[str]:
    """Paths that git tracks as symbolic links."""
    command = ["git", "-C", str(folder), "ls-files", "--stage", "-z"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [line.split("\t")[1] for line in listed.split("\0") if line.startswith(LINK)]


def test_git_tracks_no_symbolic_link(root: Path) -> None:
    if not (root / ".git").exists() or not shutil.which("git"):
        pytest.skip("not a git checkout")
    assert tracked_links(root) == []


@pytest.mark.skipif(not shutil.which("git"), reason="git is missing")
def test_a_symbolic_link_would_be_seen(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True, capture_output=True)

    git("init", "--quiet")
    (tmp_path / "target").write_text("")
    (tmp_path / "link").symlink_to("target")
    git("add", "target", "link")
    assert tracked_links(tmp_path) == ["link"]
