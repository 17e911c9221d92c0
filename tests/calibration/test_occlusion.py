"""The read-out of what covers a face: what it learns from, how it is fitted, where it is kept."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

pytest.importorskip("scipy", reason="the renderer needs scipy")

from feallm.calibration import occlusion  # noqa: E402  scipy first
from feallm.model.data import pack  # noqa: E402
from feallm.runtime.backends.base import LANDMARKS  # noqa: E402
from feallm.runtime.contract.geometry import CROP  # noqa: E402
from feallm.runtime.vision.quality import occlusion_for  # noqa: E402

POINTS = np.array(CROP.points_px)
GREEN = (20, 220, 30)


def marks():
    """68 landmarks of an upright face in the crop: eyes, nose and mouth at the crop's points."""
    found = np.full((68, 2), 56.0)
    around = np.linspace(0, 2 * np.pi, 6, endpoint=False)
    ring = np.stack([7 * np.cos(around), 3 * np.sin(around)], 1)
    found[36:42], found[42:48] = POINTS[0] + ring, POINTS[1] + ring
    found[:17] = np.stack([np.linspace(20, 92, 17), 60 + 48 * np.sin(np.linspace(0, np.pi, 17))], 1)
    found[17:22], found[22:27] = POINTS[0] + (0, -14), POINTS[1] + (0, -14)
    found[27:31] = np.stack([np.full(4, 56.0), np.linspace(44, 60.2, 4)], 1)
    found[31:36] = POINTS[2] + (0, 5)
    mouth = np.stack([np.linspace(40.8, 71.2, 20), np.full(20, 83.6)], 1)
    found[48:] = mouth
    return found


class Marking:
    """Finds the same landmarks in every crop."""

    def run(self, inputs):
        return {LANDMARKS: np.stack([marks()] * len(inputs["image"])).astype(np.float32)}


def write(folder, count, **more):
    """A pack of plain green photographs, eyes 39 pixels apart; groups count from 1."""
    picture = np.full((140, 130, 3), GREEN[::-1], np.uint8)
    encoded = cv2.imencode(".png", picture)[1].tobytes()
    folder.mkdir()
    points = np.tile((POINTS + 5).astype(np.float32), (count, 1, 1))
    np.savez(
        folder / "p-00.npz",
        images=np.frombuffer(encoded * count, np.uint8),
        offsets=np.arange(count + 1) * len(encoded),
        points5=points,
        group=np.arange(1, count + 1),
        **more,
    )
    index = {"parts": [{"file": "p-00.npz", "sha256": pack.sha256(folder / "p-00.npz")}]}
    (folder / pack.INDEX).write_text(json.dumps(index))
    return folder


def test_renders_say_themselves_what_is_covered(tmp_path):
    covered = np.linspace(0, 0.9, 10).astype(np.float32)
    folder = write(tmp_path / "renders", 10, occluded=covered)
    crops = occlusion.of_renders(folder, 10, CROP, np.random.default_rng(0))
    np.testing.assert_allclose(crops.covered, covered)
    assert crops.group == list(range(1, 11))
    assert {pixels.shape for pixels in crops.pixels} == {(128, 112, 3)}


def test_photographs_are_bare_or_painted_and_know_which(tmp_path, monkeypatch):
    """Photographs of one green, which nothing that is painted has."""
    monkeypatch.setattr(occlusion, "_DEVELOPED", 0.0)
    folder = write(tmp_path / "photos", 4)
    crops = occlusion.of_photos(folder, 120, CROP, Marking(), np.random.default_rng(1))
    covered = np.array(crops.covered)
    assert len(covered) == 120 and set(crops.group) == {1, 2, 3, 4}
    assert 0 <= covered.min() and covered.max() <= 1
    inner = [pixels[30:105, 25:88].astype(float) for pixels in crops.pixels]
    changed = np.array([(np.abs(p - GREEN).max(2) > 25).mean() for p in inner])
    assert (changed[covered > 0.2] > 0.05).all()
    assert (covered[changed < 0.001] == 0).all()
    assert 0.35 < (changed < 0.001).mean() < 0.75  # half are painted, and some paint misses
    assert np.corrcoef(changed, covered)[0, 1] > 0.6


def test_dark_glasses_cover_the_eyes_and_darken_them():
    scene = np.full((occlusion.HEIGHT, occlusion.WIDTH, 3), 200, np.uint8)
    flat = (marks() - (56, 64)) * (54.5 / 39) + (94, 105)
    mask = occlusion._dark_glasses(scene, flat, np.random.default_rng(3))
    for eye in (flat[36:42].mean(0), flat[42:48].mean(0)):
        x, y = eye.round().astype(int)
        assert mask[y, x] == 1 and scene[y, x].max() < 120
    mouth = flat[48:].mean(0).round().astype(int)
    assert mask[mouth[1], mouth[0]] == 0 and (scene[mouth[1], mouth[0]] == 200).all()


def test_the_layer_is_where_the_loss_has_no_slope():
    rng = np.random.default_rng(5)
    inputs = rng.normal(3, 2, (400, 6)).astype(np.float32)
    true = np.array([1.0, -0.5, 0, 0, 0.25, 0])
    covered = 1 / (1 + np.exp(-((inputs - 3) @ true - 1)))
    weights, bias = occlusion.fit(inputs, covered)
    spread = inputs.std(0) + 1e-3
    answer = 1 / (1 + np.exp(-(inputs @ weights + bias)))
    wrong = answer - covered
    standard = (inputs - inputs.mean(0)) / spread
    slope = standard.T @ wrong / len(wrong) + occlusion.L2 * weights * spread
    np.testing.assert_allclose(slope, 0, atol=2e-3)
    assert wrong.mean() == pytest.approx(0, abs=2e-3)
    assert np.corrcoef(answer, covered)[0, 1] > 0.99


def test_a_layer_is_kept_beside_the_others(tmp_path):
    path = tmp_path / "occlusion.json"
    rng = np.random.default_rng(6)
    first, second = rng.normal(0, 0.02, 4352), rng.normal(0, 0.02, 4352)
    occlusion.keep(path, "b" * 64, first, -2.5)
    occlusion.keep(path, "a" * 64, second, 1.0)
    occlusion.keep(path, "a" * 64, second, 1.5)  # fitted again
    assert list(json.loads(path.read_text())) == ["a" * 64, "b" * 64]
    layer = occlusion_for("b" * 64, path)
    np.testing.assert_allclose(layer.weights, first, rtol=1e-3, atol=1e-6)
    assert layer.bias == -2.5 and occlusion_for("a" * 64, path).bias == 1.5
    assert path.stat().st_size < 50_000 and list(tmp_path.iterdir()) == [path]
