"""Compositions: the same for the same seed, whatever they are made of; what is left alone."""

from dataclasses import replace

import numpy as np
import pytest

from feallm.model.detector.compose import (
    SMALLEST_PX,
    compose,
    darken,
    gentle,
    leave_alone,
    leave_unseen,
)
from feallm.model.detector.scene import Composition
from feallm.model.detector.sources import Heads, Material, Photos


@pytest.fixture
def material(photos, heads):
    rng = np.random.default_rng(0)
    grounds = [rng.integers(0, 256, (256, 256, 3), np.uint8) for _ in range(3)]
    return Material(Photos.read(photos, clean=False), Heads.read(heads), grounds, [])


def seeds(material, count, side=96):
    return [compose(material, side, np.random.default_rng(seed)) for seed in range(count)]


def test_the_same_seed_gives_the_same_composition(material):
    first, again = seeds(material, 6), seeds(material, 6)
    for one, two in zip(first, again, strict=True):
        for name in ("picture", "boxes", "points", "sure"):
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert len({scene.picture.tobytes() for scene in first}) == 6


def check(scenes, side):
    for scene in scenes:
        n = len(scene.boxes)
        assert scene.picture.shape == (side, side, 3) and scene.picture.dtype == np.uint8
        assert scene.boxes.shape == (n, 4) and scene.points.shape == (n, 5, 2)
        assert scene.sure.shape == (n,) and scene.sure.dtype == bool
        assert np.isfinite(scene.boxes).all() and np.isfinite(scene.points).all()
        size = scene.boxes[:, 2:] - scene.boxes[:, :2]
        assert (size > 0).all()
        inside = np.clip(scene.boxes, 0, side)
        share = (inside[:, 2:] - inside[:, :2]).prod(1) / size.prod(1)
        assert (size[scene.sure].max(1, initial=99) >= SMALLEST_PX).all()
        assert (share[scene.sure] > 0.4).all() and (share > 0).all()


@pytest.mark.parametrize("side", [64, 160])
def test_what_is_taught_can_be_seen(material, side):
    scenes = seeds(material, 60, side)
    check(scenes, side)
    sure = np.concatenate([scene.sure for scene in scenes])
    assert 40 < sure.sum() and (~sure).sum() > 5
    assert sum(not len(scene.boxes) for scene in scenes) >= 3, "some show nobody"
    assert max(len(scene.boxes) for scene in scenes) > 5, "some show many"


@pytest.mark.parametrize("missing", ["photographs", "close", "far", "grounds", "all"])
def test_whatever_is_missing(material, missing):
    none = np.zeros(0, np.int64)
    away = {"photographs": ("with_face", "close"), "close": ("close",), "far": ("with_face",)}
    names = away.get(missing, ("with_face", "close") if missing == "all" else ())
    photos = replace(material.photos, **dict.fromkeys(names, none))
    grounds = [] if missing in ("grounds", "all") else material.grounds
    scenes = seeds(replace(material, photos=photos, grounds=grounds), 40)
    check(scenes, 96)
    assert sum(scene.sure.sum() for scene in scenes) > 10


@pytest.mark.parametrize(
    ("box", "kept", "sure"),
    [
        ((10, 10, 40, 50), True, True),
        ((10, 10, 18, 18), True, False),  # tiny
        ((10, 10, 16, 19), True, True),  # its longer side is nine pixels
        ((-12, 10, 28, 50), True, True),  # a third cut off
        ((-24, 10, 16, 50), True, False),  # more than half
        ((90, 90, 130, 140), True, False),  # a corner of it is left
        ((99.5, 10, 139.5, 50), False, False),
        ((120, 10, 160, 50), False, False),
    ],
)
def test_cut_and_tiny_faces_are_left_alone(box, kept, sure):
    scene = Composition(np.zeros((100, 100, 3), np.uint8))
    scene.add(np.array([box], float), np.zeros((1, 5, 2)), np.array([True]))
    leave_alone(scene)
    assert (len(scene.boxes), len(scene.points), scene.sure.tolist()) == (
        kept,
        kept,
        [sure] * kept,
    )


def test_what_was_not_sure_stays_so():
    scene = Composition(np.zeros((100, 100, 3), np.uint8))
    scene.add(np.array([[10, 10, 60, 60.0]]), np.zeros((1, 5, 2)), np.array([False]))
    leave_alone(scene)
    assert scene.sure.tolist() == [False]


def test_a_face_without_contrast_is_left_alone():
    picture = np.full((100, 200, 3), 8, np.uint8)
    picture[:, 100:] = np.random.default_rng(0).integers(0, 60, (100, 100, 1), np.uint8)
    scene = Composition(picture)
    boxes = np.array([[20, 20, 80, 80], [120, 20, 180, 80.0]])
    scene.add(boxes, np.zeros((2, 5, 2)), np.array([True, True]))
    leave_unseen(scene)
    assert scene.sure.tolist() == [False, True]


def test_the_dark_is_dark_and_grainy():
    flat = np.full((64, 64, 3), 200, np.uint8)
    dark = darken(flat, 0.2, np.random.default_rng(1))
    assert 38 < dark.mean() < 42 and dark[..., 0].std() > 0.4
    assert (dark == darken(flat, 0.2, np.random.default_rng(1))).all()


def test_gentle_compositions_show_whole_faces_too(material):
    sure = [gentle(material, 128, np.random.default_rng(k)).sure for k in range(24)]
    one = gentle(material, 128, np.random.default_rng(3))
    again = gentle(material, 128, np.random.default_rng(3))
    assert np.array_equal(one.picture, again.picture) and np.array_equal(one.points, again.points)
    assert sum(s.any() for s in sure) > 12
    assert one.picture.shape == (128, 128, 3)
