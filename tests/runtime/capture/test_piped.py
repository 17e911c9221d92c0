"""Pictures through a pipe: in pieces of any size, with strangers between them, cut and damaged."""

import io
import itertools
import os
import struct
import threading

import cv2
import numpy as np
import pytest

from feallm.runtime.capture import piped
from feallm.runtime.capture.live import open_feed
from feallm.runtime.capture.piped import PipedFeed
from feallm.runtime.contract.errors import InputError


class Dribble(io.RawIOBase):
    """A stream that gives odd pieces."""

    def __init__(self, data, rng=None, most=700):
        self.data, self.place, self.rng, self.most = data, 0, rng or np.random.default_rng(0), most

    def readable(self):
        return True

    def read(self, size=-1):
        count = min(size, int(self.rng.integers(1, self.most)))
        piece = self.data[self.place : self.place + count]
        self.place += len(piece)
        return piece


def scene(number, height=48, width=64):
    """RGB noise that is this number's own; red is the number."""
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)
    pixels[:16, :16] = (number * 8 % 256, 40, 200)
    return pixels


def jpeg(number, *options, size=(48, 64)):
    bgr = np.ascontiguousarray(scene(number, *size)[..., ::-1])
    return cv2.imencode(".jpg", bgr, list(options))[1].tobytes()


def with_exif(data, orientation=1, thumbnail=b""):
    """A JPEG with an EXIF segment in front, and in that a thumbnail of its own."""
    body = b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0)
    body += b"\0\0\0\0" + thumbnail
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]


def read(data, **options):
    feed = open_feed("-", pipe=io.BytesIO(data) if isinstance(data, bytes) else data, **options)
    return list(feed.frames()), feed.counts


def numbers(frames):
    """Which scenes these are, by the colour of their corner; the rest must be theirs too."""
    return [round(int(np.median(f.pixels[2:14, 2:14, 0])) / 8) for f in frames]


# ---- JPEG


@pytest.mark.parametrize("most", [2, 7, 700, 1 << 20])
def test_jpegs_in_pieces_of_any_size(most):
    data = b"".join(jpeg(n) for n in range(12))
    frames, counts = read(Dribble(data, most=most))
    assert numbers(frames) == list(range(12)) and [f.index for f in frames] == list(range(12))
    for n, frame in enumerate(frames):
        whole = cv2.imdecode(np.frombuffer(jpeg(n), np.uint8), 1)[..., ::-1]
        assert np.array_equal(frame.pixels, whole)
    assert (counts.frames, counts.corrupt, counts.dropped) == (12, 0, 0)
    assert frames[0].source == "-" and not frames[0].still


@pytest.mark.parametrize(
    "options",
    [
        (cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        (cv2.IMWRITE_JPEG_RST_INTERVAL, 2),
        (cv2.IMWRITE_JPEG_OPTIMIZE, 1, cv2.IMWRITE_JPEG_QUALITY, 5),
    ],
)
def test_kinds_of_jpeg(options):
    frames, counts = read(Dribble(b"".join(jpeg(n, *options) for n in range(5))))
    assert [f.pixels.shape for f in frames] == [(48, 64, 3)] * 5 and counts.corrupt == 0


def test_a_thumbnail_is_no_picture():
    small = jpeg(30, size=(16, 16))
    data = b"".join(with_exif(jpeg(n), thumbnail=small) for n in range(6))
    frames, counts = read(Dribble(data))
    assert numbers(frames) == list(range(6)) and counts.corrupt == 0
    assert all(f.pixels.shape == (48, 64, 3) for f in frames)


def test_a_thumbnail_is_no_picture_where_its_picture_is_cut_either():
    small = jpeg(30, size=(16, 16))
    cut = with_exif(jpeg(1), thumbnail=small)
    inside = cut.index(small) + len(small)
    for end in (inside, inside + 30, len(cut) - 40):
        frames, counts = read(Dribble(jpeg(0) + cut[:end]))
        assert numbers(frames) == [0] and counts.corrupt == 1


def test_pictures_come_upright():
    frames, _ = read(with_exif(jpeg(1), orientation=6))
    assert frames[0].pixels.shape == (64, 48, 3)


def test_a_multipart_stream_as_a_network_camera_sends_it():
    parts = [
        b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg(n))
        + jpeg(n) + b"\r\n" for n in range(6)
    ]  # fmt: skip
    frames, counts = read(Dribble(b"".join(parts) + b"--frame--\r\n"))
    assert numbers(frames) == list(range(6)) and counts.corrupt == 0


