"""The small network: how small, what goes in and out, and what a label teaches it."""

import pytest

torch = pytest.importorskip("torch", reason="the study needs torch")

from feallm.model.studies.renders.network import SmallNetwork  # noqa: E402  torch first
from feallm.model.studies.renders.train import SOFT, losses  # noqa: E402
from feallm.runtime.contract.aus import N_AUS  # noqa: E402
from feallm.runtime.contract.geometry import CROP  # noqa: E402


@pytest.fixture
def network():
    torch.manual_seed(0)
    return SmallNetwork().eval()


@pytest.fixture
def crops():
    made = torch.Generator().manual_seed(1)
    shape = (3, CROP.height_px, CROP.width_px)
    return torch.randint(0, 256, shape, generator=made, dtype=torch.uint8)


def test_it_has_under_a_million_parameters(network):
    assert 500_000 < sum(p.numel() for p in network.parameters()) < 1_000_000


def test_crops_to_presence_and_intensity_of_each_side(network, crops):
    presence, intensity = network(crops)
    assert presence.shape == intensity.shape == (3, N_AUS, 2)
    assert presence.dtype == torch.float32 and torch.isfinite(presence).all()
    assert not torch.equal(presence, intensity)


def test_it_does_not_see_brightness_or_contrast(network, crops):
    soft = (crops // 4 + 60).to(torch.uint8)
    torch.testing.assert_close(network(soft)[0], network(crops)[0], atol=0.02, rtol=0.02)


def test_it_sees_where(network, crops):
    assert not torch.allclose(network(crops)[0], network(crops.flip(2))[0], atol=1e-4)


class Given(torch.nn.Module):
    """A network that answers one logit and one intensity to everything."""

    def __init__(self, logit, intensity):
        super().__init__()
        self.logit, self.intensity = logit, intensity

    def forward(self, crops):
        shape = (len(crops), N_AUS, 2)
        return torch.full(shape, self.logit), torch.full(shape, self.intensity)


def lost(sides, logit=0.0, intensity=0.0):
    """Both losses of labels (N, 20, 2)."""
    found = losses(Given(logit, intensity), torch.zeros(len(sides), 8, 8), sides)
    return {name: float(value) for name, value in found.items()}


def labels(value):
    return torch.full((2, N_AUS, 2), float(value))


def test_unknown_labels_count_for_nothing():
    sides = labels(0)
    sides[0, 3:] = torch.nan
    for logit in (-2.0, 3.0):
        assert lost(sides, logit, 1.0) == pytest.approx(lost(labels(0), logit, 1.0))
    nothing = lost(labels(torch.nan), 5.0, 5.0)
    assert nothing == {"presence": 0, "intensity": 0}


def test_unknown_labels_teach_nothing(network, crops):
    sides = torch.full((3, N_AUS, 2), torch.nan)
    sides[:, 5, 0] = 2.0
    sum(losses(network, crops, sides).values()).backward()
    taught = network.presence.bias.grad.view(N_AUS, 2)
    assert taught[5, 0] != 0 and taught[5, 1] == 0
    assert torch.isfinite(taught).all() and (taught != 0).sum() == 1


WANTED = {0: 0.0, 0.02: 0.0, 1: 0.5, 5: 0.9998}


@pytest.mark.parametrize("level, share", WANTED.items())
def test_a_trace_is_half_a_positive(level, share):
    """The loss is least where the network says that share."""
    chances = torch.tensor([0.0001, 0.1, 0.3, 0.5, 0.7, 0.9, 0.9999])
    found = [lost(labels(level), float(torch.logit(p)))["presence"] for p in chances]
    best = float(chances[min(range(len(found)), key=found.__getitem__)])
    assert best == pytest.approx(share, abs=0.01)


def test_the_slope_about_a_trace():
    """At A every answer but "even" is worse; a little more than A is more than half."""
    at = lost(labels(1.0), 0.0)["presence"]
    assert at == pytest.approx(0.6931, abs=1e-3)
    share = torch.sigmoid(torch.tensor(SOFT * 0.5))
    expected = torch.nn.functional.binary_cross_entropy(share, share)
    assert lost(labels(1.5), SOFT * 0.5)["presence"] == pytest.approx(float(expected), rel=1e-4)


def test_intensity_is_off_by_so_much():
    assert lost(labels(3), intensity=2.0)["intensity"] == pytest.approx(0.15)
    assert lost(labels(7), intensity=5.0)["intensity"] == 0  # labels lie in 0-5
    assert lost(labels(-2), intensity=0.0)["intensity"] == 0
