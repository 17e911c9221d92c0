"""Detector -> ONNX -> bundle: small, true to torch, all of it or nothing, the same bytes twice."""

import json
import shutil

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto

from feallm.export.bundle import write_manifest
from feallm.export.detector import OPSET, agree, fused, put, to_onnx, write
from feallm.model.detector.checkpoint import save_weights
from feallm.model.detector.network import Detector, DetectorConfig
from feallm.runtime.bundle.open import open_bundle
from feallm.runtime.contract.errors import (
    BundleError,
    FeallmError,
    InputError,
    UsageError,
    VerificationError,
)
from feallm.runtime.contract.frame import Frame
from feallm.runtime.contract.manifest import MANIFEST
from feallm.runtime.vision.detect import DetectorFile, Search

PAGE = {
    "command": "python -m feallm.model.detector.train --steps 2",
    "seed": 4,
    "sources": [{"name": "drawn", "licence": "none: random", "rows": 3, "sha256": "a" * 64}],
}


def random_network(seed, config=None):
    """Weights of which some boxes come out; its statistics are those of noise and of gray."""
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Detector(config)
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None
        with torch.no_grad():
            for head in network.heads:
                head.said.weight.normal_(std=0.007)
                head.said.bias.uniform_(-0.5, 0.5)
            pictures = torch.rand(2, 3, 96, 96) * 255
            pictures[1] = 128.0
            network.train()(pictures)
    return network.eval()


@pytest.fixture(scope="module")
def network():
    return random_network(0)


@pytest.fixture(scope="module")
def file(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("detector") / "detector.onnx"
    write(network, path)
    return path


@pytest.fixture
def checkpoint(network, tmp_path):
    path = tmp_path / "detector.safetensors"
    save_weights(network, PAGE, path)
    return path


def test_the_file_is_small(file):
    assert file.stat().st_size <= 300_000


def test_the_layout_is_what_opencv_asks_for(file):
    model = onnx.load(file)
    onnx.checker.check_model(model, full_check=True)
    assert [(found.domain, found.version) for found in model.opset_import] == [("", OPSET)]
    assert OPSET == 13
    names = [output.name for output in model.graph.output]
    assert names == [f"{part}_{s}" for part in ("cls", "obj", "bbox", "kps") for s in (8, 16, 32)]
    assert [entry.name for entry in model.graph.input] == ["input"]


def test_float16_is_cast_and_nothing_else_is(file):
    model = onnx.load(file)
    kinds = {entry.name: entry.data_type for entry in model.graph.initializer}
    halves = {name for name, kind in kinds.items() if kind == TensorProto.FLOAT16}
    casts = [node for node in model.graph.node if node.op_type == "Cast"]
    assert {name for node in casts for name in node.input} == halves
    weights = [node.input[1] for node in model.graph.node if node.op_type == "Conv"]
    assert sorted(weights) == sorted(name for node in casts for name in node.output)
    biases = [node.input[2] for node in model.graph.node if node.op_type == "Conv"]
    assert {kinds[name] for name in biases} == {TensorProto.FLOAT}
    assert len(halves) == len(weights) > 20


def test_normalisations_are_folded_in(network):
    picture = torch.rand(1, 3, 64, 96) * 255
    with torch.no_grad():
        for one, two in zip(network(picture), fused(network)(picture), strict=True):
            torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-3)
    kinds = {type(module) for module in fused(network).modules()}
    assert torch.nn.BatchNorm2d not in kinds
    assert torch.nn.BatchNorm2d in {type(module) for module in network.modules()}, "a copy"


def test_the_file_answers_as_torch_does(network, file):
    agree(network, file)


def test_another_configuration_is_written_too(tmp_path):
    small = random_network(
        2, DetectorConfig(8, 8, levels=(16, 24, 16), neck=16, early_blocks=0, blocks=(0, 1, 2))
    )
    write(small, tmp_path / "small.onnx")
    agree(small, tmp_path / "small.onnx")
    assert (tmp_path / "small.onnx").stat().st_size < 40_000


