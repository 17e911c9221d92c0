"""Pictures of the lists as files: the very bytes that lie in the shared data."""

import cv2
import numpy as np
import pytest

from feallm.model.coded import faces
from feallm.runtime.contract.errors import InputError


@pytest.fixture
def shared(tmp_path, tiny):
    """A folder of shared data with a few pictures of each source."""
    images = [tiny.webp(p) for p in tiny.pictures(4)]
    packed = {
        "images": np.frombuffer(b"".join(images), np.uint8),
        "offsets": np.cumsum([0, *map(len, images)]),
    }
    for folder in ("fer", "lfw", "london", "clips"):
        (tmp_path / folder).mkdir()
    np.savez(tmp_path / "lfw" / "lfw.npz", **packed)
    np.savez(tmp_path / "fer" / "valid.npz", **packed, row=np.array([70, 30, 50, 10]))
    (tmp_path / "london" / "002_neutral.webp").write_bytes(images[3])
    clip = cv2.VideoWriter(
        str(tmp_path / "clips" / "people3.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10, (96, 64)
    )
    for k in range(5):
        clip.write(np.full((64, 96, 3), 40 * k, np.uint8))
    clip.release()
    return faces.Shared(tmp_path), images


def test_files_as_they_lie_there(shared):
    data, images = shared
    assert data.encoded("lfw", "lfw:2") == images[2]
    assert data.encoded("fer", "valid:30") == images[1]
    assert data.encoded("london", "002_neutral") == images[3]


def test_a_frame_of_a_clip_loses_nothing(shared):
    data, _ = shared
    found = cv2.imdecode(np.frombuffer(data.encoded("clips", "people3:3"), np.uint8), 1)
    expected = data.picture("clips", "people3:3")
    np.testing.assert_array_equal(found[..., ::-1], expected)
    assert abs(float(expected.mean()) - 120) < 12


@pytest.mark.parametrize(
    "source, name",
    [
        ("lfw", "lfw:4"),
        ("lfw", "lfw_more:0"),
        ("fer", "valid:31"),
        ("london", "004_neutral"),
        ("clips", "people3:5"),
        ("clips", "nobody:0"),
    ],
)
def test_pictures_that_are_not_there(shared, source, name):
    with pytest.raises(InputError):
        shared[0].encoded(source, name)


def test_lists_go_there_and_back(tmp_path):
    points = np.arange(10.0).reshape(5, 2) + 0.25
    given = [faces.CodedFace("T001", "clips", "people3:3", "none people3:0", points)]
    faces.write(given, tmp_path / "list.csv")
    (found,) = faces.read(tmp_path / "list.csv")
    np.testing.assert_array_equal(found.points5, points)
    assert (found.id, found.name, found.expression) == ("T001", "people3:3", "none people3:0")


def test_no_picture_is_in_both_committed_lists():
    test, train = (faces.listed(part) for part in ("test", "train"))
    assert len(test) == len(train) == 150
    assert not {face.name for face in test} & {face.name for face in train}
    assert not {face.id for face in test} & {face.id for face in train}


def test_the_detector_is_missing(shared):
    with pytest.raises(InputError, match="yunet_2023mar.onnx: no such detector file"):
        faces.Points(shared[0])
