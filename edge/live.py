"""`feallm live`: a camera, a stream or piped frames, read as they come, for as long as it runs.

Nothing is stored unless a folder is named. Rows then go to one file a day and start, each line
whole on disk before the next frame is taken: whatever ends the process, what was read stays.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from io import FileIO
from pathlib import Path

from feallm.edge import self_check
from feallm.edge.analyze import Explain, Wanted, video_reader
from feallm.edge.engines import Engines
from feallm.edge.tables import NOT_FEELINGS
from feallm.edge.terminal import note
from feallm.runtime.analyze import Analyzer
from feallm.runtime.capture.feed import Counts, Feed
from feallm.runtime.capture.live import address, open_feed
from feallm.runtime.contract.errors import LimitError, UsageError
from feallm.runtime.contract.jsonl import Row, dumps, rows
from feallm.runtime.follow import EVERY

TOLD_S = 60.0  # from one line on how it goes to the next
SHOWN_S = 1.0  # of the frames' own time, from one reading shown to the next


@dataclass(frozen=True, slots=True)
class Request:
    """One call of the command."""

    address: str
    out: Path | None = None
    bundle: Path | None = None
    detector: Path | None = None
    explain: Explain = Explain.never
    expression: bool = True
    every: int = EVERY
    search_px: int | None = None
    smooth: bool = False
    engines: Engines = Engines()
    seconds: float | None = None
    wait: bool = False
    as_json: bool = False


def live(request: Request) -> None:
    """Read frames until the time is over, the pipe ends or somebody stops it.

    Raises UsageError, InputError, BackendError for an address that gives nothing, BundleError, and
    LimitError where rows can no longer be written.
    """
    address(request.address)  # what is malformed is told before the model is loaded
    if request.seconds is not None and not request.seconds >= 0:
        raise UsageError(f"--seconds {request.seconds:g}: expected a number from 0 up")
    with (
        open_analyzer(request) as analyzer,
        _rows_of(request) as keep,
        open_feed(request.address, wait=request.wait) as feed,
    ):
        tally = Tally()
        try:
            _run(request, analyzer, feed, keep, tally)
        finally:
            if tally.frames or feed.counts.away_s:  # else the error says it all
                note(tally.line(feed.name, feed.counts))


def open_analyzer(request: Request) -> Analyzer:
    """The analyzer for a request."""
    analyzer = Analyzer(
        request.bundle,
        detector=request.detector,
        search_px=request.search_px,
        words=request.explain is not Explain.never,
        expression=request.expression,
        **request.engines.options(),
    )
    self_check.check(analyzer, request.engines)
    return analyzer


@dataclass(slots=True)
class Tally:
    """What was read so far."""

    frames: int = 0
    faces: int = 0
    marked: int = 0

    def add(self, new: list[Row]) -> None:
        """The rows of one frame."""
        self.frames += 1
        for row in new:
            self.faces += row["track"] is not None
            self.marked += bool((row.get("quality") or {}).get("below"))

    def line(self, name: str, counts: Counts) -> str:
        """How it goes, in one line."""
        parts = [f"{name}: {self.frames} frames read, {self.faces} faces in them"]
        if self.marked:
            parts.append(f"{self.marked} to be read with care")
        told = {
            "dropped, as newer ones came": counts.dropped,
            "corrupt": counts.corrupt,
            "times lost": counts.lost,
            "times back": counts.reopened,
        }
        parts += [f"{number} {what}" for what, number in told.items() if number]
        if counts.away_s:
            parts.append(f"{counts.away_s:.0f} s away")
        return "; ".join(parts)


def _run(request: Request, analyzer: Analyzer, feed: Feed, keep: Keep | None, tally: Tally) -> None:
    calibrated = analyzer.bundle.manifest.intensity_calibrated
    read = video_reader(analyzer, Wanted(request.explain), request.every, smooth=request.smooth)
    told, shown_s = time.monotonic(), -SHOWN_S
    if not request.as_json:
        print(NOT_FEELINGS)
    with _stopped_after(feed, request.seconds):
        for frame in feed.frames():
            new = list(rows(read(frame), calibrated=calibrated))
            tally.add(new)
            if keep is not None:
                keep(new)
            if request.as_json:
                print("\n".join(map(dumps, new)), flush=True)
            elif frame.time_s - shown_s >= SHOWN_S:
                shown_s = frame.time_s
                print("\n".join(map(shown, new)), flush=True)
            if time.monotonic() - told >= TOLD_S:
                note(tally.line(feed.name, feed.counts))
                told = time.monotonic()


def shown(row: Row) -> str:
    """A row as a person reads it."""
    at = f"{row['time_s']:8.1f} s"
    if row["track"] is None:
        return f"{at}  nobody"
    present = [
        f"{key} {au['intensity']:.1f}" for key, au in row["aus"].items() if au and au["present"]
    ]
    parts = [f"face {row['track']}", " ".join(present) or "no action unit"]
    if row["expression"] is not None:
        top = row["expression"]["top"]
        parts.append(f"{top} {row['expression']['scores'][top]:.2f}")
    if below := (row.get("quality") or {}).get("below"):
        parts.append(f"with care: {', '.join(below)}")
    return f"{at}  " + "  ".join(parts)


@contextmanager
def _stopped_after(feed: Feed, seconds: float | None) -> Iterator[None]:
    """Close the feed when the time is over, also while its camera is away."""
    if seconds is None:
        yield
        return
    timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX / 2), feed.close)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


Keep = Callable[[list[Row]], None]


@contextmanager
def _rows_of(request: Request) -> Iterator[Keep | None]:
    """What keeps rows in the folder that was asked for; None where none was."""
    if request.out is None:
        yield None
        return
    folder = _Folder(request.out)
    try:
        yield folder.keep
    finally:
        folder.close()


class _Folder:
    """A folder of row files, `readings-<day>T<time of start>Z-<process>.jsonl`, one a day."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._file: FileIO | None = None
        self._whole, self._next = 0, 0  # bytes of whole lines: now, and once the last are written
        self._day = ""
        self._made: list[Path] = []
        try:
            self._made = [path for path in (root, *root.parents) if not path.exists()]
            root.mkdir(parents=True, exist_ok=True)
            self._open()
        except OSError as error:
            self.close()
            raise self._full(error) from error

    def _open(self) -> None:
        self._end()
        now = datetime.now(timezone.utc)
        self._day = f"{now:%Y%m%d}"
        path = self._root / f"readings-{now:%Y%m%dT%H%M%S}Z-{os.getpid()}.jsonl"
        # Unbuffered: what could not be written must not be tried once more when it is closed.
        self._file = FileIO(path, "ab")
        self._whole = self._next = self._file.tell()

    def keep(self, new: list[Row]) -> None:
        """Append rows; they are on disk when this returns."""
        try:
            if f"{datetime.now(timezone.utc):%Y%m%d}" != self._day:
                self._open()
            assert self._file is not None
            left = "".join(dumps(row) + "\n" for row in new).encode()
            self._next = self._whole + len(left)
            while left:
                left = left[self._file.write(left) :]
            self._whole = self._next
        except OSError as error:
            raise self._full(error) from error

    def close(self) -> None:
        """Close the day's file; what nothing was written to goes away, folders too if they were
        made for it."""
        try:
            self._end()
            for folder in self._made:
                folder.rmdir()
        except OSError:  # there are rows in it, or somebody else's files
            pass

    def _end(self) -> None:
        """Close the file, without a line that an error or an interruption cut."""
        if self._file is None:
            return
        file, self._file = self._file, None
        with file:
            if file.tell() != self._next:
                file.truncate(self._whole)
            empty = not file.seek(0, os.SEEK_END)
        if empty:
            Path(str(file.name)).unlink(missing_ok=True)

    def _full(self, error: OSError) -> LimitError:
        reason = (error.strerror or type(error).__name__).lower()
        return LimitError(
            f"{self._root}: cannot be written: {reason}", hint="choose another folder with --out"
        )
