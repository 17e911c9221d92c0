"""Choosing calibration faces: coverage first, one face a person, the same bytes every time."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the split of people is the training's")

from feallm.calibration import choose, faces  # noqa: E402  torch first
from feallm.model.data import ferplus, pack  # noqa: E402
from feallm.model.train.vision import HELD_OUT, SPLIT_SEED  # noqa: E402
from feallm.runtime.contract.aus import AU_INDEX, N_AUS  # noqa: E402
from feallm.runtime.contract.errors import InputError, LimitError  # noqa: E402
from feallm.runtime.contract.geometry import CROP, MEAN_POINTS_CROP  # noqa: E402

SIDE = 48
PEOPLE, SHOTS = 200, 2
PLAN = {"n": PEOPLE * SHOTS, "frozen": False}


def chosen(wanted, group, count, seed=0):
    masks = [(np.isin(np.arange(len(group)), rows), need) for rows, need in wanted]
    return choose.choose(masks, np.array(group), count, np.random.default_rng(seed)).tolist()


def test_rare_kinds_come_in_whatever_the_draw():
    for seed in range(5):
        found = chosen([([7], 1), ([50, 51, 52], 2), (range(100), 3)], range(100), 6, seed)
        assert 7 in found
        assert len({50, 51, 52} & set(found)) >= 2


def test_the_face_that_brings_most_comes_first():
    assert chosen([([3, 4], 1), ([4, 5], 1), ([4], 1)], range(9), 3)[0] == 4


def test_what_is_had_is_wanted_no_more():
    for seed in range(5):
        found = chosen([(range(10), 1), ([20], 1), ([21], 1)], range(90), 6, seed)[:3]
        assert {20, 21} <= set(found)
        assert len(set(range(10)) & set(found)) == 1


def test_one_face_a_person_even_where_that_leaves_a_kind_short():
    group = [0] * 10 + list(range(1, 11))
    found = chosen([(range(10), 10)], group, 8)
    assert len({group[row] for row in found}) == len(found) == 8
    assert len(chosen([(range(10), 10)], [0] * 10, 8)) == 1  # there is nobody else


def renders(folder, plan=PLAN, **changed):
    """A pack of `PEOPLE` with `SHOTS` each; every eightieth shot shows AU12 E."""
    rng = np.random.default_rng(1)
    count = PEOPLE * SHOTS
    pictures = [
        cv2.GaussianBlur(rng.integers(0, 256, (SIDE, SIDE), np.uint8), (0, 0), 2) for _ in range(9)
    ]
    pictures = [cv2.normalize(one, None, 20, 240, cv2.NORM_MINMAX) for one in pictures]
    images = [cv2.imencode(".png", pictures[k % 9])[1].tobytes() for k in range(count)]
    sides = np.zeros((count, N_AUS, 2), np.float32)
    sides[::80, AU_INDEX["AU12"]] = 5.0
    arrays = {name: np.zeros((count, *shape), "f4") for name, shape in faces.LABELS.items()}
    arrays |= {
        "images": np.frombuffer(b"".join(images), np.uint8),
        "offsets": np.cumsum([0, *map(len, images)]),
        "points5": np.tile(np.array(MEAN_POINTS_CROP, "f4") * SIDE, (count, 1, 1)),
        "group": np.repeat(np.arange(PEOPLE), SHOTS),
        "face_px": np.full(count, 60, "f4"),
        "pattern": np.full(count, -1, np.int8),
        "au_sides": sides,
    }
    arrays |= changed
    folder.mkdir()
    np.savez(folder / "r-00.npz", **arrays)
    part = {"file": "r-00.npz", "sha256": pack.sha256(folder / "r-00.npz")}
    (folder / pack.INDEX).write_text(json.dumps({"origins": [], "parts": [part]}))
    if plan is not None:
        (folder / pack.PLAN).write_text(json.dumps(plan))
    return folder


def write(folder, out, count=40):
    table, tones = choose.read(folder)
    choose.write(folder, table, tones, count, out)
    return faces.load(out, choose.digest(out))


def test_a_pack_becomes_a_file_that_loads_with_strong_faces_and_strangers(tmp_path):
    folder = renders(tmp_path / "pack")
    found = write(folder, tmp_path / "faces.npz")
    assert (len(found.crops), len(found.held_out)) == (34, 6)
    strong = (found.labels.au_sides[:, AU_INDEX["AU12"]] == 5).all(1)
    assert strong.sum() >= 3  # of five; a blind draw brings 0.4
    everyone = np.repeat(np.arange(PEOPLE), SHOTS)
    unseen = set(everyone[ferplus.held_out(everyone, share=HELD_OUT, seed=SPLIT_SEED)].tolist())
    assert set(found.held_out_labels.group.tolist()) <= unseen
    assert not set(found.labels.group.tolist()) & unseen
    assert found.crops.shape[1:] == (CROP.height_px, CROP.width_px, 3)


def test_the_same_pack_gives_the_same_bytes(tmp_path):
    folder = renders(tmp_path / "pack")
    for name in ("one.npz", "two.npz"):
        write(folder, tmp_path / name)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()


@pytest.mark.parametrize(
    ("name", "spoilt"), [("occluded", 0.9), ("face_px", 12.0)], ids=["covered", "too small"]
)
def test_faces_that_nobody_could_code_stay_out(tmp_path, name, spoilt):
    values = np.full(PEOPLE * SHOTS, 0.0 if name == "occluded" else 60.0, "f4")
    values[::2] = spoilt
    found = write(renders(tmp_path / "pack", **{name: values}), tmp_path / "faces.npz")
    for labels in (found.labels, found.held_out_labels):
        assert not np.isclose(getattr(labels, name), spoilt, atol=0.01).any()


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (PLAN | {"photos": "fcc2"}, "of moved photographs"),
        (PLAN | {"frozen": True}, "a test set"),
        (None, "not a pack of renders"),
    ],
)
def test_photographs_and_test_sets_are_refused(tmp_path, plan, message):
    with pytest.raises(InputError, match=message):
        choose.read(renders(tmp_path / "pack", plan))


def test_too_few_people_and_too_large_a_file_leave_nothing(tmp_path, monkeypatch):
    folder, out = renders(tmp_path / "pack"), tmp_path / "out" / "faces.npz"
    with pytest.raises(InputError, match="people to choose from, 340 wanted"):
        write(folder, out, count=400)
    monkeypatch.setattr(choose, "MOST_BYTES", 1000)
    with pytest.raises(LimitError, match="at most 1000"):
        write(folder, out)
    assert list(out.parent.glob("*")) == []