def test_a_file_of_other_weights_is_caught(network, file):
    with pytest.raises(VerificationError, match="differs from torch"):
        agree(random_network(1), file)


@pytest.mark.parametrize("part", ["heads.2.said.bias", "levels.1.1.mixed.normal.bias"])
def test_a_file_of_which_one_tensor_differs_is_caught(network, file, part):
    changed = Detector(network.config)
    changed.load_state_dict(network.state_dict())
    changed.state_dict()[part].add_(0.5)
    with pytest.raises(VerificationError, match="differs from torch"):
        agree(changed, file)


def test_a_file_that_answers_nonsense_is_caught(network, file, tmp_path):
    model = onnx.load(file)
    for entry in model.graph.initializer:
        if entry.name.endswith("said_bias"):
            values = np.full(onnx.numpy_helper.to_array(entry).shape, np.nan, np.float32)
            entry.CopyFrom(onnx.numpy_helper.from_array(values, entry.name))
    onnx.save(model, tmp_path / "nan.onnx")
    with pytest.raises(VerificationError, match="nan"):
        agree(network, tmp_path / "nan.onnx")


def test_onnxruntime_reads_it_at_the_size_it_states(file):
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    found = session.run(None, {"input": np.zeros((1, 3, 320, 320), np.float32)})
    assert [part.shape[1] for part in found] == [1600, 400, 100] * 4
    assert all(0 <= part.min() <= part.max() <= 1 for part in found[:6]), "cls and obj: shares"


def test_two_writings_are_the_same_bytes(network):
    once, twice = to_onnx(network), to_onnx(network)
    assert once.SerializeToString(deterministic=True) == twice.SerializeToString(deterministic=True)


SEARCH = Search(score=0.45, overlap=0.25, still_px=512, video_px=256)


def test_a_bundle_gets_a_detector(toy_bundle, checkpoint, tmp_path):
    made = put(toy_bundle, checkpoint, tmp_path / "new" / "made", SEARCH)
    old = open_bundle(toy_bundle)
    manifest, stated = made.manifest, made.manifest.detector
    assert (stated.score, stated.overlap, stated.still_px, stated.video_px) == (
        0.45,
        0.25,
        512,
        256,
    )
    assert stated.training.command == PAGE["command"] and stated.training.seed == 4
    assert [source.name for source in stated.training.sources] == ["drawn"]
    assert made.digest != old.digest and manifest.training == old.manifest.training
    for name in old.manifest.artifacts:
        assert made.file(name).read_bytes() == old.file(name).read_bytes()
    assert oct(made.root.stat().st_mode & 0o777) == "0o755"
    assert [path.name for path in made.root.parent.iterdir()] == ["made"], "nothing else is left"
    picture = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    faces = DetectorFile(made.file("detector.onnx"), SEARCH).find(Frame(picture, "noise", 0, 0.0))
    assert faces and all(face.score >= 0.45 for face in faces)


def test_an_old_detector_makes_room(toy_bundle, checkpoint, tmp_path):
    first = put(toy_bundle, checkpoint, tmp_path / "first", SEARCH)
    save_weights(random_network(1), {**PAGE, "seed": 9}, checkpoint)
    second = put(first.root, checkpoint, tmp_path / "second", Search(0.7))
    assert second.manifest.detector.training.seed == 9 and second.manifest.detector.score == 0.7
    assert sorted(second.manifest.artifacts) == sorted(first.manifest.artifacts)
    assert sorted(path.name for path in second.root.iterdir()) == sorted(
        path.name for path in first.root.iterdir()
    )
    assert second.file("detector.onnx").read_bytes() != first.file("detector.onnx").read_bytes()
    assert open_bundle(first.root).digest == first.digest, "the old bundle is as it was"


