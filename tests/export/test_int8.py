"""The int8 file: what of it is int8, what stays float, and that it still answers as torch does."""

import logging
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

onnx = pytest.importorskip("onnx", reason="quantizing needs onnx")

import onnxruntime as ort  # noqa: E402  onnx first
from onnx import TensorProto, helper, numpy_helper  # noqa: E402  onnx first

from feallm.export import int8  # noqa: E402
from feallm.export import onnx as exporter  # noqa: E402
from feallm.export.job import Job  # noqa: E402
from feallm.model.checkpoint import load  # noqa: E402
from feallm.runtime.backends.base import (  # noqa: E402
    AU_PROBABILITY,
    EXPRESSION,
    GAZE,
    IMAGE,
    LANDMARKS,
    POSE,
    TOKENS,
    VISION_OUTPUTS,
)
from feallm.runtime.backends.onnx import OnnxVision  # noqa: E402
from feallm.runtime.contract.errors import BackendError, VerificationError  # noqa: E402

WEIGHTED = ("Conv", "Gemm", "MatMul")


class Graph:
    """A file's nodes, and which of them are int8."""

    def __init__(self, path):
        self.model = onnx.load(path)
        self.nodes = list(self.model.graph.node)
        self.made = {name: node for node in self.nodes for name in node.output}
        self.constants = {tensor.name for tensor in self.model.graph.initializer}

    def of(self, *kinds):
        return [node for node in self.nodes if node.op_type in kinds]

    def is_weight(self, name):
        """A constant, as it stands or stored in int8."""
        node = self.made.get(name)
        while node is not None and node.op_type in ("DequantizeLinear", "Transpose"):
            name, node = node.input[0], self.made.get(node.input[0])
        return name in self.constants or (node is not None and node.op_type == "Constant")

    def int8(self, node):
        """Whether both of a node's factors come out of int8."""
        kinds = [self.made[name].op_type for name in node.input[:2] if name in self.made]
        return kinds == ["DequantizeLinear"] * 2

    def last(self, output):
        """The nearest nodes with weights before an output."""
        node = self.made.get(output)
        if node is None:
            return []
        if node.op_type in WEIGHTED:
            return [node]
        return [found for name in node.input for found in self.last(name)]


@pytest.fixture(scope="module")
def quantized(tiny, exported, tmp_path_factory):
    """The tiny network's file in int8; not to be changed."""
    path = tmp_path_factory.mktemp("int8") / "vision.int8.onnx"
    int8.quantize(exported[1] / "vision.fp32.onnx", tiny.crops(48, seed=1), path)
    return path


@pytest.fixture(scope="module")
def graph(quantized):
    return Graph(quantized)


def test_weights_are_int8_and_what_flows_is_uint8(graph, quantized, exported):
    assert len(graph.of("QuantizeLinear")) > 20
    flows = {
        tensor.data_type
        for tensor in graph.model.graph.initializer
        for node in graph.of("QuantizeLinear")
        if tensor.name == node.input[2]
    }
    assert flows == {TensorProto.UINT8}
    stored = [t for t in graph.model.graph.initializer if t.data_type == TensorProto.INT8]
    convolutions = [node for node in graph.of("Conv") if graph.int8(node)]
    first, *others = graph.of("Conv")
    assert convolutions == others and len(others) > 4 and not graph.int8(first)
    weights = {graph.made[node.input[1]].input[0] for node in convolutions}
    assert weights <= {tensor.name for tensor in stored}
    assert quantized.stat().st_size < 0.6 * (exported[1] / "vision.fp32.onnx").stat().st_size


def test_each_channel_has_its_own_scale(graph):
    for node in filter(graph.int8, graph.of("Conv")):
        dequantize = graph.made[node.input[1]]
        values = {t.name: numpy_helper.to_array(t) for t in graph.model.graph.initializer}
        assert values[dequantize.input[1]].shape == values[dequantize.input[0]].shape[:1]


