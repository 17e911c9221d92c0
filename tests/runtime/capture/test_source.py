"""Pictures and videos that OpenCV wrote, then damaged or turned, come back as they should."""

import math
import os
import runpy
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from feallm.runtime.capture.source import Source, expected_frames, frames, kind, read_picture, scan
from feallm.runtime.capture.whole import picture_cut
from feallm.runtime.contract.errors import InputError

MP4 = runpy.run_path(str(Path(__file__).parents[2] / "mp4.py"))
CLIPS = Path(__file__).parents[3] / ".." / "shared" / "data" / "clips"


def source(path):
    return Source(Path(path), Path(path).name)


def scene(width=48, height=32):
    """RGB: red left, green right, a blue line on top."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0] = 200
    pixels[:, width // 2 :, 1] = 200
    pixels[:6] = (0, 0, 200)
    return pixels


def encoded(suffix, pixels=None, *options):
    pixels = scene() if pixels is None else pixels
    bgr = pixels[..., ::-1] if pixels.ndim == 3 else pixels
    return cv2.imencode(suffix, np.ascontiguousarray(bgr), list(options))[1].tobytes()


def exif_jpeg(orientation):
    body = b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0)
    body += b"\0\0\0\0"
    data = encoded(".jpg")
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]


def clip(path, count=30, fps=10, codec="mp4v"):
    out = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), fps, (96, 64))
    rng = np.random.default_rng(1)
    for _ in range(count):
        out.write(cv2.resize(rng.integers(0, 255, (8, 12, 3), np.uint8), (96, 64)))
    out.release()
    return path


# ---- pictures


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tiff", ".ppm"])
def test_colours_are_rgb(tmp_path, suffix):
    (tmp_path / "x").write_bytes(encoded(suffix))  # the suffix does not matter
    pixels = read_picture(source(tmp_path / "x"))
    assert pixels.shape == (32, 48, 3) and pixels.dtype == np.uint8
    assert np.abs(pixels[20, 5].astype(int) - (200, 0, 0)).max() < 40
    assert np.abs(pixels[20, 40].astype(int) - (0, 200, 0)).max() < 40


@pytest.mark.parametrize(
    "pixels",
    [
        np.full((20, 30), 90, np.uint8),
        np.full((20, 30), 90 * 257, np.uint16),
        np.full((20, 30, 3), 90 * 257, np.uint16),
        np.full((20, 30, 4), 90, np.uint8),
    ],
    ids=["gray", "gray16", "rgb16", "alpha"],
)
def test_every_depth_becomes_eight_bit_rgb(tmp_path, pixels):
    (tmp_path / "x.png").write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    read = read_picture(source(tmp_path / "x.png"))
    assert read.shape == (20, 30, 3) and read.dtype == np.uint8 and abs(int(read[5, 5, 0]) - 90) < 2


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_exif_orientation(tmp_path, orientation, turns):
    (tmp_path / "x.jpg").write_bytes(exif_jpeg(orientation))
    wanted = np.rot90(scene(), turns)
    read = read_picture(source(tmp_path / "x.jpg"))
    assert read.shape == wanted.shape and np.abs(read.astype(int) - wanted).mean() < 12


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_cut_picture_is_an_error(tmp_path, suffix, share, capfd):
    noise = np.random.default_rng(0).integers(0, 255, (80, 100, 3), np.uint8)
    data = encoded(suffix, noise)
    assert picture_cut(data) is None
    (tmp_path / "x").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InputError, match="cut short"):
        read_picture(source(tmp_path / "x"))
    assert capfd.readouterr().err == ""


def test_progressive_and_padded_jpegs_are_whole(tmp_path):
    data = encoded(".jpg", None, cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 2)
    for tail in (b"", b"\0" * 100, b"\xff\xd8 a second picture, cut short"):
        assert picture_cut(data + tail) is None
    assert picture_cut(data[:-2]) is not None
    # A thumbnail's end-of-image marker within a segment is not the picture's.
    thumb = b"\xff\xe1" + struct.pack(">H", len(data) + 2) + data
    assert picture_cut(data[:2] + thumb + data[2 : len(data) // 2]) is not None


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("a.jpg", b"", "empty"),
        ("a.jpg", b"some words\n" * 50, "neither a picture nor a video"),
        ("a.jpg", b"P is for picture", "neither"),
        ("a.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 200, "HEIC"),
        ("a.png", b"\x89PNG\r\n\x1a\n" + b"\0\0\0\0IEND\xaeB`\x82", "IHDR"),
        ("a.png", encoded(".png").replace(b"IDAT", b"IDAT\xff", 1), "'IDAT' is incomplete"),
        ("a.jp2", b"\x00\x00\x00\x0cjP  \r\n\x87\n" + b"\0" * 40, "cannot be decoded"),
        ("a.mp4", b"\0\0\0\x18ftypisom\0\0\2\0isomiso2mp41", "cannot be read: its index"),
        ("a.mkv", b"\x1a\x45\xdf\xa3" + b"\0" * 60, "cannot be read"),
    ],
)
def test_what_is_no_picture(tmp_path, capfd, name, data, told):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError) as error:
        list(frames(source(tmp_path / name)))
    assert told in error.value.line() and name in error.value.line()
    assert capfd.readouterr().err == ""


def test_what_is_no_file(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        kind(source(tmp_path / "missing.jpg"))
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(InputError, match="not a regular file"):
        kind(source(tmp_path / "pipe.jpg"))
    with pytest.raises(InputError, match="cannot be read"):
        kind(source("nul\0.jpg"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read(tmp_path):
    path = tmp_path / "x.jpg"
    path.write_bytes(encoded(".jpg"))
    path.chmod(0)
    with pytest.raises(InputError, match="permission denied"):
        kind(source(path))


# ---- folders


def test_a_folder_is_sorted_and_deep(tmp_path):
    for name in ("b/2.jpg", "b/1.PNG", "a.mp4", "c.txt", ".hidden.jpg", ".git/x.jpg", "b/x/y.webm"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(b"x")
    found = scan(tmp_path)
    names = [s.path.relative_to(tmp_path).as_posix() for s in found.sources]
    assert names == ["a.mp4", "b/1.PNG", "b/2.jpg", "b/x/y.webm"]
    assert found.left_out == (".txt",)
    assert found.sources[0].name == (tmp_path / "a.mp4").as_posix()


def test_a_folder_without_pictures(tmp_path):
    with pytest.raises(InputError, match="no picture or video"):
        scan(tmp_path)


def test_names_that_are_not_utf8(tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff.png"
    Path(os.fsdecode(path)).write_bytes(encoded(".png"))
    (found,) = scan(tmp_path).sources
    found.name.encode()
    assert read_picture(found).shape == (32, 48, 3)


# ---- videos


CONTAINERS = [("a.mp4", "mp4v"), ("a.avi", "MJPG"), ("a.mkv", "mp4v")]


@pytest.mark.parametrize(("name", "codec"), CONTAINERS)
def test_every_frame_with_its_time(tmp_path, name, codec, capfd):
    path = clip(tmp_path / name, codec=codec)
    found = list(frames(source(path)))
    assert [f.index for f in found] == list(range(30)) and expected_frames(source(path)) == 30
    assert [f.time_s for f in found] == pytest.approx([i / 10 for i in range(30)], abs=2e-3)
    assert found[3].pixels.shape == (64, 96, 3)
    assert capfd.readouterr().err == ""


def test_a_video_is_rgb(tmp_path):
    out = cv2.VideoWriter(str(tmp_path / "a.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 64))
    out.write(np.full((64, 64, 3), (20, 20, 220), np.uint8))
    out.release()
    (frame,) = frames(source(tmp_path / "a.avi"))
    red, _, blue = frame.pixels[30, 30].astype(int)
    assert red > 180 and blue < 60


def test_uneven_times_are_the_containers(tmp_path):
    path = clip(tmp_path / "a.mp4")
    path.write_bytes(MP4["uneven"](path.read_bytes(), 10))
    times = [f.time_s for f in frames(source(path))]
    wanted = [i / 10 for i in range(10)] + [1 + 0.3 * i for i in range(20)]
    assert times == pytest.approx(wanted, abs=2e-3)


def test_a_clip_that_was_trimmed_by_an_edit_list_is_whole(tmp_path):
    path = clip(tmp_path / "a.mp4")
    path.write_bytes(MP4["uneven"](path.read_bytes(), 10, keep_edits=True))
    assert len(list(frames(source(path)))) == 17 and expected_frames(source(path)) == 30


def test_rotation_is_honoured(tmp_path):
    out = cv2.VideoWriter(str(tmp_path / "a.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10, (96, 64))
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[:20] = 255
    for _ in range(3):
        out.write(picture)
    out.release()
    path = tmp_path / "a.mp4"
    path.write_bytes(MP4["turned"](path.read_bytes()))
    first = next(frames(source(path)))
    assert first.pixels.shape == (96, 64, 3)
    assert first.pixels[50, 60].min() > 200 and first.pixels[5, 5].max() < 60  # top is now right


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_cut_video_gives_its_frames_then_the_error(tmp_path, share, capfd):
    whole = MP4["index_first"](clip(tmp_path / "whole.mp4").read_bytes())
    path = tmp_path / "a.mp4"
    path.write_bytes(whole[: int(len(whole) * share)])
    found = []
    with pytest.raises(InputError, match="cut short after"):
        for frame in frames(source(path)):
            found.append(frame.index)
    assert found == list(range(len(found))) and 30 * share - 6 < len(found) < 30
    assert capfd.readouterr().err == ""


def test_a_video_whose_end_was_never_filled(tmp_path):
    whole = MP4["index_first"](clip(tmp_path / "whole.mp4").read_bytes())
    half = len(whole) // 2
    (tmp_path / "a.mp4").write_bytes(whole[:half] + b"\0" * (len(whole) - half))
    found = []
    with pytest.raises(InputError, match="cut short after"):
        found.extend(f.index for f in frames(source(tmp_path / "a.mp4")))
    with pytest.raises(InputError, match="cannot be read: .* missing"):  # no index at all
        (tmp_path / "a.mp4").write_bytes((tmp_path / "whole.mp4").read_bytes()[:half])
        list(frames(source(tmp_path / "a.mp4")))


@pytest.mark.parametrize(("name", "codec"), CONTAINERS[1:])
def test_other_containers_that_are_cut(tmp_path, name, codec):
    path = clip(tmp_path / name, codec=codec)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with pytest.raises(InputError, match="cut short"):
        assert list(frames(source(path)))


@pytest.mark.data
@pytest.mark.skipif(not CLIPS.is_dir(), reason="../shared/data/clips is not here")
@pytest.mark.parametrize(
    ("name", "count", "fps"),
    [("face_moving.mp4", 62, 12), ("noface.mp4", 38, 12.5), ("small_face.mp4", 65, 30)],
)
def test_the_shared_clips(name, count, fps):
    times = [f.time_s for f in frames(source(CLIPS / name))]
    assert times == pytest.approx([i / fps for i in range(count)], abs=1e-3)
    assert all(math.isfinite(t) for t in times)


# ---- which of them may be looked at twice


def test_a_picture_is_a_photograph_and_a_frame_of_a_video_is_not(tmp_path):
    (tmp_path / "x.mp4").write_bytes(encoded(".png"))  # the suffix does not matter
    (photo,) = frames(source(tmp_path / "x.mp4"))
    assert photo.still is True
    found = list(frames(source(clip(tmp_path / "x.png.avi", 4, codec="MJPG"))))
    assert [frame.still for frame in found] == [False] * 4
