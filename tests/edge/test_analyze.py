"""`feallm analyze` from the outside, with a stand-in for the models."""

import csv
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from feallm.edge import analyze
from feallm.edge.engines import Engines
from feallm.edge.readings import Readings, read_head

MP4 = runpy.run_path(str(Path(__file__).parents[1] / "mp4.py"))

# ---- rows and tables


def test_a_photo_gives_a_table_rows_and_says_where(feallm, fake, photo, rows, tmp_path):
    portrait = photo(tmp_path / "portrait.png", 20, 100)
    code, out, err = feallm("analyze", portrait)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1].endswith(" portrait-readings")
    assert "2 faces" in out and "box 20,30 to 60,80" in out
    line = next(line for line in out.splitlines() if "AU12" in line)
    assert "lip corner puller" in line and "3.1" in line and "2.0" in line
    assert "AU6 " in out and "AU4 " not in out
    assert next(line for line in out.splitlines() if "AU6" in line).count("1.2") == 1
    assert "happiness 0.80, then surprise 0.08" in out
    assert "  “The lip corners are pulled up.”\n" in out
    assert "template: llama-cpp-python is not installed" in out
    assert "not feelings" in out and "uncalibrated" in out and "AU18, AU28" in out
    found = rows("portrait-readings")
    assert [row["track"] for row in found] == [0, 1]
    assert {row["source"] for row in found} == {portrait.as_posix()}
    assert all(row["explanation"]["source"] == "template" for row in found)
    text = Path("portrait-readings/readings.csv").read_text(encoding="utf-8")
    cells = [(r["track"], r["AU12"], r["AU18"]) for r in csv.DictReader(text.splitlines())]
    assert cells == [("0", "3.1", ""), ("1", "3.1", "")]


def test_a_photo_without_a_face_is_no_error(feallm, fake, photo, rows, tmp_path):
    code, out, _ = feallm("analyze", photo(tmp_path / "wall.png"))
    assert code == 0 and "no face found" in out
    (row,) = rows("wall-readings")
    assert [row[name] for name in ("track", "box", "aus", "expression")] == [None] * 4


def test_a_picture_20000_pixels_wide_and_10_high(feallm, fake, rows, tmp_path):
    cv2.imwrite(str(tmp_path / "strip.png"), np.full((10, 20000, 3), 120, np.uint8))
    code, out, _ = feallm("analyze", tmp_path / "strip.png")
    assert code == 0 and "no face found" in out and len(rows("strip-readings")) == 1


def test_a_video_gives_a_row_a_frame_and_a_summary(feallm, fake, video, rows, tmp_path):
    places = [(20 + i,) for i in range(10)] + [()] * 5 + [(30,)] * 5
    code, out, _ = feallm("analyze", video(tmp_path / "clip.mp4", places))
    assert code == 0
    found = rows("clip-readings")
    assert [row["frame"] for row in found] == list(range(20))
    assert [row["time_s"] for row in found] == pytest.approx([i / 10 for i in range(20)], abs=1e-3)
    assert [row["track"] for row in found] == [0] * 10 + [None] * 5 + [0] * 5
    assert [i for i, row in enumerate(found) if row["explanation"]] == [0]
    assert "20 frames up to 1.90 s, 1 face, 5 frames without a face" in out
    assert "in 15 frames, 0 to 19" in out and "100%" in out and "happiness 100%" in out


@pytest.mark.parametrize(("mode", "count"), [("never", 0), ("once", 2), ("always", 12)])
def test_explain(feallm, fake, video, rows, tmp_path, mode, count):
    clip = video(tmp_path / "clip.mp4", [(20, 100)] * 6)
    assert feallm("analyze", clip, "--explain", mode)[0] == 0
    assert sum(row["explanation"] is not None for row in rows("clip-readings")) == count


def test_action_units_alone(feallm, fake, photo, video, rows, tmp_path):
    sources = (photo(tmp_path / "a.png", 20), video(tmp_path / "b.mp4", [(20,)] * 4))
    code, out, _ = feallm("analyze", *sources, "--no-expression", "--out", tmp_path / "rows")
    assert code == 0 and "AU12" in out
    assert "happiness" not in out and "expression:" not in out
    found = rows(tmp_path / "rows")
    assert len(found) == 5 and all(row["expression"] is None for row in found)
    assert "happiness" not in (tmp_path / "rows" / "readings.csv").read_text().split("\n", 1)[1]
    code, _, err = feallm("analyze", *sources, "--out", tmp_path / "rows")
    assert code == 2 and "expression" in err  # other options, other rows: not into the same folder


