"""Emulated rounding is what int8 does, leaves no trace, and names the layer at fault."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="rounding is emulated in torch")

from feallm.calibration.ranges import KEPT  # noqa: E402  torch first
from feallm.export.run import float_answers  # noqa: E402
from feallm.export.studies import sensitivity  # noqa: E402
from feallm.runtime.backends.base import AU_PROBABILITY  # noqa: E402
from feallm.runtime.contract.aus import AU_KEYS  # noqa: E402

STATED = dict.fromkeys(AU_KEYS, 0.5)


@pytest.fixture
def network(tiny):
    return sensitivity.folded(tiny.vision())


@pytest.fixture
def whole(tiny):
    return tiny.vision()


@pytest.fixture(scope="module")
def crops(tiny):
    return tiny.crops(24, seed=5)


def test_folding_changes_no_answer(tiny, crops):
    plain = tiny.vision()
    exact, folded = (float_answers(one, crops) for one in (plain, sensitivity.folded(plain)))
    for name, value in exact.items():
        np.testing.assert_allclose(folded[name], value, atol=2e-4, err_msg=name)
    norms = [m for m in sensitivity.folded(plain).modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms == []


def test_ranges_are_what_most_faces_stay_within(network, crops):
    seen = []
    layer = network.encoder.stages[1][0][0]
    hook = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0].numpy().copy()))
    float_answers(network, crops)
    hook.remove()
    own = np.concatenate(seen).reshape(len(crops), -1)
    found = sensitivity.measure(network, crops)["encoder.stages.1.0.0"].inside
    low, high = np.percentile(own.min(1), 100 - KEPT), np.percentile(own.max(1), KEPT)
    assert found == pytest.approx((min(low, 0), max(high, 0)))
    assert own.max() > high  # a glaring face is left out


def test_what_a_relu_cuts_off_gets_no_steps(network, crops):
    found = sensitivity.measure(network, crops)
    assert found["encoder.stages.1.0.0"].outside[0] == 0
    assert found["encoder.stages.1.1.second"].outside[0] < 0  # added to before its ReLU
    with sensitivity.rounded(network, ["encoder.stages.1.0.0"], found, weights=False):
        part = network.encoder.stages[1][0][0](torch.randn(1, 4, 9, 9))
    assert part.min() == 0


def rounded(value, low, high):
    """Eight bits between two ends, as the ONNX operators define it."""
    scale = (high - low) / 255
    zero = round(-low / scale)
    return (np.clip(np.rint(value / scale) + zero, 0, 255) - zero) * scale


def test_a_rounded_layer_is_int8_by_the_book(network, crops):
    name, layer = "au_head", network.au_head
    ranges = sensitivity.measure(network, crops)
    given, made = [], []
    hooks = [layer.register_forward_hook(lambda _, x, y: given.append(x[0].numpy().copy()))]
    with torch.no_grad():
        float_answers(network, crops[:4])
        hooks.pop().remove()
        weight, bias = layer.weight.numpy().copy(), layer.bias.numpy()
        with sensitivity.rounded(network, [name], ranges):
            hooks = [layer.register_forward_hook(lambda _, x, y: made.append(y.numpy().copy()))]
            float_answers(network, crops[:4])
            hooks.pop().remove()
    scale = np.abs(weight).max(1, keepdims=True) / 127
    steps = np.rint(weight / scale)
    span = ranges[name]
    wanted = rounded(rounded(given[0], *span.inside) @ (steps * scale).T + bias, *span.outside)
    step = (span.outside[1] - span.outside[0]) / 255
    apart = np.abs(made[0] - wanted) / step
    assert apart.max() < 1.01 and (apart > 0.01).mean() < 0.02  # ties may fall either way
    assert np.abs(made[0] - (given[0] @ weight.T + bias)).max() > step / 4  # it was rounded at all


@pytest.mark.parametrize("fails", [False, True])
def test_afterwards_the_network_is_as_before(network, crops, fails):
    ranges = sensitivity.measure(network, crops)
    before = float_answers(network, crops)
    try:
        with sensitivity.rounded(network, list(ranges), ranges):
            within = float_answers(network, crops)
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    after = float_answers(network, crops)
    assert not np.array_equal(within[AU_PROBABILITY], before[AU_PROBABILITY])
    for name, value in before.items():
        assert np.array_equal(after[name], value), name


def rows(whole, crops):
    found = sensitivity.table(whole, STATED, crops[:16], crops[16:])
    return {row.name: row for row in found}


def plant_glare(whole):
    """One channel of the first map burns so brightly that all others get a few steps."""
    with torch.no_grad():
        whole.encoder.stages[0][0][1].bias[0] = 3000.0
        whole.encoder.stages[1][0][0].weight[:, 0] = 0.0
        whole.lca.conv.weight[:, 0] = 0.0
        whole.mpp.shallow[0].weight[:, 0] = 0.0


def plant_dead_weight(whole):
    """Huge weights that read a channel which is always black: nothing to see but for rounding."""
    plant_glare(whole)
    with torch.no_grad():
        whole.encoder.stages[0][0][1].weight[0] = 0.0
        whole.encoder.stages[0][0][1].bias[0] = 0.0
        whole.encoder.stages[1][0][0].weight[:, 0] = 300.0


def test_a_healthy_network_has_no_such_layer(whole, crops):
    """What the planted faults below are measured against."""
    found = rows(whole, crops)
    assert found["encoder.stages.1.0.0"].alone.probability < 0.01


def test_a_glaring_channel_is_told_as_a_matter_of_values(whole, crops):
    plant_glare(whole)
    found = rows(whole, crops)
    own = found["encoder.stages.1.0.0"]
    assert own.only_values.probability > 0.01 > own.only_weights.probability
    singles = [row for row in found.values() if not row.name.startswith("**")]
    assert own.name in [row.name for row in singles[:4]]  # with others that read the same map
    assert singles == sorted(singles, key=lambda row: -row.alone.probability)


def test_dead_weights_are_told_as_a_matter_of_weights(whole, crops):
    plant_dead_weight(whole)
    found = rows(whole, crops)
    own = found["encoder.stages.1.0.0"]
    assert own.only_weights.probability > 0.01 > own.only_values.probability
    singles = [row.name for row in found.values() if not row.name.startswith("**")]
    assert singles[0] == own.name
    # Spared, all the rest together cost less than it does with them.
    assert own.without.probability < found["**all**"].alone.probability


def test_the_table_has_a_row_for_each_layer_and_group(whole, crops):
    found = list(rows(whole, crops).values())
    lines = sensitivity.text(found).splitlines()
    names = [line.split(" | ")[0].removeprefix("| ") for line in lines[2 : 2 + len(found)]]
    assert names == [row.name for row in found]
    assert set(sensitivity.layers(whole)) <= set(names)
    assert {len(line.split("|")) for line in lines[: 2 + len(found)]} == {13}
    every = next(row for row in found if row.name == "**all**")
    assert every.without is None
    assert every.weights == sum(x.weight.numel() for x in sensitivity.layers(whole).values())
