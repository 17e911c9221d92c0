"""The eyes' stage: its losses, resuming bit for bit, thresholds and temperature."""

import numpy as np
import pytest
import torch

from feallm.model.train import vision as eyes
from feallm.model.train.batches import Batch
from feallm.model.train.run import Plan
from feallm.model.vision import Place, Seen
from feallm.runtime.contract.aus import AU_INDEX

RECIPE = eyes.VisionRecipe(batch=4)


class Stopped(Exception):
    """As Ctrl-C would, but for the tests alone."""


def stop_after(monkeypatch, step):
    """The training stops when it reaches this step."""
    draw = eyes.Crops.draw

    def stopping(self, seed, at, *words):
        if at == step:
            raise Stopped
        return draw(self, seed, at, *words)

    monkeypatch.setattr(eyes.Crops, "draw", stopping)


def test_resuming_is_bit_equal(tiny, faces, tmp_path, monkeypatch):
    plan = Plan(6, 2e-3, 2, 1, save_every=3, log_every=2)
    straight, thresholds = eyes.train(tiny.CONFIG, faces, tmp_path / "a", plan, RECIPE)
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_after(patch, 4)
        eyes.train(tiny.CONFIG, faces, tmp_path / "b", plan, RECIPE)
    resumed, again = eyes.train(tiny.CONFIG, faces, tmp_path / "b", plan, RECIPE)
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert thresholds == again and set(thresholds) == set(tiny.TRAINED)
    assert not straight.training


def test_the_log_and_the_held_out_accuracy(tiny, faces, tmp_path, log_lines):
    plan = Plan(4, 2e-3, 2, 1, save_every=2, log_every=2)
    eyes.train(tiny.CONFIG, faces, tmp_path, plan, RECIPE)
    lines = log_lines(tmp_path)
    losses = [line for line in lines if "expression" in line]
    assert [line["step"] for line in losses] == [2, 4]
    assert all({"stage", "presence", "intensity", "rate"} <= set(line) for line in losses)
    held = [line for line in lines if "held_accuracy_mean" in line]
    assert [line["step"] for line in held] == [2, 4]
    assert all(0 <= line["held_accuracy_points"] <= 1 for line in held)


def test_training_lowers_the_loss(tiny, faces, tmp_path, log_lines):
    plan = Plan(60, 5e-3, 5, 0, save_every=100, log_every=10)
    eyes.train(tiny.CONFIG, faces, tmp_path, plan, eyes.VisionRecipe(batch=16))
    lines = log_lines(tmp_path)
    totals = [x["expression"] + x["presence"] for x in lines if "expression" in x]
    assert totals[-1] < totals[0] - 0.1


def nowhere(count):
    """Landmarks, pose and gaze that are not known."""
    return tuple(torch.full((count, *shape), torch.nan) for shape in ((68, 2), (3,), (2,)))


def seen(au, intensity, expression):
    nothing = torch.zeros(len(au), 1, 1)
    return Seen(au, intensity, expression, nothing, nothing)


def test_losses_against_a_plain_computation(faces):
    rng = np.random.default_rng(0)
    au, expression = rng.normal(0, 2, (5, 20)), rng.normal(0, 2, (5, 8))
    intensity, target = rng.normal(2, 3, (5, 20, 2)), rng.uniform(-1, 5, (5, 20, 2))
    target[0] = target[1:3, 4:] = np.nan
    soft = rng.dirichlet(np.ones(8), 5)
    soft[2] = 0  # not known
    batch = Batch(torch.zeros(5), *(torch.tensor(a) for a in (soft, target)), *nowhere(5))
    found = eyes.losses(seen(*(torch.tensor(a) for a in (au, intensity, expression))), batch)

    presence, distance, cross = [], [], []
    for n in range(5):
        share = np.exp(expression[n]) / np.exp(expression[n]).sum()
        cross.append(-(soft[n] * np.log(share)).sum())
        for k in range(20):
            for side in range(2):
                if np.isfinite(target[n, k, side]):
                    gap = abs(intensity[n, k, side] - np.clip(target[n, k, side], 0, 5))
                    distance.append(gap - 0.5 if gap > 1 else gap**2 / 2)
            if np.isfinite(target[n, k]).all():
                goal = 1 / (1 + np.exp(-3 * (target[n, k].max() - 1)))
                p = 1 / (1 + np.exp(-au[n, k]))
                presence.append(-goal * np.log(p) - (1 - goal) * np.log(1 - p))
    assert float(found["expression"]) == pytest.approx(np.sum(cross) / 4)  # one is not known
    assert float(found["presence"]) == pytest.approx(2 * np.mean(presence))
    assert float(found["intensity"]) == pytest.approx(0.5 * np.mean(distance))


