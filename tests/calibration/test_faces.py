"""The committed calibration faces: what is in the file, and what happens where it is another."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys

import cv2
import numpy as np
import pytest

from feallm.calibration import faces
from feallm.calibration.coverage import kinds, sheet, table, tone
from feallm.runtime.contract.aus import AUS, N_AUS
from feallm.runtime.contract.errors import InputError
from feallm.runtime.contract.expressions import EXPRESSIONS
from feallm.runtime.contract.geometry import CROP

PIXELS = "68f79b28bf7d607f92d827c5878bdd74b2d1c8984410760804a07fc07f15bfb9"
"""Of all decoded crops: another JPEG decoder that gave other pixels would give other artifacts."""


@pytest.fixture(scope="module")
def loaded():
    return faces.load()


def test_the_committed_file_is_small_and_whole(loaded):
    assert faces.FILE.stat().st_size <= 1_900_000
    assert loaded.sha256 == faces.SHA256 == hashlib.sha256(faces.FILE.read_bytes()).hexdigest()
    for crops, labels in ((loaded.crops, loaded.labels), (loaded.held_out, loaded.held_out_labels)):
        assert crops.shape == (len(crops), CROP.height_px, CROP.width_px, 3)
        assert crops.dtype == np.uint8
        assert (crops == crops[..., :1]).all()  # gray three times over
        assert labels.au_sides.shape == (len(crops), N_AUS, 2)
        assert labels.au_sides.dtype == np.float32
    share = len(loaded.held_out) / (len(loaded.crops) + len(loaded.held_out))
    assert 0.13 < share < 0.17


def test_its_pictures_decode_to_the_very_pixels(loaded):
    pixels = np.concatenate([loaded.crops, loaded.held_out]).tobytes()
    assert hashlib.sha256(pixels).hexdigest() == PIXELS


def test_one_face_a_person_and_nobody_in_both_halves(loaded):
    people = np.concatenate([loaded.labels.group, loaded.held_out_labels.group])
    assert len(np.unique(people)) == len(people)


def test_every_kind_of_face_is_covered(loaded):
    labels, tones = loaded.labels, tone(loaded.crops[..., 0])
    missing = [k.name for k in kinds(labels, tones) if k.rows.sum() < k.wanted]
    assert missing == []
    names = [k.name for k in kinds(labels, tones)]
    assert {f"{au.key} {letter}" for au in AUS for letter in "ABCDE"} <= set(names)
    assert {f"pattern of {name}" for name in EXPRESSIONS} <= set(names)
    assert len(set(names)) == len(names)


def test_faces_of_one_light_would_be_noticed(loaded):
    dull = kinds(loaded.labels, np.full((len(loaded.crops), 2), 120.0, np.float32))
    short = {k.name for k in dull if k.rows.sum() < k.wanted}
    assert short == {
        *("low light", "low light, dark skin", "low light, light skin", "bright", "low contrast")
    }


def test_the_table_counts_both_halves(loaded):
    lines = table(loaded).splitlines()
    assert f"| all | {len(loaded.crops)} | {len(loaded.held_out)} |" in lines
    dark = int((loaded.labels.skin == 5).sum()), int((loaded.held_out_labels.skin == 5).sum())
    assert f"| darkest skin | {dark[0]} | {dark[1]} |" in lines
    assert sum(line.startswith("| AU") for line in lines) == N_AUS + 1


def test_a_sheet_shows_every_face_once():
    crops = np.arange(1, 6, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 3), np.uint8)
    drawn = sheet(crops, 2)
    assert drawn.shape == (12, 6)
    assert drawn[::4, ::3].tolist() == [[1, 2], [3, 4], [5, 0]]


def test_importing_needs_no_torch():
    program = "import sys; from feallm.calibration import faces; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "False"), done.stderr


def packed(**changed):
    """Bytes of a small file of two faces, with arrays changed, or left out where None."""
    crop = np.full((CROP.height_px, CROP.width_px), 90, np.uint8)
    image = cv2.imencode(".jpg", crop)[1].tobytes()
    arrays = {name: np.zeros((2, *shape)) for name, shape in faces.LABELS.items()}
    arrays |= {
        "images": np.frombuffer(image * 2, np.uint8),
        "offsets": np.array([0, len(image), 2 * len(image)]),
        "held_out": np.array([False, True]),
    }
    arrays |= changed
    file = io.BytesIO()
    np.savez(file, **{name: value for name, value in arrays.items() if value is not None})
    return file.getvalue()


def load(path, data):
    path.write_bytes(data)
    return faces.load(path, hashlib.sha256(data).hexdigest())


def test_a_file_without_fault_is_read(tmp_path):
    found = load(tmp_path / "faces.npz", packed())
    assert (len(found.crops), len(found.held_out)) == (1, 1)
    assert abs(int(found.crops.mean()) - 90) <= 1


def _small():
    image = cv2.imencode(".jpg", np.zeros((8, 8), np.uint8))[1]
    return {"images": np.tile(image, 2), "offsets": np.array([0, 1, 2]) * len(image)}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"au_sides": None}, "no array named au_sides"),
        ({"au_sides": np.zeros((2, 3, 2))}, r"au_sides is \(2, 3, 2\), expected \(2, 20, 2\)"),
        ({"held_out": np.zeros(3, bool)}, r"held_out is \(3,\), expected \(2,\)"),
        ({"images": np.zeros(20, np.uint8), "offsets": np.array([0, 9, 20])}, "cannot be decoded"),
        (_small(), r"picture 0 is \(8, 8\), expected \(128, 112\)"),
    ],
)
def test_a_file_with_a_fault_is_told_in_one_line(tmp_path, changed, message):
    with pytest.raises(InputError, match=message):
        load(tmp_path / "faces.npz", packed(**changed))


def test_another_file_is_refused_and_so_is_none(tmp_path):
    changed = bytearray(faces.FILE.read_bytes())
    changed[-200] ^= 1
    (tmp_path / "faces.npz").write_bytes(changed)
    with pytest.raises(InputError, match="expected .*not the calibration faces"):
        faces.load(tmp_path / "faces.npz")
    with pytest.raises(InputError, match="cannot be read: No such file") as told:
        faces.load(tmp_path / "none.npz")
    assert told.value.hint and "feallm" in told.value.hint
