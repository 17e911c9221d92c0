"""The whole way of a newcomer at the smallest size: pack, train, export, analyze, evaluate."""

import json
import stat
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from feallm.model import config
from feallm.model.checkpoint import load, save
from feallm.model.train import whole
from feallm.runtime.contract.errors import UsageError

ONE = ["--threads", 1]  # more would only wait for each other in these tests


@pytest.fixture
def small(tiny, monkeypatch):
    """`nano` is the tiny network."""
    monkeypatch.setitem(config.SIZES, "nano", tiny.CONFIG)


def test_train_export_analyze_and_evaluate(tiny, small, packed, feallm, tmp_path):
    run = tmp_path / "run"
    code, out, err = feallm(
        "train", "--pack", packed, "--out", run, "--steps", "3,3,3", "--seed", 4, *ONE
    )
    assert code == 0, err
    path = run / "nano.safetensors"
    assert str(path) in out
    made = load(path)
    assert made.aus_trained == tiny.TRAINED and set(made.thresholds) == set(tiny.TRAINED)
    facts = made.training
    assert facts["seed"] == 4 and facts["steps"] == {"vision": 3, "text": 3, "align": 3}
    assert facts["command"].startswith("feallm train --pack")
    assert facts["sources"][0]["name"] == "random" and len(facts["packs"][0]["sha256"]) == 64

    # Once more: every stage is done, and the checkpoint comes out the same.
    first = path.read_bytes()
    code, _, err = feallm(
        "train", "--pack", packed, "--out", run, "--steps", "3,3,3", "--seed", 4, *ONE
    )
    assert code == 0, err
    assert path.read_bytes() == first

    bundle = tmp_path / "bundle"
    code, out, err = feallm(
        "export", "--no-golden", "--checkpoint", path, "--out", bundle, "--no-measure"
    )
    assert code == 0, err
    assert str(bundle) in out and "language.q8_0.gguf" in err
    assert stat.S_IMODE(bundle.stat().st_mode) == 0o755
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["training"]["seed"] == 4
    assert manifest["training"]["sources"][0]["licence"] == "none: random"

    picture, rows = tmp_path / "face.png", tmp_path / "rows"
    cv2.imwrite(str(picture), tiny.pictures(1, side=120)[0])
    code, out, err = feallm(
        "analyze", picture, "--no-detect", "--bundle", bundle, "--out", rows, "--explain", "always"
    )
    assert code == 0, err
    (row,) = map(json.loads, (rows / "readings.jsonl").read_text().splitlines())
    assert row["bundle"] == manifest["digest"]
    assert [key for key, au in row["aus"].items() if au is not None] == list(tiny.TRAINED)
    assert row["explanation"]["source"] in ("model", "template")

    data = tmp_path / "valid.npz"
    images = [tiny.webp(p) for p in tiny.pictures(4)]
    np.savez(
        data,
        images=np.frombuffer(b"".join(images), np.uint8),
        offsets=np.cumsum([0, *map(len, images)]),
        expression=np.arange(4),
    )
    figures = tmp_path / "figures.json"
    code, _, err = feallm(
        "evaluate", "--data", data, "--split", "valid", "--bundle", bundle, "--json", figures
    )
    assert code == 0, err
    assert json.loads(figures.read_text())["n"] == 4


def test_stages_may_run_apart(tiny, small, packed, tmp_path):
    job = whole.Job("nano", (whole.Pack(packed),), tmp_path, 0, whole.Steps(2, 2, 2))
    assert whole.run(job, "text") is None
    assert whole.run(job, "vision") == tmp_path / whole.EYES
    apart = whole.run(job, "align").read_bytes()
    together = whole.Job(
        "nano", (whole.Pack(packed),), tmp_path / "at once", 0, whole.Steps(2, 2, 2)
    )
    assert whole.run(together).read_bytes() == apart


def test_words_for_eyes_that_are_calibrated_already(tiny, small, packed, tmp_path):
    steps = whole.Steps(2, 2, 2)
    first = whole.Job("nano", (whole.Pack(packed),), tmp_path / "eyes", 0, steps)
    eyes = load(whole.run(first, "vision"))
    eyes.thresholds = dict.fromkeys(eyes.thresholds, 0.33)
    save(eyes, tmp_path / "calibrated.safetensors")
    job = whole.Job(
        "nano",
        (whole.Pack(packed),),
        tmp_path / "words",
        0,
        steps,
        eyes=tmp_path / "calibrated.safetensors",
    )
    found = load(whole.run(job))
    assert set(found.thresholds.values()) == {0.33}
    assert found.language is not None
    before, after = eyes.vision.state_dict(), found.vision.state_dict()
    for name, value in before.items():  # but for what the words look through
        same = bool((after[name] == value).all())
        assert same or name.startswith(("token_mlp", "local_token")), name
    assert not (tmp_path / "words" / "vision.state.json").exists()


@pytest.mark.parametrize(
    "words, message",
    [
        (["--steps", "3,3"], "three numbers"),
        (["--steps", "a,b,c"], "three numbers"),
        (["--steps", "3,0,3"], "three numbers"),
        (["--steps", "3,-3,3"], "three numbers"),
        (["--stage", "ears"], "'ears'"),
        (["--size", "huge"], "'huge'"),
    ],
)
def test_wrong_calls(packed, feallm, tmp_path, words, message):
    code, _, err = feallm("train", "--pack", packed, "--out", tmp_path / "run", *ONE, *words)
    assert code == 2 and message in err and err.count("\n") == 1


def test_a_folder_that_is_no_pack(feallm, tmp_path):
    code, _, err = feallm("train", "--pack", tmp_path, "--out", tmp_path / "run", *ONE)
    assert code == 3 and "feallm data pack" in err and err.count("\n") == 1


def test_labelled_and_sided_aus(tiny, faces):
    assert whole.labelled_aus(faces) == tiny.TRAINED == whole.sided_aus(faces)
    even = np.repeat(faces.au_sides.max(2, keepdims=True), 2, 2)
    assert whole.sided_aus(replace(faces, au_sides=even)) == ()


def test_every_size_has_steps():
    assert set(whole.STEPS) == set(config.SIZES)
    with pytest.raises(UsageError):
        whole.run(whole.Job("nano", (), Path("nowhere")), "none")


def test_a_training_goes_on_from_another_ones_folder(small, packed, feallm, tmp_path):
    words = ("train", "--pack", packed, "--stage", "vision", "--steps", "3,3,3", *ONE)
    first, second = tmp_path / "first", tmp_path / "second"
    assert feallm(*words, "--out", first)[0] == 0
    folder = whole._first_weights(first).state_dict()
    for name, value in load(first / whole.EYES).vision.state_dict().items():
        if name != "temperature":  # fitted when all was done
            assert np.allclose(folder[name], value, atol=2e-3), name
    code, _, err = feallm(*words, "--rate", "1e-4", "--start", first, "--out", second)
    assert code == 0, err
    facts = json.loads((second / whole.RUN).read_text())
    assert facts["rate"] == 1e-4 and len(facts["start"]) == 64
    code, _, err = feallm(*words, "--start", tmp_path, "--out", tmp_path / "third")
    assert code == 3 and "no saved state" in err
