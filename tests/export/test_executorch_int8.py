"""What is rounded in the graph that becomes a .pte, and to how many steps.

The graph is looked at before it is lowered, which takes long.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("executorch", reason="writing .pte files needs executorch")
pytest.importorskip("torchao", reason="quantizing needs torchao")

from feallm.calibration import ranges  # noqa: E402
from feallm.export import executorch as writer  # noqa: E402
from feallm.export import executorch_int8  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # the libraries' own, of each other


class Encoder(torch.nn.Module):
    """Two convolutions, and a third with a way around it."""

    def __init__(self):
        super().__init__()
        self.sight = torch.nn.Conv2d(1, 8, 16, 16)
        self.first = torch.nn.Conv2d(8, 8, 3, 1, 1)
        self.second = torch.nn.Conv2d(8, 8, 3, 1, 1)

    def forward(self, picture):
        x = torch.relu(self.sight(picture))
        return torch.relu(x + self.second(torch.relu(self.first(x))))


class Network(torch.nn.Module):
    """The vision network's parts by name, with values joined before the encoder and after it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.encoder = Encoder()
        self.lca = torch.nn.ModuleDict({"conv": torch.nn.Linear(56, 16)})
        self.token_mlp = torch.nn.Linear(56, 16)
        self.au_head = torch.nn.Linear(2 * 2 * 8 * 16, 20)

    def forward(self, crops):
        gray = crops.float().mean(3).unsqueeze(1) * (4 / 255) - 2
        deep = self.encoder(torch.cat([gray, gray.flip(3)])).flatten(2)
        return self.au_head(torch.cat([self.lca["conv"](deep), self.token_mlp(deep)], 2).flatten())


@pytest.fixture(scope="module")
def network():
    return Network().eval()


@pytest.fixture(scope="module")
def crops(tiny):
    return tiny.crops(20, seed=4)


@pytest.fixture(scope="module")
def program(network, crops):
    return writer.traced(network, "int8", crops)


def named(program, kind):
    """Nodes of a kind of rounding."""
    return [node for node in program.graph.nodes if str(node.target).endswith(kind)]


def rounded(program):
    """What is rounded by measured ranges: the operation that made it."""
    nodes = named(program, "decomposed.quantize_per_tensor.default")
    return [str(node.args[0].target).removeprefix("aten.") for node in nodes]


def test_measured_ranges_round_the_encoders_values_alone(program):
    """What its second and third convolution read and make; nothing that is joined or added."""
    assert rounded(program) == ["relu.default", "relu.default", "conv2d.default"]


def test_a_quantizer_for_all_kinds_rounds_what_is_joined(network, crops, program, monkeypatch):
    """It does not ask the filter of concatenations: pictures and the heads' inputs in 8 bits."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import XNNPACKQuantizer

    assert "cat.default" not in rounded(program)
    monkeypatch.setattr(
        XNNPACKQuantizer, "set_operator_type", lambda self, kind, steps: self.set_global(steps)
    )
    planted = writer.traced(network, "int8", crops)
    assert rounded(planted).count("cat.default") == 2


def test_what_reads_gray_lca_and_the_heads_stay_float(network, program):
    """A weight in int8 goes through `dequantize_per_channel` to its layer."""
    small = {
        str(user.target).removeprefix("aten.")
        for node in named(program, "dequantize_per_channel.default")
        for user in node.users
    }
    assert small == {"conv2d.default", "linear.default"}
    assert len(named(program, "dequantize_per_channel.default")) == 3
    expected = [network.token_mlp, network.encoder.first, network.encoder.second]
    assert {id(one) for one in executorch_int8.weights(network)} == {id(m.weight) for m in expected}
    float_weights = {p.shape for n, p in program.named_parameters() if n.endswith("weight")}
    for layer in (network.encoder.sight, network.lca["conv"], network.au_head):
        assert layer.weight.shape in float_weights


def test_one_glaring_face_does_not_widen_a_range(network, crops):
    """The steps of 20 faces, one of them with ten times the values, are those of the others."""
    faces = np.random.default_rng(5).uniform(0.5, 1, (20, 4)).astype(np.float32)
    faces[:, 0] *= -1
    faces[7] *= 10
    watched = executorch_int8._ends()(
        dtype=torch.int8, quant_min=-128, quant_max=127, qscheme=torch.per_tensor_affine
    )
    for face in faces:
        watched(torch.from_numpy(face))
    step, zero = (float(one) for one in watched.calculate_qparams())
    low, high = (-128 - zero) * step, (127 - zero) * step
    within = (faces.min(1) >= low - step) & (faces.max(1) <= high + step)
    assert within.mean() >= ranges.KEPT / 100 - 0.05 and not within[7]
    assert -1.1 < low < -0.9 and 0.9 < high < 1.1


def test_values_that_are_never_negative_waste_no_step(program):
    """What comes out of a ReLU is rounded from 0 upwards."""
    for node in named(program, "decomposed.quantize_per_tensor.default"):
        if "relu" in str(node.args[0].target):
            assert node.args[2] == -128


@pytest.mark.parametrize("size", [1.0, 1e-2, 1e-3])
def test_small_weights_have_as_many_steps_as_large_ones(crops, size):
    """Below 2 ** -12 a step the library's own rounding leaves few."""
    network = Network().eval()
    with torch.no_grad():
        network.encoder.second.weight *= size
    program = writer.traced(network, "int8", crops)
    steps = [
        len(value.unique())
        for value in program.state_dict.values()
        if value.dtype == torch.int8 and value.shape == network.encoder.second.weight.shape
    ]
    assert len(steps) == 2 and min(steps) > 200
