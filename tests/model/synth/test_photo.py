"""Photographs that move: the head finds the face, and at rest the photo is what it was."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from feallm.model.synth import camera, photo, sheet
from feallm.model.synth.draw import HEIGHT, WIDTH
from feallm.runtime.contract.aus import AU_INDEX, N_AUS
from feallm.runtime.contract.errors import InputError

INNER = slice(17, 68)  # the jaw line slides with the view: it is not fitted
SCALE = 20.0  # pixels of a centimetre


def turned(yaw, pitch, roll):
    """Rotation (3, 3) for degrees."""
    rotation = np.eye(3)
    for axis, angle in ((1, yaw), (0, -pitch), (2, roll)):
        turn = np.zeros(3)
        turn[axis] = np.deg2rad(angle)
        rotation = cv2.Rodrigues(turn)[0] @ rotation
    return rotation


def projected(rest, rotation):
    """Pixels (N, 2) of points of a head, seen from far away."""
    seen = rest.astype(np.float64) @ rotation[:2].T * SCALE
    return np.stack([seen[:, 0] + 320, 300 - seen[:, 1]], 1)


@pytest.fixture
def picture():
    """A picture of nothing, (640, 640, 3): every patch of it is another colour."""
    small = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    return cv2.resize(small, (640, 640), interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def fitted(studio, picture):
    """A person of the head's own, seen by 68 points, and the head fitted to them."""

    def of(seed, pose=(0.0, 0.0, 0.0)):
        weights = np.zeros(100)
        weights[:60] = np.random.default_rng(seed).standard_normal(60) * 0.8
        marks = studio.mesh.person(weights)[studio.mesh.landmarks]
        points = projected(marks, turned(*pose))
        return points, photo.fit(studio.mesh, picture, points)

    return of


POSES = [(0.0, 0.0, 0.0), (8.0, -5.0, 10.0), (-10.0, 4.0, -6.0)]


@pytest.mark.parametrize("pose", POSES)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_known_face_is_found_to_a_pixel(studio, fitted, seed, pose):
    points, found = fitted(seed, pose)
    assert found.error_px < 0.6
    drawn = found.pose.pixels(found.rest[studio.mesh.landmarks].astype(np.float64))
    matrix = cv2.estimateAffinePartial2D(points, drawn, method=cv2.LMEDS)[0]
    there = points @ matrix[:, :2].T + matrix[:, 2]
    off = np.linalg.norm(there - drawn, axis=1)[INNER]
    assert off.mean() < 0.8 and off.max() < 1.8
    apart = np.linalg.norm(points[36:42].mean(0) - points[42:48].mean(0))
    assert found.eyes_px == pytest.approx(apart)
    yaw = np.rad2deg(np.arcsin(found.pose.turn[0, 2]))
    assert yaw == pytest.approx(pose[0], abs=4)  # upright on the canvas, so only the yaw stays


def test_points_of_no_face_do_not_fit(studio, picture):
    points = np.random.default_rng(0).uniform(100, 500, (68, 2))
    points[36:42] -= (120, 0)
    points[42:48] += (120, 0)
    assert photo.fit(studio.mesh, picture, points).error_px > 2.6


@pytest.fixture
def retake(studio, fitted, monkeypatch):
    """A photo taken again without a camera's faults: the photo, the face, where the face is."""
    monkeypatch.setattr(camera, "develop", lambda picture, rng: picture)
    _, found = fitted(1, (4.0, 2.0, 3.0))

    def of(**levels):
        sides = np.zeros((N_AUS, 2))
        for key, level in levels.items():
            sides[AU_INDEX[key]] = level
        shot = replace(sheet._PLAIN, au_sides=sides, eye_px=54.5)  # the canvas' own size
        face = studio.retake(found, sheet.bare(1), shot)
        inside = np.zeros((HEIGHT, WIDTH), np.uint8)
        hull = cv2.convexHull(np.round(face.points68[INNER]).astype(np.int32))
        cv2.fillConvexPoly(inside, hull, 1)
        return found.ground, face, inside > 0

    return of


