"""Data files: what they may hold, where the crops come from, and how bad ones are told."""

import numpy as np
import pytest

from feallm.model.evaluate import sets
from feallm.runtime.contract.errors import InputError
from feallm.runtime.contract.geometry import CROP, MEAN_POINTS_CROP
from feallm.runtime.vision.align import align, points_in_box


def test_votes_become_classes_by_the_rule(split, votes):
    data = sets.read(split(count=4, votes=votes(1, -1, 6, 0)), "valid")
    assert data.expression.tolist() == [1, -1, 6, 0]
    assert data.rows.tolist() == [0, 2, 3]


def test_expression_stands_as_it_is(split):
    data = sets.read(split(count=3, expression=np.array([7, -1, 0], np.int8)), "valid")
    assert data.expression.tolist() == [7, -1, 0] and data.expression.dtype == np.int64


def test_a_known_au_is_enough_to_be_scored(split, votes, au_labels):
    labels = au_labels(4, AU12=[np.nan, 2.0, np.nan, np.nan])
    data = sets.read(split(count=4, au=labels, votes=votes(-1, -1, 3, -1)), "valid")
    assert data.rows.tolist() == [1, 2]
    alone = sets.read(split(name="aus", count=4, au=labels), "aus")
    assert alone.expression is None and alone.rows.tolist() == [1]


def test_a_folder_holds_splits_by_name(split, votes):
    split("one", count=2, votes=votes(0, 0))
    folder = split("two", count=3, votes=votes(1, 1, 1)).parent
    assert len(sets.read(folder, "one").images) == 2
    assert len(sets.read(folder, "two").images) == 3
    with pytest.raises(InputError, match="three.npz: no such file"):
        sets.read(folder, "three")


def crops(data, size=64):
    return list(sets.crops(data, data.rows, CROP, size))


def test_crops_stand_at_the_mean_place_unless_points_are_given(tiny, split, votes):
    points = np.full((3, 5, 2), np.nan)
    points[1] = points_in_box((4, 2, 40, 44), MEAN_POINTS_CROP)
    points[2, :4] = 3.0  # one point is missing: not known
    plain = sets.read(split("plain", count=3, votes=votes(1, 1, 1)), "plain")
    placed = sets.read(split("placed", count=3, votes=votes(1, 1, 1), points5=points), "placed")
    (at_mean,), (found,) = crops(plain), crops(placed)
    assert at_mean.shape == (3, CROP.height_px, CROP.width_px, 3)
    assert (found[[0, 2]] == at_mean[[0, 2]]).all() and (found[1] != at_mean[1]).any()
    import cv2

    for k, given in ((0, points_in_box((0, 0, 48, 48), MEAN_POINTS_CROP)), (1, points[1])):
        data = np.frombuffer(plain.images[k], np.uint8)
        picture = cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        assert (found[k] == align(picture, given, CROP)[0]).all()


def test_a_peers_points_beside_the_file_are_not_looked_at(tiny, split, votes, tmp_path):
    """FER pictures are crops at the mean place, never at MediaPipe's points."""
    path = split(count=2, votes=votes(1, 1))
    (before,) = crops(sets.read(path, "valid"))
    np.savez(tmp_path / "mediapipe_valid.npz", points68=np.full((2, 68, 2), 9.0), found=[1, 1])
    (after,) = crops(sets.read(tmp_path, "valid"))
    assert (before == after).all()


def test_colour_is_rgb(tiny, split, votes):
    import cv2

    red = np.zeros((48, 48, 3), np.uint8)
    red[..., 2] = 255  # OpenCV's order
    image = cv2.imencode(".png", red)[1].tobytes()
    (crop,) = crops(sets.read(split(count=1, pictures=[image], votes=votes(0)), "valid"))
    assert crop[0, 64, 56].tolist() == [255, 0, 0]


def test_parts_are_no_larger_than_asked_for(split, votes):
    data = sets.read(split(count=7, votes=votes(*[1] * 7)), "valid")
    assert [len(part) for part in crops(data, 3)] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate(crops(data, 3)), crops(data)[0])


