"""Which folder a run's rows go to: never among its inputs, never over another run's rows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from feallm.edge.readings import Head, differing, read_head
from feallm.runtime.contract.errors import UsageError


def inputs_digest(paths: Sequence[Path]) -> str:
    """By what the inputs of a call are known again, without telling where they lie."""
    names = "\0".join(str(path.resolve()) for path in paths)
    return hashlib.sha256(names.encode("utf-8", "replace")).hexdigest()


def out_folder(paths: Sequence[Path], out: Path | None, head: Head) -> Path:
    """`out`, or a folder named after the input, in the current folder.

    Without `out` a finished or interrupted run of the same call is taken up again, and a call with
    other options gets a new number. Raises UsageError for an `out` within an input folder.
    """
    folders = [path.resolve() for path in paths if path.is_dir()]
    if out is not None:
        _outside(out, folders)
        return out
    base = _base(folders)
    name = _name(paths)
    number = 1
    while True:
        root = base / (f"{name}-readings" if number == 1 else f"{name}-readings-{number}")
        old = read_head(root)
        same = old is not None and not differing(old, head) and old["inputs"] == head["inputs"]
        if same or not root.exists():
            return root
        number += 1


def _outside(out: Path, folders: Sequence[Path]) -> None:
    place = out.resolve()
    for folder in folders:
        if place == folder or folder in place.parents:
            raise UsageError(
                f"--out {out} lies in the input folder {folder.name}",
                hint="rows are never written among the pictures",
            )


def _base(folders: Sequence[Path]) -> Path:
    """The current folder, or the next one above it that is no input."""
    here = base = Path.cwd()
    while inside := next((f for f in folders if base == f or f in base.parents), None):
        base = inside.parent
    return Path() if base == here else base


def _name(paths: Sequence[Path]) -> str:
    first = paths[0].resolve()
    name = first.name if first.is_dir() else first.stem
    return name if len(paths) == 1 else f"{name}-and-{len(paths) - 1}-more"
