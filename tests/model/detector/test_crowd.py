"""Crowds: exact boxes, the same for the same seed, with or without backgrounds."""

import numpy as np
import pytest

from feallm.model.detector import crowd
from feallm.runtime.contract.errors import InputError


@pytest.fixture(scope="module")
def scenes():
    from pathlib import Path

    return list(crowd.scenes(Path(__file__).parent / "heads.npz", None, count=2))


def test_each_kind_has_its_scenes(scenes):
    assert [scene.kind for scene in scenes] == [kind for kind in crowd.KINDS for _ in range(2)]
    for scene in scenes:
        assert scene.picture.shape == (crowd.HEIGHT, crowd.WIDTH, 3)
        assert 4 <= len(scene.faces.boxes) <= crowd.FACES
        boxes = scene.faces.boxes
        assert (boxes > 0).all() and (boxes < (640, 480, 640, 480)).all()
        assert scene.faces.sure.any()


def test_no_face_lies_over_another(scenes):
    for scene in scenes:
        low = np.maximum(scene.faces.boxes[:, None, :2], scene.faces.boxes[None, :, :2])
        high = np.minimum(scene.faces.boxes[:, None, 2:], scene.faces.boxes[None, :, 2:])
        shared = np.clip(high - low, 0, None).prod(2)
        assert shared[~np.eye(len(shared), dtype=bool)].max() < 1e-6


def angles(scene):
    across = scene.faces.points[:, 1] - scene.faces.points[:, 0]
    return np.abs(np.degrees(np.arctan2(across[:, 1], across[:, 0])))


def test_each_kind_is_what_it_is_called(scenes):
    of = {kind: [scene for scene in scenes if scene.kind == kind] for kind in crowd.KINDS}
    turned = np.concatenate([angles(scene) for scene in of["turned"]])
    upright = np.concatenate([angles(scene) for scene in of["plain"]])
    assert np.median(turned) > 18 > 14 > np.median(upright)
    light = [scene.picture.mean() for scene in scenes if scene.kind != "dark"]
    assert max(scene.picture.mean() for scene in of["dark"]) < min(light)


def test_something_lies_before_the_occluded(heads, monkeypatch):
    calls = []
    monkeypatch.setattr(crowd.distract, "before", lambda *words: calls.append(words[1]))
    for scene in crowd.scenes(heads, None, count=1):
        if scene.kind == "occluded":  # no head of the file is covered by what it wears
            np.testing.assert_array_equal(calls, scene.faces.boxes)
        else:
            assert calls == []


def test_the_same_seed_gives_the_same_crowds(scenes, heads):
    again = list(crowd.scenes(heads, None, count=1))
    for one, two in zip(scenes[::2], again, strict=True):
        assert (one.picture == two.picture).all()
        np.testing.assert_array_equal(one.faces.boxes, two.faces.boxes)
    other = next(crowd.scenes(heads, None, count=1, seed=1))
    assert other.picture.tobytes() != scenes[0].picture.tobytes()


def test_heads_that_are_all_covered_make_no_crowd(heads, tmp_path):
    with np.load(heads) as file:
        np.savez(tmp_path / "covered.npz", **{**file, "occluded": np.full(16, 0.5)})
    with pytest.raises(InputError, match="covered.npz: no whole head"):
        next(crowd.scenes(tmp_path / "covered.npz", None))


def test_shared_data_without_backgrounds_is_one_line(heads, tmp_path):
    with pytest.raises(InputError, match="backgrounds.npz: no such file"):
        next(crowd.scenes(heads, tmp_path))
