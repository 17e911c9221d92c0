"""A camera that is read for ever: only its newest frame is kept, and when it goes it is reopened.

One thread opens, reads and reopens; whoever asks for frames only takes what lies ready. So a slow
reader sees the present, never a queue, and a driver that hangs cannot hang the program: its thread
is given up and another one tries.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import cv2
import numpy as np

from feallm.runtime.capture.feed import Counts, Feed
from feallm.runtime.capture.quiet import quiet
from feallm.runtime.contract.errors import FeallmError, InputError
from feallm.runtime.contract.frame import Frame, Image

FAILED_READS = 5  # in a row, and the camera is lost
RETRY_S = 0.05  # between failed reads: a camera that changes its mode needs a moment
FIRST_DELAY_S, LAST_DELAY_S = 0.5, 30.0  # before reopening; doubles from the one to the other
PATIENCE_S = 10.0
SILENT_S = 60.0  # after a warning: a camera that comes and goes must not flood the log
STUCK_THREADS = 4  # given up and not yet back; while there are so many, no other one is started
_LOOK_S = 0.05  # how often a waiting reader of frames looks whether the thread is stuck
_GOODBYE_S = 1.0  # a read that lasts longer than this is not waited for when the feed is closed

_log = logging.getLogger(__name__)

Pause = Callable[[threading.Event, float], object]  # returns early when the event is set


class Capture(Protocol):
    """What of cv2.VideoCapture a feed uses; it comes opened."""

    def read(self) -> tuple[bool, Any]:
        """Whether there was a frame, and its pixels, BGR."""

    def release(self) -> None:
        """Give the device back."""


@dataclass(slots=True)
class _Turn:
    """One thread's time with the camera."""

    stop: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None
    busy_since_s: float | None = None  # inside OpenCV since then; None while outside

    def is_alive(self) -> bool:
        return self.thread is not None and self.thread.is_alive()


