"""Crops for the study: which faces they come from, the same for a seed, sides and all."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the study needs torch")

from feallm.model.coded import faces as coded  # noqa: E402  torch first
from feallm.model.data import augment  # noqa: E402
from feallm.model.data.augment import Augment  # noqa: E402
from feallm.model.data.pack import INDEX  # noqa: E402
from feallm.model.studies.renders import crops  # noqa: E402
from feallm.runtime.contract.aus import AU_INDEX, N_AUS  # noqa: E402
from feallm.runtime.contract.errors import InputError  # noqa: E402
from feallm.runtime.contract.geometry import CROP, MEAN_POINTS_CROP  # noqa: E402
from feallm.runtime.vision.align import points_in_box  # noqa: E402

SIZE = (CROP.height_px, CROP.width_px)
STILL = Augment(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
POINTS = points_in_box((0, 0, 48, 48), MEAN_POINTS_CROP)


def test_a_pack_is_read_part_by_part(write):
    folder, images = write()
    store = crops.read(folder, 0.7)
    assert store.images == images and store.share == 0.7
    assert store.picture(3).shape == (48, 48)


@pytest.mark.parametrize("limit, expected", [(1, 1), (4, 4), (6, 6), (99, 10)])
def test_a_limit(write, limit, expected):
    folder, images = write()
    store = crops.read(folder, 1.0, limit)
    assert store.images == images[:expected]
    assert len(store.au_sides) == len(store.points5) == expected


def test_faces_without_points_or_labels_are_left_out(write, tiny):
    points, sides = tiny.rows(10).mean5.copy(), np.ones((10, N_AUS, 2), np.float32)
    points[2, 4] = np.nan
    sides[5] = np.nan
    sides[6, 1:] = np.nan  # one label is enough
    folder, images = write(points5=points, au_sides=sides)
    store = crops.read(folder, 1.0)
    assert store.images == [images[i] for i in range(10) if i not in (2, 5)]
    np.testing.assert_array_equal(store.points5, np.delete(points, [2, 5], 0))
    unlabelled = crops.read(folder, 1.0, labelled=False)
    assert unlabelled.images == [images[i] for i in range(10) if i != 2]


@pytest.mark.parametrize("part", ["train", "test"])
def test_every_face_coded_by_eye_is_left_out(write, part):
    """Their points in a pack are exact, those in the list have two decimals."""
    listed = coded.listed(part)
    rng = np.random.default_rng(0)
    exact = np.array([face.points5 for face in listed]) + rng.uniform(
        -0.005, 0.005, (len(listed), 5, 2)
    )
    near = exact[:5] + 0.5
    points = np.concatenate([exact, near]).astype(np.float32)
    folder, images = write(len(points), size=len(points), points5=points)
    store = crops.read(folder, 1.0)
    assert store.images == images[len(listed) :]


@pytest.mark.data
def test_coded_faces_of_the_shared_data_are_left_out(write, data):
    """As they come from FER: by their row, none is in what is read."""
    from feallm.model.data import archive, pseudo

    path = data / "fer" / "train.npz"
    rows = archive.read(path, "row")["row"].tolist()
    marks = pseudo.read(data / "fer" / "mediapipe_train.npz")
    names = [face.name for face in coded.listed("train") if face.source == "fer"]
    points = marks.points5[[rows.index(int(name.split(":")[1])) for name in names]]
    folder, _ = write(len(points) + 1, points5=np.concatenate([points, POINTS[None]], dtype="f4"))
    assert len(names) > 50 and len(crops.read(folder, 1.0).images) == 1


def test_a_half_made_pack_is_not_read(write):
    folder, _ = write()
    part = folder / "part-004.npz"
    part.write_bytes(part.read_bytes()[:-9])
    with pytest.raises(InputError, match="part-004.npz: missing, or not the file"):
        crops.read(folder, 1.0)
    part.unlink()
    with pytest.raises(InputError, match="part-004.npz: missing, or not the file"):
        crops.read(folder, 1.0)
    (folder / INDEX).unlink()
    with pytest.raises(InputError, match="no readable pack.json"):
        crops.read(folder, 1.0)


@pytest.fixture
def store(write):
    return crops.read(write()[0], 1.0)


def test_a_batch_is_the_same_for_its_seed_and_step(store):
    drawer = crops.Drawer([store], Augment())
    first, again = drawer.draw(3, 7, 6), drawer.draw(3, 7, 6)
    assert first[0].shape == (6, *SIZE) and first[0].dtype == torch.uint8
    assert first[1].shape == (6, N_AUS, 2) and first[1].dtype == torch.float32
    for a, b in zip(first, again, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    for other in ((4, 7), (3, 8)):
        assert not torch.equal(first[0], drawer.draw(*other, 6)[0])


def test_a_mirrored_crop_changes_sides(store, monkeypatch):
    monkeypatch.setattr(augment, "POINT_SIGMA", 0.0)
    as_it_is = crops.Drawer([store], STILL)
    mirrored = crops.Drawer([store], replace(STILL, flip=1.0))
    straight, sides = as_it_is.draw(1, 1, 8)
    turned, other = mirrored.draw(1, 1, 8)
    torch.testing.assert_close(turned, straight.flip(2), rtol=0, atol=0)
    torch.testing.assert_close(other, sides.flip(2), rtol=0, atol=0)
    assert (sides[:, AU_INDEX["AU12"], 0] != sides[:, AU_INDEX["AU12"], 1]).any()


def test_unknown_labels_stay_unknown(write):
    sides = np.ones((10, N_AUS, 2), np.float32)
    sides[:, 3, 1] = np.nan
    drawer = crops.Drawer([crops.read(write(au_sides=sides)[0], 1.0)], replace(STILL, flip=1.0))
    found = drawer.draw(0, 0, 5)[1]
    assert torch.isnan(found[:, 3, 0]).all() and torch.isnan(found).sum() == 5


def test_stores_are_drawn_from_in_their_shares(write):
    marked = [
        crops.read(write(name=f"p{k}", au_sides=np.full((10, N_AUS, 2), k, "f4"))[0], share)
        for k, share in ((1, 0.6), (3, 0.2))
    ]
    found = crops.Drawer(marked, STILL).draw(0, 0, 600)[1][:, 0, 0]
    assert set(found.tolist()) == {1, 3}
    assert (found == 1).float().mean() == pytest.approx(0.75, abs=0.06)


def test_a_crop_is_the_project_s_own(store, monkeypatch):
    """Undisturbed, it is what the device would cut."""
    from feallm.runtime.vision.align import crop_matrix, warp

    monkeypatch.setattr(augment, "POINT_SIGMA", 0.0)
    monkeypatch.setattr(crops, "DETECTOR_SHARE", 0.0)
    found, sides = crops.Drawer([store], STILL).draw(0, 0, 4)
    for pixels, label in zip(found.numpy(), sides.numpy(), strict=True):
        (i,) = np.flatnonzero((store.au_sides == label).all((1, 2)))
        expected = warp(store.picture(i), crop_matrix(store.points5[i]))
        assert np.abs(pixels.astype(int) - expected).max() <= 1


def test_style_keeps_shape_and_type(store):
    style = crops.Style(store, 1.0)
    pixels = np.asarray(cv2.resize(store.picture(0), SIZE[::-1]), np.uint8)
    for seed in range(12):
        found = style.of(pixels, np.random.default_rng(seed))
        assert found.shape == SIZE and found.dtype == np.uint8
        assert not np.array_equal(found, pixels)


def test_style_takes_brightness_and_leaves_edges(write):
    store = crops.read(write(3)[0], 1.0)
    bright = cv2.imencode(".png", np.full((48, 48), 200, np.uint8))[1].tobytes()
    photos = replace(store, images=[bright] * 3)
    dark = np.full(SIZE, 60, np.uint8)
    dark[40:60, 30:50] += 30
    found = crops.Style(photos, 1.0).of(dark, np.random.default_rng(0)).astype(float)
    assert found.mean() > 120
    across = np.abs(np.diff(found[50])).argsort()[-2:]
    assert set(across.tolist()) == {29, 49}


def test_style_by_chance(store):
    pixels = np.full(SIZE, 90, np.uint8)
    never, half = crops.Style(store, 0.0), crops.Style(store, 0.5)
    rng = np.random.default_rng(0)
    assert all(never.of(pixels, rng) is pixels for _ in range(20))
    kept = np.mean([half.of(pixels, rng) is pixels for _ in range(100)])
    assert 0.3 < kept < 0.7
