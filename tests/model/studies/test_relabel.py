"""Photographs labelled by a network: its soft presence comes back, sides with the mirror image."""

import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the study needs torch")

from safetensors.torch import save_file  # noqa: E402  torch first

from feallm.model.checkpoint import Checkpoint  # noqa: E402
from feallm.model.data import pack  # noqa: E402
from feallm.model.studies.renders import crops, relabel, train  # noqa: E402
from feallm.model.studies.renders.network import SmallNetwork  # noqa: E402
from feallm.model.studies.renders.score import load  # noqa: E402
from feallm.model.vision import VisionNetwork  # noqa: E402
from feallm.runtime.contract.aus import AU_INDEX, AU_KEYS  # noqa: E402

NAN = np.nan


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(3)
    return SmallNetwork().eval()


@pytest.fixture(scope="module")
def faces():
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (5, 128, 112), dtype=np.uint8))


def test_what_the_network_says_is_what_is_learnt(network, faces):
    found = torch.from_numpy(relabel.labels(network, faces))
    with torch.no_grad():
        said = (network(faces)[0] + network(faces.flip(2))[0].flip(2)) / 2
    assert said.abs().max() < 2  # nothing is cut off here
    torch.testing.assert_close(torch.sigmoid(train.SOFT * (found - 1)), said.sigmoid())


def test_a_mirrored_photo_has_mirrored_labels(network, faces):
    plain, mirrored = (relabel.labels(network, part) for part in (faces, faces.flip(2)))
    np.testing.assert_allclose(mirrored, plain[:, :, ::-1], rtol=1e-4, atol=1e-5)


def test_the_new_pack_has_the_same_pictures_and_no_votes(
    network, write, tmp_path, monkeypatch, capsys
):
    folder, images = write()
    weights = tmp_path / "w.safetensors"
    save_file({key: value.half() for key, value in network.state_dict().items()}, weights)
    words = ["--weights", weights, "--pack", folder, "--out", tmp_path / "new"]
    monkeypatch.setattr(sys, "argv", ["relabel", *map(str, words)])
    relabel.main()
    assert f"{len(images)} photographs" in capsys.readouterr().out
    before, after = crops.read(folder, 1.0), crops.read(tmp_path / "new", 1.0)
    assert after.images == before.images
    assert np.isfinite(after.au_sides).all() and (after.au_sides >= 0).all()
    (part,) = (tmp_path / "new").glob("*.npz")
    with np.load(part) as file:
        assert not file["votes"].any() and not file["expression"].any()


BLENDS = {
    "both are near the border": (1.0, 0.0, 0.5),
    "one sure of it, one of the opposite": (5.0, 0.0, 7 / 6),  # (7/3 + 0) / 2: cut to a logit's
    "far below the border is no surer than a third": (1.0, -4.0, 1 / 3),
    "both are cut": (9.0, -9.0, 1.0),
    "both are sure: the new intensity": (3.5, 5.0, 3.5),
    "both are barely sure": (2.0, 2.0, 2.0),
    "one is barely not": (1.9, 2.4, (1.9 + 7 / 3) / 2),
    "only the new one knows": (4.5, NAN, 4.5),
    "only the old one knows": (NAN, -3.0, -3.0),
    "nobody knows": (NAN, NAN, NAN),
}


@pytest.mark.parametrize("mine, theirs, expected", BLENDS.values(), ids=BLENDS.keys())
def test_two_teachers_are_blended(mine, theirs, expected):
    found = relabel.blended(np.full((1, 20, 2), mine), np.full((1, 20, 2), theirs))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.full((1, 20, 2), expected), rtol=1e-6)


def test_each_label_is_blended_by_its_own():
    mine, theirs, expected = (np.array(column) for column in zip(*BLENDS.values(), strict=True))
    given = mine.copy(), theirs.copy()
    found = relabel.blended(mine.reshape(1, 5, 2), theirs.reshape(1, 5, 2))
    np.testing.assert_allclose(found.ravel(), expected, rtol=1e-6)
    np.testing.assert_array_equal((mine, theirs), given)


def test_the_kept_pack_is_the_first_with_labels_of_both(tiny, network, tmp_path, capsys):
    """One face in seven has no points: there the network reads nothing."""
    sources = [tiny.rows(9, name="a"), tiny.rows(6, seed=1, name="b")]
    pack.write(sources, tmp_path / "first")
    weights = tmp_path / "w.safetensors"
    save_file({key: value.half() for key, value in network.state_dict().items()}, weights)
    relabel.kept(partial(relabel.labels, load(weights)), tmp_path / "first", tmp_path / "second")
    assert "15 photographs, 12 with the network's labels" in capsys.readouterr().out
    before, after = pack.read(tmp_path / "first"), pack.read(tmp_path / "second")
    for name in pack.ROW_ARRAYS:
        if name != "au_sides":
            np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
    assert after.origins == before.origins
    for old, new in zip(before.pictures, after.pictures, strict=True):
        np.testing.assert_array_equal(new, old)
    found = np.isfinite(before.points5).all((1, 2))
    assert np.isfinite(after.au_sides[found]).all()
    np.testing.assert_array_equal(after.au_sides[~found], before.au_sides[~found])
    known = np.isfinite(before.au_sides) & found[:, None, None]
    assert (after.au_sides[known] != before.au_sides[known]).any()


def test_a_checkpoint_counts_presence_from_its_thresholds(tiny, faces):
    """Where it is sure of nothing, the label of presence is the border, 1, at the threshold."""
    teacher = Checkpoint(tiny.CONFIG, tiny.vision(), None, None, ("AU12",), (), {"AU12": 0.3}, {})
    found = relabel.taught(teacher, faces)
    k = AU_INDEX["AU12"]
    assert np.isnan(np.delete(found, k, 1)).all() and np.isfinite(found[:, k]).all()
    with torch.no_grad():
        logits = teacher.vision.answer(faces).au_logits[:, k].numpy()
    expected = 1 + (logits - np.log(0.3 / 0.7)) / train.SOFT
    assert (expected < 2).all()  # nothing is sure
    np.testing.assert_allclose(found[:, k, 0], expected.clip(0), rtol=1e-4, atol=1e-5)


def test_a_checkpoint_with_sides_labels_each(tiny, faces):
    torch.manual_seed(1)
    config = replace(tiny.CONFIG, vision=replace(tiny.CONFIG.vision, place=4, mirror=True))
    network = VisionNetwork(config.vision, config.language.width).eval()
    teacher = Checkpoint(config, network, None, None, AU_KEYS, (), dict.fromkeys(AU_KEYS, 0.4), {})
    plain, mirrored = (relabel.taught(teacher, part) for part in (faces, faces.flip(2)))
    assert (plain[..., 0] != plain[..., 1]).any()
    np.testing.assert_allclose(mirrored, plain[:, :, ::-1], rtol=1e-4, atol=1e-4)


def test_a_checkpoint_labels_beside_what_is_known(monkeypatch, capsys):
    words = ["--checkpoint", "c.safetensors", "--pack", "p", "--out", "o"]
    monkeypatch.setattr(sys, "argv", ["relabel", *words])
    with pytest.raises(SystemExit):
        relabel.main()
    assert "--keep" in capsys.readouterr().err
