"""What a person sees while a command works: one line an error, a progress bar, tables."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from feallm.runtime.contract.errors import FeallmError

WIDTH_IN_FILES = 100  # of tables that go to a file or a pipe


def complain(error: FeallmError) -> None:
    """One line on stderr."""
    print(f"feallm: {error.line()}", file=sys.stderr, flush=True)


def note(text: str) -> None:
    """One line on stderr that is no error."""
    print(" ".join(text.split()), file=sys.stderr, flush=True)


def results() -> Console:
    """Where results go: stdout, as wide as the terminal, plain in a file."""
    if sys.stdout.isatty():
        return Console(highlight=False, markup=False, emoji=False)
    return Console(width=WIDTH_IN_FILES, highlight=False, markup=False, emoji=False)


class Bar:
    """A progress bar on stderr that steps aside while something else is printed."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()
        # Not through redirect_stdout: it would move results from stdout to stderr.
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True, markup=False, emoji=False),
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            disable=not self._shown,
        )

    def __enter__(self) -> Bar:
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    # Asked here too: rich 13 writes an empty line when a bar that is disabled stops.
    def _start(self) -> None:
        if self._shown:
            self._progress.start()

    def _stop(self) -> None:
        if self._shown:
            self._progress.stop()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Take the bar off the screen."""
        self._stop()
        try:
            yield
        finally:
            self._start()

    def begin(self, what: str, total: int | None) -> int:
        """A new line of progress; gives its number."""
        return int(self._progress.add_task(what, total=total))

    def step(self, number: int) -> None:
        """One more is done."""
        self._progress.advance(TaskID(number))

    def end(self, number: int) -> None:
        """Take the line away."""
        self._progress.remove_task(TaskID(number))
