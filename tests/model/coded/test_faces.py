"""Pictures of the lists as files: the very bytes that lie in the shared data."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from feallm.model.coded import faces
from feallm.runtime.contract.errors import InputError

DATA = Path(__file__).parents[4] / "shared" / "data"


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


# ---- the list of faces at rest


@pytest.fixture(scope="module")
def resting():
    return faces.listed("neutral")


def test_a_hundred_faces_at_rest(resting):
    assert [face.id for face in resting] == [f"N{k:03d}" for k in range(1, 101)]
    sources = [face.source for face in resting]
    assert (sources.count("london"), sources.count("lfw")) == (50, 50)
    assert len({(face.source, face.name) for face in resting}) == 100
    assert {face.expression for face in resting} == {"neutral"}
    assert all(np.isfinite(face.points5).all() for face in resting)


def test_faces_at_rest_are_of_people_that_no_training_sees(resting):
    london = [face.name for face in resting if face.source == "london"]
    assert all(name.endswith("_neutral") and int(name[:3]) % 2 == 0 for name in london)
    trained = {(face.source, face.name) for face in faces.listed("train")}
    assert not trained & {(face.source, face.name) for face in resting}


def test_readers_do_not_see_blocks_of_one_source(resting):
    london = np.array([face.source == "london" for face in resting])
    assert (london[1:] != london[:-1]).sum() > 30  # of 99; two blocks would change once


def test_ids_and_pictures_are_of_one_list_alone():
    """But for faces at rest, some of which `coded-test` has too: both are only told of."""
    pictures: list[tuple[str, str]] = []
    for part, letter in zip(faces.PARTS, "TDNML", strict=True):
        listed = faces.listed(part)
        assert {face.id[0] for face in listed} == {letter}
        own = {(face.source, face.name) for face in listed}
        assert len(own) == len(listed)
        assert part == "neutral" or not own & set(pictures)
        pictures += own


def test_faces_to_learn_from_are_in_no_part_that_is_told_of():
    """FER by its split, London by its number; LFW's people are told apart by its own table."""
    for part in ("more", "learn"):
        for face in faces.listed(part):
            assert face.source != "fer" or face.name.startswith("train:")
            assert face.source != "london" or int(face.name[:3]) % 2 == 1


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data is not beside this checkout")
def test_lfw_faces_to_learn_from_are_of_people_outside_its_test():
    shared = faces.Shared(DATA)
    for file in ("lfw", "lfw_more"):
        _, arrays = shared.archive(DATA / "lfw" / f"{file}.npz")
        for part in ("more", "learn", "train"):
            rows = [
                int(face.name.partition(":")[2])
                for face in faces.listed(part)
                if face.name.startswith(f"{file}:")
            ]
            assert rows and not arrays["test"][rows].any()


@pytest.fixture
def people(tmp_path, tiny, monkeypatch):
    """Shared data of six people of London and six of LFW, of whom some may be trained on."""
    images = [tiny.webp(picture) for picture in tiny.pictures(6)]
    (tmp_path / "london").mkdir()
    (tmp_path / "lfw").mkdir()
    for person in ("001", "002", "003", "004", "006", "008"):
        for word in ("neutral", "smiling"):
            (tmp_path / "london" / f"{person}_{word}.webp").write_bytes(images[0])
    for file, names, test, expression in (
        ("lfw", "A_1 A_2 B_1 C_1", [1, 1, 0, 1], [0, 0, 0, 1]),
        ("lfw_more", "D_1 E_1", [1, 1], [0, 0]),
    ):
        count = len(test)
        np.savez(
            tmp_path / "lfw" / f"{file}.npz",
            images=np.frombuffer(b"".join(images[:count]), np.uint8),
            offsets=np.cumsum([0, *map(len, images[:count])]),
            names=np.array(names.split()),
            test=np.array(test, bool),
            expression=np.array(expression, np.int8),
        )

    class Finder:
        """Finds every face but those of 004 and E."""

        def __init__(self, shared):
            pass

        def find(self, source, name):
            return None if name in ("004_neutral", "lfw_more:1") else np.ones((5, 2))

    monkeypatch.setattr(faces, "Points", Finder)
    monkeypatch.setitem(faces.QUOTAS, "neutral", {"london": 3, "lfw": 2})
    return tmp_path


def test_faces_at_rest_are_drawn_of_neutral_words_alone(people):
    """Of London's even people with a face, of LFW's test people each once: A and D."""
    drawn = faces.draw(people, "neutral")
    assert [face.id for face in drawn] == [f"N{k:03d}" for k in range(1, 6)]
    london = {face.name for face in drawn if face.source == "london"}
    assert london == {"002_neutral", "006_neutral", "008_neutral"}
    assert {face.name for face in drawn if face.source == "lfw"} == {"lfw:0", "lfw_more:0"}
    assert {face.expression for face in drawn} == {"neutral"}
    assert [f.name for f in faces.draw(people, "neutral")] == [f.name for f in drawn]


def test_faces_are_drawn_among_points_alone(people, monkeypatch):
    monkeypatch.setitem(faces.QUOTAS, "more", {"lfw": 4})
    everywhere = faces.draw(people, "more")
    assert [face.name for face in everywhere] == ["lfw:2"]  # B: the others are tested on
    there = np.ones((1, 5, 2), np.float32)
    assert len(faces.draw(people, "more", there)) == 1
    assert not faces.draw(people, "more", there + 0.5)