def sided(logits, intensity):
    """What a network with sides and no place says."""
    found = seen(logits.amax(2), intensity, torch.zeros(len(logits), 8))
    return found._replace(side_logits=logits)


def test_one_sided_movements_ask_for_their_side():
    labels = torch.zeros(3, 20, 2)
    labels[0, 4] = torch.tensor([3.0, 0.0])  # on the left alone
    labels[1, 4] = torch.tensor([3.0, 2.0])  # on both: nothing is asked
    labels[2, 4] = torch.tensor([torch.nan, 3.0])
    batch = Batch(torch.zeros(3), torch.zeros(3, 8), labels, *nowhere(3))

    def loss(left):
        logits = torch.zeros(3, 20, 2)
        logits[:, 4, 0] = left
        return float(eyes.losses(sided(logits, labels.nan_to_num()), batch)["sides"])

    assert loss(0.0) == pytest.approx(0.3 * np.log(2))
    assert loss(2.0) == pytest.approx(0.3 * np.log1p(np.exp(-2)))
    assert loss(-2.0) > loss(0.0)


def test_intensities_of_rendered_movements_alone():
    labels = torch.full((2, 20, 2), 2.0)
    landmarks, pose, gaze = nowhere(2)
    pose[0] = 0.0  # the first is rendered
    batch = Batch(torch.zeros(2), torch.zeros(2, 8), labels, landmarks, pose, gaze)

    def loss(first, second, rendered):
        read = torch.tensor([first, second])[:, None, None].expand(2, 20, 2)
        answers = seen(torch.zeros(2, 20), read, torch.zeros(2, 8))
        return float(eyes.losses(answers, batch, rendered=rendered)["intensity"])

    assert loss(2.0, 5.0, True) == 0 and loss(4.0, 2.0, True) > 0
    assert loss(2.0, 5.0, False) > 0


def test_small_errors_of_places_still_count():
    """Beyond a pixel the landmarks' loss grows with the error itself."""
    marks = torch.full((1, 68, 2), 50.0)
    nothing = (torch.full((1, 3), torch.nan), torch.full((1, 2), torch.nan))
    unlabelled = torch.full((1, 20, 2), torch.nan)
    batch = Batch(torch.zeros(1), torch.zeros(1, 8), unlabelled, marks, *nothing)

    def loss(off):
        place = Place(marks + off, torch.zeros(1, 3), torch.zeros(1, 2))
        answers = seen(torch.zeros(1, 20), torch.zeros(1, 20, 2), torch.zeros(1, 8))
        return float(eyes.losses(answers._replace(place=place), batch)["landmarks"])

    assert loss(3.0) - loss(2.0) == pytest.approx(loss(2.0) - loss(1.0)) == pytest.approx(0.25)


def test_a_batch_without_labels_costs_nothing():
    unlabelled = torch.full((2, 20, 2), torch.nan)
    unknown = Batch(torch.zeros(2), torch.zeros(2, 8), unlabelled, *nowhere(2))
    au = torch.randn(2, 20, requires_grad=True)
    found = eyes.losses(seen(au, torch.randn(2, 20, 2), torch.randn(2, 8)), unknown)
    assert [value.item() for value in found.values()] == [0, 0, 0]
    sum(found.values()).backward()
    assert torch.isfinite(au.grad).all()


def naive_threshold(probability, present):
    best = (-1.0, 0.0)
    for k in range(25, 76):
        called = probability >= 0.25 + 0.01 * (k - 25)
        hits = sum(a and b for a, b in zip(called, present, strict=True))
        wrong = sum(a != b for a, b in zip(called, present, strict=True))
        f1 = 2 * hits / (2 * hits + wrong) if hits else 0.0
        best = max(best, (f1, -k))
    return -best[1] / 100


@pytest.mark.parametrize("seed", range(8))
def test_the_best_threshold_is_that_of_brute_force(seed):
    rng = np.random.default_rng(seed)
    present = rng.random(60) < 0.4
    probability = np.clip(rng.normal(0.35 + 0.25 * present, 0.15), 0, 1).astype(np.float32)
    expected = naive_threshold(probability, present)
    assert eyes.best_threshold(probability, present) == pytest.approx(expected)


def test_calibration_finds_the_temperature_and_thresholds(tiny, faces):
    """Logits that are three times too large need a temperature of about three times."""
    rows = np.arange(len(faces.pictures))
    network = tiny.vision()
    eyes.calibrate(network, faces, rows)
    crops = torch.cat([eyes.still(faces, rows, at_points=p) for p in (False, True)])
    soft = torch.from_numpy(np.concatenate([faces.expression] * 2))
    logits = eyes.outputs(network, crops).expression_logits

    def likelihood(t):
        return -float((soft * (logits / t).log_softmax(1)).sum(1).mean())

    chosen = float(network.temperature)
    assert all(likelihood(chosen) <= likelihood(t) for t in torch.linspace(0.5, 2.5, 81))
    again = tiny.vision()
    with torch.no_grad():
        again.expression_head.weight.mul_(1 / 4)
        again.expression_head.bias.mul_(1 / 4)
    eyes.calibrate(again, faces, rows)
    assert float(again.temperature) <= chosen


