"""The interpreter against torch: small functions are converted, saved, read back and run."""

import numpy as np
import pytest
import torch
from torch import nn

from feallm.export.mil import MilProgram, quiet
from feallm.export.mil_ops import OPERATIONS
from feallm.runtime.contract.errors import InputError, VerificationError

pytest.importorskip("coremltools", reason="Core ML packages need coremltools")
F = nn.functional


class Made(nn.Module):
    """A function with two parameters: a matrix (8, 6) and a kernel (3, 2, 3, 2)."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        generator = torch.Generator().manual_seed(5)
        self.matrix = nn.Parameter(torch.randn(8, 6, generator=generator), requires_grad=False)
        self.kernel = nn.Parameter(
            torch.randn(3, 2, 3, 2, generator=generator), requires_grad=False
        )

    def forward(self, *inputs):
        return self.function(self, *inputs)


def saved(module, example, path, *, half=False):
    with quiet():
        import coremltools as ct

        program = torch.export.export(module.eval(), example).run_decompositions({})
        precision = ct.precision.FLOAT16 if half else ct.precision.FLOAT32
        ct.convert(
            program,
            convert_to="mlprogram",
            minimum_deployment_target=ct.target.iOS18,
            compute_precision=precision,
        ).save(str(path))
    return MilProgram(path)


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def joined(m, x):
    """The kinds that only move numbers."""
    first, second = x.split([2, 4], -1)
    parts = [second[:, 1:3, ::2].unsqueeze(1).squeeze(1), first[:, -2:, :].repeat(1, 1, 1)]
    thirds = torch.chunk(x, 3, -1)
    return torch.cat([*parts, thirds[1][:, :2]], -1), x.permute(2, 0, 1)[3].reshape(-1, 2)


def chosen(m, x, k):
    rows = F.embedding(k, m.matrix)
    narrow = torch.where(x[..., :1] > 0, rows, x)
    return torch.where(x > 0, rows, x), narrow, (x == rows).float() + (x[..., :1] >= rows).float()


def reduced(m, x):
    return x.amax(1, keepdim=True), x.amin((0, 2)), x.mean(-1), x.abs().mean((0, 1), keepdim=True)


IMAGE, ROWS = (2, 2, 7, 6), (2, 4, 6)
TABLE = [
    ("conv", lambda m, x: F.conv2d(x, m.kernel, m.matrix[0, :3], (2, 1), (1, 2)), [IMAGE]),
    ("dilated", lambda m, x: F.conv2d(x, m.kernel, None, 1, 0, (2, 3)), [IMAGE]),
    ("grouped", lambda m, x: F.conv2d(x, m.kernel[:2, :1], groups=2), [IMAGE]),
    ("pool", lambda m, x: F.avg_pool2d(x, (3, 2), (2, 1)), [IMAGE]),
    ("linear", lambda m, x: F.linear(x, m.matrix), [ROWS]),
    ("matmul", lambda m, x: (x @ x.transpose(1, 2), m.matrix @ x.transpose(1, 2)), [ROWS]),
    ("norm", lambda m, x: F.layer_norm(3 * x + 1, (6,), m.matrix[0], m.matrix[1], 1e-2), [ROWS]),
    ("curves", lambda m, x: (F.gelu(x), F.silu(x), torch.relu(x), x.sigmoid()), [ROWS]),
    ("softmax", lambda m, x: (x.softmax(1), x.softmax(-1)), [ROWS]),
    ("square", lambda m, x: (x.square(), x.pow(3), torch.rsqrt(x.abs() + 0.1)), [ROWS]),
    (
        "sums",
        lambda m, x: (1 - x, x / (x.abs() + 1), x * x - m.matrix[2], x.clamp(-0.5, 1)),
        [ROWS],
    ),
    ("reduced", reduced, [ROWS]),
    ("joined", joined, [ROWS]),
    ("chosen", chosen, [ROWS, "index"]),
]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Each row's module, its example and its program."""
    folder = tmp_path_factory.mktemp("table")
    result = {}
    for name, function, shapes in TABLE:
        example = tuple(
            torch.tensor([[3, 0, 7, 1]] * 2, dtype=torch.int32) if s == "index" else numbers(*s)
            for s in shapes
        )
        module = Made(function)
        result[name] = (module, example, saved(module, example, folder / f"{name}.mlpackage"))
    return result


@pytest.mark.parametrize("name", [row[0] for row in TABLE])
def test_a_saved_program_answers_as_torch_does(name, table):
    module, example, program = table[name]
    found = program.run({n: x.numpy() for n, x in zip(program.inputs, example, strict=True)})
    expected = module(*example)
    expected = expected if isinstance(expected, tuple) else (expected,)
    assert len(found) == len(expected)
    for value, exact in zip(found.values(), expected, strict=True):
        np.testing.assert_allclose(value, exact.numpy(), rtol=1e-5, atol=1e-5)