def test_products_of_two_activations_stay_float(graph):
    computed = [
        node for node in graph.of("MatMul") if not any(graph.is_weight(name) for name in node.input)
    ]
    others = [node for node in graph.of("MatMul") if node not in computed]
    assert len(computed) >= 4  # two an attention
    assert not any(graph.int8(node) for node in computed)
    wide = [node.name for node in others + graph.of("Gemm") if graph.int8(node)]
    assert wide and all(name.startswith(int8.WIDE) for name in wide)


def test_the_last_layers_of_the_heads_stay_float(graph):
    for name in VISION_OUTPUTS:
        last = graph.last(name)
        assert last, name
        if name != TOKENS:
            assert not any(graph.int8(node) for node in last), name
            inputs = [graph.made[i].op_type for n in last for i in n.input if i in graph.made]
            assert "DequantizeLinear" not in inputs, name
    assert any(graph.int8(node) for node in graph.last(TOKENS))


def test_the_file_says_nothing_of_how_it_was_made(graph, quantized):
    assert not graph.model.doc_string and not graph.model.metadata_props
    data = quantized.read_bytes()
    for trace in (b"/home", b"/root", b"/work", b"/tmp", b"site-packages", b"Traceback"):
        assert trace not in data, trace


def test_every_operator_is_onnxs_own(graph):
    """None of ONNX Runtime's: other engines must read the file too."""
    assert {node.domain for node in graph.nodes} <= {"", "ai.onnx"}


