"""Checkpoint to bundle: all of it or nothing, the same bytes twice, and the verb."""

import json
import shutil

import pytest

from feallm.export import bundle
from feallm.model.checkpoint import load
from feallm.runtime.analyze import Analyzer
from feallm.runtime.bundle.open import open_bundle
from feallm.runtime.contract.errors import UsageError, VerificationError
from feallm.runtime.contract.geometry import CROP


def test_the_manifest_tells_the_checkpoint(tiny, exported):
    path, folder = exported
    opened = open_bundle(folder)
    manifest = opened.manifest
    assert manifest.aus_trained == tiny.TRAINED
    assert manifest.thresholds == dict.fromkeys(tiny.TRAINED, 0.5)
    assert manifest.geometry.crop() == CROP
    assert manifest.training.checkpoint_sha256 == bundle.checkpoint_sha256(path)
    assert manifest.training.seed == 3 and not manifest.intensity_calibrated
    assert manifest.language.visual_tokens == tiny.CONFIG.vision.tokens + 1
    assert manifest.language.context == tiny.CONFIG.language.context
    assert sorted(p.name for p in folder.iterdir()) == [
        "language.gguf",
        "manifest.json",
        "vision.onnx",
    ]


def test_a_bundle_reads_a_face(tiny, exported):
    with Analyzer(exported[1], detect=False) as analyzer:
        (reading,) = analyzer.read(tiny.crops(1)[0]).readings
    assert [key for key, au in reading.aus.items() if au is not None] == list(tiny.TRAINED)


def test_the_same_checkpoint_gives_the_same_bytes(exported, tmp_path):
    again = bundle.export(exported[0], tmp_path / "again")
    assert again.digest == open_bundle(exported[1]).digest
    for file in exported[1].iterdir():
        assert (again.root / file.name).read_bytes() == file.read_bytes(), file.name
    assert oct(again.root.stat().st_mode & 0o777) == "0o755"


def test_an_existing_folder_is_refused(exported, feallm, tmp_path):
    out = tmp_path / "there"
    out.mkdir()
    (out / "precious").write_text("x")
    with pytest.raises(UsageError, match="exists already"):
        bundle.export(exported[0], out)
    code, _, err = feallm("export", "--checkpoint", exported[0], "--out", out)
    assert code == 2 and err.count("\n") == 1 and "exists already" in err
    assert [p.name for p in out.iterdir()] == ["precious"]


@pytest.mark.parametrize("step", ["onnx", "gguf"])
def test_nothing_is_half_there(exported, tmp_path, monkeypatch, step):
    name = {"onnx": "export_vision", "gguf": "export_language"}[step]

    def fail(*words):
        words[-1].write_bytes(b"half")
        assert not (tmp_path / "out").exists(), "the bundle is seen before it is whole"
        raise RuntimeError("stopped here")

    monkeypatch.setattr(
        "feallm.export.onnx.export_vision",
        lambda network, path: shutil.copy(exported[1] / "vision.onnx", path),
    )
    monkeypatch.setattr(f"feallm.export.{step}.{name}", fail)
    with pytest.raises(RuntimeError, match="stopped here"):
        bundle.export(exported[0], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_answers_otherwise_is_not_shipped(tiny, exported, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "feallm.export.onnx.export_vision",
        lambda network, path: shutil.copy(exported[1] / "vision.onnx", path),
    )
    made = load(exported[0])
    made.vision = tiny.vision(seed=9)
    with pytest.raises(VerificationError, match="differs from torch"):
        bundle.build(made, "0" * 64, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def unwritable(tmp_path):
    """A place below a file: no folder can be made there, whoever asks."""
    (tmp_path / "file").write_text("x")
    return tmp_path / "file" / "bundle"


def test_a_place_that_cannot_be_written_is_one_line(exported, feallm, unwritable):
    code, _, err = feallm("export", "--checkpoint", exported[0], "--out", unwritable)
    assert code == 2 and err.count("\n") == 1 and "cannot be written" in err


def test_a_checkpoint_without_words_makes_a_bundle_without_words(exported, tmp_path, monkeypatch):
    """The vision file is taken over: exporting it again would show nothing new."""
    made = load(exported[0])
    made.language = made.tokenizer = None
    monkeypatch.setattr(
        "feallm.export.onnx.export_vision",
        lambda network, path: shutil.copy(exported[1] / "vision.onnx", path),
    )
    opened = bundle.build(made, "0" * 64, tmp_path / "eyes")
    assert opened.manifest.language is None and list(opened.manifest.artifacts) == ["vision"]
    with Analyzer(opened, detect=False) as analyzer:
        assert "no language model" in analyzer.words_missing


def test_a_changed_field_breaks_the_digest(exported, tmp_path):
    from feallm.runtime.contract.errors import BundleError

    folder = tmp_path / "copy"
    shutil.copytree(exported[1], folder)
    fields = json.loads((folder / "manifest.json").read_text())
    fields["thresholds"]["AU12"] = 0.9
    (folder / "manifest.json").write_text(json.dumps(fields))
    with pytest.raises(BundleError, match="digest"):
        open_bundle(folder)


def test_a_missing_checkpoint_is_one_line(feallm, tmp_path):
    code, _, err = feallm(
        "export", "--checkpoint", tmp_path / "none.safetensors", "--out", tmp_path / "out"
    )
    assert code == 3 and err.count("\n") == 1 and "none.safetensors" in err
