"""Photographs labelled by a network: its soft presence comes back, sides with the mirror image."""

import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the study needs torch")

from safetensors.torch import save_file  # noqa: E402  torch first

from feallm.model.studies.renders import crops, relabel, train  # noqa: E402
from feallm.model.studies.renders.network import SmallNetwork  # noqa: E402


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
