"""Measures of a face: against the paper's sums written out, and against pictures made worse."""

from __future__ import annotations

import base64
import json

import cv2
import numpy as np
import pytest

from feallm.runtime.bundle.open import SHIPPED, open_bundle, shipped_path
from feallm.runtime.contract.frame import Crop, Face
from feallm.runtime.contract.geometry import CROP, CropGeometry
from feallm.runtime.contract.quality import Gate
from feallm.runtime.contract.reading import PlaceReading
from feallm.runtime.vision import quality
from feallm.runtime.vision.align import align

EYES_PX = CROP.points_px[1][0] - CROP.points_px[0][0]
UPRIGHT = np.array([[1.0, 0, 0], [0, 1.0, 0]])
POINTS = np.array(CROP.points_px)


def taken(scale=1.0, shift=(0.0, 0.0)):
    """Five points of an upright face `scale` times the crop's size."""
    return POINTS * scale + shift


def measured(picture, points, *, gate=None, place=None, covered=None, geometry=CROP):
    crop = Crop(*align(picture, points, geometry))
    face = Face((0.0, 0.0, 9.0, 9.0), points, 1.0)
    gate = gate or Gate()
    return quality.measure(picture, face, crop, geometry, gate=gate, place=place, covered=covered)


def drawn(scene, size=200):
    picture = scene(size, size, (0, 0, size))
    rng = np.random.default_rng(1)  # a flat drawing has no texture to lose
    noisy = picture + rng.normal(0, 12, picture.shape[:2])[..., None]
    return noisy.clip(0, 255).astype(np.uint8)


def face_points(size=200):
    """Where `drawn` has them."""
    return np.array([(76, 98), (124, 98), (100, 125), (82, 160), (118, 160)]) * size / 200.0


def slow_blur(gray, axis):
    """Crété et al. (2007), equations 1 to 7, one pixel at a time."""
    rows = gray.T if axis == 0 else gray
    rows = np.asarray(rows, np.float64)
    height, width = rows.shape
    sum_sharp = sum_lost = 0.0
    for y in range(height):
        soft = []
        for x in range(width):
            taps = [rows[y, min(max(x + k, 0), width - 1)] for k in range(-4, 5)]
            soft.append(sum(taps) / 9)
        for x in range(1, width):
            sharp = abs(rows[y, x] - rows[y, x - 1])
            sum_sharp += sharp
            sum_lost += max(0.0, sharp - abs(soft[x] - soft[x - 1]))
    return (sum_sharp - sum_lost) / sum_sharp


@pytest.mark.parametrize("seed", range(3))
def test_blur_is_the_papers(seed):
    rng = np.random.default_rng(seed)
    gray = cv2.GaussianBlur(rng.uniform(0, 255, (30, 23)), (0, 0), 0.4 + seed).astype(np.float32)
    expected = max(slow_blur(gray, 0), slow_blur(gray, 1))
    assert quality.blur(gray) == pytest.approx(expected, abs=1e-4)


def test_a_picture_of_nothing_is_as_blurred_as_can_be():
    assert quality.blur(np.full((42, 34), 128, np.float32)) == 1.0


def test_more_blur_is_more(scene):
    picture, points = drawn(scene), face_points()
    steps = [picture] + [cv2.GaussianBlur(picture, (0, 0), s) for s in (1, 2, 4, 8)]
    values = [measured(step, points).blur for step in steps]
    assert values == sorted(values) and len(set(values)) == 5
    assert 0 <= values[0] < 0.4 and 0.5 < values[-1] <= 1
    assert "blurred" not in measured(steps[0], points).below
    assert "blurred" in measured(steps[-1], points).below


def test_blur_hardly_depends_on_the_size_of_the_picture(scene):
    small, large = (measured(drawn(scene, s), face_points(s)).blur for s in (200, 800))
    assert large == pytest.approx(small, abs=0.12)


@pytest.mark.parametrize("scale", [0.2, 0.5, 1.0, 3.0])
def test_size_is_the_distance_of_the_eyes_in_the_frame(scale):
    picture = np.full((600, 600, 3), 90, np.uint8)
    assert measured(picture, taken(scale)).size_px == pytest.approx(EYES_PX * scale)


def test_a_head_that_turns_is_not_smaller():
    picture = np.full((600, 600, 3), 90, np.uint8)
    narrow = taken() * (0.7, 1.0)  # yaw of 45 degrees
    eyes = float(np.linalg.norm(narrow[1] - narrow[0]))
    assert measured(picture, narrow).size_px > eyes * 1.15


def test_size_by_another_bundles_geometry():
    picture = np.full((600, 600, 3), 90, np.uint8)
    half = CropGeometry(56, 64, tuple((x / 2, y / 2) for x, y in CROP.points_px), 128)
    found = measured(picture, taken(0.5), geometry=half)
    assert found.size_px == pytest.approx(EYES_PX / 2)


def test_small(scene):
    tiny = drawn(scene, 36)
    assert "small" in measured(tiny, face_points(36)).below
    assert "small" not in measured(drawn(scene, 60), face_points(60)).below


def test_dark(scene):
    picture = drawn(scene)
    assert "dark" not in measured((picture * 0.4).astype(np.uint8), face_points()).below
    assert "dark" in measured((picture * 0.05).astype(np.uint8), face_points()).below


