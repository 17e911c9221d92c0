"""What ONNX Runtime shows of a file's layers, without the package onnx; and files that are none.

The files of the real exporter are in tests/export/test_trace.py.
"""

from __future__ import annotations

import numpy as np
import pytest

from feallm.runtime.backends.base import IMAGE, TOKENS, VISION_OUTPUTS
from feallm.runtime.backends.onnx import OnnxVision
from feallm.runtime.contract.errors import BackendError
from feallm.runtime.verify.trace import sample
from feallm.runtime.verify.trace_onnx import Node, asking_for, layers, read, tensors

SIDE = (128, 112, 3)
CROPS = np.random.default_rng(0).integers(0, 256, (2, *SIDE), dtype=np.uint8)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """pixels -> first -> norm -> the outputs, `norm` called a second time for the tokens."""
    onnx = pytest.importorskip("onnx", reason="writes a file with it")
    from onnx import TensorProto, helper

    node = helper.make_node
    nodes = [
        node("Cast", ["image"], ["cast"], "pixels/Cast", to=TensorProto.FLOAT),
        node("Mul", ["cast", "level"], ["gray"], "pixels/Mul"),
        node("ReduceMean", ["gray", "axes"], ["mean"], "encoder.first/ReduceMean", keepdims=0),
        node("Relu", ["mean"], ["cut"], "encoder/Relu"),
        node("Mul", ["cut", "level"], ["a"], "norm/Mul"),
        node("Sub", ["a", "level"], ["b"], "norm/Sub"),
        node("Mul", ["b", "level"], ["c"], "norm/Mul_2"),
        node("Sub", ["c", "level"], ["d"], "norm/Sub_2"),
        *(
            node("MatMul", ["d", f"to_{name}"], [f"{name}_flat"], f"head.{name}/MatMul")
            for name in VISION_OUTPUTS
        ),
        *(
            node("Reshape", [f"{name}_flat", f"as_{name}"], [name], f"head.{name}/Reshape")
            for name in VISION_OUTPUTS
        ),
    ]
    shapes = dict(zip(VISION_OUTPUTS, [(20,), (20, 2), (8,), (4, 16)], strict=True))
    rng = np.random.default_rng(1)
    arrays = {"level": np.float32(1 / 64), "axes": np.array([1, 2])}
    for name, shape in shapes.items():
        wide = (3, int(np.prod(shape)))
        arrays[f"to_{name}"] = rng.normal(size=wide).astype(np.float32)
        arrays[f"as_{name}"] = np.array([-1, *shape])
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(IMAGE, TensorProto.UINT8, ["n", *SIDE])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *shape])
            for name, shape in shapes.items()
        ],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in arrays.items()],
    )
    path = tmp_path_factory.mktemp("onnx") / "small.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


def test_the_named_layers_are_shown(file):
    names = ["pixels", "encoder.first", "encoder", "norm", "missing", *VISION_OUTPUTS]
    found = {layer.name: layer for layer in layers(file, CROPS, names)}
    assert list(found) == [name for name in names if name != "missing"]
    level = np.float32(1 / 64)
    gray = CROPS.astype(np.float32) * level
    mean = gray.mean((1, 2))
    expected = {"pixels": gray, "encoder.first": mean, "norm": mean * level - level}
    for name, value in expected.items():
        wanted = sample(name, value)
        assert found[name].shape == wanted.shape
        np.testing.assert_allclose(found[name].values, wanted.values, rtol=1e-5, atol=1e-6)
        assert found[name].rms == pytest.approx(wanted.rms, rel=1e-5)


def test_outputs_are_those_of_the_file_as_it_runs(file):
    answers = OnnxVision(file).run({IMAGE: CROPS})
    found = {layer.name: layer for layer in layers(file, CROPS, ["pixels", *VISION_OUTPUTS])}
    for name in VISION_OUTPUTS:
        np.testing.assert_array_equal(found[name].values, sample(name, answers[name]).values)


def test_the_file_is_not_changed(file):
    before = file.read_bytes()
    layers(file, CROPS, ["pixels"])
    assert file.read_bytes() == before


def test_a_file_whose_nodes_have_other_names_is_told(toy_bundle):
    (path,) = toy_bundle.glob("vision*.onnx")
    with pytest.raises(BackendError, match="not named after layers"):
        layers(path, CROPS, ["encoder.stages.0.0.1", TOKENS])


QDQ = [
    Node("a/Conv", "Conv", ("x",), ("a",)),
    Node("a_Q", "QuantizeLinear", ("a", "scale"), ("a_Q",)),
    Node("a_DQ", "DequantizeLinear", ("a_Q", "scale"), ("a_DQ",)),
    Node("b/Relu", "Relu", ("a_DQ",), ("b",)),
    Node("b_Q", "QuantizeLinear", ("b", "scale"), ("b_Q",)),
    Node("b_DQ", "DequantizeLinear", ("b_Q", "scale"), ("b_DQ",)),
    Node("c/Conv", "Conv", ("b_DQ",), ("c",)),
    Node("c_Q", "QuantizeLinear", ("c", "scale"), ("c_Q",)),
]


def test_of_an_int8_file_what_others_read():
    """Not the convolution that is rounded to what its ReLU lets through."""
    assert tensors(QDQ, ["a", "b", "c"]) == {"b": "b_DQ", "c": "c"}


def test_asking_is_plain_protobuf(file):
    onnx = pytest.importorskip("onnx")
    long = "x" * 300
    model = onnx.load_from_string(file.read_bytes() + asking_for(["gray", long]))
    names = [output.name for output in model.graph.output]
    assert names == [*VISION_OUTPUTS, "gray", long]


def test_nodes_are_read_as_onnx_reads_them(file):
    onnx = pytest.importorskip("onnx")
    wanted = [
        Node(node.name, node.op_type, tuple(node.input), tuple(node.output))
        for node in onnx.load(file).graph.node
    ]
    assert read(file.read_bytes()) == wanted


def test_whatever_the_bytes_nothing_hangs_or_crashes(file):
    """Some flips fall into numbers that no node is named by; most must be told."""
    whole = file.read_bytes()
    rng = np.random.default_rng(7)
    refused = 0
    for k in range(3000):
        data = bytearray(whole)
        if k % 3 == 0:
            data = data[: int(rng.integers(len(data)))]
        elif k % 3 == 1:
            for place in rng.integers(0, len(data), 8):
                data[place] ^= 1 << int(rng.integers(8))
        else:
            data = bytearray(rng.bytes(int(rng.integers(400))))
        try:
            nodes = read(bytes(data))
        except ValueError as error:
            refused += 1
            assert "\n" not in str(error)
        else:
            tensors(nodes, ["pixels", "norm", ""])
    assert refused > 1500


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"\xff" * 64,
        b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x3b\x3c",
        b"not onnx",
    ],
)
def test_what_is_no_file_of_onnx_is_one_clear_line(data, tmp_path):
    with pytest.raises(ValueError):
        read(data)
    path = tmp_path / "odd.onnx"
    path.write_bytes(data)
    with pytest.raises(BackendError, match="odd.onnx"):
        layers(path, CROPS, ["pixels"])
