"""Cameras, streams and pipes by their address, as feeds: `camera:0`, `rtsp://…`, `gst:…`, `-`.

What an address may be and how OpenCV opens it is here; `camera.py` reads it for ever, `piped.py`
reads standard input. Photographs and videos on disk are `source.py`'s.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, Literal
from urllib.parse import parse_qsl, urlsplit

import cv2

from feallm.runtime.capture.camera import PATIENCE_S, CameraFeed, Capture, Pause
from feallm.runtime.capture.feed import Feed
from feallm.runtime.capture.piped import PipedFeed
from feallm.runtime.contract.errors import BackendError, InputError, UsageError

KINDS = "camera:N, /dev/videoN, rtsp:// or http:// and the like, gst:PIPELINE, or - for a pipe"
SCHEMES = frozenset("rtsp rtsps http https rtmp rtmps srt tcp udp rtp".split())
DEFAULT_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443, "rtmp": 1935, "rtmps": 443}
# Of our own patience, so that FFmpeg gives up first and there is time to ask why.
FFMPEG_SHARE, PROBE_SHARE = 0.7, 0.2

_URL = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_DEVICE = re.compile(r"/dev/(video\d+|v4l/.+)")
_HARMLESS_PATH = re.compile(r"[\w./~-]*")
_KEY = re.compile(r"(?=[a-z]*\d)(?=\d*[a-z])[a-z\d]{12,}", re.IGNORECASE)
_PASSWORD_WORDS = re.compile(r"pass|pwd|user|login|auth|token|key|secret|cred", re.IGNORECASE)
_HARMLESS_QUERY = frozenset("channel subtype stream profile camera resolution fps".split())
_HARMLESS_PROPERTIES = frozenset("sensor-id device device-index".split())

# FFmpeg writes whole addresses, passwords too, to stderr; OpenCV reads this once, at the first
# video.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


@dataclass(frozen=True, slots=True)
class Address:
    """Where frames come from. `name` is what rows and errors call it: without user or password."""

    kind: Literal["camera", "stream", "gstreamer", "pipe"]
    target: str
    name: str


def is_live(text: str) -> bool:
    """Whether `text` is the address of something live; else it is the path of a file."""
    return text == "-" or text.lower().startswith(("camera:", "gst:")) or bool(
        _URL.match(text) or _DEVICE.fullmatch(text)
    )  # fmt: skip


def address(text: str) -> Address:
    """The address that `text` is. Raises UsageError where it is malformed, or not live at all."""
    scheme, _, rest = text.partition(":")
    shown = "…" if "@" in text else text  # a password, where somebody forgot rtsp://
    if text == "-":
        return Address("pipe", text, text)
    if _DEVICE.fullmatch(text):
        return Address("camera", text, text)
    if scheme.lower() == "camera":
        if not re.fullmatch(r"[0-9]{1,3}", rest.strip()):
            raise UsageError(f"{shown}: a camera has a number", hint="as in camera:0")
        return Address("camera", str(int(rest)), f"camera:{int(rest)}")
    if scheme.lower() == "gst":
        return _pipeline(rest.strip())
    if _URL.match(text):
        return _stream(text.strip())
    raise UsageError(f"{shown}: not the address of a camera or a stream", hint=f"expected {KINDS}")


def open_feed(
    text: str,
    *,
    wait: bool = False,
    patience_s: float = PATIENCE_S,
    pipe: BinaryIO | None = None,
    opener: Callable[[Address, float], Capture] | None = None,
    clock: Callable[[], float] = time.monotonic,
    pause: Pause = threading.Event.wait,
) -> Feed:
    """The feed at an address; of a camera or a stream the first frame has already arrived.

    With `wait` a camera may also appear later. A read that takes longer than `patience_s` counts
    as a lost camera. `pipe` replaces standard input. Raises UsageError for a malformed address,
    InputError with the reason where nothing can be opened, BackendError where OpenCV lacks what
    the address needs.
    """
    found = address(text)
    if found.kind == "pipe":
        pipe = pipe or getattr(sys.stdin, "buffer", None)
        if pipe is None:
            raise InputError(f"{found.name}: standard input is closed")
        return PipedFeed(pipe, found.name, clock=clock)
    if opener is None:
        _check_backend(found)
        opener = open_capture
    feed = CameraFeed(
        found.name,
        partial(opener, found, patience_s),
        wait=wait,
        patience_s=patience_s,
        clock=clock,
        pause=pause,
    )
    return feed.start()


def open_capture(where: Address, patience_s: float) -> cv2.VideoCapture:
    """The opened camera or stream. Raises InputError with the reason where it does not open."""
    if where.kind == "camera":
        return _open_camera(where)
    if where.kind == "gstreamer":
        video = cv2.VideoCapture(where.target, cv2.CAP_GSTREAMER)
        if not video.isOpened():
            raise InputError(
                f"{where.name}: this pipeline does not start",
                hint="gst-launch-1.0 tells why: run it there with autovideosink for appsink",
            )
        return video
    return _open_stream(where, patience_s)


# ---- names without passwords


def _stream(text: str) -> Address:
    """A stream's address. The errors hold no part of the text but its scheme."""
    scheme = text.partition(":")[0].lower()
    if scheme == "file":
        raise UsageError("file://: not a stream", hint="give the path itself")
    if scheme not in SCHEMES:
        raise UsageError(f"{scheme}://: not a kind of stream", hint=f"expected {KINDS}")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
        if "@" in text:
            raise UsageError(
                f"{scheme}://…: no host and port can be told in this address",
                hint="in a user or password, write / ? # @ : as %2F %3F %23 %40 %3A",
            ) from None
    if not host and scheme not in ("udp", "rtp"):
        raise UsageError(f"{scheme}://…: no host and port can be told in this address",
                         hint="expected, say, rtsp://camera.local:554/path")  # fmt: skip
    beyond = text[len(scheme) + 3 + len(parts.netloc) :] if host else ""
    if "@" in beyond:  # an address in a query, or a password that was not escaped: who can tell
        return Address("stream", text, f"{scheme}://…")
    host = f"[{host}]" if host and ":" in host else host or ""
    name = f"{scheme}://{host}" + (f":{port}" if port else "")
    return Address("stream", text, name + _harmless_path(parts.path, scheme) + _query(parts.query))