def test_json_prints_one_object_and_nothing_else(feallm, fake, photo, tmp_path):
    code, out, err = feallm("analyze", photo(tmp_path / "a.png", 20), "--json")
    found = json.loads(out)
    assert (code, err, found["rows"], found["out"]) == (0, "", 1, "a-readings")


def test_equal_names_in_different_folders_stay_apart(feallm, fake, photo, rows, tmp_path):
    photo(tmp_path / "all" / "a" / "x.png", 20)
    photo(tmp_path / "all" / "b" / "x.png", 20)
    assert feallm("analyze", tmp_path / "all")[0] == 0
    assert len({row["source"] for row in rows("all-readings")}) == 2


def test_a_picture_named_twice_is_read_once(feallm, fake, photo, rows, tmp_path):
    path = photo(tmp_path / "a" / "x.png", 20)
    code, out, err = feallm("analyze", path, path.parent, "--out", "o")
    assert code == 0 and len(rows("o")) == 1 and "named twice" in err


# ---- videos: how they are searched, and of which shape they may be


def test_options_reach_the_reader_and_the_head_of_the_run(
    feallm, fake, video, rows, tmp_path, monkeypatch
):
    made = []
    follower = analyze.Follower

    def noted(*args, **more):
        made.append(more["every"])
        return follower(*args, **more)

    monkeypatch.setattr(analyze, "Follower", noted)
    clip = video(tmp_path / "clip.mp4", [(20,)] * 4)
    for number, words in enumerate(([], ["--every", "3", "--search", "96", "--smooth"])):
        assert feallm("analyze", clip, "--out", f"o{number}", *words)[0] == 0
    heads = [read_head(Path(f"o{number}")) for number in range(2)]
    told = [tuple(head[name] for name in ("every", "search", "smooth")) for head in heads]
    assert told == [(5, None, False), (3, 96, True)] and made == [5, 3]


def test_options_reach_the_analyzer(monkeypatch):
    monkeypatch.setattr("feallm.runtime.analyze.Analyzer", lambda bundle, **more: (bundle, more))
    monkeypatch.setattr("feallm.edge.self_check.check", lambda *_: None)
    request = analyze.Request(
        (), search_px=96, explain=analyze.Explain.never, expression=False,
        engines=Engines("executorch", None, 2),
    )  # fmt: skip
    bundle, more = analyze.open_analyzer(request)
    assert bundle is None
    assert more == {
        "detector": None, "search_px": 96, "detect": True, "words": False, "expression": False,
        "vision_engine": "executorch", "language_engine": None, "threads": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "told"),
    [(["--every", "2"], "every"), (["--search", "96"], "search"), (["--smooth"], "smooth")],
)
def test_a_search_of_another_kind_needs_another_folder(
    feallm, fake, video, rows, tmp_path, words, told
):
    clip = video(tmp_path / "clip.mp4", [(20,)] * 4)
    assert feallm("analyze", clip, "--out", "o")[0] == 0
    before = rows("o")
    code, _, err = feallm("analyze", clip, "--out", "o", *words)
    assert code == 2 and told in err and "another folder with --out" in err
    assert err.count("\n") == 1 and rows("o") == before
    assert feallm("analyze", clip, "--out", "o", "--every", "5")[0] == 0  # what it was


def test_a_smoothed_video_keeps_rows_and_presence(feallm, fake, video, rows, tmp_path):
    clip = video(tmp_path / "clip.mp4", [(20,)] * 5 + [()] + [(20,)] * 4)
    for out, words in (("plain", []), ("smooth", ["--smooth"])):
        assert feallm("analyze", clip, "--out", out, *words)[0] == 0
    plain, smooth = rows("plain"), rows("smooth")
    assert [(row["frame"], row["track"]) for row in smooth] == [
        (row["frame"], row["track"]) for row in plain
    ]
    assert smooth[-1]["aus"]["AU12"]["present"] == plain[-1]["aus"]["AU12"]["present"]


