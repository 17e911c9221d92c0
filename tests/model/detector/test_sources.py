"""Files that compositions are made of: what may teach whom, and what is refused."""

import hashlib

import cv2
import numpy as np
import pytest

from feallm.model.detector.sources import Heads, Material, Photos
from feallm.runtime.contract.errors import InputError


def test_what_may_teach_which_file(photos):
    everything, clean = Photos.read(photos, clean=False), Photos.read(photos, clean=True)
    assert everything.with_face.tolist() == [0, 2, 3, 4, 5], "the second shows nobody"
    assert everything.close.tolist() == [6, 7]
    assert clean.with_face.tolist() == [0] and clean.close.tolist() == [7]
    assert "LFW" in everything.licence and "LFW" not in clean.licence


def test_a_photograph_brings_its_faces(photos):
    found = Photos.read(photos, clean=False)
    rng = np.random.default_rng(0)
    taken = [found.take(2, rng) for _ in range(12)]
    assert {scene.sure.tolist() == [True, False] for scene in taken} == {True}
    lefts = {round(float(scene.boxes[0, 0]), 3) for scene in taken}
    assert lefts == {19.2, 38.4}, "as it is, and in a mirror: 96 - 19.2 - 38.4"
    for scene in taken:
        low, high = scene.boxes[:, None, :2], scene.boxes[:, None, 2:]
        assert scene.picture.shape == (96, 96, 3)
        assert ((scene.points > low - 1) & (scene.points < high)).all()
    assert len(found.take(1, rng).boxes) == 0


def test_heads_are_cut_out(heads):
    people = Heads.read(heads)
    assert len(people.images) == 16 and people.occluded.max() < 0.02
    bgra, marks = people.take(15)
    inside = np.round(marks[27:31]).astype(int)  # the bridge of the nose
    assert (bgra[inside[:, 1], inside[:, 0], 3] == 255).all()
    assert bgra[0, 0, 3] == 0 and marks.shape == (68, 2)


def changed(source, target, **arrays):
    with np.load(source) as file:
        np.savez(target, **{**file, **arrays})
    return target


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"offsets": np.array([0])}, "no head"),
        ({"points68": np.zeros((16, 5, 2), np.float32)}, r"points68 is \(16, 5, 2\)"),
        ({"points68": np.zeros((15, 68, 2), np.float32)}, r"expected \(16, 68, 2\)"),
        ({"occluded": np.zeros(3, np.float32)}, "occluded is"),
        ({"images": np.zeros(4, np.float32)}, "images is float32"),
    ],
)
def test_a_file_of_no_heads_is_refused(heads, tmp_path, arrays, message):
    with pytest.raises(InputError, match=message) as error:
        Heads.read(changed(heads, tmp_path / "odd.npz", **arrays))
    assert "odd.npz" in error.value.line()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"faces": np.zeros((8, 14), np.float32)}, r"faces is \(8, 14\), expected \(8, 15\)"),
        ({"faces": np.zeros((7, 15), np.float32)}, "faces is"),
        ({"picture": np.arange(1, 9)}, "not there"),
        ({"picture": np.arange(-1, 7)}, "not there"),
        ({"clean": np.ones(3, bool)}, "clean is"),
    ],
)
def test_a_file_of_no_photographs_is_refused(photos, tmp_path, arrays, message):
    with pytest.raises(InputError, match=message) as error:
        Photos.read(changed(photos, tmp_path / "odd.npz", **arrays), clean=False)
    assert "odd.npz" in error.value.line()


def test_a_broken_picture_is_named(photos, tmp_path):
    with np.load(photos) as file:
        data = file["images"].copy()
        data[: file["offsets"][1]] = 0
    broken = Photos.read(changed(photos, tmp_path / "odd.npz", images=data), clean=False)
    with pytest.raises(InputError, match="picture 0 cannot be decoded"):
        broken.take(0, np.random.default_rng(0))


@pytest.fixture
def folders(photos, heads, tmp_path):
    """What `material` wrote, and shared data with five backgrounds."""
    (tmp_path / "heads.npz").write_bytes(heads.read_bytes())
    images = []
    for k in range(5):
        flat = np.full((256, 256, 3), (10 * k, 0, 200), np.uint8)
        images.append(cv2.imencode(".png", flat)[1].tobytes())
    (tmp_path / "data" / "backgrounds").mkdir(parents=True)
    np.savez(
        tmp_path / "data" / "backgrounds" / "backgrounds.npz",
        data=np.frombuffer(b"".join(images), np.uint8),
        offsets=np.cumsum([0, *map(len, images)]),
        names=np.array([f"{k}.png" for k in range(5)]),
        licence_clear=np.array([True, True, True, False, True]),
    )
    return tmp_path, tmp_path / "data"


@pytest.mark.parametrize(("clean", "rows"), [(False, [7, 16, 2]), (True, [2, 16, 2])])
def test_material_names_its_sources(folders, clean, rows):
    material = Material.read(*folders, clean=clean)
    assert [source["rows"] for source in material.sources] == rows
    data = (folders[0] / "heads.npz").read_bytes()
    assert material.sources[1]["sha256"] == hashlib.sha256(data).hexdigest()
    told = " ".join(source["licence"] for source in material.sources)
    assert ("LFW" in told) != clean
    # Every fourth background is kept for measuring, and one may not be used.
    assert [ground[0, 0].tolist() for ground in material.grounds] == [[10, 0, 200], [20, 0, 200]]
