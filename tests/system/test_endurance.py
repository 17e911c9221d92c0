"""Months in minutes: 20,000 frames of a camera that is unplugged again and again.

`python -m pytest -m slow tests/system/test_endurance.py -s` prints what it measured.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from feallm.edge import live
from feallm.runtime.capture.live import open_feed
from feallm.runtime.contract.errors import InputError

HEADS = Path(__file__).parents[1] / "model" / "detector" / "heads.npz"
FRAMES, SETTLED, MOST_MB = 20_000, 1_000, 10.0
AWAY_S, EACH = 30.0, 2_500  # unplugged for so long after each so many frames


def rss_mb() -> float:
    """Resident memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def pictures() -> list[np.ndarray]:
    """BGR (180, 320, 3): two heads that sway, and nobody for a while."""
    arrays = np.load(HEADS)
    heads = []
    for k in (0, 1):
        data = arrays["images"][arrays["offsets"][k] : arrays["offsets"][k + 1]]
        heads.append(cv2.resize(cv2.imdecode(data, cv2.IMREAD_UNCHANGED), (120, 134)))
    film = []
    for k in range(120):
        picture = np.full((180, 320, 3), 110, np.uint8)
        for n, head in enumerate(heads if k < 90 else []):
            x, y = int(20 + 150 * n + 12 * np.sin(k / 9)), int(20 + 8 * np.sin(k / 7 + n))
            cover = head[..., 3:] / 255
            part = picture[y : y + 134, x : x + 120]
            part[:] = part * (1 - cover) + head[..., :3] * cover
        film.append(picture)
    return film


class Clock:
    """Time that passes by itself, and leaps while the camera is away."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead

    def pause(self, event: threading.Event, seconds: float) -> bool:
        self.ahead += seconds
        return event.wait(0.001)


class Camera:
    """Gives frames until it is unplugged."""

    def __init__(self, film: list[np.ndarray], start: int) -> None:
        self.film, self.number, self.given = film, start, 0

    def read(self) -> tuple[bool, np.ndarray | None]:
        if self.given == EACH:
            return False, None
        time.sleep(0.001)
        self.given += 1
        self.number += 1
        return True, self.film[self.number % len(self.film)]

    def release(self) -> None:
        pass


class Socket:
    """Where the camera is plugged in."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.film = clock, pictures()
        self.opened = 0
        self.back_s = 0.0

    def __call__(self, where: object, patience_s: float) -> Camera:
        if self.opened and not self.back_s:
            self.back_s = self.clock() + AWAY_S
        if self.clock() < self.back_s:
            raise InputError("camera:0: no such device")
        self.back_s = 0.0
        self.opened += 1
        return Camera(self.film, self.opened * 37)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_memory_stays_and_nothing_is_lost(tmp_path, capsys, monkeypatch):
    clock = Clock()
    socket, seen, feeds = Socket(clock), {}, []

    def opened(address, wait):
        feed = open_feed(address, opener=socket, clock=clock, pause=clock.pause)
        frames = feed.frames

        def counted():
            for frame in frames():
                yield frame
                done = frame.index + 1
                if done in (SETTLED, FRAMES):
                    gc.collect()
                    seen[done] = rss_mb()
                if done == FRAMES:
                    return

        feed.frames = counted
        feeds.append(feed)
        return feed

    monkeypatch.setattr(live, "open_feed", opened)
    live.live(live.Request("camera:0", out=tmp_path / "rows"))
    counts = feeds[0].counts
    capsys.readouterr()
    lines = [
        line for path in (tmp_path / "rows").iterdir() for line in path.read_text().splitlines()
    ]
    rows = [json.loads(line) for line in lines]
    faces = sum(row["track"] is not None for row in rows)
    grown = seen[FRAMES] - seen[SETTLED]
    with capsys.disabled():
        print(f"\n{counts}; {faces} faces; {seen[SETTLED]:.1f} MB at frame {SETTLED}, "
              f"{grown:+.2f} MB by {FRAMES}")  # fmt: skip
    assert grown <= MOST_MB
    assert {row["frame"] for row in rows} == set(range(FRAMES))  # not one is missing
    assert counts.lost >= 3 and counts.reopened == counts.lost
    assert counts.away_s >= AWAY_S * counts.reopened
    assert faces > FRAMES  # two heads most of the time