def test_a_clip_of_one_frame(feallm, fake, video, rows, tmp_path):
    code, out, err = feallm("analyze", video(tmp_path / "clip.mp4", [(20,)]))
    assert (code, err) == (0, "") and "1 frame" in out
    (row,) = rows("clip-readings")
    assert (row["frame"], row["time_s"], row["track"]) == (0, 0, 0)
    assert row["explanation"] is not None


def test_a_clip_whose_frames_last_unevenly(feallm, fake, video, rows, tmp_path):
    clip = video(tmp_path / "clip.mp4", [(20 + i,) for i in range(12)])
    clip.write_bytes(MP4["uneven"](clip.read_bytes(), 6))
    assert feallm("analyze", clip)[0] == 0
    found = rows("clip-readings")
    wanted = [i / 10 for i in range(6)] + [0.6 + 0.3 * i for i in range(6)]
    assert [row["time_s"] for row in found] == pytest.approx(wanted, abs=2e-3)
    assert {row["track"] for row in found} == {0}


def test_a_clip_that_is_shown_turned(feallm, fake, video, rows, tmp_path):
    clip = video(tmp_path / "clip.mp4", [(20,)] * 3)
    clip.write_bytes(MP4["turned"](clip.read_bytes()))
    assert feallm("analyze", clip)[0] == 0
    for row in rows("clip-readings"):  # 160 x 120, a quarter turn clockwise: x is 120 - y
        assert row["box"] == pytest.approx([120 - 80, 20, 120 - 30, 60], abs=4)


ADDRESSES = ["rtsp://u:s3cret@h/x", "http://u:s3cret@h/x?token=s3cret", "camera:0", "-"]


@pytest.mark.parametrize("text", [*ADDRESSES, "/dev/video0", "gst:v4l2src ! appsink"])
def test_what_comes_now_is_read_by_another_verb(feallm, fake, text, tmp_path):
    code, out, err = feallm("analyze", text, "--out", tmp_path / "o")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "feallm live" in err and "s3cret" not in err
    assert not (tmp_path / "o").exists()


def test_a_device_that_is_there_is_a_camera_all_the_same(feallm, fake, monkeypatch):
    exists = os.path.exists
    monkeypatch.setattr(os.path, "exists", lambda path: path == "/dev/video0" or exists(path))
    code, _, err = feallm("analyze", "/dev/video0")
    assert code == 2 and "feallm live" in err


def test_a_file_may_be_called_like_a_camera(feallm, fake, photo, rows, tmp_path, monkeypatch):
    os.replace(photo(tmp_path / "here" / "a.png", 20), "camera:0")
    assert feallm("analyze", "camera:0", "--out", tmp_path / "o")[0] == 0
    assert len(rows(tmp_path / "o")) == 1


# ---- where the rows go


def test_never_into_an_input_folder(feallm, fake, photo, tmp_path, monkeypatch):
    photo(tmp_path / "pictures" / "x.png", 20)
    code, _, err = feallm("analyze", tmp_path / "pictures", "--out", tmp_path / "pictures" / "o")
    assert code == 2 and "--out" in err
    monkeypatch.chdir(tmp_path / "pictures")
    code, out, _ = feallm("analyze", ".")
    assert code == 0 and out.splitlines()[-1].endswith(str(tmp_path / "pictures-readings"))
    assert os.listdir(tmp_path / "pictures") == ["x.png"]


def test_other_options_get_another_default_folder(feallm, fake, photo, tmp_path):
    path = photo(tmp_path / "x.png", 20)
    folders = [
        feallm("analyze", path, *more)[1].splitlines()[-1].split()[-1]
        for more in ((), ("--explain", "always"), ())
    ]
    assert folders == ["x-readings", "x-readings-2", "x-readings"]


@pytest.mark.parametrize("other", ["options", "bundle"])
def test_another_run_in_the_same_out_is_refused(feallm, fake, photo, rows, tmp_path, other):
    path = photo(tmp_path / "x.png", 20)
    assert feallm("analyze", path, "--out", "o")[0] == 0
    before = rows("o")
    if other == "bundle":
        fake.bundle.digest = "e" * 64
    more = ["--explain", "always"] if other == "options" else []
    code, _, err = feallm("analyze", path, "--out", "o", *more)
    assert code == 2 and "another folder with --out" in err
    assert err.count("\n") == 1 and rows("o") == before


