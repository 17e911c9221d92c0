"""The network that docs/renders.md tells of, against the faces coded by eye."""

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the study needs torch")

from feallm.model.studies.renders import score  # noqa: E402  torch first
from feallm.model.studies.renders.crops import coded_crops  # noqa: E402

ROOT = Path(__file__).parents[3]
WEIGHTS = ROOT / "model" / "checkpoints" / "small-au.safetensors"
PROBE = {"AU1": 0.70, "AU2": 0.75, "AU4": 0.79, "AU17": 0.70}
"""The AUC that an earlier, cruder renderer's network had."""


@pytest.fixture(scope="module")
def network():
    return score.load(WEIGHTS)


def test_it_is_small(network):
    assert sum(p.numel() for p in network.parameters()) < 1_000_000
    assert WEIGHTS.stat().st_size < 2 * 2**20


@pytest.mark.data
@pytest.mark.parametrize("part", ["train", "test"])
def test_it_reads_faces_that_it_never_saw(network, data, part):
    found = score.figures(score.see(network, coded_crops(data, part)), score.coded_truth(part))
    assert found["mean_auc"] >= 0.88
    for key, probe in PROBE.items():
        assert found["aus"][key]["auc"] > probe, key
