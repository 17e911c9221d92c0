"""`feallm live` from the outside: pipes and cameras that come and go, with a stand-in to read."""

import io
import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from datetime import datetime, timezone
from functools import partial
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from feallm.edge import live as verb
from feallm.runtime.capture import live as capture
from feallm.runtime.contract.errors import InputError, UsageError


def picture(*places):
    """BGR with a red rectangle, which is a face here, at each x."""
    pixels = np.full((120, 160, 3), 120, np.uint8)
    for x in places:
        pixels[30:80, x : x + 40] = (20, 20, 230)
    return pixels


def jpegs(count, *places):
    return cv2.imencode(".jpg", picture(*places))[1].tobytes() * count


@pytest.fixture
def stand_in(fake, monkeypatch):
    """The analyzer that the command will use; `asked` holds the requests."""
    fake.asked = []
    monkeypatch.setattr(verb, "open_analyzer", lambda request: fake.asked.append(request) or fake)
    return fake


@pytest.fixture
def piped(monkeypatch):
    """What comes on standard input."""

    def give(data):
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(data)))

    return give


def kept(folder):
    """The rows of a folder, file by file; every line of them is whole."""
    files = sorted(folder.iterdir())
    assert all(re.fullmatch(r"readings-\d{8}T\d{6}Z-\d+\.jsonl", file.name) for file in files)
    texts = [file.read_text(encoding="utf-8") for file in files]
    assert all(text.endswith("\n") for text in texts)
    return [[json.loads(line) for line in text.splitlines()] for text in texts]


# ---- rows


def test_rows_of_piped_pictures_to_stdout_and_to_a_folder(feallm, stand_in, piped, tmp_path):
    piped(jpegs(3, 20, 100))
    code, out, err = feallm("live", "-", "--json", "--out", tmp_path / "o" / "deep")
    found = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and err == "-: 3 frames read, 6 faces in them\n"
    assert [(row["source"], row["frame"], row["track"]) for row in found] == [
        ("-", frame, track) for frame in range(3) for track in (0, 1)
    ]
    assert kept(tmp_path / "o" / "deep") == [found]
    assert all(row["explanation"] is None for row in found)  # never, unless asked


def test_each_start_has_its_own_file(feallm, stand_in, piped, monkeypatch, tmp_path):
    for process in (11, 12):
        monkeypatch.setattr(os, "getpid", lambda process=process: process)
        piped(jpegs(process, 20))
        assert feallm("live", "-", "--out", tmp_path / "o")[0] == 0
    assert sorted(len(rows) for rows in kept(tmp_path / "o")) == [11, 12]


def test_each_day_has_its_own_file(feallm, stand_in, piped, monkeypatch, tmp_path):
    now = [datetime(2026, 11, 21, 23, 59, 59, tzinfo=timezone.utc)]
    monkeypatch.setattr(verb, "datetime", SimpleNamespace(now=lambda zone: now[0]))
    read = stand_in.read

    def past_midnight(frame, **more):
        if frame.index == 3:
            now[0] = datetime(2026, 11, 22, 0, 0, 1, tzinfo=timezone.utc)
        return read(frame, **more)

    monkeypatch.setattr(stand_in, "read", past_midnight)
    piped(jpegs(5, 20))
    assert feallm("live", "-", "--out", tmp_path / "o")[0] == 0
    assert [[row["frame"] for row in rows] for rows in kept(tmp_path / "o")] == [[0, 1, 2], [3, 4]]


def test_nothing_is_stored_unless_a_folder_is_named(feallm, stand_in, piped):
    piped(jpegs(2, 20))
    code, out, _ = feallm("live", "-")
    assert code == 0 and os.listdir() == []
    first, second = out.splitlines()  # a reading a second, not one a frame
    assert "not feelings" in first
    assert second.strip() == "0.0 s  face 0  AU6 1.2 AU12 3.1 AU25 2.0  happiness 0.80"


def test_frames_without_faces(feallm, stand_in, piped, tmp_path):
    piped(jpegs(4))
    code, out, err = feallm("live", "-", "--out", tmp_path / "o")
    assert code == 0 and "0 faces" in err and out.splitlines()[1].strip() == "0.0 s  nobody"
    assert [row["track"] for row in kept(tmp_path / "o")[0]] == [None] * 4


def test_action_units_alone(feallm, stand_in, piped):
    stand_in.expression = False
    piped(jpegs(1, 20))
    assert "happiness" not in feallm("live", "-", "--no-expression")[1]


