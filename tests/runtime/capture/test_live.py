"""Cameras that never come, go and come back, hang and stutter: all of them fakes with a clock."""

import _thread
import http.server
import itertools
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import traceback

import cv2
import numpy as np
import pytest

from feallm.runtime.capture import camera as camera_module
from feallm.runtime.capture import live
from feallm.runtime.capture.camera import LAST_DELAY_S, RETRY_S, STUCK_THREADS, CameraFeed
from feallm.runtime.capture.live import address, is_live, open_feed
from feallm.runtime.contract.errors import BackendError, InputError, UsageError

FRAME_S = 1 / 32  # a power of two: the fake clock stays exact


class Clock:
    """Time that passes only when somebody waits, or says so."""

    def __init__(self):
        self.now_s = 100.0
        self.waits = []

    def __call__(self):
        return self.now_s

    def pause(self, stop, seconds):
        self.waits.append(seconds)
        self.now_s += seconds
        return stop.is_set()


def picture(number=0, height=8, width=12):
    """BGR with a red value that is the number."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 2] = number % 256
    return pixels


class Camera:
    """Opens and reads as its two functions say; each gets the fake itself."""

    def __init__(self, read, clock, open_=lambda camera: None):
        self.clock, self.on_open, self.on_read = clock, open_, read
        self.opened = self.released = self.reads = 0

    def open(self, *_):
        self.on_open(self)
        self.opened += 1
        return self

    def read(self):
        self.reads += 1
        return self.on_read(self)

    def release(self):
        self.released += 1


def feed_of(camera, clock, **options):
    return CameraFeed("camera:7", camera.open, clock=clock, pause=clock.pause, **options)


def script(*answers):
    """A read that gives these answers one after the other, then good frames for ever."""
    left = list(answers)

    def read(camera):
        camera.clock.now_s += FRAME_S
        answer = left.pop(0) if left else (True, picture(camera.reads))
        if isinstance(answer, Exception):
            raise answer
        return answer

    return read


def until(condition):
    """Wait for what another thread is about to do."""
    ready = threading.Event()
    for _ in range(2000):
        if condition():
            return
        ready.wait(0.002)
    raise AssertionError("it never happened")


def no_thread_is_left():
    until(lambda: not any(t.name.startswith("feed ") for t in threading.enumerate()))


@pytest.fixture(autouse=True)
def nothing_runs_on(monkeypatch):
    """Feeds look often here, wait shortly for a stuck thread, and leave none behind."""
    monkeypatch.setattr(camera_module, "_LOOK_S", 0.005)
    monkeypatch.setattr(camera_module, "_GOODBYE_S", 0.05)
    yield
    no_thread_is_left()


# ---- a camera that goes and comes back


def test_unplugged_for_thirty_seconds(caplog):
    clock = Clock()
    start_s = clock.now_s
    begun = threading.Event()

    def away(camera):
        return 10 <= camera.clock.now_s - start_s < 40

    def read(camera):
        if camera.reads == 2:
            assert begun.wait(5)  # so that the first frame is time 0
        camera.clock.now_s += FRAME_S
        return (False, None) if away(camera) else (True, picture(200))

    def open_(camera):
        if away(camera):
            raise InputError("camera:7: no such device (/dev/video7)")

    camera = Camera(read, clock, open_)
    with caplog.at_level(logging.DEBUG), feed_of(camera, clock).start() as feed:
        arriving = feed.frames()
        frames = [next(arriving)]
        begun.set()
        frames += itertools.takewhile(lambda f: f.time_s < 60, arriving)
        counts = feed.counts
    assert [frame.index for frame in frames] == list(range(len(frames)))
    times = [frame.time_s for frame in frames]
    assert times == sorted(set(times)) and times[0] == 0.0
    assert not any(11 < time_s < 39 for time_s in times)
    assert (counts.lost, counts.reopened, counts.corrupt) == (1, 1, 0)
    # 4 pauses between the 5 failed reads, then 0.5 + 1 + ... + 16 s until it opened.
    assert clock.waits == [RETRY_S] * 4 + [0.5, 1, 2, 4, 8, 16]
    assert counts.away_s == pytest.approx(4 * RETRY_S + 31.5 + 6 * FRAME_S)
    assert camera.opened == 2
    until(lambda: camera.released == 2)
    lost, back = [record.getMessage() for record in caplog.records]
    assert "lost" in lost and "camera:7: it gives no picture" in lost and "there" in back
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_back_off_doubles_stays_and_begins_anew_after_a_success(caplog):
    clock = Clock()
    tries = itertools.count()
    done = threading.Event()

    def open_(camera):
        attempt = next(tries)
        if attempt == 12:
            done.set()
        if attempt != 9:
            raise InputError("camera:7: no such device")

    lost = [(False, None)] * 5
    camera = Camera(script((True, picture()), *lost), clock, open_)
    with caplog.at_level(logging.WARNING), feed_of(camera, clock, wait=True).start() as feed:
        assert done.wait(5)
    delays = [wait for wait in clock.waits if wait != RETRY_S]
    assert delays[:9] == [0.5, 1, 2, 4, 8, 16, 30, 30, LAST_DELAY_S]
    assert delays[9:12] == [0.5, 1, 2]
    assert feed.counts.reopened == 0 and feed.counts.lost == 1  # it was never there before
    messages = [record.getMessage() for record in caplog.records]
    assert "not there yet" in messages[0] and "is there after" in messages[1]
    assert "lost" in messages[2] and len(messages) == 3


def test_a_camera_that_comes_and_goes_is_told_once_a_minute(caplog):
    clock = Clock()
    start_s = clock.now_s

    def read(camera):  # away in every other second
        camera.clock.now_s += FRAME_S
        return (int(camera.clock.now_s) % 2 == 0, picture())

    camera = Camera(read, clock)
    with caplog.at_level(logging.WARNING), feed_of(camera, clock).start() as feed:
        until(lambda: clock.now_s - start_s > 600)
    told = sum("lost" in record.getMessage() for record in caplog.records)
    assert feed.counts.lost > 100 and 5 < told <= 1 + (clock.now_s - start_s) / 60


def test_no_camera_at_all():
    def open_(camera):
        raise InputError("camera:7: no such device (/dev/video7)", hint="no camera is connected")

    clock = Clock()
    with pytest.raises(InputError, match="no such device") as error:
        feed_of(Camera(script(), clock, open_), clock).start()
    assert error.value.hint == "no camera is connected" and clock.waits == []


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ((False, None), "no picture"),
        ((True, None), "empty"),
        ((True, np.zeros((0, 0, 3), np.uint8)), "empty"),
        ((True, np.zeros((12, 8), np.uint8)), r"uint8 \(12, 8\), not uint8 \(H, W, 3\)"),
        (cv2.error("boom"), "cannot be read"),
    ],
)
def test_a_camera_that_opens_and_gives_nothing(answer, told):
    clock = Clock()
    camera = Camera(script(*[answer] * 5), clock)
    with pytest.raises(InputError, match=f"camera:7: .*{told}"):
        feed_of(camera, clock).start()
    no_thread_is_left()
    assert camera.reads == 5 and camera.released == 1


@pytest.mark.parametrize(
    "bad",
    [
        (False, None),
        (True, None),
        (True, np.zeros((0, 0, 3), np.uint8)),
        (True, np.zeros((8, 12), np.uint8)),
        (True, np.zeros((8, 12, 3), np.float32)),
        cv2.error("boom"),
        RuntimeError("a plugin"),
    ],
    ids=["failed", "none", "empty", "flat", "float", "cv2", "other"],
)
def test_a_bad_frame_between_good_ones_is_counted(bad):
    clock = Clock()
    good = (True, picture())
    camera = Camera(script(good, bad, bad, good, bad, bad, bad, bad, good), clock)
    with feed_of(camera, clock).start() as feed:
        coming = feed.frames()  # kept: a feed whose iterator is dropped is closed
        next(coming)
        until(lambda: camera.reads > 9)
        assert (feed.counts.corrupt, feed.counts.lost) == (6, 0)
    assert camera.opened == 1


def test_a_read_that_fails_slowly_is_a_loss_before_the_fifth():
    clock = Clock()

    def read(camera):  # V4L2 waits 10 s by itself, then says false
        camera.clock.now_s += 0.1 if camera.reads == 1 else 11
        return camera.reads == 1 or camera.opened > 1, picture()

    camera = Camera(read, clock)
    with feed_of(camera, clock).start() as feed:
        until(lambda: feed.counts.reopened == 1)
    assert clock.waits[0] == 0.5  # no retry of the read


def test_the_size_may_change(monkeypatch):
    clock = Clock()
    gate = threading.Semaphore(1)

    def read(camera):
        gate.acquire()
        return True, picture(1, *((8, 12) if camera.reads == 1 else (20, 30)))

    camera = Camera(read, clock)
    with feed_of(camera, clock).start() as feed:
        frames = feed.frames()
        assert next(frames).pixels.shape == (8, 12, 3)
        gate.release()
        assert next(frames).pixels.shape == (20, 30, 3)
        gate.release(5)
        assert feed.counts.corrupt == 0


# ---- hanging


def test_a_read_that_hangs_is_given_up_and_another_one_tries(caplog):
    clock = Clock()
    release = threading.Event()

    def read(camera):
        camera.clock.now_s += FRAME_S
        if camera.opened == 1 and camera.reads == 3:
            camera.clock.now_s += 11
            release.wait(5)
            return True, picture(99)  # too late: nobody may see it
        return True, picture(10 if camera.opened == 1 else 20)

    camera = Camera(read, clock)
    with feed_of(camera, clock).start() as feed:
        frames = feed.frames()
        seen = [next(frames).pixels[0, 0, 0] for _ in range(1)]
        until(lambda: camera.reads >= 3)
        while seen[-1] != 20:
            seen.append(next(frames).pixels[0, 0, 0])
        release.set()
        seen += [next(frames).pixels[0, 0, 0] for _ in range(20)]
        assert 99 not in seen
        assert (feed.counts.lost, feed.counts.reopened) == (1, 1) and feed.counts.away_s > 11
        until(lambda: camera.released == 1)  # the stuck one, once it could
    assert "nothing answers for 10 s" in caplog.text


def test_opening_that_hangs_at_first_is_an_error():
    clock = Clock()
    release = threading.Event()

    def open_(camera):
        camera.clock.now_s += 11
        release.wait(5)

    camera = Camera(script(), clock, open_)
    with pytest.raises(InputError, match="nothing answers for 10 s"):
        feed_of(camera, clock).start()
    release.set()
    no_thread_is_left()
    assert camera.released == camera.opened == 1


def test_stuck_threads_do_not_pile_up():
    clock = Clock()
    release = threading.Event()

    def read(camera):
        if camera.opened == 1 and camera.reads == 1:
            return True, picture()
        camera.clock.now_s += 60
        release.wait(5)
        return False, None

    camera = Camera(read, clock)
    with feed_of(camera, clock).start() as feed:
        consumer = threading.Thread(target=lambda: list(feed.frames()), name="feed consumer")
        consumer.start()
        until(lambda: camera.opened == STUCK_THREADS)
        threading.Event().wait(0.1)  # many looks
        assert camera.opened == STUCK_THREADS and feed.counts.lost == 1
        release.set()
        until(lambda: camera.opened > STUCK_THREADS)  # they came back: it goes on
        release.set()
    consumer.join(5)
    assert not consumer.is_alive()


# ---- the newest frame only


def test_a_slow_reader_sees_the_present():
    clock = Clock()
    gate = threading.Semaphore(1)

    def read(camera):
        gate.acquire()
        camera.clock.now_s += 1
        return True, picture(camera.reads)

    camera = Camera(read, clock)
    with feed_of(camera, clock).start() as feed:
        frames = feed.frames()
        first = next(frames)
        gate.release(10)
        until(lambda: camera.reads == 12)  # the eleventh was kept, the twelfth is waited for
        second = next(frames)
        gate.release(3)
        until(lambda: camera.reads == 15)
        third = next(frames)
        assert [f.pixels[0, 0].tolist() for f in (first, second, third)] == [
            [1, 0, 0], [11, 0, 0], [14, 0, 0]]  # fmt: skip
        assert [(f.index, f.time_s) for f in (first, second, third)] == [(0, 0), (1, 10), (2, 13)]
        assert (feed.counts.frames, feed.counts.dropped) == (3, 11)
        assert first.source == "camera:7" and not first.still
        gate.release(100)


def test_what_came_before_anybody_asked_is_not_called_dropped():
    clock = Clock()
    camera = Camera(script(), clock)
    with feed_of(camera, clock).start() as feed:
        until(lambda: camera.reads > 50)
        assert feed.counts.dropped == 0
        next(feed.frames())


# ---- the end


def test_leaving_the_loop_gives_the_device_back():
    clock = Clock()
    camera = Camera(script(), clock)
    feed = feed_of(camera, clock).start()
    for frame in feed.frames():
        if frame.index == 3:
            break
    no_thread_is_left()
    assert camera.released == camera.opened == 1
    assert list(feed.frames()) == []  # closed is closed
    feed.close()


def test_close_from_another_thread_ends_the_iterator():
    clock = Clock()
    gate = threading.Semaphore(1)

    def read(camera):
        gate.acquire()
        return True, picture()

    camera = Camera(read, clock)
    feed = feed_of(camera, clock).start()
    frames = feed.frames()
    next(frames)
    closer = threading.Timer(0.05, feed.close)
    closer.start()
    assert list(frames) == []  # it was waiting when the feed closed
    gate.release()
    closer.join()
    no_thread_is_left()
    assert camera.released == 1


def test_close_during_a_read_that_hangs_does_not_wait_for_it():
    clock = Clock()
    entered, release = threading.Event(), threading.Event()

    def read(camera):
        if camera.reads > 1:
            entered.set()
            release.wait(5)
        return True, picture()

    camera = Camera(read, clock)
    feed = feed_of(camera, clock).start()
    assert entered.wait(5)
    feed.close()
    assert camera.released == 0  # OpenCV crashes when a capture is released while it reads
    release.set()
    until(lambda: camera.released == 1)


@pytest.fixture
def interruptible():
    """Ctrl-C raises here, also where a shell started the tests in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_interrupt_while_waiting_gives_the_device_back(interruptible):
    clock = Clock()
    gate = threading.Semaphore(1)

    def read(camera):
        gate.acquire()
        return True, picture()

    camera = Camera(read, clock)
    feed = feed_of(camera, clock).start()
    frames = feed.frames()
    next(frames)
    timer = threading.Timer(0.05, _thread.interrupt_main)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        next(frames)
    timer.join()
    gate.release()
    no_thread_is_left()
    assert camera.released == 1