def test_an_old_detector_of_another_name_makes_room(toy_bundle, checkpoint, tmp_path):
    first = put(toy_bundle, checkpoint, tmp_path / "first", SEARCH)
    fields = json.loads((first.root / MANIFEST).read_text())
    fields["artifacts"]["finder"] = {
        **fields["artifacts"].pop("detector.onnx"),
        "file": "finder.onnx",
    }
    fields["detector"]["artifact"] = "finder"
    write_manifest(first.root, fields)
    (first.root / "detector.onnx").rename(first.root / "finder.onnx")
    second = put(first.root, checkpoint, tmp_path / "second", SEARCH)
    assert "finder" not in second.manifest.artifacts
    assert not (second.root / "finder.onnx").exists()


def test_the_same_call_gives_the_same_bytes(toy_bundle, checkpoint, tmp_path):
    one = put(toy_bundle, checkpoint, tmp_path / "one", SEARCH)
    two = put(toy_bundle, checkpoint, tmp_path / "two", SEARCH)
    assert one.digest == two.digest
    for path in one.root.iterdir():
        assert (two.root / path.name).read_bytes() == path.read_bytes(), path.name


def test_an_existing_folder_is_refused(toy_bundle, checkpoint, tmp_path):
    out = tmp_path / "there"
    out.mkdir()
    (out / "precious").write_text("x")
    with pytest.raises(UsageError, match="exists already"):
        put(toy_bundle, checkpoint, out, SEARCH)
    assert [path.name for path in out.iterdir()] == ["precious"]


def test_a_place_that_cannot_be_written_is_one_line(toy_bundle, checkpoint, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="cannot be written") as error:
        put(toy_bundle, checkpoint, tmp_path / "file" / "bundle", SEARCH)
    assert "\n" not in error.value.line()


@pytest.mark.parametrize(
    ("search", "expected"), [(Search(1.5), BundleError), (Search(0.5, still_px=4), BundleError)]
)
def test_a_search_that_no_manifest_may_state_leaves_nothing(
    toy_bundle, checkpoint, tmp_path, search, expected
):
    with pytest.raises(expected, match="detector"):
        put(toy_bundle, checkpoint, tmp_path / "out" / "made", search)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_file_that_answers_otherwise_is_not_shipped(
    network, toy_bundle, checkpoint, tmp_path, monkeypatch
):
    other = to_onnx(random_network(1))
    monkeypatch.setattr("feallm.export.detector.to_onnx", lambda _: other)
    with pytest.raises(VerificationError, match="differs from torch"):
        put(toy_bundle, checkpoint, tmp_path / "out" / "made", SEARCH)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda bundle, weights: weights.unlink(), InputError),
        (lambda bundle, weights: weights.with_suffix(".json").write_text("{}"), InputError),
        (lambda bundle, weights: (bundle / "manifest.json").unlink(), BundleError),
        (lambda bundle, weights: next(bundle.glob("*.onnx")).write_bytes(b"x"), BundleError),
    ],
)
def test_what_is_broken_is_one_line(toy_bundle, checkpoint, tmp_path, damage, expected):
    bundle = tmp_path / "bundle"
    shutil.copytree(toy_bundle, bundle)
    damage(bundle, checkpoint)
    with pytest.raises(expected) as error:
        put(bundle, checkpoint, tmp_path / "out" / "made", SEARCH)
    assert isinstance(error.value, FeallmError) and "\n" not in error.value.line()
    assert not (tmp_path / "out").exists()


def test_pictures_of_any_size_after_one_another(file):
    """One object, as a stream of photographs asks it: no shape may be kept from the one before."""
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (*size, 3), np.uint8) for size in ((64, 64), (95, 300))]
    one = cv2.FaceDetectorYN.create(str(file), "", (320, 320), 0.4, 0.3)
    for picture in (*pictures, pictures[0]):
        size = (picture.shape[1], picture.shape[0])
        one.setInputSize(size)
        fresh = cv2.FaceDetectorYN.create(str(file), "", size, 0.4, 0.3)
        np.testing.assert_array_equal(one.detect(picture)[1], fresh.detect(picture)[1])
