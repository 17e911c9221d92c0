"""A folder beside the one to be made: what is finished in it survives a kill, and the whole is
renamed into place at the end, so that no half-written bundle is ever readable."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from feallm.runtime.contract.errors import FeallmError, LimitError, UsageError

_KEY, _LOCK = "key", "lock"


@dataclass(frozen=True, slots=True)
class Workplace:
    """`files` holds finished artifacts, `scratch` what exporters leave to each other, `bundle` what
    will be renamed."""

    root: Path

    @property
    def scratch(self) -> Path:
        """Half-made and intermediate files."""
        return self.root / "scratch"

    def once(self, name: str, make: Callable[[Path], None]) -> Path:
        """The finished artifact of this name, made now or by a run that was killed."""
        done = self.root / "files" / name
        if not done.exists():
            half = self.scratch / f"half-{name}"
            remove(half)
            make(half)
            os.rename(half, done)
        return done


@contextlib.contextmanager
def workplace(out: Path, key: str, needed_bytes: int) -> Iterator[Workplace]:
    """A folder beside `out` to work in, taken up again where one was left with the same `key`.

    It goes away where the block succeeds, and where it fails for a reason that the same command
    would meet again. Raises UsageError where `out` exists or another export works on it,
    LimitError without disk space.
    """
    if out.exists():
        raise UsageError(f"{out}: exists already", hint="choose another folder, or remove it")
    root = out.parent / f".{out.name}.partial"
    try:
        for folder in ("files", "scratch"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        with (root / _LOCK).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UsageError(f"{out}: another export is writing it") from None
            _take_up(root, key)
            free = shutil.disk_usage(root).free
            if free < needed_bytes:
                if not any((root / "files").iterdir()):
                    shutil.rmtree(root, ignore_errors=True)
                raise LimitError(
                    f"{out}: {free / 1e6:.0f} MB free, {needed_bytes / 1e6:.0f} MB are needed",
                    hint="free some disk space; nothing was written",
                )
            try:
                yield Workplace(root)
            except (FeallmError, OSError):
                shutil.rmtree(root, ignore_errors=True)
                raise  # after all else, a kill or a fault of ours, finished files stay
            shutil.rmtree(root, ignore_errors=True)
    except OSError as error:
        raise _told(out, error) from error


def _take_up(root: Path, key: str) -> None:
    """Keep what a run with the same key finished; empty the folder of any other's."""
    stated = root / _KEY
    if not stated.is_file() or stated.read_text(encoding="utf-8") != key:
        for folder in ("files", "scratch"):
            shutil.rmtree(root / folder)
            (root / folder).mkdir()
        stated.write_text(key, encoding="utf-8")


def _told(out: Path, error: OSError) -> LimitError | UsageError:
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return LimitError(f"{out}: {reason}", hint="free some disk space; nothing was written")
    return UsageError(f"{out}: cannot be written: {reason}")


def remove(path: Path) -> None:
    """No file and no folder at this path afterwards."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def copy(source: Path, to: Path) -> None:
    """A file, or a folder with all that is in it."""
    if source.is_dir():
        shutil.copytree(source, to)
    else:
        shutil.copyfile(source, to)
