"""Photos, folders and videos as frames: RGB, upright, counted from 0, with their true time.

The only place that knows BGR and FFmpeg. Nothing here is lenient: a picture is whole or an error,
a video gives the frames before a cut and then the error.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from feallm.runtime.capture.quiet import quiet
from feallm.runtime.capture.whole import (
    HEAD_BYTES,
    Kind,
    kind_of,
    movie_length_s,
    picture_cut,
    video_cut,
)
from feallm.runtime.contract.errors import InputError, LimitError
from feallm.runtime.contract.frame import Frame, Image

PICTURES = frozenset(
    ".jpg .jpeg .jpe .png .webp .bmp .dib .tif .tiff .jp2 .pbm .pgm .ppm .pnm".split()
)
VIDEOS = frozenset(".mp4 .m4v .mov .avi .mkv .webm .mpg .mpeg .ts .mts .wmv .flv .gif".split())
FPS_WITHOUT = 25.0  # assumed where a container states neither times nor a rate
END_SHARE = 0.9  # decoded less than this share of what the container promises: it broke off

# FFmpeg writes to stderr by itself, beside OpenCV's log; OpenCV reads this once, at the process's
# first video.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


@dataclass(frozen=True, slots=True)
class Source:
    """A picture or a video, and what its rows call it."""

    path: Path
    name: str


@dataclass(frozen=True, slots=True)
class Scan:
    """What lies under a path: sources in a fixed order, and what was left out."""

    sources: tuple[Source, ...]
    left_out: tuple[str, ...] = ()  # suffixes of the other files, one each
    errors: tuple[InputError, ...] = ()  # folders that could not be listed


def scan(path: Path) -> Scan:
    """The sources under `path`: itself, or every picture and video in a folder and its folders.

    Hidden files are left out. A file that is named outright is a source whatever its suffix.
    Raises InputError for a path that does not exist, and for a folder without sources.
    """
    name = _printable(path)
    if not path.is_dir():
        return Scan((Source(path, name),))
    sources, left_out, errors = [], [], []

    def failed(error: OSError) -> None:
        where = _printable(Path(str(error.filename or path)))
        errors.append(InputError(f"{where}: cannot be listed: {_reason(error)}"))

    for folder, folders, files in os.walk(path, onerror=failed):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for file in sorted(f for f in files if not f.startswith(".")):
            suffix = Path(file).suffix.lower()
            if suffix in PICTURES or suffix in VIDEOS:
                found = Path(folder) / file
                sources.append(Source(found, _printable(found)))
            else:
                left_out.append(suffix or "no suffix")
    if not sources:
        if errors:
            raise errors[0]
        holds = f"it holds {len(left_out)} other files: {' '.join(sorted(set(left_out)))}"
        raise InputError(
            f"{name}: no picture or video in this folder", hint=holds if left_out else "it is empty"
        )
    return Scan(tuple(sorted(sources, key=lambda s: s.path.parts)), tuple(left_out), tuple(errors))


def kind(source: Source) -> Kind:
    """Picture or video, by content. Raises InputError where it is neither, empty or unreadable."""
    head = _read(source, HEAD_BYTES)
    if not head:
        raise InputError(f"{source.name}: the file is empty")
    found = kind_of(head)
    if found is None:
        raise InputError(
            f"{source.name}: neither a picture nor a video that can be read",
            hint=f"it begins with {head[:12]!r}",
        )
    return found


def frames(source: Source) -> Iterator[Frame]:
    """The frames of a source, in order. Raises InputError, for a video also after some frames."""
    if kind(source) == "picture":
        yield Frame(read_picture(source), source.name, still=True)
    else:
        yield from _video_frames(source)


def expected_frames(source: Source) -> int | None:
    """How many frames a video's container promises (some estimate it); None where it does not."""
    video = _open_video(source)
    count = video.get(cv2.CAP_PROP_FRAME_COUNT)
    video.release()
    return int(count) if math.isfinite(count) and count > 0 else None


