"""Which photographs may be moved: neutral ones, seen from the front, that nobody coded by eye."""

import cv2
import numpy as np
import pytest

from feallm.model.coded import faces as coded
from feallm.model.synth import bank, photo
from feallm.runtime.contract.errors import InputError

NAMES = sorted(bank.NEUTRAL)


def front(nose=0.0, gap=0.0):
    """68 points of a face of 100 pixels, its nose moved aside and its lips parted."""
    points = np.zeros((68, 2), np.float32)
    points[:] = (50, 60)
    points[36:42], points[42:48] = (30, 40), (70, 40)
    points[36], points[45] = (24, 40), (76, 40)
    points[30] = (50 + nose, 55)
    points[62], points[66] = (50, 75 - gap / 2), (50, 75 + gap / 2)
    return points


def judged(points, **values):
    """Whether one face is neutral."""
    given = np.array([[values.get(name, 0.0) for name in NAMES]], np.float32)
    (found,) = bank.neutral(NAMES, given, points[None], bank.NEUTRAL)
    return bool(found)


def test_a_neutral_face_is_taken():
    assert judged(front())
    assert judged(front(), **{name: limit - 0.01 for name, limit in bank.NEUTRAL.items()})


@pytest.mark.parametrize("name", NAMES)
def test_one_movement_is_enough_to_leave_it_out(name):
    assert not judged(front(), **{name: bank.NEUTRAL[name] + 0.01})


POINTS = {
    "parted lips": front(gap=6),
    "turned to the left": front(nose=9),
    "turned to the right": front(nose=-9),
    "no points": np.full((68, 2), np.nan, np.float32),
}


@pytest.mark.parametrize("points", POINTS.values(), ids=POINTS.keys())
def test_so_is_what_the_points_say(points):
    assert not judged(points)


def test_a_little_of_each_is_forgiven():
    assert judged(front(nose=4, gap=2))


def webp(value):
    picture = np.full((48, 48), value, np.uint8)
    return cv2.imencode(".webp", picture)[1].tobytes()


def coded_row():
    """Row of a face of FER's train part that is coded by eye."""
    names = [face.name for face in coded.listed("train") if face.source == "fer"]
    return int(names[0].split(":")[1])


@pytest.fixture
def shared(tmp_path):
    """A folder of shared data: FER with six neutral faces, of which two may be taken."""
    rows = [3, 5, 8, coded_row(), 11, 12]
    groups = [1, 1, 2, 3, 4, 5]  # the second is a copy of the first
    images = [webp(40 * k) for k in range(6)]
    (tmp_path / "fer").mkdir()
    np.savez(
        tmp_path / "fer" / "train.npz",
        images=np.frombuffer(b"".join(images), np.uint8),
        offsets=np.cumsum([0, *map(len, images)]),
        votes=np.tile(np.array([9, 1, 0, 0, 0, 0, 0, 0, 0, 0], np.uint8), (6, 1)),
        dup_group=np.array(groups),
        near_eval=np.array([0, 0, 1, 0, 0, 0], np.uint8),  # the third is near a test picture
        row=np.array(rows),
    )
    values = np.zeros((6, len(NAMES)), np.uint8)
    values[5, NAMES.index("mouthSmileLeft")] = 255  # the last one smiles
    np.savez(
        tmp_path / "fer" / "mediapipe_train.npz",
        names=np.array(NAMES),
        blendshapes=values,
        points68=np.stack([front()] * 6),
        found=np.ones(6, bool),
    )
    return tmp_path


def test_smiling_copied_and_coded_faces_are_left_out(shared):
    found = bank.collect(shared, None)
    assert found.names == ["fer/train:3", "fer/train:11"]
    assert [found.images[0], found.images[1]] == [webp(0), webp(160)]
    np.testing.assert_allclose(found.points68[0], front() - 0.5)


def more_points(path, name, **values):
    """A file of points as `landmarks` writes it, with one face."""
    given = np.array([[values.get(n, 0.0) for n in NAMES]], np.float32)
    np.savez(
        path,
        names=np.array([name]),
        points68=front()[None],
        blendshapes=given,
        blendshape_names=np.array(NAMES),
    )
    return path


def test_other_sets_come_by_their_points(shared, tmp_path):
    images = [webp(10), webp(90)]
    (tmp_path / "cc0").mkdir()
    (tmp_path / "lfw").mkdir()
    packed = {
        "images": np.frombuffer(b"".join(images), np.uint8),
        "offsets": np.cumsum([0, *map(len, images)]),
    }
    np.savez(tmp_path / "lfw" / "lfw.npz", **packed)
    points = more_points(tmp_path / "p.npz", "lfw/lfw:1")
    found = bank.collect(shared, points)
    assert found.names[-1] == "lfw/lfw:1" and found.images[-1] == webp(90)
    smiling = more_points(tmp_path / "s.npz", "lfw/lfw:1", mouthSmileLeft=0.5)
    assert bank.collect(shared, smiling).names == bank.collect(shared, None).names


@pytest.mark.parametrize(
    "part, source",
    [
        ("train", "lfw"),
        ("train", "london"),
        ("test", "lfw"),
        ("test", "london"),
        ("more", "lfw"),
    ],
)
def test_coded_faces_of_other_sets_are_left_out(shared, tmp_path, part, source):
    name = next(face.name for face in coded.listed(part) if face.source == source)
    found = bank.collect(shared, more_points(tmp_path / "p.npz", f"{source}/{name}"))
    assert found.names == ["fer/train:3", "fer/train:11"]


def test_a_bank_goes_there_and_back(shared, tmp_path):
    given = bank.collect(shared, None)
    bank.write(given, tmp_path / "bank.npz")
    found = photo.read(tmp_path / "bank.npz")
    assert (found.images, found.names) == (given.images, given.names)
    np.testing.assert_array_equal(found.points68, given.points68)


def test_a_bank_that_cannot_be_written(shared, tmp_path):
    with pytest.raises(InputError, match="cannot be written: Is a directory"):
        bank.write(bank.collect(shared, None), tmp_path)


def test_a_set_is_missing(shared):
    (shared / "fer" / "mediapipe_train.npz").unlink()
    with pytest.raises(InputError, match="mediapipe_train.npz: no such file"):
        bank.collect(shared, None)


def test_the_command(shared, feallm, tmp_path):
    out = tmp_path / "bank.npz"
    code, text, err = feallm("data", "bank", "--data", shared, "--out", out)
    assert (code, err) == (0, "") and text == f"{out}  2 neutral faces\n"
    assert len(photo.read(out).names) == 2


@pytest.mark.data
def test_the_real_bank_holds_no_coded_face(data):
    """And is as neutral as crowds say: hardly anyone in it was called happy."""
    found = bank.collect(data, None)
    lists = {f"{f.source}/{f.name}" for part in ("train", "test") for f in coded.listed(part)}
    assert len(found.names) > 1000 and not set(found.names) & lists
    with np.load(data / "fer" / "train.npz") as file:
        votes = dict(zip(file["row"].tolist(), file["votes"], strict=True))
    chosen = np.array([votes[int(name.split(":")[1])] for name in found.names], float)
    happy = chosen[:, 1] / chosen.sum(1)
    assert (happy > 0.5).mean() < 0.04 and chosen[:, 0].sum() > 0.45 * chosen.sum()
    assert np.isfinite(found.points68).all()