def test_options_reach_the_reader(monkeypatch, feallm, stand_in, piped):
    piped(jpegs(3, 20))
    more = ["--every", "1", "--search", "96", "--explain", "always", "--no-expression", "--smooth"]
    more += ["--vision", "onnx", "--threads", "2"]
    code, out, _ = feallm("live", "-", "--json", *more)
    (asked,) = stand_in.asked
    assert code == 0 and all(json.loads(line)["explanation"] for line in out.splitlines())
    assert (asked.every, asked.search_px, asked.smooth) == (1, 96, True)
    monkeypatch.undo()
    monkeypatch.setattr(verb, "Analyzer", lambda bundle, **more: (bundle, more))
    monkeypatch.setattr("feallm.edge.self_check.check", lambda *_: None)
    told = {"detector": None, "search_px": 96, "words": True, "expression": False}
    told |= {"vision_engine": "onnx", "language_engine": None, "threads": 2}
    assert verb.open_analyzer(asked) == (None, told)


@pytest.mark.parametrize(
    "words", [["--every", "0"], ["--search", "8"], ["--seconds", "-1"], ["--explain", "often"]]
)
def test_options_that_mean_nothing(feallm, stand_in, words):
    assert feallm("live", "-", *words)[0] == 2 and stand_in.asked == []


def test_a_time_that_is_no_number():
    with pytest.raises(UsageError, match="--seconds nan: expected a number"):
        verb.live(verb.Request("-", seconds=float("nan")))


@pytest.mark.parametrize("seconds", ["1e12", "inf"])
def test_a_time_beyond_what_a_clock_counts(feallm, stand_in, piped, seconds):
    piped(jpegs(2, 20))
    assert feallm("live", "-", "--json", "--seconds", seconds)[2].count("\n") == 1


# ---- pipes and addresses that give nothing


@pytest.mark.parametrize("data", [b"", b"these are words\n" * 99, jpegs(1, 20)[:300]])
def test_a_pipe_without_a_picture(feallm, stand_in, piped, tmp_path, data):
    piped(data)
    code, out, err = feallm("live", "-", "--json", "--out", tmp_path / "o" / "deep")
    assert (code, out, err.count("\n")) == (3, "", 1) and err.startswith("feallm: -: ")
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("text", ["camera:x", "portrait.jpg", "rtsp://", "gst:videotestsrc"])
def test_a_malformed_address_is_told_before_anything_is_opened(feallm, stand_in, tmp_path, text):
    code, _, err = feallm("live", text, "--out", tmp_path / "o")
    assert code == 2 and err.count("\n") == 1 and stand_in.asked == []
    assert not (tmp_path / "o").exists()


class Camera:
    """Opens and reads; with `away` it is unplugged after so many frames, for two openings."""

    def __init__(self, away=None, missing=False):
        self.away, self.missing = away, missing
        self.reads = self.opened = 0

    def open(self, where, patience_s):
        self.opened += 1
        if self.missing or (self.away is not None and self.opened in (2, 3)):
            raise InputError(f"{where.name}: no such device")
        return self

    def read(self):
        threading.Event().wait(0.002)
        self.reads += 1
        if self.away is not None and self.opened == 1 and self.reads > self.away:
            return False, None
        return True, picture(20)

    def release(self):
        pass


@pytest.fixture
def plugged(monkeypatch):
    """Lets the command find this camera at every address; waiting takes no time."""

    def plug(camera):
        pause = lambda stop, seconds: stop.wait(0.001)  # noqa: E731
        opened = partial(capture.open_feed, opener=camera.open, pause=pause)
        monkeypatch.setattr(verb, "open_feed", opened)
        return camera

    yield plug
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("feed ")]


def stop_after(stand_in, monkeypatch, condition):
    """Ctrl-C at the first frame at which the condition holds."""
    read = stand_in.read

    def interrupted(frame, **more):
        if condition(frame):
            raise KeyboardInterrupt
        return read(frame, **more)

    monkeypatch.setattr(stand_in, "read", interrupted)


def test_a_camera_that_is_not_there(feallm, stand_in, plugged, tmp_path):
    plugged(Camera(missing=True))
    code, out, err = feallm("live", "camera:7", "--json", "--out", tmp_path / "o" / "deep")
    assert (code, out, err) == (3, "", "feallm: camera:7: no such device\n")
    assert not (tmp_path / "o").exists()


def test_folders_that_were_there_stay(feallm, stand_in, plugged, tmp_path):
    plugged(Camera(missing=True))
    (tmp_path / "o").mkdir()
    assert feallm("live", "camera:7", "--out", tmp_path / "o")[0] == 3
    assert os.listdir(tmp_path / "o") == []


