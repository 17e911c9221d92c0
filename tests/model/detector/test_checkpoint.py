"""A detector's weights: there and back, and what is refused."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from feallm.model.detector.checkpoint import load_weights, read_page, save_weights
from feallm.model.detector.network import Detector, DetectorConfig
from feallm.runtime.contract.errors import InputError

PAGE = {"command": "train", "seed": 5, "sources": [{"name": "heads"}]}


@pytest.fixture
def saved(finder, tmp_path):
    path = tmp_path / "detector.safetensors"
    save_weights(finder, PAGE, path)
    return path


def test_there_and_back(finder, saved):
    loaded = load_weights(saved)
    assert loaded.config == finder.config and not loaded.training
    for name, value in finder.state_dict().items():
        expected = value.half().float() if value.is_floating_point() else value
        assert torch.equal(loaded.state_dict()[name], expected), name
    page = read_page(saved)
    assert {name: page[name] for name in PAGE} == PAGE
    assert sorted(file.name for file in saved.parent.iterdir()) == [
        "detector.json",
        "detector.safetensors",
    ]


def test_another_configuration_there_and_back(tmp_path):
    config = DetectorConfig(stem=8, early=8, levels=(16, 16, 24), neck=16, blocks=(1, 1, 1))
    save_weights(Detector(config), PAGE, tmp_path / "small.safetensors")
    assert load_weights(tmp_path / "small.safetensors").config == config


def test_what_float16_cannot_hold_stays_float32(saved):
    network = load_weights(saved)
    network.stem.normal.running_var[0] = 123456.0
    save_weights(network, PAGE, saved)
    kinds = {name: value.dtype for name, value in load_file(saved).items()}
    assert kinds["stem.normal.running_var"] == torch.float32
    assert kinds["stem.convolution.weight"] == torch.float16
    assert load_weights(saved).stem.normal.running_var[0] == 123456.0


def page_without(path, name):
    fields = json.loads(path.read_text())
    del fields[name]
    path.write_text(json.dumps(fields))


def page_with(path, **config):
    fields = json.loads(path.read_text())
    fields["config"].update(config)
    path.write_text(json.dumps(fields))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.with_suffix(".json").unlink(), "detector.json: not a readable page"),
        (lambda p: p.with_suffix(".json").write_text("{half"), "not a readable page"),
        (lambda p: p.with_suffix(".json").write_bytes(b"\xff\xfe"), "not a readable page"),
        (lambda p: p.with_suffix(".json").write_text("[]"), "expected a JSON object, found list"),
        (lambda p: page_without(p.with_suffix(".json"), "config"), "says no config"),
        (lambda p: page_without(p.with_suffix(".json"), "sources"), "says no sources"),
        (lambda p: page_with(p.with_suffix(".json"), blocks=3), "config of no detector"),
        (lambda p: page_with(p.with_suffix(".json"), wings=3), "config of no detector"),
        (lambda p: page_with(p.with_suffix(".json"), stem=-3), "config of no detector"),
        (lambda p: page_with(p.with_suffix(".json"), stem=8), "do not fit"),
        (lambda p: p.unlink(), "detector.safetensors: not a readable checkpoint"),
        (lambda p: p.write_bytes(p.read_bytes()[:-100]), "not a readable checkpoint"),
        (lambda p: p.write_bytes(b""), "not a readable checkpoint"),
        (lambda p: save_file({"x": torch.zeros(1)}, p), "do not fit"),
    ],
)
def test_a_damaged_checkpoint_is_one_line(saved, damage, message):
    damage(saved)
    with pytest.raises(InputError, match=message) as error:
        load_weights(saved)
    assert "\n" not in error.value.line()
