"""Pictures from a pipe, one behind the other: JPEG (or a multipart stream of them), PPM, YUV4MPEG2.

Nothing is dropped: whoever writes waits until we have read. A damaged picture is counted and the
next one found; memory holds one picture.
"""

from __future__ import annotations

import os
import re
import select
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, BinaryIO, NoReturn

import cv2
import numpy as np
from numpy.typing import NDArray

from feallm.runtime.capture.feed import Counts, Feed
from feallm.runtime.capture.quiet import quiet
from feallm.runtime.contract.errors import InputError
from feallm.runtime.contract.frame import Frame, Image

LARGEST_BYTES = 64 << 20  # one picture
HEADER_BYTES = 1 << 16  # of a PPM or a YUV4MPEG2 stream
STRANGE_BYTES = 4 << 20  # before the first JPEG: a stream that is joined midway begins with a piece
_CHUNK_BYTES = 1 << 16
_STOP_S = 0.1  # how long a stop may take while nothing comes

_SPACE = rb"(?:\s|#[^\r\n]*[\r\n])+"
_PPM = re.compile(rb"\s*P6" + _SPACE + _SPACE.join([rb"(\d{1,9})"] * 3) + rb"\s")
_START = re.compile(rb"\xff\xd8\xff[\xc0-\xcf\xdb\xdd\xe0-\xef\xfe]")
_SCAN_END = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")  # a marker that is neither stuffed nor RSTn
_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_ALONE = frozenset((0x01, *range(0xD0, 0xD8)))  # markers without a length
_AFTER_SCAN = frozenset((0xC4, *range(0xD8, 0xDE), *range(0xE0, 0xF0), 0xFE))

_HINT = (
    "expected JPEG or PPM pictures or YUV4MPEG2, as from `ffmpeg -i … -f image2pipe -c:v mjpeg -`"
)

Picture = tuple[Image | None, float | None]  # None: damaged; seconds where the stream states them