def test_an_unplugged_camera_loses_no_row_and_goes_on(
    feallm, stand_in, plugged, monkeypatch, tmp_path, caplog
):
    camera = plugged(Camera(away=5))
    after = []

    def enough(frame):
        after.extend([frame.index] if camera.opened == 4 else [])
        return len(after) > 6

    stop_after(stand_in, monkeypatch, enough)
    code, out, err = feallm("live", "camera:0", "--json", "--out", tmp_path / "o")
    assert code == 130 and camera.opened == 4
    found = [json.loads(line) for line in out.splitlines()]
    assert [row["frame"] for row in found] == list(range(after[-1]))  # all that were read
    assert {row["track"] for row in found} == {0}
    assert kept(tmp_path / "o") == [found]
    assert err.splitlines()[-1].startswith(
        f"camera:0: {len(found)} frames read, {len(found)} faces"
    )
    assert "1 times lost; 1 times back" in err
    assert "camera lost, trying on: camera:0" in caplog.text


def test_stopped_after_some_time(feallm, stand_in, plugged, tmp_path):
    plugged(Camera())
    code, _, err = feallm("live", "camera:0", "--seconds", "0.2", "--out", tmp_path / "o")
    (rows,) = kept(tmp_path / "o")
    assert code == 0 and err.startswith(f"camera:0: {len(rows)} frames read")


def test_stopped_while_it_waits_for_a_camera(feallm, stand_in, plugged, tmp_path):
    plugged(Camera(missing=True))
    more = ("--wait", "--seconds", "0.1", "--out", tmp_path / "o")
    code, _, err = feallm("live", "camera:0", *more)
    assert code == 0 and "camera:0: 0 frames read" in err and not (tmp_path / "o").exists()


@pytest.mark.parametrize("missing", [True, False])
def test_a_password_is_never_shown(
    feallm, stand_in, plugged, monkeypatch, tmp_path, caplog, missing
):
    plugged(Camera(away=3, missing=missing))
    stop_after(stand_in, monkeypatch, lambda frame: frame.index == 8)
    address = "rtsp://admin:s3cret@camera.local/live?password=s3cret"
    code, out, err = feallm("live", address, "--json", "--out", tmp_path / "o")
    assert code == (3 if missing else 130) and "rtsp://camera.local/live" in err
    files = [path.read_text() for path in tmp_path.glob("o/*")]
    assert len(files) == 1 - missing
    assert "s3cret" not in "".join([out, err, caplog.text, *files])


# ---- what may happen to the rows


def test_a_folder_that_cannot_be_made(feallm, stand_in, piped, tmp_path):
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "o"):
        piped(jpegs(1, 20))
        code, _, err = feallm("live", "-", "--out", out)
        assert code == 7 and err.count("\n") == 1 and "another folder with --out" in err
    assert (tmp_path / "file").read_text() == "mine"


def start(fake_script, *words, **more):
    """The command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, str(fake_script), "live", *words],
        stderr=subprocess.PIPE,
        **more,
    )


def test_a_full_disk_ends_the_run_with_whole_lines(fake_script, tmp_path):
    (tmp_path / "pictures").write_bytes(jpegs(30, 20))
    with (tmp_path / "pictures").open("rb") as pictures:
        job = start(
            fake_script, "-", "--out", "o", stdin=pictures, stdout=subprocess.DEVNULL, cwd=tmp_path,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000)),
        )  # fmt: skip
        _, err = job.communicate(timeout=30)
    tally, line = err.decode().splitlines()
    assert job.returncode == 7 and line.startswith("feallm: o: cannot be written: file too large")
    (rows,) = kept(tmp_path / "o")
    assert [row["frame"] for row in rows] == list(range(len(rows))) and 1 <= len(rows) < 30


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_a_service_that_is_stopped(fake_script, tmp_path, number):
    job = start(
        fake_script, "-", "--out", "o", stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
        cwd=tmp_path, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    job.stdin.write(jpegs(6, 20))
    job.stdin.flush()
    deadline = time.monotonic() + 30
    while not sum(path.read_bytes().count(b"\n") for path in tmp_path.glob("o/*")) == 6:
        assert job.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    job.send_signal(number)
    _, err = job.communicate(timeout=30)
    assert job.returncode == 130 and err == b"-: 6 frames read, 6 faces in them\n"
    assert [row["frame"] for row in kept(tmp_path / "o")[0]] == list(range(6))


def test_a_reader_of_stdout_that_leaves(fake_script, tmp_path):
    """As in `feallm live - --json | head -1`."""
    (tmp_path / "pictures").write_bytes(jpegs(300, 20))
    with (tmp_path / "pictures").open("rb") as pictures:
        job = start(
            fake_script, "-", "--json", "--out", "o",
            stdin=pictures, stdout=subprocess.PIPE, cwd=tmp_path,
        )  # fmt: skip
        first = json.loads(job.stdout.readline())
        job.stdout.close()
        err = job.stderr.read().decode()
        job.stderr.close()
        assert job.wait(30) == 1
    (rows,) = kept(tmp_path / "o")
    assert rows[0] == first and len(rows) < 300
    assert re.fullmatch(r"-: \d+ frames read, \d+ faces in them\n", err)
