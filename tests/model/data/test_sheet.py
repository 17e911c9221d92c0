"""A contact sheet shows labelled faces in rows of rising intensity, found or not."""

import cv2

from feallm.model.data import sheet


def test_a_sheet_has_a_row_for_each_step(faces, tmp_path):
    found = sheet.scale_sheet(faces, "AU12", seed=1, columns=4)
    assert found.shape == ((len(sheet.EDGES) - 1) * (96 + 16), 4 * 84)
    sheet.write_sheet(tmp_path / "sheet.png", found)
    assert (cv2.imread(str(tmp_path / "sheet.png"), cv2.IMREAD_GRAYSCALE) == found).all()


def test_the_verb(packed, feallm, tmp_path):
    code, _, _ = feallm(
        "data", "sheet", "--pack", packed, "--au", "AU1", "--out", tmp_path / "s.png"
    )
    assert code == 0 and (tmp_path / "s.png").stat().st_size > 1000
    code, _, err = feallm(
        "data", "sheet", "--pack", packed, "--au", "AU3", "--out", tmp_path / "t.png"
    )
    assert code == 2 and "AU3" in err and not (tmp_path / "t.png").exists()