def test_an_au_without_labels_has_no_threshold(tiny, faces):
    found = eyes.calibrate(tiny.vision(), faces, np.arange(40))
    assert set(found) == set(tiny.TRAINED) and all(0.25 <= t <= 0.75 for t in found.values())
    assert AU_INDEX["AU4"] not in map(AU_INDEX.get, found)


def test_no_group_is_on_both_sides(faces):
    rows, held = eyes.split(faces)
    assert len(rows) + len(held) == len(faces.pictures) and len(held)
    assert not set(faces.group[rows]) & set(faces.group[held])


def test_places_are_learnt_where_they_are_known():
    """Landmarks of the second crop are not known: they move nothing."""
    from feallm.model.vision import Place

    marks = torch.zeros(2, 68, 2)
    marks[1] = torch.nan
    batch = Batch(
        torch.zeros(2),
        torch.zeros(2, 8),
        torch.full((2, 20, 2), torch.nan),
        marks,
        torch.tensor([[0.0, 15, 0], [0, 0, 0]]),
        torch.zeros(2, 2),
    )
    guess = torch.full((2, 68, 2), 8.0, requires_grad=True)
    place = Place(guess, torch.zeros(2, 3), torch.zeros(2, 2))
    plain = seen(torch.zeros(2, 20), torch.zeros(2, 20, 2), torch.zeros(2, 8))
    found = eyes.losses(plain._replace(place=place), batch)
    assert found["landmarks"].item() == pytest.approx(8 / 4 - 0.125)  # two units off
    assert float(found["pose"]) == pytest.approx(0.875 / 6)  # one unit off in one of six
    assert float(found["gaze"]) == 0
    found["landmarks"].backward()
    assert guess.grad[0].abs().min() > 0 and not guess.grad[1].any()


def test_each_side_answers_to_its_own_label():
    sides = torch.zeros(1, 20, 2)
    sides[0, 0, 0] = 5.0  # AU1, on the left alone
    batch = Batch(torch.zeros(1), torch.zeros(1, 8), sides, *nowhere(1))
    logits = torch.zeros(1, 20, 2, requires_grad=True)
    plain = seen(torch.zeros(1, 20), torch.zeros(1, 20, 2), torch.zeros(1, 8))
    eyes.losses(plain._replace(side_logits=logits), batch)["presence"].backward()
    assert logits.grad[0, 0, 0] < 0 < logits.grad[0, 0, 1]


def test_a_student_comes_nearer_to_its_teacher(tiny, faces, tmp_path, log_lines):
    from dataclasses import replace

    from feallm.model.vision import VisionNetwork

    torch.manual_seed(8)
    wide = replace(tiny.CONFIG.vision, place=4, width=2 * tiny.CONFIG.vision.width)
    teacher = VisionNetwork(wide, tiny.CONFIG.language.width)
    config = replace(tiny.CONFIG, vision=replace(tiny.CONFIG.vision, place=4))
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    plan = Plan(40, 5e-3, 5, 0, save_every=20, log_every=10)
    recipe = eyes.VisionRecipe(batch=16)
    network, _ = eyes.train(config, faces, tmp_path, plan, recipe, teacher)
    lines = [line for line in log_lines(tmp_path) if "taught_clues" in line]
    names = ("taught_expression", "taught_presence", "taught_intensity", "taught_clues")
    assert all(lines[-1][name] < lines[0][name] for name in names)
    for name, value in before.items():
        assert torch.equal(value, teacher.state_dict()[name]), name
    # It is resumed with the projection that it had.
    again, _ = eyes.train(config, faces, tmp_path, plan, recipe, teacher)
    for name, value in network.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_the_first_weights_are_those_of_the_start(tiny, faces, tmp_path):
    """One step at no rate: what comes out is what went in, but for the temperature."""
    start = tiny.vision(seed=3)
    before = {name: value.clone() for name, value in start.state_dict().items()}
    plan = Plan(1, 0.0, 1, 1)
    network, _ = eyes.train(tiny.CONFIG, faces, tmp_path, plan, RECIPE, start=start)
    found = network.state_dict()
    for name, value in before.items():
        if name != "temperature":
            assert torch.equal(found[name], value), name
        assert torch.equal(start.state_dict()[name], value), name  # it is not trained itself
