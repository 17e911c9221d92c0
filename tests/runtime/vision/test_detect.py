"""Finding faces: what the cascade sees, and files that are no detector."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from feallm.runtime.contract.errors import BackendError, InputError
from feallm.runtime.contract.frame import Frame
from feallm.runtime.vision import align
from feallm.runtime.vision.detect import SURE, HaarFinder, YuNetFinder

DATA = Path(__file__).parents[4] / "shared" / "data"


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


class Shy:
    """Stands in for OpenCV's detector: one face of a score, found from its threshold on."""

    def __init__(self, score):
        self.score, self.least, self.asked = score, None, []

    def setInputSize(self, size):  # noqa: N802  OpenCV's name
        self.size = size

    def setScoreThreshold(self, least):  # noqa: N802
        self.least = least

    def detect(self, picture):
        self.asked.append(self.least)
        if self.score < self.least:
            return 1, None
        points = [30, 40, 50, 40, 40, 50, 32, 60, 48, 60]
        return 1, np.array([[20, 20, 40, 50, *points, self.score]], np.float32)


@pytest.fixture
def shy(monkeypatch, tmp_path):
    """A finder and the detector behind it, which has a face of this score."""
    (tmp_path / "yunet.onnx").write_bytes(b"never read")

    def of(best, **options):
        made = Shy(best)

        def create(path, config, size, least, overlap):
            made.least = least
            return made

        monkeypatch.setattr(cv2.FaceDetectorYN, "create", create)
        finder = YuNetFinder(tmp_path / "yunet.onnx", **options)
        made.asked.clear()  # the look that tried the file
        return finder, made

    return of


PICTURE = np.full((100, 200, 3), 90, np.uint8)
PHOTO, VIDEO = Frame(PICTURE, "a.jpg", still=True), Frame(PICTURE, "a.mp4")


def test_a_photograph_without_a_sure_face_is_looked_at_again(shy):
    finder, detector = shy(0.4)
    (face,) = finder.find(PHOTO)
    assert detector.asked == [SURE, 0.4]
    assert face.score == pytest.approx(0.4) and face.score < SURE
    assert face.box == (20, 20, 60, 70) and face.points[1].tolist() == [50, 40]
    assert finder.find(VIDEO) == []  # the threshold is the sure one again
    assert detector.asked == [SURE, 0.4, SURE]


def test_a_frame_of_a_video_is_looked_at_once(shy):
    finder, detector = shy(0.4)
    assert finder.find(VIDEO) == finder.find(VIDEO) == []
    assert detector.asked == [SURE, SURE]


def test_a_sure_face_needs_no_second_look(shy):
    finder, detector = shy(0.61)
    assert [len(finder.find(frame)) for frame in (PHOTO, VIDEO)] == [1, 1]
    assert detector.asked == [SURE, SURE]


def test_a_photograph_may_have_no_face_at_all(shy):
    finder, detector = shy(0.29)
    assert finder.find(PHOTO) == finder.find(PHOTO) == []
    assert detector.asked == [SURE, 0.4, SURE, 0.4]


def test_the_second_look_is_never_the_less_willing_one(shy):
    finder, detector = shy(0.15, score=0.2)
    assert finder.find(PHOTO) == [] and detector.asked == [0.2, 0.2]


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is not beside the checkout")
def test_yunet_looks_at_a_photograph_twice():
    """Nothing is as sure as .99: what is found then was found by the second look."""
    finder = YuNetFinder(DATA / "detector" / "face_detection_yunet_2023mar.onnx", score=0.99)
    bgr = cv2.imread(str(DATA / "clips" / "portrait.jpg"))
    portrait = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    assert find(finder, portrait) == []
    (face,) = finder.find(Frame(portrait, "portrait.jpg", still=True))
    assert SURE < face.score < 0.99 and face.points.shape == (5, 2)
    assert find(finder, portrait) == []
    nobody = np.full_like(portrait, 128)
    assert finder.find(Frame(nobody, "gray.png", still=True)) == []