def test_interrupt_while_the_first_frame_is_waited_for(interruptible):
    clock = Clock()
    release = threading.Event()
    camera = Camera(lambda c: (release.wait(5), picture()), clock)
    timer = threading.Timer(0.05, _thread.interrupt_main)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        feed_of(camera, clock).start()
    timer.join()
    release.set()
    until(lambda: camera.released == 1)


def test_time_away_counts_while_it_passes_and_stops_with_the_feed():
    clock = Clock()
    gate = threading.Event()

    def open_(camera):
        gate.wait(5)
        raise InputError("camera:7: no such device")

    feed = feed_of(Camera(script(), clock, open_), clock, wait=True, patience_s=1000)
    with feed.start():
        gate.set()
        until(lambda: clock.now_s > 200)
        assert feed.counts.away_s > 90
    away_s = feed.counts.away_s
    clock.now_s += 1000
    assert feed.counts.away_s == away_s > 90


# ---- addresses


@pytest.mark.parametrize(
    ("text", "live_"),
    [
        ("-", True), ("camera:0", True), ("Camera:1", True), ("/dev/video0", True),
        ("/dev/v4l/by-id/usb-046d_C920-video-index0", True), ("rtsp://cam/live", True),
        ("RTSP://cam/live", True), ("http://cam/x.mjpg", True), ("rtmp://h/live/x", True),
        ("gst:v4l2src ! appsink", True), ("ftp://x/y", True), ("file:///x.mp4", True),
        ("a.mp4", False), ("", False), ("camera", False), ("/dev/videos/a.mp4", False),
        ("./camera:0", False), ("C:/x.mp4", False), ("--", False), ("rtsp:/cam", False),
    ],
)  # fmt: skip
def test_what_is_live(text, live_):
    assert is_live(text) is live_


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("-", "-"),
        ("camera:0", "camera:0"),
        ("CAMERA: 12", "camera:12"),
        ("/dev/video2", "/dev/video2"),
        ("rtsp://cam.local/live/ch0", "rtsp://cam.local/live/ch0"),
        ("rtsp://admin:s3cret@10.0.0.7:554/Streaming/Channels/101",
         "rtsp://10.0.0.7:554/Streaming/Channels/101"),
        ("rtsp://admin:s3@cret@cam/live", "rtsp://cam/live"),
        ("rtsp://s3cret@[fe80::1]:8554/live", "rtsp://[fe80::1]:8554/live"),
        ("rtsp://admin:1/s3cret@cam/live", "rtsp://…"),
        ("http://cam/video?user=a@b.de&pwd=s3cret", "http://…"),
        ("rtsp://cam/cam/realmonitor?channel=1&subtype=0&pin=s3cret#s3cret",
         "rtsp://cam/cam/realmonitor?channel=1&subtype=0"),
        ("http://cam/video.mjpg?channel=s3cret", "http://cam/video.mjpg"),
        ("rtsp://cam/user=admin_password=s3cret_channel=1.sdp", "rtsp://cam/…"),
        ("rtsp://cam/password/s3cret/live", "rtsp://cam/…"),
        ("rtsp://cam:7447/5f3as3cretB1dkJQ", "rtsp://cam:7447/…"),
        ("rtmp://host/live/s3cret", "rtmp://host/live/…"),
        ("udp://:1234", "udp://:1234"),
        ("gst:nvarguscamerasrc sensor-id=1 ! nvvidconv ! appsink drop=true",
         "gst:nvarguscamerasrc sensor-id=1"),
        ("gst: rtspsrc location=rtsp://a:s3cret@h/x user-pw=s3cret ! decodebin ! appsink",
         "gst:rtspsrc"),
    ],
)  # fmt: skip
def test_names_hold_no_password(text, name):
    found = address(text)
    assert found.name == name and "s3cret" not in found.name
    assert text.strip().endswith(found.target[1:]) or found.kind == "camera"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("camera:front", "a camera has a number"),
        ("camera:-1", "a camera has a number"),
        ("camera:", "as in camera:0"),
        ("gst:", "no pipeline"),
        ("gst:v4l2src ! videoconvert ! autovideosink", "does not end in appsink"),
        ("gst:v4l2src ! appsink !", "does not end in appsink"),
        ("ftp://a:s3cret@cam/x", "ftp://: not a kind of stream"),
        ("file:///a.mp4", "give the path itself"),
        ("rtsp://", "no host"),
        ("rtsp:///live", "no host"),
        ("http://cam:port/x", "no host and port"),
        ("rtsp://admin:s3cret#x@cam/live", "%23"),
        ("rtsp://admin:s3cret?x@cam/live", "%3F"),
        ("rtsp://[admin:s3cret@cam/live", "no host and port"),
        ("admin:s3cret@cam/live", "not the address"),
        ("clip.mp4", "expected camera:N"),
    ],
)
def test_malformed_addresses(text, told):
    with pytest.raises(UsageError) as error:
        open_feed(text)
    assert told in error.value.line()
    assert "s3cret" not in "".join(traceback.format_exception(error.value)) + repr(error.value.hint)


