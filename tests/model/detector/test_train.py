"""Training: batches, the rate, going on where it stopped, and its log."""

import json

import cv2
import numpy as np
import pytest
import torch

from feallm.model.detector import train
from feallm.model.detector.checkpoint import load_weights, read_page
from feallm.model.detector.scene import Composition
from feallm.model.detector.sources import Heads, Material, Photos
from feallm.model.detector.train import LOG, STATE, WEIGHTS, Recipe, Training, batch_of, run, sheet
from feallm.runtime.contract.errors import InputError, UsageError

SHORT = Recipe(steps=7, batch=2, warm_up=2)
SOURCES = [{"name": "drawn", "licence": "none", "rows": 8, "sha256": "0" * 64}]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Small pictures, and OpenCV's threads as they were."""
    threads = cv2.getNumThreads()
    torch.set_num_threads(1)
    monkeypatch.setattr(train, "_SIDES", (64, 96))
    yield
    cv2.setNumThreads(threads)


@pytest.fixture
def material(photos, heads):
    return Material(Photos.read(photos, clean=False), Heads.read(heads), [], SOURCES)


def test_a_batch_is_padded_to_the_most_faces():
    one = Composition(np.full((32, 64, 3), 7, np.uint8))
    two = Composition(np.zeros((32, 64, 3), np.uint8))
    two.picture[3, 5] = (1, 2, 3)
    points = np.arange(20.0).reshape(2, 5, 2)
    two.add(np.array([[1, 2, 30, 31], [4, 5, 6, 7.0]]), points, np.array([True, False]))
    pictures, faces = batch_of([one, two])
    assert pictures.shape == (2, 3, 32, 64) and pictures.dtype == torch.float32
    assert pictures[1, :, 3, 5].tolist() == [1, 2, 3] and (pictures[0] == 7).all()
    assert faces.sure.tolist() == [[False, False], [True, False]]
    assert faces.alone.tolist() == [[False, False], [False, True]]
    assert faces.boxes[1, 0].tolist() == [1, 2, 30, 31]
    np.testing.assert_array_equal(faces.points[1], points)


def test_a_batch_in_which_nobody_is():
    _, faces = batch_of([Composition(np.zeros((32, 32, 3), np.uint8))])
    assert faces.boxes.shape == (1, 1, 4) and not faces.sure.any() and not faces.alone.any()


@pytest.mark.parametrize(
    ("step", "share"),
    [(0, 1 / 300), (149, 0.5), (299, 1.0), (300, 1.0), (6150, 0.505), (12000, 0.01)],
)
def test_the_rate_goes_up_in_a_line_and_down_as_a_cosine(step, share):
    assert Recipe(steps=12000).rate_at(step) == pytest.approx(2e-3 * share)


def test_half_of_a_batch_is_the_other_half_in_a_mirror(material):
    one, two, three, four = Training(Recipe(batch=4)).scenes(material)
    for scene, seen in ((one, three), (two, four)):
        assert (scene.picture[:, ::-1] == seen.picture).all()
        assert len(scene.boxes) == len(seen.boxes)


def lines_of(folder):
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


class Stopped(Exception):
    """Somebody pulled the plug."""


def test_going_on_gives_what_an_uninterrupted_training_gives(material, tmp_path, monkeypatch):
    whole = run(material, tmp_path / "whole", SHORT, "here", every=1)
    learn = Training.learn

    def stop(training, scenes):
        if training.step == 6:
            raise Stopped
        return learn(training, scenes)

    monkeypatch.setattr(Training, "learn", stop)
    with pytest.raises(Stopped):
        run(material, tmp_path / "cut", SHORT, "here", every=1)
    monkeypatch.setattr(Training, "learn", learn)
    assert not (tmp_path / "cut" / WEIGHTS).exists()
    again = run(material, tmp_path / "cut", SHORT, "here", every=1)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    for name in (WEIGHTS, "detector.json"):
        data = (tmp_path / "whole" / name).read_bytes()
        assert (tmp_path / "cut" / name).read_bytes() == data
    page = read_page(tmp_path / "cut" / WEIGHTS)
    assert page["command"] == "here" and page["seed"] == 0 and page["sources"] == SOURCES
    steps = [line["step"] for line in lines_of(tmp_path / "cut")]
    assert steps == [1, 2, 3, 4, 5, 6, 6, 7], "the sixth was done twice: the fifth was kept"