class CameraFeed(Feed):
    """A camera or a stream behind an opener, which raises InputError while there is none.

    `start` comes back with the first frame, or raises why there is none; with `wait` it comes
    back at once and the camera may appear whenever it likes.
    """

    def __init__(
        self,
        name: str,
        opener: Callable[[], Capture],
        *,
        wait: bool = False,
        patience_s: float = PATIENCE_S,
        clock: Callable[[], float] = time.monotonic,
        pause: Pause = threading.Event.wait,
    ) -> None:
        super().__init__(name)
        self._opener, self._wait, self._patience_s = opener, wait, patience_s
        self._clock, self._pause = clock, pause
        self._changed = threading.Condition()  # guards everything below
        self._counts = Counts()
        self._newest: tuple[Image, float] | None = None  # BGR, arrival
        self._asked = False  # somebody wants frames: what is skipped from now on counts
        self._begun = False  # there was a first frame
        self._closed = False
        self._error: FeallmError | None = None
        self._good_s = clock()  # when the last frame came
        self._away_since_s: float | None = None
        self._told = False  # the log knows that the camera is away
        self._silent_until_s = clock()
        self._delay_s = FIRST_DELAY_S
        self._turn: _Turn | None = None
        self._stuck: list[_Turn] = []
        self._silence = ExitStack()

    def start(self) -> CameraFeed:
        """Begin to read. Raises InputError where the camera gives no frame, unless it may wait."""
        # The thread cannot do this: the log level is the whole process's.
        self._silence.enter_context(quiet())
        with self._changed:
            self._begin(away=False)
        try:
            with self._changed:
                while not (self._wait or self._begun):
                    self._look()
        except BaseException:
            self.close()
            raise
        return self

    @property
    def counts(self) -> Counts:
        """What happened so far; time without a camera counts while it passes."""
        with self._changed:
            if self._away_since_s is None or self._closed:
                return self._counts
            away_s = self._counts.away_s + self._clock() - self._away_since_s
            return replace(self._counts, away_s=away_s)

    def frames(self) -> Iterator[Frame]:
        """The newest frame each time, never one twice; waits while there is none."""
        try:
            first_s: float | None = None
            index = 0
            while (found := self._take()) is not None:
                pixels, arrived_s = found
                first_s = arrived_s if first_s is None else first_s
                rgb = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)
                yield Frame(rgb, self.name, index, arrived_s - first_s)
                index += 1
        finally:
            self.close()

    def close(self) -> None:
        """Stop the thread, which gives the device back; one that is stuck does so once it can."""
        with self._changed:
            if not self._closed and self._away_since_s is not None:
                self._add(away_s=self._clock() - self._away_since_s)
            self._closed = True
            self._newest = None
            turn, self._turn = self._turn, None
            if turn is not None:
                turn.stop.set()
            self._changed.notify_all()
        if turn is not None and turn.thread is not None:
            turn.thread.join(_GOODBYE_S)
        running = [*self._stuck, turn] if turn is not None else self._stuck
        if not any(one.is_alive() for one in running):  # else OpenCV would still complain
            self._silence.close()

    # ---- the side that wants frames; called with the lock

    def _take(self) -> tuple[Image, float] | None:
        with self._changed:
            self._asked = True
            while not self._closed:
                if self._newest is not None:
                    found, self._newest = self._newest, None
                    self._add(frames=1)
                    return found
                self._look()
        return None

    def _look(self) -> None:
        """Wait a moment for news, and give up a thread that is stuck. Raises the thread's error."""
        if self._error is not None:
            raise self._error
        self._changed.wait(_LOOK_S)
        turn = self._turn
        if turn is None:  # all threads were stuck when last seen
            self._begin(away=True)
            return
        since_s = turn.busy_since_s
        if since_s is None or self._clock() - since_s <= self._patience_s:
            return
        if turn.busy_since_s != since_s:  # it went on between the two lines above
            return
        turn.stop.set()
        self._stuck.append(turn)
        self._turn = None
        if self._lose(InputError(f"{self.name}: nothing answers for {self._patience_s:g} s")):
            self._begin(away=True)

    def _begin(self, *, away: bool) -> None:
        self._stuck = [turn for turn in self._stuck if turn.is_alive()]
        if self._closed or len(self._stuck) >= STUCK_THREADS:
            return
        turn = self._turn = _Turn()
        turn.thread = threading.Thread(
            target=self._work, args=(turn, away), name=f"feed {self.name}", daemon=True
        )
        turn.thread.start()

    # ---- both sides; called with the lock

    def _add(self, **more: float) -> None:
        self._counts = replace(
            self._counts, **{key: getattr(self._counts, key) + n for key, n in more.items()}
        )

    def _lose(self, error: InputError) -> bool:
        """Note that the camera is away; False where that ends the feed."""
        if not self._begun and not self._wait:
            self._error = error
            self._changed.notify_all()
            return False
        if self._away_since_s is None:
            self._away_since_s, self._told = self._good_s, False
            self._add(lost=int(self._begun))
        now_s = self._clock()
        if not self._told and now_s >= self._silent_until_s:
            self._told, self._silent_until_s = True, now_s + SILENT_S
            state = "lost" if self._begun else "not there yet"
            _log.warning("camera %s, trying on: %s", state, error.line())
        return True

    # ---- the thread

    def _work(self, turn: _Turn, away: bool) -> None:
        """Open, read and reopen until the turn is over."""
        while not turn.stop.is_set():
            if away:
                with self._changed:
                    delay_s, self._delay_s = self._delay_s, min(2 * self._delay_s, LAST_DELAY_S)
                self._pause(turn.stop, delay_s)
                if turn.stop.is_set():
                    return
            away = True
            error = self._visit(turn)
            with self._changed:
                if turn.stop.is_set() or not self._lose(error):
                    return

    def _visit(self, turn: _Turn) -> InputError:
        """Read from opening to loss; gives why it ended."""
        turn.busy_since_s = self._clock()
        try:
            capture = self._opener()
        except InputError as error:
            return error
        except Exception as error:  # whatever a driver does, a kiosk goes on
            return InputError(f"{self.name}: cannot be opened: {_told(error)}")
        finally:
            turn.busy_since_s = None
        try:
            return self._read(turn, capture)
        finally:
            turn.busy_since_s = self._clock()
            try:
                capture.release()
            except Exception as error:
                _log.debug("release failed: %s", _told(error))
            turn.busy_since_s = None

    def _read(self, turn: _Turn, capture: Capture) -> InputError:
        failed = missed = 0  # in a row; of these, without any picture
        good_s, why = self._clock(), ""
        while not turn.stop.is_set():
            turn.busy_since_s = self._clock()
            pixels, fault = _picture(capture)
            now_s = self._clock()
            turn.busy_since_s = None
            if pixels is not None:
                self._deliver(turn, pixels, now_s, missed)
                failed, missed, good_s = 0, 0, now_s
                continue
            failed, why = failed + 1, fault or "it gives no picture"
            if fault is None:
                missed += 1
            else:
                with self._changed:
                    self._add(corrupt=1)
            if failed >= FAILED_READS or now_s - good_s > self._patience_s:
                break
            self._pause(turn.stop, RETRY_S)
        return InputError(f"{self.name}: {why}")

    def _deliver(self, turn: _Turn, pixels: Image, now_s: float, missed: int) -> None:
        with self._changed:
            if turn.stop.is_set():  # given up meanwhile: another thread has the camera
                return
            if self._away_since_s is not None:
                away_s = now_s - self._away_since_s
                self._add(away_s=away_s, reopened=int(self._begun))
                self._away_since_s = None
                if self._told:
                    _log.warning("camera is there after %.1f s: %s", away_s, self.name)
            self._add(corrupt=missed, dropped=int(self._asked and self._newest is not None))
            self._begun, self._delay_s, self._good_s = True, FIRST_DELAY_S, now_s
            self._newest = (pixels, now_s)
            self._changed.notify_all()


def _picture(capture: Capture) -> tuple[Image | None, str | None]:
    """The next frame's pixels, or what was wrong with them; neither where none came."""
    try:
        good, pixels = capture.read()
    except Exception as error:  # OpenCV's own, and what its plugins let through
        return None, f"its frames cannot be read: {_told(error)}"
    if not good:
        return None, None
    if not isinstance(pixels, np.ndarray) or pixels.size == 0:
        return None, "its frames are empty"
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        return None, f"its frames are {pixels.dtype} {pixels.shape}, not uint8 (H, W, 3)"
    return pixels, None


def _told(error: Exception) -> str:
    text = type(error).__name__
    if isinstance(error, cv2.error):  # one that Python made has no `err` in OpenCV 4.10
        text = getattr(error, "err", None) or str(error)
    return " ".join(str(text).split())
