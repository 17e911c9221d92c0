"""The bundles that ship: small, made from the committed checkpoints, and right on a portrait."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from feallm.export import bundle as exporter
from feallm.export import plan as plans
from feallm.runtime.analyze import Analyzer
from feallm.runtime.backends import llama
from feallm.runtime.backends.base import AU_PROBABILITY, EXPRESSION, IMAGE
from feallm.runtime.backends.onnx import OnnxVision
from feallm.runtime.bundle.open import SHIPPED, open_bundle, shipped_path
from feallm.runtime.contract.geometry import MEAN_POINTS_CROP
from feallm.runtime.language import check
from feallm.runtime.vision.align import align, points_in_box

CHECKPOINTS = Path(__file__).parents[2] / "model" / "checkpoints"
CHECKPOINT = {
    "edge": CHECKPOINTS / "edge.safetensors",
    "clean": CHECKPOINTS / "edge-clean.safetensors",
}
DETECTOR = {
    "edge": CHECKPOINTS / "detector.safetensors",
    "clean": CHECKPOINTS / "detector-clean.safetensors",
}
MOST_BYTES, MOST_DETECTOR_BYTES = 12_000_000, 300_000
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


def squares(portrait: Path) -> np.ndarray:
    """Crops (12, 128, 112, 3) about the portrait's face, shifted and scaled."""
    import cv2

    rgb = np.asarray(cv2.cvtColor(cv2.imread(str(portrait)), cv2.COLOR_BGR2RGB), np.uint8)
    rng = np.random.default_rng(3)
    crops = []
    for _ in range(12):
        x, y, side = 175 + rng.normal(0, 3), 68 + rng.normal(0, 3), 100 * rng.uniform(0.9, 1.1)
        points = points_in_box((x, y, x + side, y + side), MEAN_POINTS_CROP)
        crops.append(align(rgb, points)[0])
    return np.stack(crops)


def test_every_bundle_has_its_checkpoint() -> None:
    assert set(SHIPPED) == set(CHECKPOINT)


@pytest.mark.parametrize("name", SHIPPED)
def test_it_is_small(name: str) -> None:
    size = sum(path.stat().st_size for path in shipped_path(name).iterdir())
    assert size <= MOST_BYTES


@pytest.mark.parametrize("name", SHIPPED)
def test_it_holds_nothing_but_its_manifest_and_artifacts(name: str) -> None:
    shipped = open_bundle(Path(name))
    named = {artifact.file for artifact in shipped.manifest.artifacts.values()}
    assert {path.name for path in shipped.root.iterdir()} == named | {"manifest.json"}


@pytest.mark.parametrize("name", SHIPPED)
def test_it_comes_from_the_committed_checkpoint(name: str) -> None:
    found = hashlib.sha256(CHECKPOINT[name].read_bytes()).hexdigest()
    assert open_bundle(Path(name)).manifest.training.checkpoint_sha256 == found


@pytest.mark.parametrize("name", SHIPPED)
def test_its_detector_comes_from_the_committed_checkpoint(name: str, tmp_path: Path) -> None:
    from feallm.export.detector import write
    from feallm.model.detector.checkpoint import load_weights

    shipped = open_bundle(Path(name))
    stated = shipped.manifest.detector
    assert stated is not None
    found = hashlib.sha256(DETECTOR[name].read_bytes()).hexdigest()
    assert stated.training.checkpoint_sha256 == found
    assert shipped.file(stated.artifact).stat().st_size <= MOST_DETECTOR_BYTES
    write(load_weights(DETECTOR[name]), tmp_path / "again.onnx")
    again = (tmp_path / "again.onnx").read_bytes()
    assert _agree(again, shipped.file(stated.artifact).read_bytes())


def _agree(one: bytes, other: bytes) -> bool:
    """Whether two detectors say the same of noise; folding depends on the machine's last bits."""
    import onnxruntime

    picture = np.random.default_rng(0).integers(0, 256, (1, 3, 320, 320)).astype(np.float32)
    answers = [
        onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(
            None, {"input": picture}
        )
        for data in (one, other)
    ]
    return all(np.allclose(a, b, atol=1e-3) for a, b in zip(*answers, strict=True))


@pytest.mark.parametrize("name", SHIPPED)
def test_anyone_can_export_it_again(name: str, portrait: Path, tmp_path: Path) -> None:
    """From what the repository holds, without a data set. The bytes are the same on one kind of
    processor; elsewhere batch norms may fold into other last bits, so answers are compared."""
    shipped = open_bundle(Path(name))
    plan = plans.named("laptop")
    again = exporter.export(CHECKPOINT[name], tmp_path / "again", plan, name=name, record=False)
    assert shipped.manifest.thresholds == again.manifest.thresholds
    assert shipped.manifest.vision == again.manifest.vision
    assert shipped.manifest.profile == again.manifest.profile == plan.profile()
    assert shipped.manifest.detector == again.manifest.detector
    if shipped.manifest.language is not None:
        (file,) = shipped.manifest.language.artifacts
        assert again.file(file).read_bytes() == shipped.file(file).read_bytes()
    crops = squares(portrait)
    files = (b.file(b.in_format("onnx")) for b in (shipped, again))
    old, new = (OnnxVision(file).run({IMAGE: crops}) for file in files)
    for output in (AU_PROBABILITY, EXPRESSION):
        assert np.abs(new[output] - old[output]).mean() < 0.03, output


def test_the_clean_bundle_names_only_open_sources() -> None:
    sources = open_bundle(Path("clean")).manifest.training.sources
    assert {source.name for source in sources} == {"renders", "london-odd", "cc0-portraits"}
    stated = open_bundle(Path("clean")).manifest.detector
    assert stated is not None
    told = " ".join(source.licence for source in stated.training.sources)
    assert "research use" not in told and "London" in told and "ICT-FaceKit" in told


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
