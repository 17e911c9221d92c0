"""The shared faces: nothing that is for evaluation may get into a training pack."""

import csv
import hashlib
from pathlib import Path

import numpy as np
import pytest

from feallm.model.coded import codes
from feallm.model.data import ferplus, sources
from feallm.model.evaluate import sets
from feallm.runtime.contract.aus import AU_INDEX, AU_KEYS
from feallm.runtime.contract.errors import InputError
from feallm.runtime.contract.expressions import EXPRESSION_INDEX

DATA = Path(__file__).parents[4] / "shared" / "data"
needs_data = [
    pytest.mark.data,
    pytest.mark.skipif(not DATA.is_dir(), reason="the shared data is not beside this checkout"),
]


def marked(test):
    for mark in needs_data:
        test = mark(test)
    return test


@pytest.mark.parametrize("make", [sources.fer_train, sources.lfw_train, sources.cc0_train])
def test_a_folder_without_the_data(tmp_path, make):
    with pytest.raises(InputError, match="no such file"):
        make(tmp_path)


def test_a_folder_without_faces_of_london(tmp_path):
    with pytest.raises(InputError, match="no pictures of the London set"):
        sources.london_train(tmp_path)


@marked
def test_valid_has_3199_rows_under_the_rule():
    data = sets.read(DATA / "fer", "valid")
    counts = np.bincount(data.expression[data.rows], minlength=8).tolist()
    assert counts == [1182, 865, 415, 351, 287, 24, 62, 13] and sum(counts) == 3199
    assert data.points5 is None


@marked
def test_the_rule_is_the_data_pages_own():
    with np.load(DATA / "fer" / "train.npz") as file:
        found, expected = ferplus.classes(file["votes"]), file["ferplus_class"]
    np.testing.assert_array_equal(found, expected)


@pytest.fixture(scope="module")
def fer():
    return sources.fer_train(DATA)


@marked
def test_near_copies_of_evaluation_pictures_are_dropped(fer):
    with np.load(DATA / "fer" / "train.npz") as file:
        near, group, votes = file["near_eval"], file["dup_group"], file["votes"]
    with np.load(DATA / "fer" / "valid.npz") as file:
        reported = set(file["dup_group"].tolist())
    assert not set(fer.group.tolist()) & reported
    assert not set(fer.group.tolist()) & set(group[near != 0].tolist())
    usable = (near == 0) & (ferplus.soft_labels(votes).sum(1) > 0)
    assert len(fer.images) == usable.sum() == fer.origin.rows
    assert (ferplus.classes(fer.votes) >= 0).sum() == 23069
    assert (fer.group >= 0).all()  # people of LFW are numbered below 0


@marked
def test_labels_are_in_step_with_pictures(fer):
    """Smiles are found on faces called happy: rows of labels and pictures were not shifted."""
    smile = fer.au_sides[:, AU_INDEX["AU12"]].max(1)
    winner = ferplus.classes(fer.votes)
    found = np.isfinite(smile)
    happy = (smile[found & (winner == 1)] >= 1).mean()
    others = (smile[found & (winner == 0)] >= 1).mean()
    assert happy > 0.6 and others < 0.15