BAD = {
    "no images": ({"images": None}, "no array named images"),
    "no offsets": ({"offsets": None}, "no array named offsets"),
    "neither label": ({"votes": None}, "neither votes, expression nor au"),
    "votes of seven": ({"votes": np.zeros((3, 7))}, r"votes is \(3, 7\), expected \(3, 10\)"),
    "too few votes": ({"votes": np.zeros((2, 10))}, r"votes is \(2, 10\)"),
    "words for votes": ({"votes": np.full((3, 10), "many")}, "votes holds"),
    "au of twelve": ({"au": np.zeros((3, 12))}, r"au is \(3, 12\), expected \(3, 20\)"),
    "points of three": ({"points5": np.zeros((3, 3, 2))}, "points5 is"),
    "a class too many": ({"votes": None, "expression": np.array([0, 8, 1])}, "0–7"),
    "half a class": ({"votes": None, "expression": np.array([0, 0.5, 1])}, "0–7"),
    "a class that is none": ({"votes": None, "expression": np.array([0, np.nan, 1])}, "0–7"),
    "classes one-hot": ({"votes": None, "expression": np.zeros((3, 8))}, "expression is"),
    "offsets beyond": ({"offsets": np.array([0, 5, 9, 10**9])}, "offsets"),
    "offsets backwards": ({"offsets": np.array([0, 9, 5, 12])}, "offsets"),
    "offsets below": ({"offsets": np.array([-5, 9, 10, 12])}, "offsets"),
    "offsets not whole": ({"offsets": np.array([0.0, 1.0, 2.0, 3.0])}, "offsets"),
    "no offsets at all": ({"offsets": np.array([], int)}, "offsets"),
    "images decoded": ({"images": np.zeros((3, 48, 48), np.uint8)}, "images"),
    "pickled": ({"au": np.array([{}, {}, {}], object)}, "readable"),
}


@pytest.mark.parametrize("arrays, message", BAD.values(), ids=BAD.keys())
def test_bad_files(split, votes, arrays, message):
    path = split(count=3, **{"votes": votes(1, 1, 1), **arrays})
    with pytest.raises(InputError, match=message) as error:
        sets.read(path, "valid")
    assert "valid.npz" in error.value.line()


@pytest.mark.parametrize("damage", ["cut", "middle", "text", "empty", "bare array"])
def test_damaged_files(split, votes, damage):
    path = split(count=6, votes=votes(*[1] * 6))
    data = bytearray(path.read_bytes())
    if damage == "bare array":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    else:
        data[300:330] = b"\xff" * 30
        new = {"cut": data[: len(data) // 2], "text": b"hello", "empty": b"", "middle": data}
        path.write_bytes(new[damage])
    with pytest.raises(InputError, match="valid.npz"):
        sets.read(path, "valid")


@pytest.mark.parametrize("picture", [b"", b"no picture", b"RIFF\x00\x00\x00\x00WEBP"])
def test_pictures_that_cannot_be_decoded(tiny, split, votes, picture):
    good = tiny.webp(tiny.pictures(1)[0])
    data = sets.read(split(count=2, pictures=[good, picture], votes=votes(1, 1)), "valid")
    with pytest.raises(InputError, match="valid.npz: picture 1 cannot be decoded"):
        crops(data)


def test_points_in_one_place_are_an_input_error(split, votes):
    data = sets.read(split(count=2, votes=votes(1, 1), points5=np.zeros((2, 5, 2))), "valid")
    with pytest.raises(InputError, match="points5 of picture 0"):
        crops(data)


def test_a_part_of_a_pack_is_no_data_file(tmp_path):
    arrays = {
        "images": np.zeros(0, np.uint8),
        "offsets": np.zeros(1, np.int64),
        "votes": np.zeros((0, 10), np.float32),
        "au_sides": np.zeros((0, 20, 2), np.float32),
    }
    np.savez(tmp_path / "renders-0000.npz", **arrays)
    with pytest.raises(InputError, match="part of a pack") as caught:
        sets.read(tmp_path / "renders-0000.npz", "x")
    assert "folder" in caught.value.line()