class PipedFeed(Feed):
    """The pictures of a binary stream, in order, none left out."""

    def __init__(
        self, pipe: BinaryIO, name: str = "-", *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(name)
        self._pipe, self._clock = pipe, clock
        self._counts = Counts()
        self._closed = False

    @property
    def counts(self) -> Counts:
        """Only `frames` and `corrupt` change here."""
        return self._counts

    def close(self) -> None:
        """End the iterator. The pipe stays open: it was not opened here."""
        self._closed = True

    def frames(self) -> Iterator[Frame]:
        """Every picture up to the stream's end, timed by the stream, else by arrival.

        Raises InputError where nothing can be read, or not one picture.
        """
        if self._pipe.isatty():
            raise InputError(f"{self.name}: nothing is piped in", hint=_HINT)
        data = _Bytes(self._pipe, self.name, lambda: self._closed)
        first_s: float | None = None
        for pixels, time_s in _pictures(data):
            if pixels is None:
                self._counts = replace(self._counts, corrupt=self._counts.corrupt + 1)
            else:
                now_s = self._clock() if time_s is None else time_s
                first_s = now_s if first_s is None else first_s
                index = self._counts.frames
                self._counts = replace(self._counts, frames=index + 1)
                yield Frame(pixels, self.name, index, now_s - first_s)
            if self._closed:
                return
        if self._counts.frames == 0 and not self._closed:
            damaged = self._counts.corrupt
            found = f"of {damaged} pictures not one is whole" if damaged else "no picture came"
            data.fail(f"{found} before the stream ended")


class _Bytes:
    """What was read and not yet used."""

    def __init__(self, pipe: BinaryIO, name: str, stopped: Callable[[], bool]) -> None:
        self.held = bytearray()
        self.head = b""  # the stream's first bytes, for messages
        self._read = _reader(pipe, stopped)
        self._name = name

    def fill(self) -> bool:
        """Read what there is; False at the end. Raises InputError past the limit for a picture."""
        if len(self.held) > LARGEST_BYTES + HEADER_BYTES:
            self.fail(f"a picture is larger than {LARGEST_BYTES >> 20} MB")
        try:
            chunk = self._read(_CHUNK_BYTES)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            self.fail(f"the stream cannot be read: {reason or type(error).__name__}".lower())
        if not chunk:
            return False
        self.held += chunk
        self.head = self.head or bytes(chunk[:12])
        return True

    def has(self, count: int) -> bool:
        """Whether `count` bytes are there, or came now."""
        while len(self.held) < count:
            if not self.fill():
                return False
        return True

    def drop(self, count: int) -> None:
        """Forget the first `count` bytes."""
        del self.held[:count]

    def fail(self, what: str) -> NoReturn:
        """Raise an InputError that says what the stream began with."""
        begins = f"it begins with {self.head!r}; " if self.head else ""
        raise InputError(f"{self._name}: {what}", hint=begins + _HINT)


def _reader(pipe: BinaryIO, stopped: Callable[[], bool]) -> Callable[[int], bytes | None]:
    """What reads the next bytes; of a real pipe none once it is stopped, even while none come."""
    try:
        handle = pipe.fileno()
    except (OSError, AttributeError):  # bytes in memory
        found: Callable[[int], bytes | None] = getattr(pipe, "read1", pipe.read)
        return found

    def read(count: int) -> bytes:
        while not select.select([handle], [], [], _STOP_S)[0]:
            if stopped():
                return b""
        return os.read(handle, count)

    return read


def _pictures(data: _Bytes) -> Iterator[Picture]:
    data.has(10)
    if data.held.startswith(b"YUV4MPEG2"):
        return _yuv(data)
    return _ppms(data) if re.match(rb"P6[\s#]", data.held) else _jpegs(data)


# ---- JPEG


def _jpegs(data: _Bytes) -> Iterator[Picture]:
    """Each JPEG; what lies between them (a multipart stream's headers, say) is skipped."""
    known, first = False, True  # known: what follows belongs to a picture that was counted
    while True:
        skipped = 0
        while (start := _START.search(data.held)) is None:
            passed = max(len(data.held) - 3, 0)
            skipped += passed
            if first and skipped > STRANGE_BYTES:
                data.fail("no picture in what came")
            if not known and b"\xff\xd9" in data.held:  # an end without a start
                known = True
                yield None, None
            data.drop(passed)
            if not data.fill():
                return
        if not known and b"\xff\xd9" in data.held[: start.start()]:
            yield None, None
        data.drop(start.start())
        end, whole = _jpeg_end(data)
        yield (_decoded(bytes(data.held[:end])) if whole else None), None
        known, first = not whole, False
        data.drop(end)


def _jpeg_end(data: _Bytes) -> tuple[int, bool]:
    """Where the JPEG at the start ends, and True; else from where to look for the next one.

    Segments are passed by their lengths: a thumbnail in one of them has its own start and end.
    """
    place = safe = 2  # up to `safe` the structure is known to be sound
    spoilt = False
    while data.has(place + 2) and data.held[place] == 0xFF:
        marker = data.held[place + 1]
        if marker == 0xFF:  # a fill byte
            place += 1
            continue
        if marker == _EOI:
            return place + 2, not spoilt
        safe = place
        if marker == _SOI:  # the next picture: this one broke off
            return safe, False
        if marker in _ALONE:
            place += 2
            continue
        if marker == 0x00 or not data.has(place + 4):
            return safe, False
        end = place + 2 + max(int.from_bytes(data.held[place + 2 : place + 4], "big"), 2)
        data.has(end + 3)  # a start may begin with the last byte
        if 0xE1 <= marker <= 0xEF or data.held[place + 4 : place + 8] == b"JFXX":
            safe = min(end, len(data.held))  # may hold a thumbnail, never the next picture
        elif inner := _START.search(data.held, place + 2, end + 3):
            return inner.start(), False  # it broke off within this segment
        place = end
        if marker == _SOS:
            place, strange = _scan_end(data, place)
            safe, spoilt = min(place, len(data.held)), spoilt or strange
    return safe, False


def _scan_end(data: _Bytes, place: int) -> tuple[int, bool]:
    """The marker behind the compressed pixels, and whether they hold one that cannot be there."""
    strange = False
    while True:
        found = _SCAN_END.search(data.held, place)
        if found is None:
            place = max(place, len(data.held) - data.held.endswith(b"\xff"))
            if not data.fill():
                return place, strange
        elif data.held[found.end() - 1] in _AFTER_SCAN:
            return found.end() - 2, strange
        else:
            place, strange = found.end(), True


def _decoded(jpeg: bytes) -> Image | None:
    try:
        with quiet():
            pixels = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    except (cv2.error, MemoryError):
        return None
    if pixels is None or pixels.size == 0:
        return None
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)


# ---- PPM