@marked
@pytest.mark.parametrize("name, table", [("lfw", "attributes"), ("lfw_more", "attributes_more")])
def test_no_person_of_the_test_part_is_trained_on(name, table, monkeypatch):
    """Detector apart (a stub that finds every face): it is the choice of rows that is tested."""
    face = np.zeros((1, 15), np.float32)
    face[0] = [80, 80, 90, 90, 105, 110, 145, 110, 125, 130, 108, 150, 142, 150, 0.9]

    class Stub:
        def detect(self, picture):
            return 1, face

    monkeypatch.setattr(sources.cv2.FaceDetectorYN, "create", lambda *given: Stub())
    rows = sources.lfw_train(DATA, name)
    with (DATA / "lfw" / f"{table}.csv").open(newline="") as file:
        people = list(csv.DictReader(file))
    with np.load(DATA / "lfw" / f"{name}.npz") as file:
        test, offsets, images = file["test"], file["offsets"], file["images"].tobytes()
        assert [person["name"] for person in people] == file["names"].tolist()
    place = {images[offsets[i] : offsets[i + 1]]: i for i in range(len(people))}
    trained = [place[image] for image in rows.images]
    assert len(trained) == rows.origin.rows > 1000
    assert not test[trained].any()
    for k, i in enumerate(trained):
        person = people[i]["name"].rsplit("_", 1)[0]
        assert int(hashlib.sha256(person.encode()).hexdigest(), 16) % 10 != 0
        assert rows.expression[k].argmax() == EXPRESSION_INDEX[people[i]["expression"]]
    assert (rows.group < 0).all() and np.isnan(rows.au_sides).all()
    assert np.allclose(rows.expression.sum(1), 1)
    names = {}
    for k, i in enumerate(trained):
        names.setdefault(int(rows.group[k]), set()).add(people[i]["name"].rsplit("_", 1)[0])
    assert all(len(people) == 1 for people in names.values())


class Detector:
    """Stands in for YuNet: two faces in a picture, the second the larger; none in dark ones."""

    def setInputSize(self, size):  # noqa: N802  OpenCV's name
        self.size = size

    def detect(self, picture):
        assert self.size == (picture.shape[1], picture.shape[0])
        if picture.mean() < 50:
            return 1, None
        large = [10, 10, 30, 40, *LARGE.ravel(), 0.8]
        small = [0, 0, 9, 9, *(LARGE.ravel() / 4), 0.99]
        return 2, np.array([small, large], np.float32)


LARGE = np.array([[18.0, 22], [32, 22], [25, 30], [19, 38], [31, 38]])


@pytest.fixture
def portraits(tmp_path, tiny, monkeypatch):
    """London's people 001, 002, 003 and 011, who is in the dark; gives the folder."""
    (tmp_path / "detector").mkdir()
    (tmp_path / "detector" / "face_detection_yunet_2023mar.onnx").write_bytes(b"never read")
    monkeypatch.setattr(sources.cv2.FaceDetectorYN, "create", lambda *given: Detector())
    (tmp_path / "london").mkdir()
    for k, person in enumerate(("001", "002", "003", "011")):
        for word in ("neutral", "smiling"):
            shade = 20 if person == "011" else 100 + 10 * k
            picture = np.full((50, 48), shade + (word == "smiling"), np.uint8)
            (tmp_path / "london" / f"{person}_{word}.webp").write_bytes(tiny.webp(picture))
    return tmp_path


def test_odd_people_of_london_neutral_and_smiling(portraits):
    rows = sources.london_train(portraits)
    names = [f"{person}_{word}" for person in ("001", "003") for word in ("neutral", "smiling")]
    given = [(portraits / "london" / f"{name}.webp").read_bytes() for name in names]
    assert rows.images == given
    assert rows.group.tolist() == [1, 1, 3, 3]
    assert not rows.votes.any() and rows.place == {}
    assert rows.origin.rows == 4 and "CC BY 4.0" in rows.origin.licence
    np.testing.assert_allclose(rows.points5, [LARGE] * 4)  # the larger face, not the surer one
    assert rows.mean5.shape == (4, 5, 2) and np.abs(rows.mean5 - rows.points5).max() < 6


def test_a_posed_neutral_face_shows_no_au_but_what_its_shape_may_seem_to(portraits):
    rows = sources.london_train(portraits)
    resting = [AU_INDEX[key] for key in ("AU4", "AU15", "AU17", "AU24")]
    for sides in rows.au_sides[::2]:
        assert np.isnan(sides[resting]).all()
        assert (np.delete(sides, resting, 0) == 0).all()
    assert np.isnan(rows.au_sides[1::2]).all()  # what moves in a smile is not said


def test_words_of_london_are_soft(portraits):
    rows = sources.london_train(portraits)
    neutral, smiling = rows.expression[::2], rows.expression[1::2]
    assert rows.expression.dtype == np.float32
    np.testing.assert_allclose(neutral, [[0.9, *[0.1 / 7] * 7]] * 2, rtol=1e-6)
    np.testing.assert_allclose(smiling, [[0.2, 0.7, *[0.1 / 6] * 6]] * 2, rtol=1e-6)


