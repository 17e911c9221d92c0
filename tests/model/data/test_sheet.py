"""A contact sheet shows labelled faces in rows of rising intensity, found or not."""

import cv2
import numpy as np
import pytest

from feallm.model.data import sheet
from feallm.runtime.contract.aus import AU_INDEX
from feallm.runtime.contract.errors import UsageError


def test_a_sheet_has_a_row_for_each_step_that_has_faces(faces, tmp_path):
    values = faces.au_sides[:, AU_INDEX["AU12"]].max(1)
    steps = len(np.unique(np.digitize(values[np.isfinite(values)], sheet.EDGES)))
    found = sheet.scale_sheet(faces, "AU12", seed=1, columns=4)
    assert found.shape == (steps * (96 + 16), 4 * 84) and steps >= 6
    sheet.write_sheet(tmp_path / "sheet.png", found)
    assert (cv2.imread(str(tmp_path / "sheet.png"), cv2.IMREAD_GRAYSCALE) == found).all()


def test_an_au_without_a_label_has_no_sheet(faces):
    with pytest.raises(UsageError, match="AU4"):
        sheet.scale_sheet(faces, "AU4", seed=1)


def test_the_verb(packed, feallm, tmp_path):
    code, _, _ = feallm(
        "data", "sheet", "--pack", packed, "--au", "AU1", "--out", tmp_path / "s.png"
    )
    assert code == 0 and (tmp_path / "s.png").stat().st_size > 1000
    code, _, err = feallm(
        "data", "sheet", "--pack", packed, "--au", "AU3", "--out", tmp_path / "t.png"
    )
    assert code == 2 and "AU3" in err and not (tmp_path / "t.png").exists()