@pytest.mark.parametrize("between", [b"\0", b"\xff\xff\xff", b"\xff\xd8", b"\r\n" * 50_000])
def test_strangers_between_the_pictures(between):
    frames, counts = read(Dribble(between.join(jpeg(n) for n in range(5)), most=60_000))
    assert numbers(frames) == list(range(5)) and counts.corrupt == 0


def test_every_cut_costs_one_picture():
    """Wherever the third of five breaks off, the other four come, and one is counted."""
    third = jpeg(2)
    for end in [*range(4, len(third), 7), len(third) - 1]:
        data = jpeg(0) + jpeg(1) + third[:end] + jpeg(3) + jpeg(4)
        frames, counts = read(data)
        assert (numbers(frames), counts.corrupt) == ([0, 1, 3, 4], 1), end


def test_a_cut_last_picture_is_counted():
    last = jpeg(2)
    for end in (4, 10, 200, len(last) // 2, len(last) - 1):
        frames, counts = read(Dribble(jpeg(0) + jpeg(1) + last[:end]))
        assert (numbers(frames), counts.corrupt) == ([0, 1], 1), end


@pytest.mark.parametrize("place", range(0, 640, 11))
def test_a_damaged_picture_costs_no_whole_one(place, capfd):
    """Bytes are overwritten; whatever OpenCV makes of that picture, the others are all there."""
    bad = bytearray(jpeg(2))
    bad[place : place + 6] = b"\xff\x03\0\0\xff\x7f"
    frames, counts = read(Dribble(jpeg(0) + jpeg(1) + bytes(bad) + jpeg(3) + jpeg(4)))
    assert [n for n in numbers(frames) if n != 2] == [0, 1, 3, 4]
    assert counts.frames + counts.corrupt == 5
    capfd.readouterr()  # libjpeg's own words


def test_a_marker_that_cannot_be_there_spoils_a_picture():
    bad = bytearray(jpeg(1))
    bad[-200:-198] = b"\xff\x3a"
    frames, counts = read(jpeg(0) + bytes(bad) + jpeg(2))
    assert numbers(frames) == [0, 2] and counts.corrupt == 1


def test_a_stream_that_is_joined_midway():
    frames, counts = read(Dribble(jpeg(0)[300:] + jpeg(1) + jpeg(2)))
    assert numbers(frames) == [1, 2] and counts.corrupt == 1


def test_sizes_may_change():
    frames, _ = read(jpeg(0) + jpeg(1, size=(20, 30)) + jpeg(2))
    assert [f.pixels.shape for f in frames] == [(48, 64, 3), (20, 30, 3), (48, 64, 3)]


def test_times_are_those_of_arrival():
    ticks = itertools.count(50.0, 0.25)
    frames, _ = read(b"".join(jpeg(n) for n in range(4)), clock=lambda: next(ticks))
    assert [f.time_s for f in frames] == [0.0, 0.25, 0.5, 0.75]


def test_a_picture_comes_before_the_next_one_is_written():
    """A real pipe: nothing waits for a full buffer, and nothing is lost behind a slow reader."""
    receiver, sender = os.pipe()
    with os.fdopen(receiver, "rb") as source, os.fdopen(sender, "wb", buffering=0) as sink:
        frames = open_feed("-", pipe=source).frames()
        for n in range(3):
            sink.write(jpeg(n))
            assert numbers([next(frames)]) == [n]
        writer = threading.Thread(target=lambda: [sink.write(jpeg(n)) for n in range(31)])
        writer.start()  # more than a pipe holds: it waits for us
        assert numbers(itertools.islice(frames, 31)) == list(range(31))
        writer.join(5)
        assert not writer.is_alive()


# ---- PPM


def ppm(pixels, largest=255, head=b"P6\n%d %d\n%d\n"):
    height, width = pixels.shape[:2]
    return head % (width, height, largest) + pixels.tobytes()


@pytest.mark.parametrize(
    "head",
    [b"P6\n%d %d\n%d\n", b"P6 %d\t%d %d ", b"P6\n# by hand\n%d # wide\n%d\n# 1 2 3\n#\n%d\n",
     b"P6#x\r\n%d\r\n%d\r\n%d\n"],
)  # fmt: skip
@pytest.mark.parametrize("most", [2, 5000])
def test_ppms_are_exact(head, most):
    data = b"".join(ppm(scene(n), head=head) for n in range(4))
    frames, counts = read(Dribble(data, most=most))
    assert all(np.array_equal(f.pixels, scene(n)) for n, f in enumerate(frames))
    assert (len(frames), counts.frames, counts.corrupt) == (4, 4, 0)


@pytest.mark.parametrize("largest", [1, 100, 1023, 65535])
def test_ppms_of_other_depths(largest):
    values = np.random.default_rng(0).integers(0, largest + 1, (6, 5, 3))
    data = ppm(values.astype(np.uint8 if largest < 256 else ">u2"), largest)
    (frame,) = read(data)[0]
    assert np.abs(frame.pixels - values * 255 / largest).max() <= 0.501
    assert frame.pixels.dtype == np.uint8


def test_a_cut_ppm_is_counted():
    whole = ppm(scene(1))
    for end in (1, 2, 8, 14, 15, len(whole) - 1):
        frames, counts = read(Dribble(ppm(scene(0)) + whole[:end]))
        assert len(frames) == 1 and counts.corrupt == 1, end
    assert read(whole + b"\n\n")[1].corrupt == 0


# ---- YUV4MPEG2


def bgr_to_yuv(pixels, full):
    """Planes of an RGB picture by BT.601, written out from the recommendation."""
    r, g, b = np.moveaxis(pixels.astype(float), 2, 0)
    y = 0.299 * r + 0.587 * g + 0.114 * b
    planes = [y, (b - y) / 1.772 + 128, (r - y) / 1.402 + 128]
    if not full:
        planes = [16 + planes[0] * 219 / 255] + [128 + (p - 128) * 224 / 255 for p in planes[1:]]
    rows, columns = pixels.shape[:2]
    halves = [np.pad(p, [(0, rows % 2), (0, columns % 2)], mode="edge") for p in planes[1:]]
    halves = [p.reshape(p.shape[0] // 2, 2, -1, 2).mean((1, 3)) for p in halves]
    return b"".join(
        np.rint(p).clip(0, 255).astype(np.uint8).tobytes() for p in [planes[0], *halves]
    )


def smooth(number, height, width):
    low = np.random.default_rng(number).integers(0, 256, (3, 3, 3), np.uint8)
    return cv2.resize(low, (width, height), interpolation=cv2.INTER_LINEAR)


@pytest.mark.parametrize("size", [(48, 64), (47, 63), (1, 1)])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("most", [3, 9000])
def test_yuv_is_bt601_with_the_streams_own_times(size, full, most):
    head = b"YUV4MPEG2 W%d H%d F30000:1001 Ip A1:1 C420jpeg" % size[::-1]
    head += b" XCOLORRANGE=FULL\n" if full else b"\n"
    data = head + b"".join(b"FRAME\n" + bgr_to_yuv(smooth(n, *size), full) for n in range(4))
    frames, counts = read(Dribble(data, most=most))
    assert [f.time_s for f in frames] == pytest.approx([n * 1001 / 30000 for n in range(4)])
    for n, frame in enumerate(frames):
        assert frame.pixels.shape == (*size, 3)
        away = np.abs(frame.pixels.astype(int) - smooth(n, *size))
        assert away.mean() < 3.5 and counts.corrupt == 0


def test_yuv_without_a_rate_and_a_kind_is_timed_by_arrival():
    ticks = itertools.count(0.0, 2.0)
    data = b"YUV4MPEG2 W4 H2 F0:0\n" + (b"FRAME Ip\n" + bytes(12)) * 3
    frames, _ = read(data, clock=lambda: next(ticks))
    assert [f.time_s for f in frames] == [0.0, 2.0, 4.0]


def test_a_cut_yuv_frame_is_counted():
    whole = b"FRAME\n" + bytes(12)
    for end in (1, 4, 5, 6, 17):
        frames, counts = read(b"YUV4MPEG2 W4 H2\n" + whole + whole[:end])
        assert len(frames) == 1 and counts.corrupt == 1, end


# ---- what is no such stream


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "no picture came"),
        (b"some words\n" * 20, "b'some words\\ns'"),
        (b"\0\0\0\x18ftypisom" + bytes(2000), "-c:v mjpeg"),
        (b"P6 rest of a text", "not one is whole"),
        (b"P6 0 5 255\n", "0 x 5"),
        (b"P6 5 5 65536\n", "not possible"),
        (b"P6 9000 9000 255\n", "larger than 64 MB"),
        (b"P6 " + b"#" * 70_000, "no PPM picture"),
        (ppm(scene(0)) + b"P5 1 1 255\n\0", "no PPM picture"),
        (b"YUV4MPEG2 W4\n", "4 x 0 pixels"),
        (b"YUV4MPEG2 Wx H5\n", "0 x 5 pixels"),
        (b"YUV4MPEG2 W9000 H9000\n", "too large"),
        (b"YUV4MPEG2 W4 H2 C444\n", "-pix_fmt yuv420p"),
        (b"YUV4MPEG2 W4 H2 C420p10\n", "C420p10"),
        (b"YUV4MPEG2 W4 H2\n" + b"FRAME\n" + bytes(14), "after 1 frames"),
        (jpeg(0)[:-9], "of 1 pictures not one is whole"),
    ],
)
def test_one_clear_line(data, told):
    with pytest.raises(InputError) as error:
        read(data)
    assert told in error.value.line() and error.value.line().startswith("-: ")


