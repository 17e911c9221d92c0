"""What a student learns from its teacher: only what no label says, against plain computations."""

import numpy as np
import pytest
import torch

from feallm.model.train.distil import TEMPERATURE, Teacher
from feallm.model.vision import Seen
from feallm.runtime.contract.aus import N_AUS

COUNT = 3


@pytest.fixture(scope="module")
def teacher(tiny):
    torch.manual_seed(1)
    return Teacher(tiny.vision(4), tiny.vision(5))


def answers(tiny, seed, *, sided=False):
    """Random answers, with logits of each side where asked."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return 2 * torch.randn(shape, generator=random, dtype=torch.float32)

    sides = normal(COUNT, N_AUS, 2)
    return Seen(
        sides.amax(2) if sided else normal(COUNT, N_AUS),
        normal(COUNT, N_AUS, 2) + 2,
        normal(COUNT, 8),
        normal(COUNT, 16, 32),
        normal(COUNT, 16, tiny.CONFIG.vision.width),
        sides if sided else None,
    )


def unknown(*known):
    """Labels of which only these (face, AU, side) are known."""
    labels = torch.full((COUNT, N_AUS, 2), torch.nan)
    for place in known:
        labels[place] = 1.5
    return labels


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, float)))


def cross(logit, target):
    """Cross-entropy of a logit against the teacher's."""
    p, goal = sigmoid(logit), sigmoid(target)
    return -goal * np.log(p) - (1 - goal) * np.log(1 - p)


def distance(mine, theirs):
    gap = abs(float(mine) - min(max(float(theirs), 0), 5))
    return gap - 0.5 if gap > 1 else gap**2 / 2


@pytest.mark.parametrize("sided", [False, True])
def test_labelled_aus_are_not_taught(tiny, teacher, sided):
    mine, theirs = (answers(tiny, seed, sided=sided) for seed in (1, 2))
    found = teacher.losses(mine, theirs, torch.zeros(COUNT, N_AUS, 2))
    assert found["taught_presence"] == found["taught_intensity"] == 0
    assert found["taught_expression"] > 0 and found["taught_clues"] > 0


@pytest.mark.parametrize("sided", [False, True])
def test_unlabelled_aus_are(tiny, teacher, sided):
    mine, theirs = (answers(tiny, seed, sided=sided) for seed in (1, 2))
    found = teacher.losses(mine, theirs, unknown())
    pair = (mine.side_logits, theirs.side_logits) if sided else (mine.au_logits, theirs.au_logits)
    presence = np.mean([cross(a, b) for a, b in zip(*(x.flatten() for x in pair), strict=True)])
    intensity = np.mean(
        [
            distance(a, b)
            for a, b in zip(mine.intensity.flatten(), theirs.intensity.flatten(), strict=True)
        ]
    )
    assert float(found["taught_presence"]) == pytest.approx(2 * presence, rel=1e-5)
    assert float(found["taught_intensity"]) == pytest.approx(0.5 * intensity, rel=1e-5)


def test_a_side_that_is_labelled_leaves_the_other_to_the_teacher(tiny, teacher):
    mine, theirs = (answers(tiny, seed, sided=True) for seed in (1, 2))
    plain = float(teacher.losses(mine, theirs, unknown())["taught_presence"])
    places = ((0, 3, 1), (2, 7, 0), (2, 7, 1))
    found = teacher.losses(mine, theirs, unknown(*places))
    known = sum(float(cross(mine.side_logits[p], theirs.side_logits[p])) for p in places)
    all_of_them = COUNT * N_AUS * 2
    expected = plain - 2 * known / all_of_them
    assert float(found["taught_presence"]) == pytest.approx(expected, rel=1e-5)


def test_gradients_come_from_unlabelled_aus_alone(tiny, teacher):
    mine, theirs = (answers(tiny, seed, sided=True) for seed in (1, 2))
    logits = mine.side_logits.clone().requires_grad_()
    intensity = mine.intensity.clone().requires_grad_()
    labels = unknown((0, 3, 1), (1, 0, 0))
    found = teacher.losses(mine._replace(side_logits=logits, intensity=intensity), theirs, labels)
    (found["taught_presence"] + found["taught_intensity"]).backward()
    known = torch.isfinite(labels)
    assert known.sum() == 2
    for gradient in (logits.grad, intensity.grad):
        assert not gradient[known].any() and torch.isfinite(gradient).all()
        assert (gradient[~known] != 0).float().mean() > 0.9


@pytest.mark.parametrize("who", ["student", "teacher"])
def test_where_one_of_them_has_no_sides_an_au_counts_as_a_whole(tiny, teacher, who):
    """An AU that is labelled on one side is not taught: its answer is of both."""
    mine = answers(tiny, 1, sided=who == "teacher")
    theirs = answers(tiny, 2, sided=who == "student")
    found = teacher.losses(mine, theirs, unknown((0, 3, 1), (1, 0, 0), (1, 0, 1)))
    terms = [
        cross(mine.au_logits[n, k], theirs.au_logits[n, k])
        for n in range(COUNT)
        for k in range(N_AUS)
        if (n, k) not in ((0, 3), (1, 0))
    ]
    expected = 2 * np.sum(terms) / (COUNT * N_AUS)
    assert float(found["taught_presence"]) == pytest.approx(expected, rel=1e-5)


def test_the_expression_is_taught_whatever_is_labelled(tiny, teacher):
    mine, theirs = (answers(tiny, seed) for seed in (1, 2))

    def shares(logits):
        odds = np.exp(logits.numpy().astype(float) / TEMPERATURE)
        return odds / odds.sum(1, keepdims=True)

    p, q = shares(theirs.expression_logits), shares(mine.expression_logits)
    expected = 0.5 * TEMPERATURE**2 * (p * np.log(p / q)).sum(1).mean()
    for labels in (unknown(), torch.zeros(COUNT, N_AUS, 2)):
        found = teacher.losses(mine, theirs, labels)
        assert float(found["taught_expression"]) == pytest.approx(expected, rel=1e-4)


def test_a_student_that_says_the_same_learns_no_more(tiny, teacher):
    theirs = answers(tiny, 2, sided=True)
    theirs = theirs._replace(intensity=theirs.intensity.clamp(0, 5))
    logits = theirs.side_logits.clone().requires_grad_()
    found = teacher.losses(theirs._replace(side_logits=logits), theirs, unknown())
    assert float(found["taught_expression"]) == pytest.approx(0, abs=1e-6)
    assert found["taught_intensity"] == 0
    found["taught_presence"].backward()  # not 0: the teacher itself is not sure
    torch.testing.assert_close(logits.grad, torch.zeros_like(logits), rtol=0, atol=1e-7)


def test_clues_are_held_against_the_teachers_through_the_projection(tiny, teacher):
    mine, theirs = (answers(tiny, seed) for seed in (1, 2))
    weight, bias = (p.detach().numpy() for p in teacher.project.parameters())
    projected = mine.f_attn.numpy() @ weight.T + bias
    expected = 0.5 * ((projected - theirs.f_attn.numpy()) ** 2).mean()
    found = teacher.losses(mine, theirs, unknown())
    assert float(found["taught_clues"].detach()) == pytest.approx(expected, rel=1e-4)


def test_a_teacher_is_frozen_and_only_the_projection_is_trained(teacher):
    assert [name for name, _ in teacher.named_parameters()] == ["project.weight", "project.bias"]
    (network,) = teacher._network
    assert not network.training and not any(p.requires_grad for p in network.parameters())
