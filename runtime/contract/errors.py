"""Every error of the project and the exit code that it ends a command with.

    FeallmError                 1  something unexpected
    ├── UsageError              2  the call itself is wrong
    ├── InputError              3  an input cannot be read
    ├── BundleError             4  the bundle is broken, or not to be trusted
    ├── BackendError            5  a backend is missing, or failed
    ├── VerificationError       6  two artifacts disagree
    └── LimitError              7  a limit (time, memory, disk) was passed

Ctrl-C ends with 130, as a shell expects. One place prints them: `feallm.edge.cli.main`.
"""

from __future__ import annotations

from typing import ClassVar

INTERRUPTED = 130
"""Exit code after Ctrl-C (128 + SIGINT)."""


class FeallmError(Exception):
    """What was found, what was expected and where; the hint says what to do about it."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def line(self) -> str:
        """The error as the one line that a command prints."""
        text = self.message if self.hint is None else f"{self.message} ({self.hint})"
        return " ".join(text.split())


class UsageError(FeallmError):
    """The call itself is wrong: an option that does not fit, a folder that holds other rows."""

    exit_code: ClassVar[int] = 2


class InputError(FeallmError):
    """An input cannot be read, or does not hold what it should: a folder without pictures."""

    exit_code: ClassVar[int] = 3


class BundleError(FeallmError):
    """A bundle is incomplete, was changed, or says something that this version does not know."""

    exit_code: ClassVar[int] = 4


class BackendError(FeallmError):
    """An inference library is missing, or failed while running."""

    exit_code: ClassVar[int] = 5


class VerificationError(FeallmError):
    """Two artifacts that should answer alike do not."""

    exit_code: ClassVar[int] = 6


class LimitError(FeallmError):
    """A limit of time, memory or disk was passed."""

    exit_code: ClassVar[int] = 7