def test_a_pipeline_without_gstreamer(monkeypatch):
    monkeypatch.setattr(cv2.videoio_registry, "hasBackend", lambda backend: False)
    with pytest.raises(BackendError, match="without GStreamer") as error:
        open_feed("gst:videotestsrc ! appsink", wait=True)
    assert "JetPack" in error.value.line() and "docs/sources.md" in error.value.line()


@pytest.mark.parametrize("wait", [False, True])
def test_the_seam_gets_the_whole_address(wait):
    clock = Clock()
    camera = Camera(script(), clock)
    seen = []

    def opener(where, patience_s):
        seen.append((where.target, patience_s))
        return camera.open()

    text = "rtsp://admin:s3cret@cam/live"
    with open_feed(
        text, opener=opener, patience_s=3, clock=clock, pause=clock.pause, wait=wait
    ) as feed:
        frame = next(feed.frames())
    assert seen[0] == (text, 3) and frame.source == feed.name == "rtsp://cam/live"


# ---- real devices and streams, as far as a machine without a camera has them


@pytest.mark.skipif(sys.platform != "linux", reason="device files")
@pytest.mark.skipif(os.path.exists("/dev/video99"), reason="this machine has 100 cameras")
@pytest.mark.parametrize("text", ["camera:99", "/dev/video99"])
def test_no_such_device(text, capfd):
    with pytest.raises(InputError, match=r"no such device \(/dev/video99\)"):
        open_feed(text)
    assert capfd.readouterr().err == ""


