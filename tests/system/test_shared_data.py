"""The shipped bundle on real faces: the acceptance figures of the first path, run again.

Needs ../shared/data beside the checkout; skips with a reason where it is not there.
"""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from feallm.model.evaluate import run, sets
from feallm.runtime.analyze import Analyzer
from feallm.runtime.backends import llama
from feallm.runtime.contract.aus import AU_INDEX

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"
CHECKPOINT = ROOT / "model" / "checkpoints" / "edge.safetensors"
YUNET = SHARED / "detector" / "face_detection_yunet_2023mar.onnx"

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not beside the checkout"),
]


@pytest.fixture(scope="module")
def valid() -> sets.Labelled:
    return sets.read(SHARED / "fer" / "valid.npz", "valid")


def part(data: sets.Labelled, count: int) -> sets.Labelled:
    """An even sample of a split's rows."""
    rows = data.rows[np.linspace(0, len(data.rows) - 1, count).astype(int)]
    assert data.expression is not None
    images = [data.images[i] for i in rows]
    return replace(data, images=images, expression=data.expression[rows])


def analyze(*words: object) -> int:
    """Exit code of `feallm analyze`."""
    command = [sys.executable, "-m", "feallm.edge.cli", "analyze", *map(str, words)]
    return subprocess.run(command, capture_output=True).returncode


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "readings.jsonl").read_text().splitlines()]


def test_expression_accuracy_on_ferplus_valid(valid: sets.Labelled) -> None:
    with Analyzer(detect=False) as analyzer:
        figures = run.run(analyzer, valid, "valid").figures
    assert figures["n"] == 3199
    assert figures["expression"]["accuracy"] >= 0.80


@pytest.mark.skipif(llama.available() is not None, reason="llama-cpp-python is missing")
def test_words_follow_from_what_is_seen(valid: sets.Labelled) -> None:
    with Analyzer(detect=False) as analyzer:
        figures = run.run(analyzer, part(valid, 300), "valid", words=True).figures["words"]
    assert figures["accuracy"] >= 0.75
    assert figures["accuracy_swapped_tokens"] <= 0.40


def test_smiles_are_told_from_neutral_faces_in_colour() -> None:
    """London's even ids, test only. A fair share of the smiles is barely there."""
    import cv2

    from feallm.runtime.contract.frame import Frame

    scores: dict[str, list[float]] = {"neutral": [], "smiling": []}
    with Analyzer(words=False) as analyzer:
        for word, found in scores.items():
            for path in sorted((SHARED / "london").glob(f"*_{word}.webp")):
                if int(path.name[:3]) % 2 == 0:
                    rgb = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
                    faces = analyzer.read(Frame(np.asarray(rgb, np.uint8), path.name)).readings
                    assert len(faces) == 1, path.name
                    au = faces[0].aus["AU12"]
                    assert au is not None
                    found.append(au.probability)
    smiles, rests = np.array(scores["smiling"]), np.array(scores["neutral"])
    auc = float((smiles[:, None] > rests[None]).mean())
    assert auc >= 0.90


def test_torch_and_the_int8_file_agree_on_real_faces(valid: sets.Labelled) -> None:
    from feallm.export.int8 import agree
    from feallm.model.checkpoint import load
    from feallm.runtime.bundle.open import open_bundle

    bundle = open_bundle()
    sample = part(valid, 200)
    crops = np.concatenate(list(sets.crops(sample, sample.rows, bundle.manifest.geometry.crop())))
    found = agree(load(CHECKPOINT).vision, bundle.file(bundle.in_format("onnx")), crops)
    assert found["expressions_alike"] >= 0.96


@pytest.mark.skipif(llama.available() is not None, reason="llama-cpp-python is missing")
def test_torch_and_llama_choose_the_same_next_token(valid: sets.Labelled) -> None:
    from feallm.export.parity import language_file, next_token_agreement
    from feallm.model.checkpoint import load
    from feallm.runtime.bundle.open import open_bundle

    bundle = open_bundle()
    sample = part(valid, 64)
    crops = np.concatenate(list(sets.crops(sample, sample.rows, bundle.manifest.geometry.crop())))
    agreement = next_token_agreement(load(CHECKPOINT), language_file(bundle), crops)
    assert agreement.tokens > 64 * 20
    assert agreement.share >= 0.99


@pytest.mark.parametrize("detector", [(), ("--detector", YUNET)], ids=["own", "yunet"])
def test_five_friends(tmp_path: Path, detector: tuple[object, ...]) -> None:
    picture = SHARED / "clips" / "group5.jpg"
    assert analyze(picture, *detector, "--out", tmp_path / "out") == 0
    found = rows(tmp_path / "out")
    assert [row["track"] for row in found] == [0, 1, 2, 3, 4]
    assert all(row["explanation"]["text"] for row in found)


@pytest.mark.parametrize("name", ["noface.jpg", "noface.mp4"])
def test_pictures_without_a_face(name: str, tmp_path: Path) -> None:
    picture = SHARED / "clips" / name
    assert analyze(picture, "--out", tmp_path / "out") == 0
    found = rows(tmp_path / "out")
    assert found and all(row["box"] is None and row["aus"] is None for row in found)


def test_one_row_a_frame_with_its_time(tmp_path: Path) -> None:
    clip = SHARED / "clips" / "face_moving.mp4"
    assert analyze(clip, "--out", tmp_path / "out", "--explain", "never") == 0
    found = rows(tmp_path / "out")
    assert [row["frame"] for row in found] == list(range(62))
    assert np.allclose([row["time_s"] for row in found], np.arange(62) / 12, atol=0.02)
    assert {row["track"] for row in found} == {0}


def test_the_portrait_is_a_smile(tmp_path: Path) -> None:
    assert analyze(SHARED / "clips" / "portrait.jpg", "--out", tmp_path / "out") == 0
    (face,) = rows(tmp_path / "out")
    assert face["aus"]["AU12"]["present"] and face["aus"]["AU25"]["present"]
    assert face["expression"]["top"] == "happiness"
    assert set(face["aus"]) == set(AU_INDEX)