def test_cc0_portraits_have_no_label(portraits, tiny):
    images = [tiny.webp(np.full((64, 48), shade, np.uint8)) for shade in (90, 10, 200)]
    (portraits / "cc0").mkdir()
    np.savez(
        portraits / "cc0" / "portraits.npz",
        images=np.frombuffer(b"".join(images), np.uint8),
        offsets=np.cumsum([0, *map(len, images)]),
    )
    rows = sources.cc0_train(portraits)
    assert rows.images == [images[0], images[2]]  # no face is seen in the dark one
    assert not rows.expression.any() and not rows.votes.any()
    assert np.isnan(rows.au_sides).all() and rows.au_sides.shape == (2, len(AU_KEYS), 2)
    assert len(set(rows.group.tolist())) == 2 and (rows.group < 0).all()
    assert rows.origin.licence.startswith("CC0; five points by YuNet")
    assert rows.origin.rows == 2


def test_no_detector_for_portraits(portraits):
    (portraits / "detector" / "face_detection_yunet_2023mar.onnx").unlink()
    with pytest.raises(InputError, match="no such detector file"):
        sources.london_train(portraits)


@marked
def test_the_shared_london_faces():
    rows = sources.london_train(DATA)
    files = {path.read_bytes(): path.stem for path in (DATA / "london").glob("*.webp")}
    names = [files[image] for image in rows.images]
    people = [int(name[:3]) for name in names]
    assert len(rows.images) == 100 == len(set(names))  # fifty people, every face is found
    assert all(person % 2 for person in people) and rows.group.tolist() == people
    smiling = np.array([name.endswith("_smiling") for name in names])
    assert smiling.sum() == 50
    known = [key not in sources.AT_REST for key in AU_KEYS]
    assert (rows.au_sides[~smiling][:, known] == 0).all()
    assert np.isnan(rows.au_sides[~smiling][:, [not k for k in known]]).all()
    assert np.isnan(rows.au_sides[smiling]).all()
    np.testing.assert_allclose(rows.expression.sum(1), 1, rtol=1e-6)
    assert (rows.expression.argmax(1) == smiling).all()
    # Eyes above the nose above the mouth, in the middle of 384 pixels.
    heights = rows.points5[:, [0, 2, 3], 1]
    assert (np.diff(heights, axis=1) > 5).all() and np.abs(rows.points5[:, 2] - 192).max() < 100


@marked
def test_the_shared_cc0_portraits():
    rows = sources.cc0_train(DATA)
    assert 100 <= len(rows.images) <= 108  # one from the side may not be found
    assert not rows.expression.any() and np.isnan(rows.au_sides).all()
    assert len(set(rows.group.tolist())) == len(rows.images) == rows.origin.rows
    assert np.isfinite(rows.points5).all() and np.isfinite(rows.mean5).all()


@marked
def test_coded_photographs_have_their_codes_and_the_groups_of_their_packs(fer):
    """A code is the label of both sides, a doubt is none; nothing is held out in one pack and
    trained on in another."""
    rows = sources.coded_learn(DATA)
    listed = sources.coded.listed("learn")
    assert len(rows.images) == len(listed) == rows.origin.rows
    read = codes.read(sources.coded.FOLDER / "codes_g.csv").of([face.id for face in listed])
    label = rows.au_sides[:, codes.COLUMNS]
    np.testing.assert_array_equal(label[..., 0], label[..., 1])
    np.testing.assert_array_equal(label[..., 0] == 2, read.values == 1)
    np.testing.assert_array_equal(np.isnan(label[..., 0]), read.values == codes.UNSURE)
    others = np.delete(rows.au_sides, codes.COLUMNS, 1)
    assert np.isnan(others).all() and not rows.expression.any()
    group = dict(zip(fer.images, fer.group.tolist(), strict=True))
    of_fer = [k for k, face in enumerate(listed) if face.source == "fer"]
    assert of_fer and all(group[rows.images[k]] == rows.group[k] for k in of_fer)
