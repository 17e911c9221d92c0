"""Keep OpenCV's own complaints off stderr: each failure is told once, in our words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import cv2

# OpenCV 4.10 has the first, 4.14 the second.
_set_log_level: Callable[[int], int] = (
    getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel
)


@contextmanager
def quiet() -> Iterator[None]:
    """OpenCV logs nothing inside."""
    before = _set_log_level(0)
    try:
        yield
    finally:
        _set_log_level(before)
