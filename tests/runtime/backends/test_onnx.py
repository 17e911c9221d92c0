"""ONNX Runtime, and the stand-in for it, behind their seam."""

from __future__ import annotations

import numpy as np
import pytest

from feallm.runtime.backends.base import IMAGE, VISION_OUTPUTS
from feallm.runtime.backends.onnx import OnnxVision
from feallm.runtime.backends.replay import ReplayVision
from feallm.runtime.contract.errors import BackendError


@pytest.fixture
def vision(toy_bundle):
    backend = OnnxVision(toy_bundle / "vision.onnx")
    yield backend
    backend.close()


def test_outputs_by_name_with_their_shapes(vision):
    outputs = vision.run({IMAGE: np.zeros((3, 128, 112, 3), np.uint8)})
    shapes = {name: value.shape for name, value in outputs.items()}
    assert shapes == {
        "au_probability": (3, 20),
        "au_intensity": (3, 20, 2),
        "expression": (3, 8),
        "tokens": (3, 17, 256),
    }
    assert all(value.dtype == np.float32 for value in outputs.values())
    assert vision.provider == "CPUExecutionProvider"


def test_a_face_gives_the_same_alone_and_among_others(vision):
    crops = np.random.default_rng(1).integers(0, 256, (5, 128, 112, 3), dtype=np.uint8)
    together = vision.run({IMAGE: crops})
    for k in range(5):
        alone = vision.run({IMAGE: crops[k : k + 1]})
        for name in VISION_OUTPUTS:
            assert np.allclose(alone[name][0], together[name][k], atol=1e-5)


@pytest.mark.parametrize(
    "crops",
    [
        np.zeros((1, 112, 112, 3), np.uint8),
        np.zeros((128, 112, 3), np.uint8),
        np.zeros((1, 128, 112, 3), np.float32),
    ],
    ids=["size", "axes", "type"],
)
def test_other_pictures_than_crops_are_refused(vision, crops):
    with pytest.raises(BackendError, match="ONNX Runtime failed"):
        vision.run({IMAGE: crops})


def test_an_input_of_another_name(vision):
    with pytest.raises(BackendError):
        vision.run({"picture": np.zeros((1, 128, 112, 3), np.uint8)})


@pytest.mark.parametrize("data", [b"", b"hello", b"\x08\x08" * 50], ids=["empty", "text", "bytes"])
def test_files_that_are_no_network(tmp_path, data):
    path = tmp_path / "vision.onnx"
    path.write_bytes(data)
    with pytest.raises(BackendError, match="cannot load it") as caught:
        OnnxVision(path)
    assert "\n" not in caught.value.line()


def test_a_network_of_another_signature(tmp_path):
    onnx = pytest.importorskip("onnx")
    value, kind = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["image"], ["smile"])],
        "other",
        [value("image", kind, [1, 3])],
        [value("smile", kind, [1, 3])],
    )
    opset = onnx.helper.make_opsetid("", 13)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8), tmp_path / "v")
    with pytest.raises(BackendError, match=r"unexpected signature \['image'\] -> \['smile'\]"):
        OnnxVision(tmp_path / "v")


def test_closing_twice_and_running_after_it(toy_bundle):
    backend = OnnxVision(toy_bundle / "vision.onnx")
    backend.close()
    backend.close()
    with pytest.raises(BackendError, match="closed"):
        backend.run({IMAGE: np.zeros((1, 128, 112, 3), np.uint8)})


def test_replay_repeats_its_row_and_remembers_what_it_saw():
    replay = ReplayVision({"expression": np.arange(8, dtype=np.float32)})
    crops = np.zeros((3, 4, 4, 3), np.uint8)
    assert np.array_equal(replay.run({IMAGE: crops})["expression"], [np.arange(8)] * 3)
    assert replay.seen[0] is crops
    with pytest.raises(BackendError, match="no input named 'image'"):
        replay.run({})
    replay.close()
