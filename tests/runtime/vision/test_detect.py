"""Finding faces: where, how large, how often a picture is looked at, and files that are no
detector."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from feallm.runtime.analyze import open_detector
from feallm.runtime.bundle.open import open_bundle
from feallm.runtime.contract.errors import InputError
from feallm.runtime.contract.frame import Frame
from feallm.runtime.contract.landmarks import FIVE
from feallm.runtime.vision.detect import DetectorFile, Search

SHIPPED = open_bundle().file("detector.onnx")
DATA = Path(__file__).parents[4] / "shared" / "data"
CLEAR = (0, 1, 3, 4, 5, 6, 9, 11, 13, 14)  # heads that nothing covers and that look this way


@pytest.fixture(scope="module")
def finder():
    """The shipped bundle's."""
    return open_detector(open_bundle())


def find(finder, picture, *, still=False):
    return finder.find(Frame(picture, "picture", still=still))


def plain(height, width):
    return np.full((height, width, 3), (150, 140, 130), np.uint8)


def overlap(a, b):
    wide, tall = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    shared = max(wide, 0) * max(tall, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return shared / (sum(areas) - shared)


def finds(finder, picture, box, *, still=False):
    """The face that was found in this box."""
    faces = find(finder, picture, still=still)
    best = max(faces, key=lambda face: overlap(face.box, box))
    assert overlap(best.box, box) >= 0.5
    return best


# ---- the shipped detector


@pytest.mark.parametrize("still", [False, True])
@pytest.mark.parametrize("size", [60, 100, 140, 200])
def test_faces_of_many_people_at_their_places(finder, heads, size, still):
    for number in CLEAR:
        picture = plain(360, 480)
        box, marks = heads.lay(picture, number, 150, 90, size)
        face = finds(finder, picture, box, still=still)
        five = np.stack([marks[list(chosen)].mean(0) for chosen in FIVE])
        away = np.linalg.norm(face.points - five, axis=1)  # YuNet's tip of the nose lies lower
        assert away.mean() < 0.15 * size and away.max() < 0.3 * size
        assert finder.search.score <= face.score <= 1


@pytest.mark.parametrize("times", [3, 8])
def test_a_large_picture_is_searched_small_and_told_in_its_own_pixels(finder, heads, times):
    picture = plain(240 * times, 320 * times)
    box, _ = heads.lay(picture, 4, 100 * times, 60 * times, 100 * times)
    assert 100 * times < finds(finder, picture, box).box[0] + 20 * times < 140 * times


def test_largest_first_numbered_in_that_order(finder, heads):
    picture = plain(320, 480)
    small, _ = heads.lay(picture, 4, 60, 90, 70)
    large, _ = heads.lay(picture, 1, 280, 60, 150)
    faces = find(finder, picture)
    areas = [(f.box[2] - f.box[0]) * (f.box[3] - f.box[1]) for f in faces]
    assert areas == sorted(areas, reverse=True)
    assert [face.track for face in faces] == list(range(len(faces)))
    places = [
        max(range(len(faces)), key=lambda k: overlap(faces[k].box, b)) for b in (large, small)
    ]
    assert places[0] < places[1]


def test_a_photograph_that_is_all_face(finder, heads):
    """Nothing round it, and nothing of the hair."""
    picture = plain(400, 400)
    (x0, y0, x1, y1), _ = heads.lay(picture, 4, 100, 100, 200)
    crop = picture[round(y0) : round(y1), round(x0) : round(x1)]
    height, width = crop.shape[:2]
    finds(finder, crop, (0, 0, width, height), still=True)
    small = cv2.resize(crop, (width // 3, height // 3), interpolation=cv2.INTER_AREA)
    finds(finder, small, (0, 0, width // 3, height // 3), still=True)


@pytest.mark.parametrize("still", [False, True])
@pytest.mark.parametrize(
    "shape",
    [(1, 1), (10, 10), (16, 16), (17, 33), (17, 320), (33, 17), (200, 17), (320, 17), (300, 20)]
    + [(20000, 10), (10, 20000), (40, 2000)],
)
def test_no_face_in_strange_pictures(finder, shape, still):
    assert find(finder, np.full((*shape, 3), 90, np.uint8), still=still) == []


def test_a_view_of_memory_is_as_good_as_a_copy(finder, scene):
    picture = scene(240, 320, (90, 60, 100))
    for view in (picture[:, ::-1], picture[:, :, ::-1], picture[::2, ::2]):
        copied = find(finder, view.copy())
        assert copied and [f.box for f in find(finder, view)] == [f.box for f in copied]


def test_red_and_blue_are_not_swapped(finder, heads, monkeypatch):
    """The file takes BGR: a picture with its colours turned around scores otherwise."""
    given = []
    monkeypatch.setattr(finder, "_detector", Scripted([], given))
    picture = plain(200, 200)
    find(finder, picture)
    assert given[0][0, 0].tolist() == [130, 140, 150]


# ---- how it is asked


class Scripted:
    """Stands in for OpenCV's detector: gives each answer once, then nothing; keeps pictures."""

    def __init__(self, answers, given):
        self.answers, self.given = list(answers), given

    def setInputSize(self, size):  # noqa: N802  OpenCV's name
        self.size = size

    def detect(self, picture):
        assert self.size == (picture.shape[1], picture.shape[0])
        self.given.append(picture)
        answer = self.answers.pop(0) if self.answers else None
        return 1, answer


def row(x, y, w, h, score=0.9):
    points = [x, y, x + w, y, x + w / 2, y + h / 2, x, y + h, x + w, y + h]
    return np.array([[x, y, w, h, *points, score]], np.float32)


@pytest.fixture
def scripted(monkeypatch):
    """A finder whose detector gives these answers, and the pictures that it is given."""

    def of(*answers, **search):
        given = []
        made = Scripted([], given)
        monkeypatch.setattr(made, "size", (320, 320), raising=False)
        monkeypatch.setattr(cv2.FaceDetectorYN, "create", lambda *_: made)
        finder = DetectorFile(SHIPPED, Search(**search))
        given.clear()  # the look that tried the file
        made.answers = list(answers)
        return finder, given

    return of


@pytest.mark.parametrize(
    ("shape", "still", "size"),
    [
        ((480, 640), False, (240, 320)),
        ((480, 640), True, (480, 640)),
        ((960, 1280), True, (480, 640)),
        ((1280, 960), True, (640, 480)),
        ((100, 200), False, (100, 200)),  # never enlarged
        ((100, 200), True, (100, 200)),
    ],
)
def test_the_size_at_which_a_frame_is_searched(scripted, shape, still, size):
    finder, given = scripted(row(20, 30, 40, 50))
    (face,) = find(finder, plain(*shape), still=still)
    assert [picture.shape[:2] for picture in given] == [size]
    scale = size[0] / shape[0]
    assert face.box == pytest.approx((20 / scale, 30 / scale, 60 / scale, 80 / scale))
    assert face.points[2] == pytest.approx((40 / scale, 55 / scale))


def test_a_photograph_without_a_face_is_looked_at_once_more_with_gray_around(scripted):
    finder, given = scripted(None, row(100, 90, 40, 50))
    (face,) = find(finder, plain(200, 400), still=True)
    first, second = given
    assert first.shape == (200, 400, 3) and second.shape == (300, 600, 3)
    assert (second[:50] == 128).all() and (second[:, :100] == 128).all()
    np.testing.assert_array_equal(second[50:250, 100:500], first)
    assert face.box == (0, 40, 40, 90) and face.points[0].tolist() == [0, 40]


def test_the_second_look_keeps_to_the_limit(scripted):
    finder, given = scripted(None, row(160, 120, 32, 40))
    (face,) = find(finder, plain(960, 1280), still=True)
    assert [picture.shape[:2] for picture in given] == [(480, 640), (480, 640)]
    scale = 3  # half again as large, in 640 of what were 1280
    assert face.box == pytest.approx((160 * scale - 320, 120 * scale - 240, 256, 240))


@pytest.mark.parametrize("shape", [(16, 100), (100, 16), (40, 40)])
def test_a_narrow_picture_is_filled_up(scripted, shape):
    """Of maps one cell wide OpenCV makes faces of score 1 with boxes that are no numbers."""
    finder, given = scripted(row(3, 4, 10, 12))
    (face,) = find(finder, plain(*shape))
    height, width = shape
    assert given[0].shape[:2] == (max(height, 64), max(width, 64))
    assert (given[0][:height, :width] == (130, 140, 150)).all()
    assert not given[0][height:].any() and not given[0][:, width:].any()
    assert face.box == (3, 4, 13, 16)


def test_a_tiny_photograph_is_enlarged_for_the_second_look(scripted):
    finder, given = scripted(None, row(50, 50, 40, 40))
    (face,) = find(finder, plain(48, 48), still=True)
    assert [picture.shape[:2] for picture in given] == [(64, 64), (144, 144)]
    assert face.box == (13, 13, 33, 33)


@pytest.mark.parametrize(("still", "looks"), [(False, 1), (True, 2)])
def test_nobody_in_it(scripted, still, looks):
    finder, given = scripted()
    assert find(finder, plain(100, 100), still=still) == [] and len(given) == looks


def test_a_photograph_with_a_face_needs_no_second_look(scripted):
    finder, given = scripted(row(20, 30, 40, 50))
    assert len(find(finder, plain(100, 100), still=True)) == len(given) == 1


# ---- files


def refusal(path, capfd) -> str:
    """The one line with which a detector file is refused, and nothing of OpenCV's beside it."""
    with pytest.raises(InputError) as caught:
        DetectorFile(path)
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


def changed(tmp_path, change):
    """The shipped detector with something of its signature changed."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load(SHIPPED)
    change(model.graph)
    onnx.save(model, tmp_path / "yunet.onnx")
    return tmp_path / "yunet.onnx"


def without(graph):
    kept = [value for value in graph.output if value.name != "kps_16"]
    del graph.output[:]
    graph.output.extend(kept)


def swapped(graph):
    """Boxes where the points should lie, which have more values: OpenCV would read beyond them."""
    for node in graph.node:
        for k, name in enumerate(node.output):
            node.output[k] = {"bbox_8": "kps_8", "kps_8": "bbox_8"}.get(name, name)
    for value in graph.output:
        value.name = {"bbox_8": "kps_8", "kps_8": "bbox_8"}.get(value.name, value.name)


def test_a_file_that_opencv_would_take_for_a_detector(tmp_path, capfd):
    """The shipped bundle's eyes end the process in OpenCV."""
    eyes = open_bundle()
    line = refusal(eyes.file(eyes.manifest.vision[0]), capfd)
    assert "not a YuNet detector: it should have one input, a picture" in line
    DetectorFile(changed(tmp_path, lambda graph: None))
    assert "no output kps_16" in refusal(changed(tmp_path, without), capfd)
    assert "its output bbox_8 is [1, 1600, 10]" in refusal(changed(tmp_path, swapped), capfd)


def test_sides_that_are_left_open(tmp_path):
    def opened(graph):
        for value in (*graph.input, *graph.output):
            sides = value.type.tensor_type.shape.dim
            for side in sides[2:] if value.name == "input" else sides[1:2]:
                side.dim_param = "open"

    DetectorFile(changed(tmp_path, opened))


def test_no_file(tmp_path, capfd):
    assert "no such detector file" in refusal(tmp_path / "yunet.onnx", capfd)
    assert "no such detector file" in refusal(tmp_path, capfd)
    refusal(tmp_path / ("x" * 300), capfd)


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is not beside the checkout")
def test_the_official_file_is_asked_in_the_same_way():
    bgr = cv2.imread(str(DATA / "clips" / "portrait.jpg"))
    portrait = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    official = DATA / "detector" / "face_detection_yunet_2023mar.onnx"
    bundle = open_bundle()
    theirs, own = (open_detector(bundle, file) for file in (official, None))
    assert theirs.search == own.search
    (face,) = find(theirs, portrait, still=True)
    finds(own, portrait, face.box, still=True)