def test_the_same_crops_give_the_same_bytes(tiny, exported, quantized, tmp_path):
    int8.quantize(exported[1] / "vision.fp32.onnx", tiny.crops(48, seed=1), tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == quantized.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["again.onnx"]


@pytest.mark.parametrize("count", [1, 3])
@torch.no_grad()
def test_answers_lie_near_torchs(tiny, exported, quantized, count):
    crops = tiny.crops(count, seed=20 + count)
    found = OnnxVision(quantized).run({IMAGE: crops})
    expected = dict(
        zip(VISION_OUTPUTS, load(exported[0]).vision(torch.from_numpy(crops)), strict=True)
    )
    for name in (AU_PROBABILITY, EXPRESSION):
        np.testing.assert_allclose(found[name], expected[name].numpy(), rtol=0, atol=0.06)
    assert any((found[name] != expected[name].numpy()).any() for name in VISION_OUTPUTS)


def test_how_far_it_lies_is_measured_over_every_crop(tiny, exported, quantized):
    network = load(exported[0]).vision
    crops = tiny.crops(70, seed=2)  # more than one part
    found = int8.agree(network, quantized, crops)
    answers = OnnxVision(quantized).run({IMAGE: crops})
    with torch.no_grad():
        probability, _, expression, _ = (v.numpy() for v in network(torch.from_numpy(crops)))
    gap = np.abs(answers[AU_PROBABILITY] - probability).mean()
    same = (answers[EXPRESSION].argmax(1) == expression.argmax(1)).mean()
    assert found == {
        "au_apart": pytest.approx(gap, rel=0.05),  # another batch, other sums
        "expressions_alike": pytest.approx(same, abs=0.02),
    }
    assert 0 < found["au_apart"] < int8.MOST_APART


def test_another_networks_file_does_not_agree(tiny, quantized):
    with pytest.raises(VerificationError, match=r"vision.int8.onnx: AU probabilities lie 0\.\d+"):
        int8.agree(tiny.vision(seed=9), quantized, tiny.crops(8, seed=2))


def test_expressions_alone_may_disagree_too(tiny, exported, quantized):
    """The words' order turned around, the AUs left as they are."""
    network = load(exported[0]).vision
    with torch.no_grad():
        network.expression_head.weight.neg_()
        network.expression_head.bias.neg_()
    with pytest.raises(VerificationError, match=r"0\.\d+ of the expressions are the same"):
        int8.agree(network, quantized, tiny.crops(8, seed=2))


def tensor(name, *shape, seed=0):
    values = np.random.default_rng(seed).normal(0, 0.2, shape).astype(np.float32)
    return numpy_helper.from_array(values, name)


def test_the_head_of_places_is_int8_and_what_it_says_is_not_rounded(tiny, tmp_path, monkeypatch):
    """A network of two layers, whose last one is cut into landmarks, pose and gaze."""
    count, deep, places = "n", 16, 68 * 2 + 3 + 2
    sizes = numpy_helper.from_array(np.array([136, 3, 2]), "sizes")
    shape = numpy_helper.from_array(np.array([-1, 68, 2]), "shape")
    unit = numpy_helper.from_array(np.array(16, np.float32), "unit")
    nodes = [
        helper.make_node("Cast", [IMAGE], ["float"], "cast", to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["mean"], "mean", keepdims=0),
        helper.make_node("Gemm", ["mean", "w1", "b1"], ["deep"], "first"),
        helper.make_node("Relu", ["deep"], ["features"], "relu"),
        helper.make_node("MatMul", ["features", "w2"], ["raw"], "places"),
        helper.make_node("Split", ["raw", "sizes"], ["flat", "pose", "gaze"], "split", axis=1),
        helper.make_node("Reshape", ["flat", "shape"], ["points"], "reshape"),
        helper.make_node("Mul", ["points", "unit"], [LANDMARKS], "landmarks"),
        helper.make_node("Mul", ["pose", "unit"], [POSE], "pose"),
        helper.make_node("Mul", ["gaze", "unit"], [GAZE], "gaze"),
    ]
    outputs = [(LANDMARKS, [count, 68, 2]), (POSE, [count, 3]), (GAZE, [count, 2])]
    constants = [
        numpy_helper.from_array(np.array([1, 2]), "axes"),
        tensor("w1", 3, deep),
        tensor("b1", deep, seed=1),
        tensor("w2", deep, places, seed=2),
        sizes,
        shape,
        unit,
    ]
    graph = helper.make_graph(
        nodes,
        "places",
        [helper.make_tensor_value_info(IMAGE, TensorProto.UINT8, [count, 128, 112, 3])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in outputs],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.save(model, tmp_path / "vision.onnx")
    monkeypatch.setattr(int8, "chosen", lambda model: ["first", "places"])
    int8.quantize(tmp_path / "vision.onnx", tiny.crops(4), tmp_path / "int8.onnx")
    made = Graph(tmp_path / "int8.onnx")
    (first,), (places_of,) = made.of("Gemm"), made.of("MatMul")
    assert made.int8(first) and made.int8(places_of)
    crops = tiny.crops(64, seed=9)  # others than those of the ranges
    float_answers, answers = (
        ort.InferenceSession(tmp_path / name, providers=["CPUExecutionProvider"]).run(
            [LANDMARKS], {IMAGE: crops}
        )[0]
        for name in ("vision.onnx", "int8.onnx")
    )
    assert len(np.unique(answers)) > 300  # rounded to eight bits there would be 256
    assert np.abs(answers - float_answers).mean() < 0.02 * np.abs(float_answers).mean()


@pytest.fixture
def job(tiny, exported, tmp_path):
    """A job whose float file is made already."""
    (tmp_path / "scratch").mkdir()
    shutil.copy(exported[1] / "vision.fp32.onnx", tmp_path / "scratch")
    faces = tiny.faces(48)
    return Job(load(exported[0]), faces.calibration, faces.held_out, tmp_path / "scratch")


def test_the_exporter_measures_on_the_jobs_faces(job, tmp_path):
    made = tmp_path / "vision.int8.onnx"
    exporter.make(job, "int8", made)
    assert Graph(made).of("QuantizeLinear")
    other = replace(job, crops=255 - job.crops // 4)
    int8.quantize(job.scratch / "vision.fp32.onnx", other.crops, tmp_path / "other.onnx")
    assert (tmp_path / "other.onnx").read_bytes() != made.read_bytes()


def test_ranges_that_were_measured_on_nothing_are_not_shipped(job, tmp_path):
    """Gray crops show the network nothing: what it answers to faces is cut off."""
    blind = replace(job, crops=np.full_like(job.crops[:8], 128))
    with pytest.raises(VerificationError, match=r"vision\.int8\.onnx: AU probabilities lie"):
        exporter.make(blind, "int8", tmp_path / "vision.int8.onnx")


def test_a_graph_without_names_is_refused(exported, tiny, tmp_path):
    """Which layers become int8 is told by their names: none found must not mean none made."""
    model = onnx.load(exported[1] / "vision.fp32.onnx")
    for k, node in enumerate(model.graph.node):
        node.name = f"node_{k}"
    onnx.save(model, tmp_path / "nameless.onnx")
    level = logging.getLogger().level
    with pytest.raises(VerificationError, match="lost their names"):
        int8.quantize(tmp_path / "nameless.onnx", tiny.crops(2), tmp_path / "int8.onnx")
    assert logging.getLogger().level == level, "what others log would be lost"


def test_fusions_that_change_the_answers_are_refused(exported, quantized, tiny, monkeypatch):
    """As they did with int8 attention: the library says nothing, so it is asked both ways."""
    network, crops = load(exported[0]).vision, tiny.crops(16, seed=3)
    assert int8.fusions_move(quantized, crops) < int8.MOST_MOVED
    int8.agree(network, quantized, crops)
    plain = int8.answers_at

    def broken(path, crops, level):
        return plain(path, crops, level) + (0.1 if level == "ORT_ENABLE_ALL" else 0.0)

    monkeypatch.setattr(int8, "answers_at", broken)
    with pytest.raises(VerificationError, match="fusions move AU probabilities by 0.1"):
        int8.agree(network, quantized, crops)


def test_outputs_that_are_cut_off_at_dull_ranges_are_caught(tiny, exported, tmp_path, monkeypatch):
    """The fault itself, planted: the heads in int8, their ranges measured on dull faces."""
    network = load(exported[0]).vision
    dull = (tiny.crops(16, seed=1) // 255 + 120).astype(np.uint8)
    strong = tiny.crops(64, seed=2)
    source, planted, good = (
        exported[1] / "vision.fp32.onnx",
        tmp_path / "a.onnx",
        tmp_path / "b.onnx",
    )
    usual = int8.chosen

    def with_heads(model):
        heads = ("au_head", "intensity_head", "expression_head")
        return usual(model) + [n.name for n in model.graph.node if n.name.startswith(heads)]

    int8.quantize(source, tiny.crops(48, seed=1), good)
    int8.agree(network, good, strong)
    monkeypatch.setattr(int8, "chosen", with_heads)
    int8.quantize(source, dull, planted)
    highest = {
        path: OnnxVision(path).run({IMAGE: strong})[AU_PROBABILITY].max(0)  # of each AU
        for path in (source, good, planted)
    }
    assert (highest[source] - highest[planted]).max() > 0.05, "nothing was cut off"
    assert (highest[source] - highest[good]).max() < 0.05
    with pytest.raises(VerificationError, match="AU probabilities lie"):
        int8.agree(network, planted, strong)


@pytest.mark.parametrize("scale", [1.0, 1 / 255])
def test_pixels_that_a_caller_has_scaled_are_refused(tiny, quantized, scale):
    """int8 would answer them plausibly; the file takes levels 0 to 255 as uint8, and no floats."""
    with pytest.raises(BackendError, match="ONNX Runtime failed"):
        OnnxVision(quantized).run({IMAGE: tiny.crops(1).astype(np.float32) * np.float32(scale)})