def read_picture(source: Source) -> Image:
    """A whole picture, upright by its EXIF orientation, as 8-bit RGB; gray, 16-bit and CMYK too.

    An alpha channel is dropped.
    """
    data = _read(source)
    if cut := picture_cut(data):
        raise InputError(f"{source.name}: the picture is cut short or damaged: {cut}")
    try:
        with quiet():
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise InputError(f"{source.name}: the picture cannot be decoded: {error.err}") from error
    except MemoryError as error:
        raise LimitError(f"{source.name}: the picture does not fit into memory") from error
    if pixels is None or pixels.size == 0:
        raise InputError(f"{source.name}: the picture cannot be decoded", hint=_hint(data))
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)


def _hint(data: bytes) -> str | None:
    if data[4:8] == b"ftyp":
        return "HEIC and AVIF pictures must be converted to JPEG or PNG first"
    return "its contents are damaged or of a kind that OpenCV does not know"


def _video_frames(source: Source) -> Iterator[Frame]:
    video = _open_video(source)
    try:
        fps = video.get(cv2.CAP_PROP_FPS)
        fps = fps if math.isfinite(fps) and 0 < fps < 1000 else FPS_WITHOUT
        promised = video.get(cv2.CAP_PROP_FRAME_COUNT)
        index, time_s = 0, 0.0
        while True:
            with quiet():
                good, pixels = video.read()
            if not good:
                break
            time_s = _time_s(video.get(cv2.CAP_PROP_POS_MSEC) / 1000, index, time_s, fps)
            rgb = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)
            yield Frame(rgb, source.name, index, time_s)
            index += 1
    finally:
        video.release()
    if broken := _broken_off(source, index, time_s, fps, promised):
        raise InputError(f"{source.name}: the video is cut short after {index} frames: {broken}")


def _time_s(stamp_s: float, index: int, before_s: float, fps: float) -> float:
    """A frame's time: the container's where it moves on, else counted at the frame rate."""
    if index == 0:
        return max(stamp_s, 0.0) if math.isfinite(stamp_s) else 0.0
    if math.isfinite(stamp_s) and stamp_s > before_s:
        return stamp_s
    return index / fps if index / fps > before_s else before_s + 1 / fps


def _broken_off(
    source: Source, read: int, last_s: float, fps: float, promised: float
) -> str | None:
    """Why a video that gave `read` frames is not whole, or None."""
    with source.path.open("rb") as file:
        cut, length_s = video_cut(file), movie_length_s(file)
    if cut:
        return cut
    if read == 0:
        return "not one can be decoded"
    if length_s is not None:
        if last_s + 2 / fps < END_SHARE * length_s - 1 / fps:
            return f"it should play for {length_s:.2f} s and ends at {last_s:.2f} s"
    elif math.isfinite(promised) and read < END_SHARE * promised - 2:
        return f"its container promises {promised:.0f}"
    return None


def _open_video(source: Source) -> cv2.VideoCapture:
    has_ffmpeg = cv2.videoio_registry.hasBackend(cv2.CAP_FFMPEG)
    backend = cv2.CAP_FFMPEG if has_ffmpeg else cv2.CAP_ANY
    with quiet():
        # an absolute path: FFmpeg would take "tcp:x.mp4" for an address
        video = cv2.VideoCapture(str(source.path.absolute()), backend)
    if not video.isOpened():
        with source.path.open("rb") as file:
            cut = video_cut(file)
        raise InputError(
            f"{source.name}: the video cannot be read" + (f": {cut}" if cut else ""),
            hint=None if cut else "no video stream that OpenCV's FFmpeg can decode",
        )
    video.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
    return video


def _read(source: Source, limit: int = -1) -> bytes:
    """The file's first `limit` bytes (all by default)."""
    try:
        if not source.path.is_file() and source.path.exists():
            raise InputError(f"{source.name}: not a regular file")
        with source.path.open("rb") as file:
            return file.read(limit)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise InputError(f"{source.name}: cannot be read: {_reason(error)}") from error
    except MemoryError as error:
        raise LimitError(f"{source.name}: the file does not fit into memory") from error


def _reason(error: OSError | ValueError) -> str:
    text = error.strerror if isinstance(error, OSError) else str(error)
    return (text or type(error).__name__).lower()


def _printable(path: Path) -> str:
    """A path as rows can hold it: forward slashes, and no bytes that are not UTF-8."""
    return os.fsencode(path.as_posix()).decode("utf-8", "replace")
