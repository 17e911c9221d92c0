"""The committed golden frames: what is in them, what the shipped bundle sees in them, and what
happens where the file is another."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys

import cv2
import numpy as np
import pytest

from feallm.calibration import frames
from feallm.runtime.analyze import Analyzer
from feallm.runtime.contract.aus import AU_INDEX, N_AUS
from feallm.runtime.contract.errors import InputError
from feallm.runtime.contract.expressions import EXPRESSIONS
from feallm.runtime.contract.frame import Frame
from feallm.runtime.contract.geometry import CROP
from feallm.runtime.vision.align import align, crop_matrix, invert, move

PIXELS = "f5afcdec3fc3fe5984b5d30d70747c352d0df20cdde9ab29606cb8bbc80ee387"
"""Of all decoded pictures: another JPEG decoder that gave other pixels would give other answers."""

CORNERS = np.array([(x, y) for x in (0.0, CROP.width_px) for y in (0.0, CROP.height_px)])


@pytest.fixture(scope="module")
def loaded():
    return frames.load()


@pytest.fixture(scope="module")
def analyzer():
    with Analyzer(words=False) as made:
        yield made


def test_the_committed_file_is_small_and_whole(loaded):
    assert frames.FILE.stat().st_size <= 750_000
    assert loaded.sha256 == frames.SHA256 == hashlib.sha256(frames.FILE.read_bytes()).hexdigest()
    count = len(loaded.pictures)
    assert count == 30
    for name, shape in frames.LABELS.items():
        assert np.shape(getattr(loaded, name)) == (count, *shape), name
    assert len(set(loaded.names)) == count
    assert {array.dtype for array in (loaded.points5, loaded.boxes, loaded.au_sides)} == {
        np.dtype(np.float32)
    }


def test_its_pictures_decode_to_the_very_pixels(loaded):
    pixels = b"".join(picture.tobytes() for picture in loaded.pictures)
    assert hashlib.sha256(pixels).hexdigest() == PIXELS


def test_pictures_are_what_is_encoded_in_rgb(loaded):
    for picture, data in zip(loaded.pictures, loaded.encoded, strict=True):
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert np.array_equal(picture, bgr[..., ::-1])


def test_faces_are_whole_of_several_sizes_and_mostly_beside_the_middle(loaded):
    sizes = np.array([picture.shape[1::-1] for picture in loaded.pictures])
    low, high = loaded.boxes[:, :2], loaded.boxes[:, 2:]
    assert (low >= 2).all() and (high <= sizes - 2).all()
    inside = (loaded.points5 > low[:, None]) & (loaded.points5 < high[:, None])
    assert inside.all()
    assert len(np.unique(sizes, axis=0)) >= 8
    assert ((sizes[:, 1] > sizes[:, 0]).sum() >= 4) and ((sizes >= 192) & (sizes <= 400)).all()
    wide = (high - low)[:, 0]
    assert wide.min() >= 56 and wide.max() <= 150 and np.ptp(wide) > 60
    beside = np.abs((low + high)[:, 0] / 2 / sizes[:, 0] - 0.5)
    assert (beside > 0.08).sum() >= 20 and (beside > 0.25).sum() >= 5


def test_heads_are_turned_and_rolled_and_eyes_lie_as_the_roll_says(loaded):
    pitch, yaw, roll = np.abs(loaded.pose_deg).T
    assert (roll >= 10).sum() >= 4 and roll.max() <= 25
    assert (yaw >= 12).sum() >= 6 and (pitch >= 5).sum() >= 6
    across = loaded.points5[:, 1] - loaded.points5[:, 0]
    seen = np.rad2deg(np.arctan2(-across[:, 1], across[:, 0]))
    assert np.abs(seen - loaded.pose_deg[:, 2]).max() < 8


def test_every_au_and_every_expression_is_there_and_is_absent(loaded):
    strongest = loaded.au_sides.max(2)
    for key, k in AU_INDEX.items():
        assert (strongest[:, k] >= 2).sum() >= 2, key
        assert (strongest[:, k] < 0.5).sum() >= 12, key
    kinds = np.bincount(loaded.expression + 1, minlength=len(EXPRESSIONS) + 1)
    assert (kinds[1:] >= 3).all(), dict(zip(("none", *EXPRESSIONS), kinds, strict=True))
    one_sided = np.abs(loaded.au_sides[..., 0] - loaded.au_sides[..., 1]).max(1) >= 2
    assert (loaded.expression[one_sided] == EXPRESSIONS.index("contempt")).all()
    assert one_sided.sum() >= 3


def test_the_bundle_finds_the_one_face_and_cuts_the_same_crop(loaded, analyzer):
    for k, (picture, name) in enumerate(zip(loaded.pictures, loaded.names, strict=True)):
        frame = Frame(picture, name, still=True)
        crops = []
        report = analyzer.read(frame, crops=crops)
        assert len(report.readings) == 1, name
        assert overlap(np.array(report.readings[0].box), loaded.boxes[k]) >= 0.6, name
        points = loaded.points5[k].astype(np.float64)
        eyes = float(np.linalg.norm(points[1] - points[0]))
        wanted = move(CORNERS, invert(crop_matrix(points)))
        away = np.linalg.norm(move(CORNERS, invert(crops[0].to_crop)) - wanted, axis=1)
        assert away.max() < 0.2 * eyes, name
        (face,) = analyzer.find(frame)  # its points lie a little elsewhere: `detector.places`
        away = np.linalg.norm(face.points - points, axis=1)
        assert away.mean() < 0.3 * eyes, name


def test_exchanged_channels_move_the_answers_by_far_more_than_eight_bits_do(loaded, analyzer):
    """Of int8 the tokens move by .023 (median of the frames) and no AU changes."""
    pairs = zip(loaded.pictures, loaded.points5, strict=True)
    crops = np.stack([align(picture, five.astype(np.float64))[0] for picture, five in pairs])
    right = analyzer.outputs(crops)
    wrong = analyzer.outputs(np.ascontiguousarray(crops[..., ::-1]))
    square = ((right["tokens"] - wrong["tokens"]) ** 2).mean((1, 2))
    moved = np.sqrt(square / (right["tokens"] ** 2).mean((1, 2)))
    assert np.median(moved) > 0.26 and moved.min() > 0.15
    least = np.array([analyzer.manifest.thresholds[key] for key in AU_INDEX])
    said = [outputs["au_probability"] >= least for outputs in (right, wrong)]
    assert (said[0] != said[1]).any(1).sum() >= 15


def overlap(one, other):
    """Intersection over union of two boxes x0 y0 x1 y1."""
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    shared = np.clip(high - low, 0, None).prod()
    return shared / ((one[2:] - one[:2]).prod() + (other[2:] - other[:2]).prod() - shared)


def test_importing_needs_no_torch():
    program = "import sys; from feallm.calibration import frames; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "False"), done.stderr


def packed(**changed):
    """Bytes of a small file of two frames, with arrays changed, or left out where None."""
    pictures = [np.full((20, 30, 3), (10, 90, 200), np.uint8), np.zeros((40, 24, 3), np.uint8)]
    encoded = [cv2.imencode(".png", picture)[1] for picture in pictures]  # BGR
    arrays = {name: np.zeros((2, *shape)) for name, shape in frames.LABELS.items()}
    arrays |= {
        "names": np.array(["one", "two"]),
        "images": np.concatenate(encoded),
        "offsets": np.cumsum([0, *map(len, encoded)]),
    }
    arrays |= changed
    file = io.BytesIO()
    np.savez(file, **{name: value for name, value in arrays.items() if value is not None})
    return file.getvalue()


def load(path, data):
    path.write_bytes(data)
    return frames.load(path, hashlib.sha256(data).hexdigest())


def test_a_file_without_fault_is_read(tmp_path):
    found = load(tmp_path / "frames.npz", packed())
    assert found.names == ["one", "two"]
    assert [picture.shape for picture in found.pictures] == [(20, 30, 3), (40, 24, 3)]
    assert found.pictures[0][0, 0].tolist() == [200, 90, 10]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"boxes": None}, "no array named boxes"),
        ({"points5": np.zeros((2, 4, 2))}, r"points5 is \(2, 4, 2\), expected \(2, 5, 2\)"),
        ({"names": np.array(["one"])}, r"names is \(1,\), expected \(2,\)"),
        ({"expression": np.array([0, len(EXPRESSIONS)])}, r"expression holds \[0, 8\]"),
        ({"expression": np.array([-2, 0])}, r"expression holds \[-2, 0\]"),
        ({"images": np.zeros(20, np.uint8), "offsets": np.array([0, 9, 20])}, "cannot be decoded"),
        ({"offsets": np.array([0, 9, 10**6])}, "offsets do not lie in images"),
        ({"au_sides": np.zeros((2, N_AUS))}, r"au_sides is \(2, 20\), expected \(2, 20, 2\)"),
    ],
)
def test_a_file_with_a_fault_is_told_in_one_line(tmp_path, changed, message):
    with pytest.raises(InputError, match=message) as told:
        load(tmp_path / "frames.npz", packed(**changed))
    assert "\n" not in told.value.message


def test_another_file_is_refused_and_so_is_none(tmp_path):
    changed = bytearray(frames.FILE.read_bytes())
    changed[-200] ^= 1
    (tmp_path / "frames.npz").write_bytes(changed)
    with pytest.raises(InputError, match="expected .*not the golden frames"):
        frames.load(tmp_path / "frames.npz")
    with pytest.raises(InputError, match="cannot be read: No such file") as told:
        frames.load(tmp_path / "none.npz")
    assert told.value.hint and "feallm" in told.value.hint