class Endless(io.RawIOBase):
    """Zeros for ever behind a head; tells how much was taken."""

    def __init__(self, head):
        self.head, self.taken = head, 0

    def read(self, size=-1):
        piece, self.head = self.head or bytes(size), b""
        self.taken += len(piece)
        return piece


@pytest.mark.parametrize(
    ("head", "told", "most_mb"),
    [
        (b"x", "no picture in what came", 5),
        (jpeg(0)[:-2], "larger than 8 MB", 9),
        (b"P6 " , "no PPM picture", 1),
        (b"YUV4MPEG2 ", "0 x 0", 1),
    ],
)  # fmt: skip
def test_memory_is_bounded(monkeypatch, head, told, most_mb):
    monkeypatch.setattr(piped, "LARGEST_BYTES", 8 << 20)
    stream = Endless(head)
    with pytest.raises(InputError, match=told):
        read(stream)
    assert stream.taken < most_mb << 20


def test_a_terminal_is_no_pipe():
    class Terminal(io.BytesIO):
        def isatty(self):
            return True

    with pytest.raises(InputError, match="nothing is piped in"):
        read(Terminal())


def test_a_stream_that_breaks():
    class Broken(io.BytesIO):
        def read1(self, size=-1):
            raise OSError(5, "Input/output error")

    with pytest.raises(InputError, match="cannot be read: input/output error"):
        read(Broken())


def test_closing_ends_it():
    feed = open_feed("-", pipe=io.BytesIO(b"".join(jpeg(n) for n in range(5))))
    with feed:
        seen = []
        for frame in feed.frames():
            seen.append(frame.index)
            if frame.index == 1:
                feed.close()
    assert seen == [0, 1] and feed.counts.frames == 2


def test_standard_input_is_what_a_dash_reads(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(jpeg(3))))
    assert numbers(open_feed("-").frames()) == [3]
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(InputError, match="standard input is closed"):
        open_feed("-")


def test_the_limit_of_a_picture_is_its_own(monkeypatch):
    monkeypatch.setattr(piped, "LARGEST_BYTES", 60_000)
    data = b"".join(jpeg(n) for n in range(60))
    assert len(data) > 200_000 and len(read(data)[0]) == 60


def test_a_pipe_in_which_nothing_comes_can_be_closed():
    there, here = os.pipe()
    with os.fdopen(there, "rb") as pipe, os.fdopen(here, "wb"):
        feed = PipedFeed(pipe)
        timer = threading.Timer(0.05, feed.close)
        timer.start()
        assert list(feed.frames()) == []
        timer.join()
