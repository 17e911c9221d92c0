"""Which faces ranges are measured on, told by pictures that are all of one gray: their row."""

import inspect
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="packs are read through the training")

from feallm.calibration import crops  # noqa: E402  torch first
from feallm.model.data import pack  # noqa: E402
from feallm.model.train.vision import split  # noqa: E402
from feallm.runtime.contract.aus import N_AUS  # noqa: E402
from feallm.runtime.contract.geometry import CROP, MEAN_POINTS_CROP  # noqa: E402
from feallm.runtime.vision.align import points_in_box  # noqa: E402

COUNT = 120  # faces of each of two packs


@pytest.fixture(scope="module")
def faces():
    """Two packs: photographs without AUs that are mostly neutral, and renders with AUs but without
    expressions. Row k is a picture of gray k."""
    count = 2 * COUNT
    rng = np.random.default_rng(2)
    points = points_in_box((0, 0, 48, 48), MEAN_POINTS_CROP).astype(np.float32)
    points = np.tile(points, (count, 1, 1))
    expression = np.zeros((count, 8), np.float32)
    expression[:COUNT, 0] = 1
    expression[5:COUNT:6] = np.eye(8)[1]  # one in six is happy
    sides = np.full((count, N_AUS, 2), np.nan, np.float32)
    sides[COUNT:, :3] = rng.uniform(0, 5, (COUNT, 3, 2))
    return pack.Faces(
        [np.full((48, 48), k, np.uint8) for k in range(count)],
        np.zeros((count, 10), np.float32),
        expression,
        sides,
        points,
        points,
        np.arange(count) // 2,
        source=np.repeat([0, 1], COUNT),
    )


def rows_of(cut):
    """Rows of crops, by the gray in their middle."""
    return cut[:, CROP.height_px // 2, CROP.width_px // 2, 0].astype(int)


def strength(faces):
    """Sum over the AUs of the stronger side; a face without labels has none."""
    known = np.where(np.isnan(faces.au_sides), 0, faces.au_sides)
    return np.maximum(known[..., 0], known[..., 1]).sum(1)


def test_crops_are_what_the_network_reads(faces):
    cut = crops.chosen(faces, 8)
    assert cut.shape == (8, CROP.height_px, CROP.width_px, 3) and cut.dtype == np.uint8
    assert (cut == cut[..., :1]).all()


def test_as_many_of_each_pack_and_none_that_is_held_out(faces):
    found = rows_of(crops.chosen(faces, 80))
    train, held = split(faces)
    assert len(held) > 5
    assert np.bincount(faces.source[found]).tolist() == [40, 40]
    assert len(set(found)) == 80
    assert set(found) <= set(train) and not set(found) & set(held)


def test_half_of_them_are_the_strongest(faces):
    found = rows_of(crops.chosen(faces, 80))
    train, _ = split(faces)
    renders = train[faces.source[train] == 1]
    strongest = renders[np.argsort(-strength(faces)[renders])][:20]
    assert set(strongest) <= set(found)
    rest = [k for k in found if faces.source[k] == 1 and k not in strongest]
    others = np.setdiff1d(renders, strongest)
    # The rest is drawn: neither the next strongest nor the weakest of them.
    assert abs(strength(faces)[rest].mean() - strength(faces)[others].mean()) < 1.5
    assert set(rest) != set(others[np.argsort(-strength(faces)[others])][:20])


def test_the_rest_is_spread_evenly_over_the_expressions(faces):
    """One photograph in six is happy: of those drawn evenly, half are."""
    found = rows_of(crops.chosen(replace(faces, source=np.zeros(2 * COUNT, np.int64)), 40))
    renders = found[found >= COUNT]
    photos = found[found < COUNT]
    happy = faces.expression[photos, 1] == 1
    # Twenty are the strongest, all renders; then happy, neutral and unlabelled ones by turns.
    assert abs(int(happy.sum()) - int((~happy).sum())) <= 1
    assert 26 <= len(renders) <= 27 and len(found) == 40


def test_the_same_seed_gives_the_same_crops(faces):
    first, again, other = (rows_of(crops.chosen(faces, 40, seed)) for seed in (3, 3, 4))
    assert first.tolist() == again.tolist() != other.tolist()


def test_a_small_pack_gives_all_that_it_has(faces):
    train, _ = split(faces)
    found = rows_of(crops.chosen(faces, 400))
    assert sorted(found) == sorted(train)


def test_only_held_out_faces_are_checked_with(faces):
    train, held = split(faces)
    cut = crops.held_out(faces)
    assert cut.shape[1:] == (CROP.height_px, CROP.width_px, 3)
    assert sorted(rows_of(cut)) == sorted(held)
    few = rows_of(crops.held_out(faces, 4))
    assert len(set(few)) == 4 and set(few) <= set(held)
    assert not set(rows_of(crops.chosen(faces, 400))) & set(rows_of(cut))


def test_512_are_enough():
    assert crops.COUNT == 512
    for make in (crops.chosen, crops.held_out):
        assert inspect.signature(make).parameters["count"].default == crops.COUNT