def test_every_known_kind_was_compared_with_torch(table):
    """What the table does not meet would be code that nothing checks."""
    met = {kind for _, _, program in table.values() for kind in program.kinds}
    assert set(OPERATIONS) - met == set()


def test_an_unknown_kind_is_an_error_that_names_it(tmp_path):
    program = saved(Made(lambda m, x: torch.sin(x)), (numbers(3),), tmp_path / "sin.mlpackage")
    with pytest.raises(VerificationError, match="unknown kind sin"):
        program.run({program.inputs[0]: np.zeros(3, np.float32)})


def test_rounding_is_that_of_float16_after_each_operation(tmp_path):
    program = saved(
        Made(lambda m, x: (x * 3.001 + 100) * 0.7),
        (numbers(50),),
        tmp_path / "a.mlpackage",
        half=True,
    )
    x = numbers(50).numpy()
    (name,) = program.inputs
    ((plain,), (rounded,)) = (program.run({name: x}, half=half).values() for half in (False, True))
    half = np.float16
    by_hand = ((x.astype(half) * half(3.001)).astype(half) + half(100)) * half(0.7)
    np.testing.assert_array_equal(rounded, by_hand.astype(np.float32))
    assert 1e-3 < np.abs(plain - rounded).max() < 0.1


@pytest.mark.parametrize("largest", [200, 300])
def test_the_first_result_that_is_not_finite_is_named(largest, tmp_path):
    """The square of 256 is float16's end; a later operation would hide it: 1 / inf is 0."""
    program = saved(
        Made(lambda m, x: torch.rsqrt(x.pow(2) + 1)),
        (numbers(4),),
        tmp_path / "a.mlpackage",
        half=True,
    )
    (name,) = program.inputs
    given = {name: np.array([1, 2, 3, largest], np.float32)}
    assert program.run(given)  # in float32 there is no fault
    if largest == 200:
        assert program.run(given, half=True)
    else:
        with pytest.raises(VerificationError, match=r"\((pow|mul)\) is the first whose"):
            program.run(given, half=True)


class Memory(nn.Module):
    """Adds what it is given to what it was given before."""

    def __init__(self):
        super().__init__()
        self.register_buffer("total", torch.zeros(1))

    def forward(self, x):
        self.total.mul_(0.5).add_(x)
        return self.total * 2


def test_states_are_kept_from_step_to_step_and_apart_from_each_other(tmp_path):
    program = saved(Memory(), (numbers(1),), tmp_path / "a.mlpackage", half=True)
    assert program.kinds["coreml_update_state"] == 1
    module, states = Memory(), program.new_states()
    with pytest.raises(VerificationError, match="no state total"):
        program.run({"x": np.ones(1, np.float32)})
    for step in (1.0, -3.0, 0.25, 8.0):
        exact = module(torch.tensor([step]))
        (found,) = program.run({"x": np.array([step], np.float32)}, states).values()
        np.testing.assert_allclose(found, exact.numpy())
    (fresh,) = program.run({"x": np.ones(1, np.float32)}, program.new_states()).values()
    assert fresh == 2


def test_every_value_on_the_way_can_be_kept(tmp_path):
    program = saved(Made(lambda m, x: (x + 1).softmax(0)), (numbers(3),), tmp_path / "a.mlpackage")
    (name,) = program.inputs
    kept = {}
    (out,) = program.run({name: np.arange(3, dtype=np.float32)}, keep=kept).values()
    assert any(np.array_equal(value, [1, 2, 3]) for value in kept.values())
    assert any(np.array_equal(value, out) for value in kept.values())


def test_an_input_that_is_missing_is_named(tmp_path):
    program = saved(Made(lambda m, x: x + 1), (numbers(3),), tmp_path / "a.mlpackage")
    with pytest.raises(VerificationError, match="no value for its input"):
        program.run({})


@pytest.mark.parametrize("what", ["nothing", "empty", "cut", "no weights"])
def test_what_is_no_package_is_refused(what, tmp_path):
    path = tmp_path / "a.mlpackage"
    if what != "nothing":
        path.mkdir()
    if what in ("cut", "no weights"):
        saved(Made(lambda m, x: F.linear(x, m.matrix)), (numbers(3, 6),), path)
        spec, weights = (next(path.rglob(name)) for name in ("model.mlmodel", "weight.bin"))
        if what == "cut":
            spec.write_bytes(spec.read_bytes()[:-200])
        else:
            weights.write_bytes(b"")
    with pytest.raises(InputError, match="not a readable Core ML package"):
        MilProgram(path)