def test_a_foreign_readings_file_is_not_touched(feallm, fake, photo, tmp_path):
    out = tmp_path / "o"
    out.mkdir()
    (out / "readings.jsonl").write_text("mine\n")
    code, _, err = feallm("analyze", photo(tmp_path / "x.png", 20), "--out", out)
    assert code == 2 and err.count("\n") == 1
    assert (out / "readings.jsonl").read_text() == "mine\n"


def test_out_that_is_a_file(feallm, fake, photo, tmp_path):
    (tmp_path / "o").write_text("")
    code, _, err = feallm("analyze", photo(tmp_path / "x.png", 20), "--out", tmp_path / "o")
    assert code == 2 and err.count("\n") == 1


# ---- bad input

JPEG = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8))[1]
BAD = {
    "empty.jpg": b"",
    "empty.mp4": b"",
    "text.jpg": b"these are words, no picture\n" * 20,
    "text.mp4": b"these are words, no video\n" * 20,
    "cut.jpg": JPEG.tobytes()[: len(JPEG) // 2],
    "noindex.mp4": b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00isomiso2"
    + b"\x00\x00\x10\x00mdat" * 9,
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_a_bad_file_alone(feallm, fake, tmp_path, name):
    (tmp_path / name).write_bytes(BAD[name])
    code, out, err = feallm("analyze", tmp_path / name)
    assert code == 3 and err.count("\n") == 1 and name in err and "Traceback" not in err
    assert os.listdir(".") == []


def test_what_cannot_be_read_at_all(feallm, fake, tmp_path):
    code, _, err = feallm("analyze", tmp_path / "missing.jpg")
    assert code == 3 and "no such file" in err and err.count("\n") == 1
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("x")
    code, _, err = feallm("analyze", tmp_path / "folder")
    assert code == 3 and ".txt" in err and err.count("\n") == 1
    assert os.listdir(".") == []


def test_bad_files_do_not_stop_the_others(feallm, fake, photo, rows, tmp_path):
    folder = tmp_path / "mixed"
    for name in ("a.png", "m.png", "z.png"):
        photo(folder / name, 20)
    for name, data in BAD.items():
        (folder / name).write_bytes(data)
    code, out, err = feallm("analyze", folder)
    assert code == 3 and err.count("\n") == len(BAD)
    assert [os.path.basename(row["source"]) for row in rows("mixed-readings")] == [
        "a.png", "m.png", "z.png",
    ]  # fmt: skip
    assert out.splitlines()[-1].endswith(" mixed-readings")


def test_a_cut_video_keeps_the_frames_before_the_cut(
    feallm, fake, video, photo, rows, tmp_path, index_first
):
    folder = tmp_path / "f"
    folder.mkdir()
    whole = index_first(video(tmp_path / "whole.mp4", [(20 + i,) for i in range(30)]))
    (folder / "b.mp4").write_bytes(whole[: len(whole) * 6 // 10])
    photo(folder / "c.png", 20)
    code, out, err = feallm("analyze", folder)
    assert code == 3 and "cut short" in err and err.count("\n") == 1
    found = rows("f-readings")
    frames = [row["frame"] for row in found if row["source"].endswith("b.mp4")]
    assert frames == list(range(len(frames))) and 3 <= len(frames) < 30
    # Again: the broken video is tried anew, its rows are not doubled.
    code, _, err = feallm("analyze", folder)
    assert code == 3 and "cut short" in err
    again = rows("f-readings")
    assert sorted(map(str, again)) == sorted(map(str, found))
    # Mended, it is whole.
    (folder / "b.mp4").write_bytes(whole)
    assert feallm("analyze", folder)[0] == 0
    assert len(rows("f-readings")) == 31


def test_a_wrong_mode_and_an_unknown_option_are_usage(feallm, fake, photo, tmp_path):
    path = photo(tmp_path / "x.png", 20)
    assert feallm("analyze", path, "--explain", "often")[0] == 2
    assert feallm("analyze", path, "--colour")[0] == 2
    assert feallm("analyze")[0] == 2


def test_contradicting_options(feallm, fake, photo, tmp_path):
    path = photo(tmp_path / "x.png", 20)
    code, _, err = feallm("analyze", path, "--no-detect", "--detector", "d.onnx")
    assert code == 2 and err.count("\n") == 1


def test_a_backend_that_fails_keeps_what_was_read(feallm, fake, photo, rows, tmp_path):
    for i in range(4):
        photo(tmp_path / "f" / f"{i}.png", 20)
    fake.fail_at = 3
    code, _, err = feallm("analyze", tmp_path / "f")
    assert code == 5 and err.count("\n") == 1 and len(rows("f-readings")) == 2
    assert Path("f-readings/readings.csv").read_text().count("\n") == 3


# ---- taking up again


def test_a_second_call_reads_nothing_again_and_shows_the_same(feallm, fake, photo, tmp_path):
    path = photo(tmp_path / "f" / "x.png", 20).parent
    first = feallm("analyze", path)[1]
    second = feallm("analyze", path)[1]
    assert len(fake.frames_read) == 1
    assert [s for s in second.splitlines() if "earlier run" not in s] == first.splitlines()


def test_a_changed_picture_is_read_again(feallm, fake, photo, rows, tmp_path):
    for name in ("a", "b", "c"):
        photo(tmp_path / "f" / f"{name}.png", 20)
    feallm("analyze", tmp_path / "f")
    photo(tmp_path / "f" / "a.png", 20, 100)
    os.utime(tmp_path / "f" / "a.png", (1, 1))
    feallm("analyze", tmp_path / "f")
    names = sorted(os.path.basename(row["source"]) for row in rows("f-readings"))
    assert names == ["a.png", "a.png", "b.png", "c.png"]


def test_half_written_files_are_taken_up(feallm, fake, photo, rows, tmp_path):
    for i in range(5):
        photo(tmp_path / "f" / f"{i}.png", 20)
    feallm("analyze", tmp_path / "f")
    whole = rows("f-readings")
    with open("f-readings/readings.jsonl", "rb+") as file:
        file.truncate(file.seek(0, 2) - 30)
    with open("f-readings/run.jsonl", "a") as file:
        file.write('{"source": "f/4')
    assert feallm("analyze", tmp_path / "f")[0] == 0
    assert rows("f-readings") == whole and len(fake.frames_read) == 6


def test_ctrl_c_keeps_rows_and_the_next_call_goes_on(photo, rows, tmp_path, fake_script):
    for i in range(200):
        photo(tmp_path / "f" / f"{i:03}.png", 20)
    call = [sys.executable, str(fake_script), "analyze", "f"]
    slow = {**os.environ, "FAKE_DELAY_S": "0.01"}
    job = subprocess.Popen(
        call,
        cwd=tmp_path,
        env=slow,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # A job that a script starts in the background ignores Ctrl-C, and so do its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    target = tmp_path / "f-readings" / "readings.jsonl"
    deadline = time.monotonic() + 30
    while not (target.exists() and target.read_bytes().count(b"\n") >= 5):
        assert job.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    job.send_signal(signal.SIGINT)
    _, err = job.communicate(timeout=30)
    assert job.returncode == 130 and "Traceback" not in err and err.count("\n") == 1
    kept = rows(tmp_path / "f-readings")
    assert 5 <= len(kept) < 200
    assert len((tmp_path / "f-readings" / "readings.csv").read_text().splitlines()) == len(kept) + 1
    again = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert again.returncode == 0 and f"{len(kept)} sources were read" in again.stdout
    found = rows(tmp_path / "f-readings")
    assert found[: len(kept)] == kept
    assert [row["source"] for row in found] == [f"f/{i:03}.png" for i in range(200)]


def test_two_runs_do_not_write_one_folder(feallm, fake, photo, tmp_path):
    path = photo(tmp_path / "x.png", 20)
    feallm("analyze", path, "--out", "o")
    held = Readings(Path("o"), read_head(Path("o")))
    code, _, err = feallm("analyze", path, "--out", "o")
    held.close()
    assert code == 2 and "another run" in err
