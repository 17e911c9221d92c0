"""Drawing the golden frames: light that only the right channel order sees through, and the same
pictures again."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from feallm.calibration import draw_frames, frames
from feallm.calibration.scenes import COLOURS, SCENES, Lamps
from feallm.runtime.contract.aus import AU_INDEX
from feallm.runtime.contract.errors import LimitError
from feallm.runtime.contract.expressions import EXPRESSIONS, PATTERNS, speaking_for

HEAD = Path(__file__).parents[3] / "shared" / "data" / "head" / "ict_head.npz"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", {}),
        ("12D", {"AU12": (4, 4)}),
        ("R14E R12B", {"AU14": (0, 5), "AU12": (0, 2)}),
        ("L12A 6C", {"AU12": (1, 0), "AU6": (3, 3)}),
    ],
)
def test_facs_notation_is_read(text, wanted):
    sides = draw_frames.au_sides_of(text)
    found = {key: tuple(sides[k].tolist()) for key, k in AU_INDEX.items() if sides[k].any()}
    assert found == wanted


def test_each_scene_shows_what_its_expression_is_called_for():
    for scene in SCENES:
        sides = draw_frames.au_sides_of(scene.aus)
        present = [key for key, k in AU_INDEX.items() if sides[k].any()]
        one_sided = [key for key, k in AU_INDEX.items() if (sides[k] > 0).sum() == 1]
        assert scene.expression in (*EXPRESSIONS, "none")
        if scene.expression == "neutral":
            assert not present
        elif scene.expression != "none":
            core, _ = speaking_for(scene.expression, present, one_sided)
            assert len(core) >= PATTERNS[scene.expression].enough, scene.aus
    assert len({scene.who for scene in SCENES}) == len(SCENES)  # nobody twice


def test_holes_within_a_head_are_closed_and_the_ground_around_it_is_not():
    head = np.zeros((60, 50, 4), np.uint8)
    cv2.circle(head, (25, 30), 20, (200, 150, 120, 255), -1)
    cv2.circle(head, (25, 30), 5, (0, 0, 0, 0), -1)
    found = draw_frames.filled(head)
    assert found[30, 25, 3] == 255 and found[30, 25, :3].max() < 40
    around = np.hypot(*(np.mgrid[:60, :50] - np.array([30, 25])[:, None, None])) > 22
    assert not found[around, 3].any()
    skin = head[..., 3] == 255
    assert np.array_equal(found[skin], head[skin])


def _face():
    """A flat face of one tone, and landmarks in it."""
    head = np.zeros((240, 200, 4), np.uint8)
    head[...] = (210, 160, 130, 255)
    x = np.concatenate([np.linspace(30, 170, 17), np.linspace(50, 150, 51)])
    return head, np.stack([x, np.full(68, 120.0)], 1)


@pytest.mark.parametrize("how", ["blinds", "leaves"])
@pytest.mark.parametrize("pair", [("red", "blue"), ("yellow", "blue"), ("red", "violet")])
def test_two_lamps_differ_only_where_channels_are_exchanged(how, pair):
    head, marks = _face()
    lamps = Lamps(*pair, how, 30, 10, 0.5)
    found = draw_frames.lit(head, marks, lamps, np.random.default_rng(1))[..., :3]
    luma = found @ np.array([0.299, 0.587, 0.114])
    wrong = found[..., ::-1] @ np.array([0.299, 0.587, 0.114])
    assert luma.std() < 0.01 * luma.mean()
    assert wrong.std() > 0.08 * wrong.mean()


@pytest.mark.parametrize("name", COLOURS)
def test_no_lamp_is_brighter_than_white_can_show(name):
    """A channel that is cut off would change the colour, and with it the luma."""
    head, marks = _face()
    lamps = Lamps(name, name, "blinds", 0, 8, 1.0)
    found = draw_frames.lit(head, marks, lamps, np.random.default_rng(1))[120, 100, :3]
    wanted = np.array(COLOURS[name]) * head[120, 100, :3]
    np.testing.assert_allclose(found / found.max(), wanted / wanted.max(), atol=0.01)
    assert found.max() >= 254 or found @ np.array([0.299, 0.587, 0.114]) > 117


@pytest.mark.parametrize("kind", sorted({scene.ground[0] for scene in SCENES}))
def test_grounds_have_their_size_and_both_colours(kind):
    scene = replace(SCENES[0], ground=(kind, "green", "red"), size=(90, 60))
    found = draw_frames.ground_of(scene, np.random.default_rng(4))
    assert found.shape == (60, 90, 3)
    green, red = (np.array(COLOURS[name]) * 215 for name in ("green", "red"))
    assert np.abs(found - green).max(2).min() < 30
    assert (np.abs(found - red).max(2).min() < 30) == (kind != "plain")


def test_encoding_keeps_colour_at_every_pixel():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2], stripes[:, 1::2] = (200, 40, 30), (40, 60, 210)
    data = draw_frames.encode(stripes)
    back = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(back.astype(int) - stripes).mean() < 12  # 60 at half the colour


def drawn(count, side=40):
    rng = np.random.default_rng(3)
    for k in range(count):
        labels = {name: np.zeros(shape) for name, shape in frames.LABELS.items()}
        labels |= {"names": f"frame {k}", "expression": k % 3 - 1}
        yield rng.integers(0, 256, (side, side + k, 3), np.uint8), labels


def test_what_is_written_loads_and_too_large_a_file_leaves_nothing(tmp_path, monkeypatch):
    out = tmp_path / "new" / "frames.npz"
    draw_frames.write(drawn(4), out)
    found = frames.load(out, hashlib.sha256(out.read_bytes()).hexdigest())
    assert found.names == [f"frame {k}" for k in range(4)]
    assert found.expression.tolist() == [-1, 0, 1, -1]
    assert [picture.shape[1] for picture in found.pictures] == [40, 41, 42, 43]
    out.unlink()
    monkeypatch.setattr(draw_frames, "MOST_BYTES", 1000)
    with pytest.raises(LimitError, match="at most 1000"):
        draw_frames.write(drawn(4), out)
    assert list(out.parent.glob("*")) == []


@pytest.fixture(scope="module")
def studio():
    if not HEAD.is_file():
        pytest.skip("the shared data is not beside this checkout")
    pytest.importorskip("moderngl", reason="drawing needs moderngl")
    from feallm.model.synth import head
    from feallm.model.synth.draw import open_gl
    from feallm.model.synth.render import Studio
    from feallm.runtime.contract.errors import BackendError

    try:
        open_gl().release()
    except BackendError as error:
        pytest.skip(error.message)
    with Studio(head.read(HEAD)) as made:
        yield made


@pytest.mark.data
@pytest.mark.parametrize("number", [3, 15, 26])
def test_a_scene_drawn_again_is_the_committed_frame(studio, number):
    """Labels to the last digit that float32 keeps; pixels may differ in a last bit from one
    processor to another, and by what JPEG takes."""
    committed = frames.load()
    picture, labels = draw_frames.draw(studio, SCENES[number], number)
    away = np.abs(picture.astype(int) - committed.pictures[number])
    assert away.mean() < 2.5
    assert labels["names"] == committed.names[number]
    for name in ("au_sides", "points5", "boxes", "pose_deg"):
        np.testing.assert_allclose(
            np.asarray(labels[name]), getattr(committed, name)[number], rtol=1e-4, atol=1e-3
        )
    again, _ = draw_frames.draw(studio, SCENES[number], number)
    assert np.array_equal(picture, again)