def _harmless_path(path: str, scheme: str) -> str:
    """The path as far as it can hold no secret: an RTMP path ends with the stream's key."""
    kept = "/".join(path.split("/")[:2]) if scheme.startswith("rtmp") else path
    if not _HARMLESS_PATH.fullmatch(kept) or _PASSWORD_WORDS.search(kept) or _KEY.search(kept):
        return "/…"
    return kept if kept == path else f"{kept}/…"


def _query(query: str) -> str:
    """The parameters that tell one stream of a camera from another; all others stay out."""
    kept = [f"{key}={value}" for key, value in parse_qsl(query)
            if key.lower() in _HARMLESS_QUERY and re.fullmatch(r"\d{1,4}", value)]  # fmt: skip
    return "?" + "&".join(kept) if kept else ""


def _pipeline(text: str) -> Address:
    """A pipeline's address, named by its first element: others may hold a password too."""
    elements = [element.split() for element in text.split("!")]
    first = elements[0][0] if elements[0] else ""
    if not re.fullmatch(r"[\w-]+", first):
        raise UsageError("gst: no pipeline", hint="as in gst:v4l2src ! videoconvert ! appsink")
    kept = [word for word in elements[0][1:]
            if word.partition("=")[0] in _HARMLESS_PROPERTIES and "://" not in word]  # fmt: skip
    name = " ".join([f"gst:{first}", *kept])
    if not elements[-1] or elements[-1][0] != "appsink":
        raise UsageError(
            f"{name}: the pipeline does not end in appsink",
            hint="end it with … ! videoconvert ! video/x-raw,format=BGR ! "
            "appsink drop=true max-buffers=1",
        )
    return Address("gstreamer", text, name)


