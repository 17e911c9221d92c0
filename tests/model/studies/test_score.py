"""Figures of the small network on faces coded by eye."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the study needs torch")

from feallm.model.coded import codes  # noqa: E402  torch first
from feallm.model.coded import faces as coded  # noqa: E402
from feallm.model.studies.renders import score  # noqa: E402
from feallm.model.studies.renders.network import SmallNetwork  # noqa: E402
from feallm.runtime.contract.aus import AU_INDEX, N_AUS  # noqa: E402

N = 40
AUS = len(codes.CODED_AUS)


def by_hand(scores, truth):
    """Share of pairs of a present and an absent face that are in order; a tie is half."""
    pairs = [
        1.0 if a > b else 0.5 if a == b else 0.0
        for a, there in zip(scores, truth, strict=True)
        if there == 1
        for b, other in zip(scores, truth, strict=True)
        if other == 0
    ]
    return sum(pairs) / len(pairs)


@pytest.fixture
def given():
    """Scores (N, 20) with ties, and truth (N, 15) with unsure faces."""
    rng = np.random.default_rng(0)
    truth = rng.choice([0.0, 1.0, np.nan], (N, AUS), p=[0.5, 0.35, 0.15])
    scores = np.round(rng.normal(size=(N, N_AUS)), 1)
    scores[:, list(codes.COLUMNS)] += np.nan_to_num(truth)
    return scores, truth


def test_auc_by_hand(given):
    scores, truth = given
    found = score.figures(scores, truth)
    for k, key in enumerate(codes.CODED_AUS):
        column = scores[:, AU_INDEX[key]]
        assert found["aus"][key]["auc"] == pytest.approx(by_hand(column, truth[:, k]))
        assert found["aus"][key]["positives"] == (truth[:, k] == 1).sum()


def test_unsure_faces_count_for_nothing(given):
    scores, truth = given
    before = score.figures(scores, truth)
    for k, column in enumerate(codes.COLUMNS):
        scores[np.isnan(truth[:, k]), column] = 99
    assert score.figures(scores, truth) == before


def test_aus_with_too_few_faces_are_not_in_the_mean(given):
    scores, truth = given
    truth[:, 0] = np.repeat([1, 0], [9, N - 9])
    truth[:, 1] = np.repeat([1, 0], [N - 9, 9])
    truth[:, 2] = np.repeat([1, 0], [10, N - 10])
    found = score.figures(scores, truth)
    assert {codes.CODED_AUS[0], codes.CODED_AUS[1]}.isdisjoint(found["over"])
    assert codes.CODED_AUS[2] in found["over"]
    expected = np.mean([found["aus"][key]["auc"] for key in found["over"]])
    assert found["mean_auc"] == pytest.approx(expected)


def test_intervals_hold_the_figures_and_are_the_same_again(given):
    found = score.figures(*given, draws=60)
    low, high = found["mean_auc_95"]
    assert low < found["mean_auc"] < high and high - low < 0.2
    for line in found["aus"].values():
        assert line["auc_95"][0] <= line["auc"] <= line["auc_95"][1]
    assert score.figures(*given, draws=60) == found


def test_the_stronger_side_is_scored_and_mirroring_changes_nothing():
    torch.manual_seed(0)
    network = SmallNetwork().train()
    crops = torch.randint(0, 256, (4, 128, 112), dtype=torch.uint8)
    found = score.see(network, crops)
    assert found.shape == (4, N_AUS) and not network.training
    np.testing.assert_allclose(score.see(network, crops.flip(2)), found, atol=1e-4)
    with torch.no_grad():
        both = [network(c)[0].numpy().max(2) for c in (crops, crops.flip(2))]
    np.testing.assert_allclose(found, np.mean(both, 0), atol=1e-5)


def test_truth_is_in_the_order_of_the_lists():
    truth = score.coded_truth("test")
    assert truth.shape == (len(coded.listed("test")), AUS)
    assert set(np.unique(truth[np.isfinite(truth)])) == {0, 1} and np.isnan(truth).any()
