"""Contact sheets of renders: every AU of a person, one-sided ones, and what stands beside them."""

import sys

import cv2
import numpy as np
import pytest

from feallm.model.synth import sheet
from feallm.runtime.contract.aus import AU_INDEX, N_AUS

TILE = (128 + 26, 112 + 2)


def test_a_ladder_has_a_row_for_each_au(toy_studio):
    drawn = sheet.ladder(toy_studio, ["AU12", "AU26"], 1)
    assert drawn.shape == (2 * TILE[0], 8 * TILE[1], 3)
    tiles = drawn.reshape(2, TILE[0], 8, TILE[1], 3).swapaxes(1, 2)[:, :, 13:-13].astype(int)
    change = np.abs(tiles - tiles[:, :1]).mean((2, 3, 4))
    assert (np.diff(change[:, :6], axis=1) > 0).all()  # the further, the less like at rest
    assert change[0, 6] > 0 and change[0, 7] > 0  # left and right of a sided AU
    assert (tiles[1, 6:] == 255).all()  # AU26 has no sides


CAPTIONS = {
    "": {},
    "12D": {"AU12": (4, 4)},
    "L1D 12C": {"AU1": (4, 0), "AU12": (3, 3)},
    "L12B R12D": {"AU12": (2, 4)},
}


@pytest.mark.parametrize("words, levels", CAPTIONS.items())
def test_captions_are_what_was_read_off_the_face(toy_studio, words, levels):
    sides = np.zeros((N_AUS, 2))
    for key, both in levels.items():
        sides[AU_INDEX[key]] = both
    crop, found = sheet.crop_of(toy_studio, sheet.bare(1), sides)
    assert found == words and crop.shape == (128, 112, 3)


def test_bare_people_hide_nothing():
    for number in range(12):
        someone = sheet.bare(number)
        assert someone.glasses is None and someone.hair.kind == "short"
        assert not someone.hair.fringe and not someone.paint.beard


def test_random_faces_are_crops_and_the_same_again(toy_studio):
    faces = sheet.random_faces(toy_studio, [], 3, 11)
    assert [face.shape for face in faces] == [(128, 112, 3)] * 3
    again = sheet.random_faces(toy_studio, [], 3, 11)
    np.testing.assert_array_equal(faces, again)
    assert sheet.grid(faces, 2).shape == (256, 224, 3)
    assert (sheet.grid(faces, 2)[128:, 112:] == 255).all()  # the place that is left over


def test_one_sided_movements_stand_in_pairs(toy_studio):
    drawn = sheet.one_sided(toy_studio, 5)
    assert drawn.shape == (4 * TILE[0], 8 * TILE[1], 3)


@pytest.mark.data
@pytest.mark.usefixtures("opengl")
def test_the_pictures_of_the_page(data, tmp_path, monkeypatch, capsys):
    """All that `python -m feallm.model.synth.sheet` writes."""
    given = ["sheet", "--data", str(data), "--out", str(tmp_path / "new")]
    monkeypatch.setattr(sys, "argv", given)
    sheet.main()
    names = {path.name for path in (tmp_path / "new").iterdir()}
    assert names == {
        *(f"action-units-{k}.jpg" for k in (1, 2, 3)),
        *("random.jpg", "one-sided.jpg", "beside-photographs.jpg"),
    }
    assert capsys.readouterr().out.count("\n") == 6
    sizes = {name: cv2.imread(str(tmp_path / "new" / name)).shape for name in names}
    assert sizes["action-units-1.jpg"] == (7 * TILE[0], 8 * TILE[1], 3)
    assert sizes["beside-photographs.jpg"] == (1024, 2 * 8 * 112 + 16, 3)