def test_at_rest_the_photo_is_what_it_was(retake):
    ground, face, inside = retake()
    off = np.abs(face.picture.astype(int) - ground).mean(2)
    assert inside.sum() > 3000
    assert off[inside].mean() < 2 and off[~inside].mean() < 2
    assert np.quantile(off[inside], 0.99) < 6
    assert np.nanmax(face.au_sides) == 0


@pytest.mark.parametrize("key", ["AU1", "AU4", "AU12", "AU26", "AU43"])
def test_an_au_moves_the_photo_s_own_pixels(retake, key):
    ground, face, inside = retake(**{key: 5})
    off = np.abs(face.picture.astype(int) - ground).mean(2)
    assert face.au_sides[AU_INDEX[key]].min() > 3
    assert off[inside].mean() > 2
    assert off[:8].mean() < 1  # above the head nothing moves


def test_a_gray_photo_stays_gray(studio, picture, fitted, monkeypatch):
    monkeypatch.setattr(camera, "develop", lambda picture, rng: picture)
    points, _ = fitted(1)
    gray = np.repeat(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None], 3, 2)
    found = photo.fit(studio.mesh, gray, points)
    face = studio.retake(found, sheet.bare(1), replace(sheet._PLAIN, au_sides=open_mouth()))
    assert np.ptp(face.picture.astype(int), axis=2).max() == 0


def open_mouth():
    sides = np.zeros((N_AUS, 2))
    sides[AU_INDEX["AU26"]] = 5
    return sides


def test_a_shot_of_a_photo_keeps_its_size_and_looks_ahead(fitted):
    _, found = fitted(1)
    rng = np.random.default_rng(0)
    asked = replace(
        sheet._PLAIN,
        gaze_deg=(9.0, 9.0),
        occluder="hand",
        extras={"eyeBlink_L": 0.1, "jawLeft": 0.2},
    )
    steady = [photo.steady(asked, replace(found, eyes_px=30.0), rng) for _ in range(60)]
    assert {s.gaze_deg for s in steady} == {(0.0, 0.0)}
    assert {tuple(s.extras) for s in steady} == {("jawLeft",)}
    sizes = np.array([s.eye_px for s in steady])
    assert 12 <= sizes.min() and sizes.max() <= 46 and sizes.mean() == pytest.approx(30, rel=0.1)
    assert {s.occluder for s in steady} == {"hand", "none"}
    tiny = photo.steady(asked, replace(found, eyes_px=4.0), rng)
    assert tiny.eye_px == 12


def bank_file(path, **changed):
    """A bank of two pictures."""
    images = [cv2.imencode(".png", np.full((9, 9, 3), k, np.uint8))[1].tobytes() for k in (5, 90)]
    arrays = {
        "images": np.frombuffer(b"".join(images), np.uint8),
        "offsets": np.cumsum([0, *map(len, images)]),
        "names": np.array(["fer/train:1", "cc0/2"]),
        "points68": np.zeros((2, 68, 2), np.float32),
        **changed,
    }
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def test_a_bank_is_read(tmp_path):
    found = photo.read(bank_file(tmp_path / "bank.npz"))
    assert found.names == ["fer/train:1", "cc0/2"] and len(found.images) == 2


BAD = {
    "no points": ({"points68": None}, "no array named points68"),
    "five points": ({"points68": np.zeros((2, 5, 2))}, r"points68 is \(2, 5, 2\)"),
    "points of three": ({"points68": np.zeros((3, 68, 2))}, r"points68 is \(3, 68, 2\)"),
    "offsets": ({"offsets": np.array([0, 5, 10**6])}, "offsets do not lie in images"),
    "nothing": ({"offsets": np.zeros(1, int), "names": np.zeros(0, str)}, "holds no picture"),
}


@pytest.mark.parametrize("changed, message", BAD.values(), ids=BAD.keys())
def test_a_bank_that_is_none(tmp_path, changed, message):
    with pytest.raises(InputError, match=message):
        photo.read(bank_file(tmp_path / "bank.npz", **changed))