@pytest.mark.skipif(sys.platform != "linux", reason="device files")
def test_why_a_device_does_not_open(tmp_path):
    file = tmp_path / "video0"
    file.write_bytes(b"")
    assert "not a camera" in live._camera_error("camera:0", file).line()
    assert "no such device" in live._camera_error("camera:0", tmp_path / "none").line()
    assert "busy" in live._camera_error("camera:0", live.Path("/dev/full")).line()
    if os.geteuid():
        file.chmod(0)
        assert "group `video`" in live._camera_error("camera:0", file).line()


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_who_uses_a_device(tmp_path):
    file = tmp_path / "video0"
    file.write_bytes(b"")
    code = "import sys; print(flush=True); sys.stdin.read()"
    with (
        file.open("rb"),
        subprocess.Popen(
            [sys.executable, "-c", f"kept = open({str(file)!r}); {code}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as other,
    ):
        other.stdout.readline()
        assert live._users(file) == [other.pid]  # not this process, which holds it too
        other.stdin.close()


def test_a_video_that_ends_is_opened_again(tmp_path):
    """The real cv2.VideoCapture behind the seam: it ends, fails to open, and comes back."""
    path = tmp_path / "a.avi"
    out = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for _ in range(8):
        out.write(np.full((48, 64, 3), (20, 20, 220), np.uint8))
    out.release()
    opened = itertools.count()

    def opener(where, patience_s):
        if next(opened) % 2:
            raise InputError(f"{where.name}: nothing answers")
        return cv2.VideoCapture(str(path))

    clock = Clock()
    with open_feed("rtsp://cam/x", opener=opener, pause=clock.pause) as feed:
        seen = []
        for frame in feed.frames():
            seen.append(frame)
            if feed.counts.reopened >= 3:
                break
        counts = feed.counts
    assert [f.index for f in seen] == list(range(len(seen))) and counts.lost >= 3
    assert all(f.pixels[20, 20, 0] > 180 and f.pixels[20, 20, 2] < 60 for f in seen)
    assert all(a.time_s < b.time_s for a, b in itertools.pairwise(seen))


class Mjpeg(http.server.BaseHTTPRequestHandler):
    """A network camera: eight pictures a visit, then it hangs up."""

    def do_GET(self):
        self.server.asked.append(self.path)
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        jpeg = cv2.imencode(".jpg", np.full((48, 64, 3), (20, 20, 220), np.uint8))[1].tobytes()
        head = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg)
        try:
            for _ in range(8):
                self.wfile.write(head + jpeg + b"\r\n")
                threading.Event().wait(0.01)
        except OSError:
            pass  # the reader left

    def log_message(self, *_):
        pass


@pytest.fixture
def network_camera():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mjpeg)
    server.daemon_threads, server.asked = True, []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


