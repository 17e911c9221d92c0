"""The folder of a run's rows: appended as they come, taken up again after an interruption.

    readings.jsonl   the rows
    readings.csv     the same as a table, made anew from the rows at each end of a run
    run.jsonl        first line: what made the rows; then one line a finished source, with its
                     size, its time of change and the bytes of readings.jsonl that are its rows

What lies behind the last finished source was interrupted: the next run cuts it off.
"""

from __future__ import annotations

import csv
import errno
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from feallm.runtime.capture.whole import Kind
from feallm.runtime.contract.errors import FeallmError, LimitError, UsageError
from feallm.runtime.contract.jsonl import Row, dumps, flat, flat_columns

ROWS, TABLE, RUN = "readings.jsonl", "readings.csv", "run.jsonl"
Head = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Stamp:
    """By what a source is known again."""

    size_bytes: int
    changed_ns: int

    @classmethod
    def of(cls, path: Path) -> Stamp:
        """The stamp of a file; zeros where it cannot be asked."""
        try:
            found = path.stat()
        except (OSError, ValueError):
            return cls(0, 0)
        return cls(found.st_size, found.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class Finished:
    """A source that was read to its end."""

    source: str
    kind: Kind
    size_bytes: int
    changed_ns: int
    start: int  # its rows are bytes start … end of readings.jsonl
    end: int
    error: str | None = None  # a video that broke off; it is read again by the next run


def read_head(root: Path) -> Head | None:
    """What made the rows in a folder; None where no run wrote there."""
    try:
        with (root / RUN).open(encoding="utf-8") as file:
            head = json.loads(file.readline())
    except (OSError, ValueError):
        return None
    return head if isinstance(head, dict) else None


def _option(name: str) -> str:
    """An option as the user knows it."""
    return "--expression or --no-expression" if name == "expression" else name


def differing(old: Head, new: Head) -> list[str]:
    """The names of the options in which two runs differ; which inputs they read is no option."""
    names = sorted((set(old) | set(new)) - {"inputs"})
    return [name for name in names if old.get(name) != new.get(name)]


class Readings:
    """An open folder. Raises UsageError where another run's rows lie in it, or no rows fit."""

    def __init__(self, root: Path, head: Head) -> None:
        self.root = root
        with _disk(root):
            self._made_folder = not root.exists()
            root.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(root)
        try:
            self._check(head)
            with _disk(root):
                self._take_up(head)
        except BaseException:
            self._unlock()
            raise

    def _check(self, head: Head) -> None:
        old = read_head(self.root)
        if old is None and (self.root / ROWS).exists():
            raise UsageError(
                f"{self.root}: holds a {ROWS} that no run of this command left there",
                hint="choose another folder with --out",
            )
        if old is not None and (names := differing(old, head)):
            raise UsageError(
                f"{self.root}: holds rows of a run with another {', '.join(map(_option, names))}",
                hint="choose another folder with --out",
            )

    def _take_up(self, head: Head) -> None:
        """Keep what was finished without an error, drop the rest, open for appending."""
        entries = self._finished_before()
        rows = self.root / ROWS
        rows.touch()
        os.truncate(rows, entries[-1].end if entries else 0)
        self._head = read_head(self.root) or head
        self._write_run(entries)
        self._entries = {entry.source: entry for entry in entries}
        self._rewrite(e for e in entries if e.error is None)
        self._open()

    def _open(self) -> None:
        self._rows = (self.root / ROWS).open("ab")
        self._start = self._rows.tell()

    def _finished_before(self) -> list[Finished]:
        """Finished sources whose rows are really there, in the order of their rows."""
        try:
            size = (self.root / ROWS).stat().st_size
            lines = (self.root / RUN).read_text(encoding="utf-8").splitlines()[1:]
        except OSError:
            return []
        entries: list[Finished] = []
        for line in lines:
            try:
                entry = Finished(**json.loads(line))
            except (ValueError, TypeError):
                break  # a line that an interruption cut
            if entry.start != (entries[-1].end if entries else 0) or entry.end > size:
                break
            entries.append(entry)
        return entries

    def _rewrite(self, kept: Iterable[Finished]) -> None:
        """Leave only the rows of the sources in `kept`."""
        kept = list(kept)
        if len(kept) == len(self._entries):
            return
        pairs = takewhile(lambda p: p[0] == p[1], zip(kept, self._entries.values(), strict=False))
        prefix = [entry for entry, _ in pairs]
        moved, place, parts = [], 0, []
        for entry in kept:
            parts.append(self._bytes(entry))
            moved.append(replace(entry, start=place, end=place + len(parts[-1])))
            place = moved[-1].end
        # In this order each moment in between describes rows that are there: first only what
        # stays in place, then the rows, then all.
        self._write_run(prefix)
        _write_whole(self.root / ROWS, [], raw=b"".join(parts))
        self._write_run(moved)
        self._entries = {entry.source: entry for entry in moved}

    def _write_run(self, entries: list[Finished]) -> None:
        lines = [json.dumps(self._head), *(json.dumps(asdict(entry)) for entry in entries)]
        _write_whole(self.root / RUN, lines)

    def _bytes(self, entry: Finished) -> bytes:
        with (self.root / ROWS).open("rb") as file:
            file.seek(entry.start)
            return file.read(entry.end - entry.start)

    def finished(self, source: str, stamp: Stamp) -> Finished | None:
        """The source's entry, if it was read before and has not changed since."""
        entry = self._entries.get(source)
        if entry is None:
            return None
        if (entry.size_bytes, entry.changed_ns) == (stamp.size_bytes, stamp.changed_ns):
            return entry
        with _disk(self.root):
            self._rows.close()
            self._rewrite(e for e in self._entries.values() if e.source != source)
            self._open()
        return None

    def rows(self, entry: Finished) -> Iterator[Row]:
        """The rows of a finished source."""
        for line in self._bytes(entry).splitlines():
            yield json.loads(line)

    def append(self, rows: Iterable[Row]) -> None:
        """Add rows of the source that is being read; they are on disk when this returns."""
        lines = "".join(dumps(row) + "\n" for row in rows)
        with _disk(self.root):
            self._rows.write(lines.encode())
            self._rows.flush()

    def finish(self, source: str, kind: Kind, stamp: Stamp, error: str | None = None) -> None:
        """Say that the source's rows are complete (or, with `error`, all that there will be)."""
        with _disk(self.root):
            end = self._rows.tell()
            entry = Finished(
                source, kind, stamp.size_bytes, stamp.changed_ns, self._start, end, error
            )
            with (self.root / RUN).open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(entry)) + "\n")
        self._entries[source] = entry
        self._start = end

    def close(self) -> None:
        """Write the table; a folder that this run made and left without rows goes away again."""
        try:
            with _disk(self.root):
                self._rows.close()
                if self._made_folder and not (self.root / ROWS).stat().st_size:
                    for name in (ROWS, RUN):
                        (self.root / name).unlink()
                    self.root.rmdir()
                else:
                    _write_table(self.root)
        finally:
            self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _write_table(root: Path) -> None:
    part = root / (TABLE + ".part")
    try:
        with part.open("w", encoding="utf-8", newline="") as out, (root / ROWS).open("rb") as rows:
            table = csv.DictWriter(out, flat_columns(), lineterminator="\n")
            table.writeheader()
            for line in rows:
                if line.endswith(b"\n"):  # else an interruption cut it
                    table.writerow(flat(json.loads(line)))
        os.replace(part, root / TABLE)
    finally:
        part.unlink(missing_ok=True)


def _write_whole(path: Path, lines: list[str], *, raw: bytes | None = None) -> None:
    """Replace a file at once: it is the old one or the new one, never half."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(raw if raw is not None else "".join(f"{s}\n" for s in lines).encode())
    os.replace(part, path)


@contextmanager
def _disk(root: Path) -> Iterator[None]:
    """Turn the file system's errors into the project's."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        kind: type[FeallmError] = (
            LimitError if error.errno in (errno.ENOSPC, errno.EDQUOT) else UsageError
        )
        raise kind(
            f"{root}: cannot be written: {reason}", hint="choose another folder with --out"
        ) from error


def _locked(root: Path) -> int | None:
    """Keep a second run out of the folder while this one writes; None where that is not known."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    handle = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise UsageError(
            f"{root}: another run is writing there", hint="wait, or choose another with --out"
        ) from error
    except OSError:  # a file system without locks
        os.close(handle)
        return None
    return handle