def test_the_networks_pose_comes_before_the_points():
    picture = np.full((200, 200, 3), 90, np.uint8)
    place = PlaceReading(((1.0, 2.0),) * 68, (12.0, -50.0, 3.0), (0.0, 0.0))
    found = measured(picture, taken(), place=place)
    assert (found.yaw_deg, found.pitch_deg) == (-50.0, 12.0)
    assert "turned" in found.below


def head(yaw_deg, pitch_deg, roll_deg):
    """Five points of a simple head before a camera far away: eyes and mouth in a plane, the nose
    tip before it by what `quality` takes a nose to be."""
    depth = 1 / quality._YAW_A_NOSE
    level = -quality._PITCH_DEG / quality._PITCH_DEG_A_NOSE
    model = np.array(
        [[-0.5, 0, 0], [0.5, 0, 0], [0, 1.1 * level, depth], [-0.4, 1.1, 0], [0.4, 1.1, 0]]
    )
    yaw, pitch, roll = np.deg2rad([yaw_deg, pitch_deg, roll_deg])
    about_y = [[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]]
    about_x = [[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]]
    about_z = [[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]]
    turned = model @ (np.array(about_z) @ np.array(about_x) @ np.array(about_y)).T
    return turned[:, :2] * 40 + 100


@pytest.mark.parametrize("roll", [0, 30, -90, 180])
@pytest.mark.parametrize("yaw", [-45, -20, 0, 20, 45])
def test_yaw_of_five_points(yaw, roll):
    # the subject's left is the picture's right: there the nose goes
    found, pitch = quality.turn_of_points(head(yaw, 0, roll))
    assert found == pytest.approx(yaw, abs=4)
    assert pitch == pytest.approx(0, abs=1)


def test_pitch_of_five_points():
    up, level, down = (quality.turn_of_points(head(0, p, 0))[1] for p in (20, 0, -20))
    assert up > level + 8 and down < level - 8


def test_points_that_coincide_turn_nowhere():
    assert quality.turn_of_points(np.full((5, 2), 7.0)) == (0.0, 0.0)


def test_a_box_alone_tells_no_turn():
    picture = np.full((200, 200, 3), 90, np.uint8)
    crop = Crop(*align(picture, taken()))
    box = Face((0.0, 0.0, 112.0, 128.0), None, 1.0)
    found = quality.measure(picture, box, crop, CROP, gate=Gate())
    assert found.yaw_deg is None and found.pitch_deg is None and found.occluded is None
    assert "turned" not in found.below


@pytest.mark.parametrize(
    ("shift", "cut"),
    [((40, 40), False), ((-40, 40), True), ((40, -55), True), ((185, 40), True), ((40, 160), True)],
)
def test_a_face_that_goes_beyond_the_frame(shift, cut):
    picture = np.full((240, 240, 3), 90, np.uint8)
    assert ("cut" in measured(picture, taken(shift=shift)).below) is cut


def test_a_crop_that_is_all_face_is_not_cut():
    """As FER's pictures are: 48 pixels from brows to chin."""
    from feallm.runtime.contract.geometry import MEAN_POINTS_CROP
    from feallm.runtime.vision.align import points_in_box

    picture = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    found = measured(picture, points_in_box((0, 0, 48, 48), MEAN_POINTS_CROP))
    assert "cut" not in found.below and "small" not in found.below


def written(tmp_path, **layers):
    path = tmp_path / "occlusion.json"
    path.write_text(
        json.dumps(
            {
                name: {
                    "bias": bias,
                    "weights_f2": base64.b64encode(np.array(w, "<f2").tobytes()).decode(),
                }
                for name, (w, bias) in layers.items()
            }
        )
    )
    return path


def test_the_layer_of_an_artifact(tmp_path):
    path = written(tmp_path, mine=([1.0, -2.0, 0.5, 0.0], 0.25), other=([0.0] * 4, 9.0))
    layer = quality.occlusion_for("mine", path)
    tokens = np.array([[3.0, 1.0], [2.0, 7.0]], np.float32)
    assert layer.share(tokens) == pytest.approx(1 / (1 + np.exp(-(3.0 - 2.0 + 1.0 + 0.25))))
    assert layer.share(tokens * 1e4) == pytest.approx(1.0)  # no overflow


def test_another_checkpoint_has_no_layer(tmp_path):
    assert quality.occlusion_for("unknown", written(tmp_path, mine=([1.0], 0.0))) is None


def test_tokens_of_another_shape_are_not_read(tmp_path):
    layer = quality.occlusion_for("mine", written(tmp_path, mine=([1.0, 2.0], 0.0)))
    assert layer.share(np.zeros((3, 3), np.float32)) is None


def test_the_first_shipped_bundle_has_its_layer():
    manifest = open_bundle(shipped_path(SHIPPED[0])).manifest
    layer = quality.occlusion_for(manifest.training.checkpoint_sha256)
    assert layer is not None, "fit it: python -m feallm.calibration.occlusion"
    assert np.isfinite(layer.weights).all() and layer.weights.any()


def test_a_covered_face_is_marked():
    picture = np.full((200, 200, 3), 90, np.uint8)
    assert "occluded" in measured(picture, taken(), covered=0.5).below
    assert "occluded" not in measured(picture, taken(), covered=0.01).below
