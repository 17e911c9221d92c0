"""Finding faces: what the cascade sees, and files that are no detector."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from feallm.runtime.contract.errors import BackendError, InputError
from feallm.runtime.contract.frame import Frame
from feallm.runtime.vision import align
from feallm.runtime.vision.detect import HaarFinder, YuNetFinder


@pytest.fixture(scope="module")
def finder():
    return HaarFinder()


def find(finder, picture):
    return finder.find(Frame(picture, "picture"))


@pytest.mark.parametrize("size", [100, 160, 400, 900, 2000])
def test_a_face_at_any_size_in_pixels_of_the_frame(finder, scene, size):
    x, y = 15, 10
    (face,) = find(finder, scene(int(size * 1.4), int(size * 1.7), (x, y, size)))
    assert face.points is None and face.score == 1.0 and face.track == 0
    eyes = align.points_in_box(face.box, finder.mean_points)[:2]
    drawn = np.array([[0.38, 0.49], [0.62, 0.49]]) * size + (x, y)
    assert np.abs(eyes - drawn).max() < 0.06 * size


def test_several_faces_largest_first(finder, scene):
    faces = find(finder, scene(320, 640, (10, 60, 120), (200, 20, 260)))
    widths = [face.box[2] - face.box[0] for face in faces]
    assert len(faces) == 2 and widths[0] > 1.5 * widths[1]
    assert [face.track for face in faces] == [0, 1]
    assert faces[0].box[0] > 200 > faces[1].box[0]


@pytest.mark.parametrize(
    "shape", [(1, 1), (10, 10), (16, 16), (20000, 10), (10, 20000), (300, 20), (480, 640)]
)
def test_no_face(finder, shape):
    assert find(finder, np.full((*shape, 3), 90, np.uint8)) == []


def test_colours_are_not_mistaken_for_an_order(finder, scene):
    """A view with its axes turned around in memory is as good as a copy."""
    picture = scene(224, 272, (15, 10, 160))
    assert len(find(finder, picture[:, :, ::-1])) == 1
    assert len(find(finder, picture[:, ::-1])) == 1


def test_an_opencv_without_cascades(monkeypatch):
    monkeypatch.delattr(cv2, "CascadeClassifier")
    with pytest.raises(BackendError, match="has no Haar cascade") as caught:
        HaarFinder()
    assert "OpenCV 4" in caught.value.line()


def refusal(path, capfd) -> str:
    """The one line with which a detector file is refused, and nothing of OpenCV's beside it."""
    with pytest.raises(InputError) as caught:
        YuNetFinder(path)
    assert caught.value.exit_code == 3
    assert capfd.readouterr() == ("", "")
    line = caught.value.line()
    assert "\n" not in line and path.name in line
    return line


@pytest.mark.parametrize("data", [b"", b"hello", b"\x08\x08" * 500], ids=["empty", "text", "bytes"])
@pytest.mark.parametrize("name", ["yunet.onnx", "yunet.txt"])
def test_a_file_that_is_no_network(tmp_path, capfd, data, name):
    (tmp_path / name).write_bytes(data)
    assert "not a YuNet detector" in refusal(tmp_path / name, capfd)


def test_a_network_that_finds_no_faces(toy_bundle, capfd):
    assert "not a YuNet detector" in refusal(toy_bundle / "vision.onnx", capfd)


def test_no_file(tmp_path, capfd):
    assert "no such detector file" in refusal(tmp_path / "yunet.onnx", capfd)
    assert "no such detector file" in refusal(tmp_path, capfd)
    refusal(tmp_path / ("x" * 300), capfd)
