"""`feallm analyze`: photos, folders and videos to tables for a person and rows for a script."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

import feallm
from feallm.edge import engines, self_check, tables
from feallm.edge.engines import Engines
from feallm.edge.place import inputs_digest, out_folder
from feallm.edge.readings import Head, Readings, Stamp
from feallm.edge.terminal import Bar, complain, note, results
from feallm.runtime.capture.live import address, is_live
from feallm.runtime.capture.source import Source, expected_frames, frames, kind, scan
from feallm.runtime.contract.errors import InputError, UsageError
from feallm.runtime.contract.frame import Face, Frame
from feallm.runtime.contract.jsonl import SCHEMA, Row, rows
from feallm.runtime.contract.reading import FrameReport
from feallm.runtime.follow import EVERY, Follower
from feallm.runtime.vision.smooth import Smoother

if TYPE_CHECKING:
    from rich.console import Console

    from feallm.runtime.analyze import Analyzer


class Explain(str, Enum):
    """For which rows the words are asked."""

    never = "never"
    once = "once"  # each face of a photo; in a video each track at its first frame
    always = "always"


@dataclass(frozen=True, slots=True)
class Request:
    """One call of the command."""

    paths: tuple[Path, ...]
    out: Path | None = None
    bundle: Path | None = None
    detector: Path | None = None
    detect: bool = True
    explain: Explain = Explain.once
    as_json: bool = False
    expression: bool = True
    every: int = EVERY  # frames of a video from search to search
    search_px: int | None = None
    smooth: bool = False
    engines: Engines = Engines()


def files(texts: Sequence[str]) -> tuple[Path, ...]:
    """The paths that these texts are. Raises UsageError for the address of a camera or stream."""
    for text in texts:
        # /dev/video0 exists, and is a camera all the same.
        if is_live(text) and not (os.path.isfile(text) or os.path.isdir(text)):
            raise UsageError(
                f"{address(text).name}: a camera or a stream, not a file",
                hint="feallm live reads what comes now",
            )
    return tuple(Path(text) for text in texts)


@dataclass(slots=True)
class Outcome:
    """What happened so far; becomes the exit code and the closing lines."""

    errors: list[InputError] = field(default_factory=list)
    read: int = 0
    skipped: int = 0
    rows: int = 0

    def fail(self, error: InputError) -> None:
        """Report a source that cannot be read, and go on."""
        complain(error)
        self.errors.append(error)


@dataclass(slots=True)
class Wanted:
    """Which faces of a source are explained."""

    explain: Explain
    highest: int = -1  # tracks ascend: those up to here were explained before

    @property
    def all(self) -> bool:
        """Whether each face of a photograph is."""
        return self.explain is not Explain.never

    def tracks(self, faces: Sequence[Face]) -> frozenset[int]:
        """The tracks to explain in a frame of a video."""
        if self.explain is Explain.never:
            return frozenset()
        least = self.highest + 1 if self.explain is Explain.once else 0
        return frozenset(face.track for face in faces if face.track >= least)

    def done(self, report: FrameReport) -> None:
        """Remember who was explained."""
        self.highest = max([self.highest, *(reading.track for reading in report.readings)])


def video_reader(
    analyzer: Analyzer, wanted: Wanted, every: int, *, smooth: bool
) -> Callable[[Frame], FrameReport]:
    """What reads the frames of one video or camera, in order."""
    follower = Follower(analyzer, every=every, wanted=wanted.tracks)
    smoother = Smoother() if smooth else None

    def read(frame: Frame) -> FrameReport:
        report = follower.read(frame)
        wanted.done(report)
        return report if smoother is None else smoother.smooth(report)

    return read


def open_analyzer(request: Request) -> Analyzer:
    """The analyzer for a request. Raises BundleError, BackendError, InputError."""
    from feallm.runtime.analyze import Analyzer

    analyzer = Analyzer(
        request.bundle,
        detector=request.detector,
        search_px=request.search_px,
        detect=request.detect,
        words=request.explain is not Explain.never,
        expression=request.expression,
        **request.engines.options(),
    )
    self_check.check(analyzer, request.engines)
    return analyzer


def analyze(request: Request) -> int:
    """Read every source of the request; gives the exit code. Bad sources do not stop the others.

    Raises what concerns the whole call: UsageError, BundleError, BackendError, LimitError.
    """
    if not request.detect:
        if request.detector is not None:
            raise UsageError("--detector and --no-detect exclude each other")
        if request.search_px is not None:
            raise UsageError("--search and --no-detect exclude each other")
    outcome = Outcome()
    sources = _sources(request.paths, outcome)
    if not sources:
        return InputError.exit_code
    with open_analyzer(request) as analyzer:
        head = _head(request, analyzer)
        root = out_folder(request.paths, request.out, head)
        with closing(Readings(root, head)) as readings:
            job = _Job(request, analyzer, readings, outcome)
            try:
                job.run(sources)
            except KeyboardInterrupt:
                done = outcome.read + outcome.skipped
                note(
                    f"interrupted: {done} of {len(sources)} sources are finished; their rows are "
                    f"in {root}, and the same call goes on from there"
                )
                raise
        if request.as_json:
            _print_json(request, root, outcome, analyzer)
        else:
            _closing_lines(request, root, outcome, analyzer)
    return InputError.exit_code if outcome.errors else 0


def _sources(paths: Sequence[Path], outcome: Outcome) -> list[Source]:
    """Every source once, in the order of the call."""
    found: dict[Path, Source] = {}
    left_out: list[str] = []
    twice = 0
    for path in paths:
        result = scan(path)
        left_out += result.left_out
        for error in result.errors:
            outcome.fail(error)
        for source in result.sources:
            twice += source.path.resolve() in found
            found.setdefault(source.path.resolve(), source)
    if left_out:
        note(f"left out: {len(left_out)} files that are no pictures or videos "
             f"({' '.join(sorted(set(left_out)))})")  # fmt: skip
    if twice:
        note(f"left out: {twice} files that were named twice")
    if len(found) == 1:  # a single bad file is told before the model is loaded
        try:
            kind(next(iter(found.values())))
        except InputError as error:
            outcome.fail(error)
            return []
    return list(found.values())


def _head(request: Request, analyzer: Analyzer) -> Head:
    """What makes this run's rows what they are."""
    detector = "built in"
    if request.detector is not None:
        detector = hashlib.sha256(request.detector.read_bytes()).hexdigest()
    return {
        "schema": SCHEMA,
        "version": feallm.__version__,
        "bundle": analyzer.bundle.digest,
        "detector": detector if request.detect else "none",
        "explain": request.explain.value,
        "words": request.explain is not Explain.never and analyzer.words_missing is None,
        "expression": request.expression,
        "every": request.every,
        "search": request.search_px,
        "vision": analyzer.running()["vision"].get("artifact"),
        "language": request.engines.language,
        "smooth": request.smooth,
        "inputs": inputs_digest(request.paths),
    }