# ---- opening, and why it failed


def _check_backend(where: Address) -> None:
    if where.kind == "gstreamer" and not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
        raise BackendError(
            f"{where.name}: this OpenCV ({cv2.__version__}) was built without GStreamer",
            hint="use the python3-opencv of the system (on a Jetson that of JetPack) in place of "
            "pip's, or pipe gst-launch-1.0 into `-`: docs/sources.md has both recipes",
        )


def _open_camera(where: Address) -> cv2.VideoCapture:
    linux = sys.platform == "linux"
    backend = cv2.CAP_V4L2 if linux else cv2.CAP_ANY
    is_path = where.target.startswith("/")
    video = cv2.VideoCapture(where.target if is_path else int(where.target), backend)
    if video.isOpened():
        return video
    if not linux:
        raise InputError(f"{where.name}: no such camera, or another program uses it")
    raise _camera_error(where.name, Path(where.target if is_path else f"/dev/video{where.target}"))


def _camera_error(name: str, device: Path) -> InputError:
    """Why a video device does not open."""
    try:
        os.close(os.open(device, os.O_RDWR | os.O_NONBLOCK))
    except FileNotFoundError:
        there = " ".join(sorted(str(path) for path in Path("/dev").glob("video*")))
        return InputError(
            f"{name}: no such device ({device})",
            hint=f"there are {there}" if there else "no camera is connected (no /dev/video*)",
        )
    except PermissionError:
        return InputError(
            f"{name}: permission denied ({device})", hint="add this user to the group `video`"
        )
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        return InputError(f"{name}: cannot be opened ({device}): {reason}")
    if not device.is_char_device():
        return InputError(f"{name}: not a camera ({device})")
    if users := _users(device):
        return InputError(f"{name}: busy: another program uses it (process {users[0]})")
    return InputError(
        f"{name}: busy, or no camera that OpenCV can read ({device})",
        hint="a camera often has a second device, which gives no pictures",
    )


def _users(device: Path) -> list[int]:
    """The other processes that hold `device` open, as far as this user may see."""
    wanted, found = os.path.realpath(device), set()
    for process in filter(str.isdecimal, os.listdir("/proc")):
        folder = f"/proc/{process}/fd"
        try:
            if any(os.readlink(f"{folder}/{handle}") == wanted for handle in os.listdir(folder)):
                found.add(int(process))
        except OSError:  # ended meanwhile, or another user's
            continue
    return sorted(found - {os.getpid()})


def _open_stream(where: Address, patience_s: float) -> cv2.VideoCapture:
    if not cv2.videoio_registry.hasBackend(cv2.CAP_FFMPEG):
        video = cv2.VideoCapture(where.target)
    else:
        limit_ms = max(round(1000 * FFMPEG_SHARE * patience_s), 1)
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, limit_ms]
        limits += [cv2.CAP_PROP_READ_TIMEOUT_MSEC, limit_ms]
        video = cv2.VideoCapture(where.target, cv2.CAP_FFMPEG, limits)
    if not video.isOpened():
        raise _stream_error(where, PROBE_SHARE * patience_s)
    video.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
    return video


def _stream_error(where: Address, probe_s: float) -> InputError:
    """Why a stream does not open, as a plain connection tells it."""
    parts = urlsplit(where.target)
    port = parts.port or DEFAULT_PORTS.get(parts.scheme.lower())
    if parts.scheme.lower() in ("udp", "rtp", "srt") or not parts.hostname or port is None:
        return InputError(f"{where.name}: no video arrives there")
    try:
        socket.create_connection((parts.hostname, port), probe_s).close()
    except socket.gaierror:
        return InputError(f"{where.name}: there is no host of this name")
    except ConnectionRefusedError:
        return InputError(f"{where.name}: nothing answers: port {port} refuses the connection")
    except OSError:
        return InputError(f"{where.name}: nothing answers at port {port}")
    return InputError(
        f"{where.name}: it answers, but gives no video that can be read",
        hint="is the path right, and the user and password?",
    )
