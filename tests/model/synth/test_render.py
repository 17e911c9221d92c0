"""A finished face: what is hidden or in doubt has no label, and all else has one."""

from dataclasses import replace

import numpy as np
import pytest

from feallm.model.synth import occlude, sheet
from feallm.model.synth.sample import Glasses
from feallm.runtime.contract.aus import AU_INDEX, AU_KEYS, N_AUS

EYES = ("AU5", "AU6", "AU7", "AU43")
MOUTH = ("AU12", "AU14", "AU15", "AU18", "AU20", "AU24", "AU25", "AU28")
BROWS = ("AU1", "AU2")


def asked(**levels):
    sides = np.zeros((N_AUS, 2))
    for key, level in levels.items():
        sides[AU_INDEX[key]] = level
    return sides


@pytest.fixture
def take(studio):
    """A plain face with parts of the shot changed."""
    someone = sheet.bare(0)

    def of(glasses=None, **changes):
        ready = studio.prepare(replace(someone, glasses=glasses))
        return studio.take(ready, replace(sheet._PLAIN, **changes), [], develop=False)

    return of


def unknown(face):
    return {key for key in AU_KEYS if np.isnan(face.au_sides[AU_INDEX[key]]).any()}


def test_a_face_in_plain_sight_has_every_label(take):
    face = take()
    assert not unknown(face) and face.occluded == 0
    assert (face.au_sides == 0).all()


def test_a_mask_hides_the_mouth_and_not_the_brows(take):
    face = take(occluder="mask")
    assert set(MOUTH) <= unknown(face) and not unknown(face) & {*BROWS, *EYES}
    assert 0.2 < face.occluded < 0.8


def frames(dark):
    return Glasses(dark, 5.6, 4.6, 0.5, 0.15, (0.1, 0.1, 0.1), 0.2, 0.0)


def test_dark_lenses_hide_the_eyes_and_clear_ones_nothing(take):
    dark, clear = take(frames(0.95)), take(frames(0.05))
    assert set(EYES) <= unknown(dark) and not unknown(dark) & {*MOUTH, "AU26"}
    assert not unknown(clear) and clear.occluded < dark.occluded


@pytest.mark.parametrize("kind", occlude._PAINTERS)
def test_an_occluder_hides_what_it_covers(take, kind):
    """Over eight places: some labels are lost, never all, and only where something is covered.
    A covered chin (AU17) does not count as covered: its points are not inner ones."""
    lost = []
    for seed in range(8):
        face = take(occluder=kind, seed=seed)
        found = unknown(face)
        lost.append(len(found))
        assert len(found) < N_AUS
        assert face.occluded > 0 or found <= {"AU17"}
    assert kind == "lock" or max(lost) > 0


def test_what_is_hidden_is_hidden_on_both_sides(take):
    for seed in range(6):
        sides = take(occluder="hand", seed=seed).au_sides
        np.testing.assert_array_equal(np.isnan(sides[:, 0]), np.isnan(sides[:, 1]))


def test_brows_that_a_wrinkled_nose_pulls_down_are_not_scored(take):
    alone = take(au_sides=asked(AU9=4))
    assert unknown(alone) == {"AU4"} and alone.au_sides[AU_INDEX["AU9"]].min() > 3
    with_frown = take(au_sides=asked(AU9=4, AU4=3))
    assert not unknown(with_frown) and with_frown.au_sides[AU_INDEX["AU4"]].min() > 2


LIFTED = {"mouthUpperUp_L": 0.5, "mouthUpperUp_R": 0.5}


def test_teeth_bared_by_a_smile_are_no_lifted_lip(take):
    smile = take(au_sides=asked(AU12=3, AU25=2), extras=LIFTED)
    assert unknown(smile) == {"AU10"}
    asked_for = take(au_sides=asked(AU12=3, AU25=2, AU10=2), extras=LIFTED)
    assert not unknown(asked_for)
    no_smile = take(au_sides=asked(AU25=2), extras=LIFTED)
    assert not unknown(no_smile) and no_smile.au_sides[AU_INDEX["AU10"]].min() > 1


def test_lids_over_eyes_that_look_down_are_not_scored_unless_shut(take):
    down = take(gaze_deg=(-25.0, 0.0))
    assert unknown(down) == {"AU43"}
    assert (down.au_sides[AU_INDEX["AU5"]] < 0.01).all()
    shut = take(gaze_deg=(-25.0, 0.0), au_sides=asked(AU43=5))
    assert not unknown(shut) and shut.au_sides[AU_INDEX["AU43"]].min() > 4
    assert not unknown(take(gaze_deg=(-10.0, 0.0)))


def test_labels_do_not_follow_pose_light_or_size(take):
    sides = asked(AU1=2, AU12=4, AU25=2)
    plain = take(au_sides=sides).au_sides
    for change in (
        {"pose_deg": (10.0, 40.0, -8.0)},
        {"light": 6, "exposure": 0.6},
        {"eye_px": 15.0},
        {"distance": 40.0, "offset": (4.0, -3.0)},
        {"seed": 9},
    ):
        np.testing.assert_array_equal(take(au_sides=sides, **change).au_sides, plain)


def test_the_head_turns_to_its_own_left(take):
    """A positive yaw: the nose goes to the picture's right, a positive pitch lifts it."""
    straight = take().points68
    left, up = take(pose_deg=(0.0, 30.0, 0.0)).points68, take(pose_deg=(20.0, 0.0, 0.0)).points68

    def nose(points):
        return points[30] - points[[36, 45]].mean(0)

    assert nose(left)[0] > nose(straight)[0] + 3 and nose(up)[1] < nose(straight)[1] - 1


@pytest.mark.parametrize("eye_px", [14.0, 30.0, 46.0])
def test_the_eyes_are_as_far_apart_as_asked(take, eye_px):
    points = take(eye_px=eye_px).points68
    apart = np.linalg.norm(points[36:42].mean(0) - points[42:48].mean(0))
    assert apart == pytest.approx(eye_px, rel=0.06)


def test_an_open_mouth_shows_what_is_behind_the_lips(take):
    shut, wide = take().picture, take(au_sides=asked(AU26=5, AU25=5)).picture
    points = take(au_sides=asked(AU26=5, AU25=5)).points68
    x, y = np.round(points[[62, 66]].mean(0)).astype(int)
    box = (slice(y - 2, y + 3), slice(x - 2, x + 3))
    assert np.abs(wide[box].astype(int) - shut[box]).mean() > 10


def test_unknown_labels_come_with_occluders(make, tmp_path):
    """In a pack of the frozen mix: NaN is there, and only where something can be hidden."""
    make(tmp_path / "frozen", n=20, frozen=True)
    columns = {"au_sides": [], "occluded": [], "glasses": []}
    for path in sorted((tmp_path / "frozen").glob("*.npz")):
        with np.load(path) as file:
            for name, rows in columns.items():
                rows.append(file[name])
    sides, covered, glasses = (np.concatenate(rows) for rows in columns.values())
    occluded = np.array([m % 5 in (1, 3) for m in range(20)])
    assert np.isnan(sides)[occluded].sum() > 0 and (covered[occluded] > 0).any()
    bare = ~occluded & (glasses == 0)
    doubt = [AU_INDEX[key] for key in ("AU4", "AU10", "AU43")]
    assert not np.isnan(np.delete(sides[bare], doubt, 1)).any() and (covered[bare] == 0).all()