class _Job:
    """One pass over the sources."""

    def __init__(
        self, request: Request, analyzer: Analyzer, readings: Readings, outcome: Outcome
    ) -> None:
        self.request = request
        self.analyzer = analyzer
        self.readings = readings
        self.outcome = outcome
        self.calibrated = analyzer.bundle.manifest.intensity_calibrated
        self.console: Console | None = None if request.as_json else results()

    def run(self, sources: Sequence[Source]) -> None:
        """Read each source, or show again what an earlier run read."""
        with Bar() as bar:
            all_of_them = bar.begin("sources", len(sources))
            for source in sources:
                stamp = Stamp.of(source.path)
                before = self.readings.finished(source.name, stamp)
                if before is None:
                    self._read(source, stamp, bar)
                else:
                    self.outcome.skipped += 1
                    stored = list(self.readings.rows(before))
                    self.outcome.rows += len(stored)
                    if self.console is not None:
                        with bar.aside():
                            tables.show_rows(self.console, source.name, before.kind, stored)
                bar.step(all_of_them)

    def _read(self, source: Source, stamp: Stamp, bar: Bar) -> None:
        try:
            what = kind(source)
        except InputError as error:
            with bar.aside():
                self.outcome.fail(error)
            return
        table = tables.summary(source.name, what)
        broken = self._frames(source, table, bar, video=what == "video")
        with bar.aside():
            if broken is None or what == "video":
                line = None if broken is None else broken.line()
                self.readings.finish(source.name, what, stamp, line)
                if self.console is not None and (broken is None or table.count):
                    table.show(self.console)
            if broken is None:
                self.outcome.read += 1
            else:
                self.outcome.fail(broken)

    def _frames(
        self, source: Source, table: tables.Summary, bar: Bar, *, video: bool
    ) -> InputError | None:
        """Append the rows of every frame; gives the error with which the source ended."""
        task = None
        try:
            if video:
                task = bar.begin(source.name, expected_frames(source))
            read = self._reader(video=video)
            for frame in frames(source):
                new: list[Row] = list(rows(read(frame), calibrated=self.calibrated))
                self.readings.append(new)
                self.outcome.rows += len(new)
                for row in new:
                    table.add(row)
                if task is not None:
                    bar.step(task)
        except InputError as error:
            return error
        finally:
            if task is not None:
                bar.end(task)
        return None

    def _reader(self, *, video: bool) -> Callable[[Frame], FrameReport]:
        """What reads the frames of one source."""
        wanted = Wanted(self.request.explain)
        if not video:
            return lambda frame: self.analyzer.read(frame, explain=wanted.all)
        return video_reader(self.analyzer, wanted, self.request.every, smooth=self.request.smooth)


def _closing_lines(request: Request, root: Path, outcome: Outcome, analyzer: Analyzer) -> None:
    manifest = analyzer.bundle.manifest
    print(tables.NOT_FEELINGS)
    if not manifest.intensity_calibrated:
        print("Intensities are uncalibrated: larger is more, but they are not yet FACS scores.")
    if missing := [key for key in manifest.aus if key not in manifest.aus_trained]:
        print(f"Not measured by this bundle: {', '.join(missing)}.")
    if request.explain is not Explain.never and analyzer.words_missing is not None:
        print(f"Words: from a template, because {analyzer.words_missing}.")
    if outcome.read or outcome.skipped:
        print(f"Read {engines.line(analyzer.running())}.")
    if outcome.skipped:
        print(f"{outcome.skipped} sources were read by an earlier run and shown again.")
    if outcome.errors:
        print(f"{len(outcome.errors)} could not be read to the end; see the lines above.")
    if root.exists():
        print(f"{outcome.rows} rows (readings.jsonl, readings.csv) in {root}")


def _print_json(request: Request, root: Path, outcome: Outcome, analyzer: Analyzer) -> None:
    print(
        json.dumps(
            {
                "out": str(root) if root.exists() else None,
                "rows": outcome.rows,
                "sources_read": outcome.read,
                "sources_skipped": outcome.skipped,
                "errors": [error.line() for error in outcome.errors],
                "bundle": analyzer.bundle.digest,
                "words_missing": analyzer.words_missing,
                "running": analyzer.running(),
            }
        )
    )
