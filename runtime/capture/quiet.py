"""Keep OpenCV's own complaints off stderr: each failure is told once, in our words."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import cv2

# OpenCV 4.10 has the first, 4.14 the second.
_set_log_level: Callable[[int], int] = (
    getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel
)


class _Users:
    """Who wants silence now. The level is the whole process's, and cameras have threads: only the
    first one in and the last one out may set it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.count = 0
        self.before = 0


_users = _Users()


@contextmanager
def quiet() -> Iterator[None]:
    """OpenCV logs nothing inside, in any thread."""
    with _users.lock:
        if _users.count == 0:
            _users.before = _set_log_level(0)
        _users.count += 1
    try:
        yield
    finally:
        with _users.lock:
            _users.count -= 1
            if _users.count == 0:
                _set_log_level(_users.before)