def _ppms(data: _Bytes) -> Iterator[Picture]:
    """Each P6 picture, of 8 or 16 bits. Raises InputError where one does not follow the other."""
    while data.has(1):
        while (header := _PPM.match(data.held)) is None:
            if len(data.held) > HEADER_BYTES or not b"P6".startswith(data.held.lstrip()[:2]):
                data.fail("what follows a PPM picture is no PPM picture")
            if not data.fill():
                if data.held.strip():
                    yield None, None
                return
        width, height, largest = (int(number) for number in header.groups())
        start, kind = header.end(), np.dtype(np.uint8 if largest < 256 else ">u2")
        size = width * height * 3 * kind.itemsize
        if not (width and height and 0 < largest < 65536) or size > LARGEST_BYTES:
            data.fail(f"a PPM picture of {width} x {height} pixels, 0 to {largest}: not possible"
                      f" or larger than {LARGEST_BYTES >> 20} MB")  # fmt: skip
        if not data.has(start + size):
            yield None, None
            return
        values: NDArray[Any] = np.frombuffer(data.held[start : start + size], kind)
        values = values.reshape(height, width, 3)
        data.drop(start + size)
        if largest != 255:
            values = np.minimum(np.rint(values.astype(np.float32) * (255 / largest)), 255)
        yield values.astype(np.uint8, copy=False), None


# ---- YUV4MPEG2


def _yuv(data: _Bytes) -> Iterator[Picture]:
    """Each 4:2:0 frame, timed by the stream's rate."""
    words = _line(data).split()[1:]
    fields = {word[:1]: word[1:] for word in words}
    width, height = (int(fields.get(key, "0")) if fields.get(key, "0").isdecimal() else 0
                     for key in "WH")  # fmt: skip
    half_width, half_height = (width + 1) // 2, (height + 1) // 2
    size = width * height + 2 * half_width * half_height
    if not (width and height) or size > LARGEST_BYTES:
        data.fail(f"a YUV4MPEG2 stream of {width} x {height} pixels: not possible or too large")
    if fields.get("C", "420") not in ("420", "420jpeg", "420mpeg2", "420paldv"):
        data.fail(f"a YUV4MPEG2 stream of kind C{fields['C']}; make it 4:2:0 (-pix_fmt yuv420p)")
    rate = re.fullmatch(r"(\d+):(\d+)", fields.get("F", ""))
    frame_s = int(rate[2]) / int(rate[1]) if rate and int(rate[1]) and int(rate[2]) else None
    index = 0
    while data.has(1):
        if not data.has(5) or not data.held.startswith(b"FRAME"):
            if b"FRAME".startswith(data.held):
                yield None, None
                return
            data.fail(f"after {index} frames the YUV4MPEG2 stream is out of step")
        _line(data)
        if not data.has(size):
            yield None, None
            return
        planes = np.frombuffer(data.held[:size], np.uint8)
        data.drop(size)
        pixels = _rgb(planes, width, height, full="XCOLORRANGE=FULL" in words)
        yield pixels, None if frame_s is None else index * frame_s
        index += 1


def _line(data: _Bytes) -> str:
    """The next line, without its end."""
    while (end := data.held.find(b"\n")) < 0:
        if len(data.held) > HEADER_BYTES or not data.fill():
            end = len(data.held)
            break
    line = bytes(data.held[:end]).decode("latin-1")
    data.drop(end + 1)
    return line


def _rgb(planes: Image, width: int, height: int, *, full: bool) -> Image:
    """RGB of planar 4:2:0 by BT.601, the matrix that the format's writers mean."""
    even = ((height + 1) // 2, (width + 1) // 2)
    luma, *chroma = np.split(planes, [width * height, width * height + even[0] * even[1]])
    padding = [(0, height % 2), (0, width % 2)]
    luma = np.pad(luma.reshape(height, width), padding, mode="edge")
    if full:
        size = (luma.shape[1], luma.shape[0])
        blue, red = (cv2.resize(plane.reshape(even), size) for plane in chroma)
        rgb = cv2.cvtColor(cv2.merge([luma, red, blue]), cv2.COLOR_YCrCb2RGB)
    else:
        stacked = np.concatenate([luma.ravel(), *chroma]).reshape(-1, luma.shape[1])
        rgb = cv2.cvtColor(stacked, cv2.COLOR_YUV2RGB_I420)
    return np.ascontiguousarray(rgb[:height, :width], np.uint8)
