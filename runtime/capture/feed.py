"""What everything that gives frames now looks like: a camera, a stream, a pipe."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType

from feallm.runtime.contract.frame import Frame


@dataclass(frozen=True, slots=True)
class Counts:
    """What happened to a feed so far."""

    frames: int = 0  # handed out
    corrupt: int = 0  # arrived damaged, or failed to arrive while the next one came
    dropped: int = 0  # arrived, and a newer one came before it was asked for
    lost: int = 0  # times that the camera went away
    reopened: int = 0  # times that it came back
    away_s: float = 0.0  # without a camera, counted from the last frame before it went


class Feed(ABC):
    """Frames that arrive now: RGB, upright, counted from 0, timed from the first one's arrival."""

    def __init__(self, name: str) -> None:
        self.name = name  # what the rows call it; never holds a password

    @property
    @abstractmethod
    def counts(self) -> Counts:
        """What happened so far; may be asked from any thread."""

    @abstractmethod
    def frames(self) -> Iterator[Frame]:
        """The frames from now on. When the iterator ends or is dropped, the feed is closed."""

    @abstractmethod
    def close(self) -> None:
        """Stop and give the device back; the iterator then ends. May be called twice."""

    def __enter__(self) -> Feed:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