def test_the_gentle_end_begins_with_what_was_learnt(material, tmp_path):
    run(material, tmp_path / "first", Recipe(steps=3, batch=2, warm_up=2), "first")
    first = load_weights(tmp_path / "first" / WEIGHTS)
    training = Training(Recipe(steps=2, batch=2, gentle=True))
    training.begin_with(first)
    for name, value in training.averaged().state_dict().items():
        assert torch.equal(value, first.state_dict()[name]), name
    out = tmp_path / "second"
    recipe = Recipe(steps=2, batch=2, gentle=True, rate=1e-12, decay=0.0)
    run(material, out, recipe, "second", start_from=tmp_path / "first" / WEIGHTS)
    again = load_weights(out / WEIGHTS).state_dict()
    weights = [name for name, _ in first.named_parameters()]
    assert all(torch.allclose(again[n], first.state_dict()[n], atol=1e-3) for n in weights)


def test_it_learns(material):
    """The same two pictures over and over cost less and less."""
    training = Training(Recipe(steps=12, batch=2, warm_up=1, rate=5e-3))
    scenes = training.scenes(material)
    costs = [sum(training.learn(scenes).values()) for _ in range(12)]
    assert training.step == 12 and costs[-1] < costs[0] * 0.5


def test_the_average_follows_slowly(material):
    """After the first step it holds 2 / 11 of what was; later at most 999 of 1000."""
    training = Training(Recipe(batch=2, warm_up=1))
    name = "stem.convolution.weight"
    before = training.network.state_dict()[name].clone()
    training.learn(training.scenes(material))
    after = training.network.state_dict()[name]
    averaged = training.averaged()
    assert not averaged.training and not torch.equal(before, after)
    expected = before * 2 / 11 + after * 9 / 11
    torch.testing.assert_close(averaged.state_dict()[name], expected)
    training.step = 10**6
    training.learn(training.scenes(material))
    expected = expected * 0.999 + training.network.state_dict()[name] * 0.001
    torch.testing.assert_close(training.averaged().state_dict()[name], expected)


def test_a_line_of_log_is_the_mean_of_its_steps(material, tmp_path, monkeypatch):
    def learn(training, scenes):
        training.step += 1
        return {"obj": float(training.step), "cls": 0.5}

    monkeypatch.setattr(Training, "learn", learn)
    monkeypatch.setattr(Training, "scenes", lambda training, material: [])
    run(material, tmp_path, Recipe(steps=5), "here", every=3)
    assert [(line["step"], line["obj"], line["cls"]) for line in lines_of(tmp_path)] == [
        (3, 2.0, 0.5),
        (5, 4.5, 0.5),  # of two steps, not of three
    ]
    load_weights(tmp_path / WEIGHTS)


def test_a_finished_training_is_not_begun_again(material, tmp_path):
    recipe = Recipe(steps=1, batch=2)
    first = run(material, tmp_path, recipe, "here")
    log = (tmp_path / LOG).read_text()
    again = run(material, tmp_path, recipe, "here")
    assert (tmp_path / LOG).read_text() == log
    for one, two in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, two)


def other_network(path):
    state = torch.load(path, weights_only=True)
    state["network"].popitem()
    torch.save(state, path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda p: p.write_bytes(b""),
        lambda p: p.write_bytes(b"nothing of the kind"),
        lambda p: p.write_bytes(p.read_bytes()[:5000]),
        lambda p: torch.save({"step": 3}, p),
        lambda p: torch.save([1, 2], p),
        other_network,
    ],
)
def test_a_damaged_state_is_one_line(material, tmp_path, damage):
    Training(SHORT).save(tmp_path / STATE, SOURCES)
    damage(tmp_path / STATE)
    data = (tmp_path / STATE).read_bytes()
    with pytest.raises(InputError, match=r"state\.pt: no state of a training") as error:
        run(material, tmp_path, SHORT, "here")
    assert "\n" not in error.value.line()
    assert (tmp_path / STATE).read_bytes() == data, "it is left to whoever wants to look"


@pytest.mark.parametrize(("seed", "sources"), [(1, SOURCES), (0, [{"name": "others"}])])
def test_a_training_of_something_else_does_not_go_on(material, tmp_path, seed, sources):
    """A clean file must not begin where one stopped that saw photographs without a licence."""
    Training(Recipe(seed=seed)).save(tmp_path / STATE, sources)
    with pytest.raises(UsageError, match="another seed or other sources"):
        run(material, tmp_path, SHORT, "here")
    assert not (tmp_path / WEIGHTS).exists()


def test_a_sheet_shows_every_composition(material):
    assert sheet(material, 10, 64).shape == (2 * 64, 8 * 64, 3)
