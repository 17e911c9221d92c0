"""The ONNX file against torch: same answers for any batch, the opset asked for, no traces."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from feallm.export.job import Job
from feallm.export.onnx import MOST_APART, OPSET, agree, difference, export_vision, make
from feallm.model.checkpoint import load
from feallm.model.vision import VisionNetwork
from feallm.runtime.backends.base import (
    ALL_OUTPUTS,
    AU_PROBABILITY,
    AU_SIDES,
    EXPRESSION,
    IMAGE,
    TOKENS,
    VISION_OUTPUTS,
)
from feallm.runtime.backends.onnx import OnnxVision


@pytest.fixture(scope="module")
def network(exported):
    return load(exported[0]).vision


@pytest.fixture(scope="module")
def file(exported):
    return exported[1] / "vision.fp32.onnx"


@pytest.mark.parametrize("count", [1, 2, 5])
@torch.no_grad()
def test_torch_and_onnx_agree(tiny, network, file, count):
    crops = tiny.crops(count, seed=count)
    found = OnnxVision(file).run({IMAGE: crops})
    expected = dict(zip(VISION_OUTPUTS, network(torch.from_numpy(crops)), strict=True))
    for name in (AU_PROBABILITY, EXPRESSION):
        np.testing.assert_allclose(found[name], expected[name].numpy(), rtol=0, atol=1e-3)
    for name in VISION_OUTPUTS:
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], expected[name].numpy(), rtol=0, atol=5e-3)


def test_the_difference_is_measured_over_more_than_one_part(tiny, network, file):
    worst = difference(network, file, tiny.crops(70))
    assert set(worst) == set(VISION_OUTPUTS)
    assert worst[AU_PROBABILITY] < 1e-3 and worst[EXPRESSION] < 1e-3


def test_another_networks_answers_are_told_apart(tiny, file):
    worst = difference(tiny.vision(seed=9), file, tiny.crops(4))
    assert worst[AU_PROBABILITY] > 0.01 and worst[TOKENS] > 0.01


def test_the_file_says_what_was_asked_for(file):
    import onnx

    model = onnx.load(file)
    assert [
        (op.domain, op.version) for op in model.opset_import if op.domain in ("", "ai.onnx")
    ] == [("", OPSET)]
    assert OPSET == 20
    (image,) = model.graph.input
    shape = image.type.tensor_type.shape.dim
    assert image.name == IMAGE and image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert shape[0].dim_param and [d.dim_value for d in shape[1:]] == [128, 112, 3]
    assert [output.name for output in model.graph.output] == list(VISION_OUTPUTS)


def test_only_operators_that_every_engine_has(file):
    """No shape computing, no gather by index, no resize (feallm.md 6.4); norms are folded."""
    import onnx

    used = {node.op_type for node in onnx.load(file).graph.node}
    assert not used & {
        "Resize",
        "GatherND",
        "ScatterND",
        "NonZero",
        "Loop",
        "If",
        "BatchNormalization",
    }


def test_no_path_of_this_machine_is_inside(file):
    import feallm

    data = file.read_bytes()
    for trace in (b"/home", b"/root", b"/work", b"/tmp", b"site-packages", b".py", b"Traceback"):
        assert trace not in data, trace
    assert str(feallm.__file__).encode() not in data


def test_places_are_exported_where_the_network_has_them(tiny, tmp_path):
    torch.manual_seed(4)
    config = replace(tiny.CONFIG.vision, place=4)
    network = VisionNetwork(config, tiny.CONFIG.language.width).eval()
    export_vision(network, tmp_path / "vision.onnx")
    agree(network, tmp_path / "vision.onnx")
    crops = tiny.crops(3)
    found = OnnxVision(tmp_path / "vision.onnx").run({IMAGE: crops})
    assert set(found) == set(ALL_OUTPUTS)
    np.testing.assert_array_equal(found[AU_SIDES].max(2), found[AU_PROBABILITY])
    with torch.no_grad():
        values = network(torch.from_numpy(crops))
    for name, value in list(zip(ALL_OUTPUTS, values, strict=True))[len(VISION_OUTPUTS) :]:
        np.testing.assert_allclose(found[name], value.numpy(), rtol=0, atol=1e-2)


def test_a_file_that_tells_no_presence_of_sides_is_read(tiny, tmp_path):
    """Bundles of before it was told."""
    torch.manual_seed(4)
    config = replace(tiny.CONFIG.vision, place=4)
    network = VisionNetwork(config, tiny.CONFIG.language.width).eval()
    path = tmp_path / "vision.onnx"
    export_vision(network, path)
    model = onnx.load(path)
    kept = [value for value in model.graph.output if value.name != AU_SIDES]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    onnx.save(model, path)
    found = OnnxVision(path).run({IMAGE: tiny.crops(2)})
    assert set(found) == set(ALL_OUTPUTS) - {AU_SIDES}


@pytest.fixture(scope="module")
def half(tiny, exported, tmp_path_factory):
    """The tiny network in float16."""
    folder = tmp_path_factory.mktemp("half")
    job = Job(load(exported[0]), tiny.crops(4), tiny.crops(4), folder)
    make(job, "fp16", folder / "vision.fp16.onnx")
    return folder / "vision.fp16.onnx"


def test_float16_answers_as_torch_and_weighs_half(tiny, network, file, half):
    worst = difference(network, half, tiny.crops(8, seed=5))
    assert 0 < worst[AU_PROBABILITY] < MOST_APART["fp16"] and worst[EXPRESSION] < 1e-2
    assert half.stat().st_size < 0.6 * file.stat().st_size


def test_float16_takes_and_gives_what_float32_does(file, half):
    """An app changes the file, and nothing else."""
    one, other = (onnx.load(path).graph for path in (file, half))
    for these, those in ((one.input, other.input), (one.output, other.output)):
        types = [[(v.name, v.type.tensor_type.elem_type) for v in part] for part in (these, those)]
        assert types[0] == types[1]


def test_float16_pools_without_a_kernel_that_boards_lack(file, half):
    kinds = [{node.op_type for node in onnx.load(path).graph.node} for path in (file, half)]
    assert "AveragePool" in kinds[0] and "AveragePool" not in kinds[1]


def test_colours_are_added_up_in_float32(half):
    """In float16 levels above 128 are an eighth apart: luma would lose what the eyes see."""
    graph = onnx.load(half).graph
    luma = next(node for node in graph.node if node.name.startswith("pixels"))
    casts = {node.attribute[0].i for node in graph.node if node.op_type == "Cast"}
    assert luma is not None and onnx.TensorProto.FLOAT in casts
    weights = {t.name: t.data_type for t in graph.initializer}
    (name,) = [n for n in weights if n.endswith("luma")]
    assert weights[name] == onnx.TensorProto.FLOAT


def test_nodes_are_named_after_their_layers(file):
    names = [node.name for node in onnx.load(file).graph.node]
    assert len(set(names)) == len(names)
    for layer in ("encoder.stages.0", "lca.attention.query", "au_head", "token_mlp"):
        assert any(name.startswith(layer) for name in names), layer
