"""Checkpoints: there and back at float16, and every kind of damage told in one error."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from feallm.model import checkpoint as checkpoints
from feallm.runtime.contract.errors import InputError


@pytest.fixture
def path(tiny, tmp_path):
    return tiny.checkpoint(tmp_path)


def test_there_and_back_at_float16(tiny, path):
    found = checkpoints.load(path)
    assert found.config == tiny.CONFIG and found.aus_trained == tiny.TRAINED
    assert found.aus_sided == tiny.TRAINED[:1]
    assert found.thresholds == dict.fromkeys(tiny.TRAINED, 0.5)
    assert found.tokenizer == tiny.tokenizer_json()
    assert found.training["seed"] == 3
    for module, original in ((found.vision, tiny.vision()), (found.language, tiny.language())):
        assert not module.training
        state = original.state_dict()
        for name, value in module.state_dict().items():
            expected = (
                state[name].half().float() if state[name].is_floating_point() else state[name]
            )
            assert value.dtype == expected.dtype and torch.equal(value, expected), name
    assert all(v.dtype != torch.float32 for v in load_file(path).values())


@torch.no_grad()
def test_saving_merges_lora(tiny, path):
    found = checkpoints.load(path)
    for parameter in found.language.add_lora(4, 8.0):
        torch.nn.init.normal_(parameter, std=0.05)
    embeddings = torch.randn(1, 9, 256)
    expected = found.language(embeddings)
    checkpoints.save(found, path)
    again = checkpoints.load(path).language(embeddings)
    assert (again - expected).abs().max() < 0.02


def test_a_checkpoint_of_the_eyes_alone(tiny, tmp_path):
    path = tmp_path / "deep" / "eyes.safetensors"
    checkpoints.save(checkpoints.Checkpoint(tiny.CONFIG, tiny.vision()), path)
    found = checkpoints.load(path)
    assert found.language is None and found.tokenizer is None


def test_all_that_does_not_fit_is_named_at_once(path):
    tensors = load_file(path)
    del tensors["vision.au_head.bias"], tensors["language.norm.weight"]
    tensors["vision.extra"] = torch.zeros(3)
    tensors["vision.expression_head.bias"] = torch.zeros(7)
    save_file(tensors, path)
    with pytest.raises(InputError) as error:
        checkpoints.load(path)
    line = error.value.line()
    for part in (
        "missing vision.au_head.bias",
        "missing language.norm.weight",
        "unknown vision.extra",
        "vision.expression_head.bias is (7,) instead of (8,)",
    ):
        assert part in line
    assert "\n" not in line


def test_weights_of_another_size_do_not_fit(path):
    facts = json.loads(path.with_suffix(".json").read_text())
    facts["config"]["vision"]["width"] = 64
    path.with_suffix(".json").write_text(json.dumps(facts))
    with pytest.raises(InputError, match="do not fit"):
        checkpoints.load(path)


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "no tensors", "header"])
def test_a_damaged_file_is_refused(path, damage):
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        new = {"empty": b"", "cut": data[:-100], "no tensors": b"not tensors" * 99}
        path.write_bytes(new.get(damage, data[:8] + b"[" + data[9:]))
    with pytest.raises(InputError, match="not a readable checkpoint"):
        checkpoints.load(path)


@pytest.mark.parametrize("field", ["config", "aus_trained", "thresholds", "training"])
def test_a_json_without_a_field_is_refused(path, field):
    facts = json.loads(path.with_suffix(".json").read_text())
    del facts[field]
    path.with_suffix(".json").write_text(json.dumps(facts))
    with pytest.raises(InputError, match=field):
        checkpoints.load(path)


@pytest.mark.parametrize(
    "part, change",
    [("vision", {"channels": 3}), ("vision", {"depth": 1}), ("language", {"width": 200})],
)
def test_a_config_that_builds_nothing_is_refused(path, part, change):
    facts = json.loads(path.with_suffix(".json").read_text())
    facts["config"][part] |= change
    path.with_suffix(".json").write_text(json.dumps(facts))
    with pytest.raises(InputError):
        checkpoints.load(path)


def test_a_json_that_is_none_is_refused(path):
    path.with_suffix(".json").write_text("{half")
    with pytest.raises(InputError):
        checkpoints.load(path)


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "facts.json"
    checkpoints.write_atomically(path, b"old")
    monkeypatch.setattr("os.fsync", lambda file: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        checkpoints.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"


def test_optimizers_go_on_where_they_were():
    def steps(parameter, optimizer, count):
        for k in range(count):
            optimizer.zero_grad()
            (parameter * (k + 1)).sin().sum().backward()
            optimizer.step()

    first = torch.nn.Parameter(torch.arange(4.0))
    steps(first, optimizer := torch.optim.AdamW([first], lr=0.1), 3)
    kept = {n: v.clone() for n, v in checkpoints.optimizer_tensors(optimizer).items()}
    second = torch.nn.Parameter(first.detach().clone())
    fresh = torch.optim.AdamW([second], lr=0.1)
    checkpoints.restore_optimizer(fresh, kept)
    steps(first, optimizer, 2)
    steps(second, fresh, 2)
    assert torch.equal(first, second)
