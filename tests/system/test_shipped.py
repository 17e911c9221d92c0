"""The bundle that ships: small, made from the committed checkpoint, and right on a portrait."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from feallm.export import bundle as exporter
from feallm.runtime.analyze import Analyzer
from feallm.runtime.backends import llama
from feallm.runtime.backends.base import IMAGE
from feallm.runtime.backends.onnx import OnnxVision
from feallm.runtime.bundle.open import open_bundle
from feallm.runtime.language import check

CHECKPOINT = Path(__file__).parents[2] / "model" / "checkpoints" / "nano.safetensors"
MOST_BYTES = 12_000_000
NO_NETWORK = ["unshare", "--map-root-user", "--net"]


@pytest.fixture(scope="module")
def portrait() -> Path:
    skimage = pytest.importorskip("skimage", reason="the portrait lies in scikit-image")
    return Path(skimage.__path__[0]) / "data" / "astronaut.png"


def offline() -> list[str]:
    """What to put before a command so that it has no network."""
    if not shutil.which("unshare"):
        pytest.skip("unshare is missing")
    if subprocess.run([*NO_NETWORK, "true"], capture_output=True).returncode:
        pytest.skip("this machine lets no process give up its network")
    return NO_NETWORK


def test_it_is_small() -> None:
    shipped = open_bundle()
    size = sum(path.stat().st_size for path in shipped.root.iterdir())
    assert size <= MOST_BYTES


def test_it_holds_nothing_but_its_manifest_and_artifacts() -> None:
    shipped = open_bundle()
    named = {artifact.file for artifact in shipped.manifest.artifacts.values()}
    assert {path.name for path in shipped.root.iterdir()} == named | {"manifest.json"}


def test_it_comes_from_the_committed_checkpoint() -> None:
    found = hashlib.sha256(CHECKPOINT.read_bytes()).hexdigest()
    assert open_bundle().manifest.training.checkpoint_sha256 == found


def test_anyone_can_export_it_again(tmp_path: Path) -> None:
    shipped, again = open_bundle(), exporter.export(CHECKPOINT, tmp_path / "again")
    assert again.file("language").read_bytes() == shipped.file("language").read_bytes()
    crops = np.random.default_rng(3).integers(0, 256, (4, 128, 112, 3), dtype=np.uint8)
    old, new = (OnnxVision(b.file("vision")).run({IMAGE: crops}) for b in (shipped, again))
    for name, value in old.items():
        assert np.abs(new[name] - value).max() < 1e-5, name


def test_a_smile_is_read_and_explained_without_network(portrait: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "feallm.edge.cli", "analyze", str(portrait)]
    done = subprocess.run([*offline(), *command], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (line,) = (tmp_path / "astronaut-readings" / "readings.jsonl").read_text().splitlines()
    face = json.loads(line)
    present = {key for key, au in face["aus"].items() if au and au["present"]}
    assert {"AU12", "AU25"} <= present
    assert face["expression"]["top"] == "happiness"
    explanation = face["explanation"]
    assert set(explanation["aus"]) <= present
    assert check.spoken(explanation["text"]) <= present
    assert explanation["source"] == ("model" if llama.available() is None else "template")


@pytest.mark.skipif(llama.available() is not None, reason="llama-cpp-python is missing")
def test_the_words_change_with_the_face(portrait: Path) -> None:
    """The same sentence whatever is seen would pass every other check."""
    import cv2

    rgb = cv2.cvtColor(cv2.imread(str(portrait)), cv2.COLOR_BGR2RGB)
    upside_down = np.ascontiguousarray(rgb[::-1])
    with Analyzer(detect=False) as analyzer:
        faces = [
            analyzer.read(picture[60:180, 165:285], explain=True).readings[0]
            for picture in (np.asarray(rgb), upside_down, np.full_like(rgb, 90))
        ]
    assert len({face.explanation.text for face in faces if face.explanation}) > 1