needs_ffmpeg = pytest.mark.skipif(
    not cv2.videoio_registry.hasBackend(cv2.CAP_FFMPEG), reason="this OpenCV has no FFmpeg"
)


@needs_ffmpeg
def test_a_network_camera_that_hangs_up(network_camera, capfd, caplog):
    text = f"http://admin:s3cret@127.0.0.1:{network_camera.server_port}/video?password=s3cret"
    with open_feed(text, pause=Clock().pause) as feed:
        for frame in feed.frames():
            assert frame.pixels.shape == (48, 64, 3)
            assert frame.pixels[20, 20, 0] > 180 and frame.pixels[20, 20, 2] < 60
            assert frame.source == f"http://127.0.0.1:{network_camera.server_port}/video"
            if feed.counts.reopened == 2:
                break
    assert network_camera.asked[0] == "/video?password=s3cret" and len(network_camera.asked) >= 3
    assert "s3cret" not in caplog.text and caplog.text
    assert capfd.readouterr().err == ""


@needs_ffmpeg
@pytest.mark.parametrize("scheme", ["http", "rtsp"])
def test_a_port_that_refuses_and_one_that_is_silent(scheme, capfd):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(InputError, match="gives no video|nothing answers") as error:
            open_feed(f"{scheme}://admin:s3cret@127.0.0.1:{port}/live", patience_s=0.3)
        assert "s3cret" not in error.value.line() and f"127.0.0.1:{port}/live" in error.value.line()
    with pytest.raises(InputError, match="refuses the connection"):
        open_feed(f"{scheme}://admin:s3cret@127.0.0.1:{port}/live")
    assert capfd.readouterr().err == ""


@needs_ffmpeg
def test_a_host_that_does_not_exist(capfd):
    with pytest.raises(InputError, match="there is no host of this name"):
        open_feed("rtsp://admin:s3cret@camera.invalid/live")
    assert capfd.readouterr().err == ""
