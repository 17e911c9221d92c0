"""Which cell answers for which face, and what wrong answers cost."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from feallm.model.detector.loss import Faces, assign, decode, edge_loss, loss, overlaps

SIDE = 192


def random_levels(seed, batch=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, 16, SIDE // s, SIDE // s, generator=generator) for s in (8, 16, 32)]


def faces_of(boxes, sure=None):
    """A batch of one; points somewhere within the boxes."""
    boxes = torch.tensor(np.reshape(boxes, (1, -1, 4)), dtype=torch.float32)
    share = torch.tensor([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]])
    points = boxes[:, :, None, :2] + share * (boxes[..., 2:] - boxes[..., :2])[:, :, None]
    taught = torch.ones(boxes.shape[:2], dtype=bool) if sure is None else torch.tensor([sure])
    return Faces(boxes, points, taught, ~taught)


def apart(seed, count):
    """Boxes that share nothing: one in each of 9 parts of the picture."""
    rng = np.random.default_rng(seed)
    places = rng.permutation(9)[:count]
    corners = np.stack([places % 3, places // 3], 1) * 64.0
    size = rng.uniform(9, 60, (count, 2))
    start = corners + rng.uniform(0, 1, (count, 2)) * (63 - size)
    return np.concatenate([start, start + size], 1)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 9), data=st.data())
def test_every_sure_face_has_a_cell_and_no_other_has_one(seed, count, data):
    sure = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    faces = faces_of(apart(seed, count), sure)
    said = decode(random_levels(seed))
    owner, share = assign(said, faces)
    assert set(owner[0].tolist()) - {-1} == {k for k in range(count) if sure[k]}
    mine = owner[0] >= 0
    expected = overlaps(said.boxes[0][mine], faces.boxes[0][owner[0][mine]])
    torch.testing.assert_close(share[0][mine], expected)


def test_a_cell_answers_for_one_of_two_faces_in_one_place():
    """The array holds one owner a cell; what matters is that the better face is it."""
    faces = faces_of([[40, 40, 100, 100], [42, 42, 98, 98]])
    said = decode(random_levels(3))
    inside = ((said.middles > 40) & (said.middles < 100)).all(1)
    boxes = said.boxes.clone()
    boxes[0, inside] = faces.boxes[0, 1]
    owner, share = assign(replace(said, boxes=boxes), faces)
    assert set(owner[0].tolist()) == {-1, 1}, "those boxes are the second face's"
    assert (share[0][owner[0] == 1] > 0.99).all()


def test_padding_answers_for_nothing():
    """Pictures of one batch have different numbers of faces: the rest are zeros."""
    faces = faces_of([[40, 40, 100, 100], [0, 0, 0, 0]])
    padded = Faces(
        faces.boxes, faces.points, torch.tensor([[True, False]]), torch.zeros(1, 2, dtype=bool)
    )
    said = decode(random_levels(4))
    alone = faces_of([[40, 40, 100, 100]])
    assert_same(loss(said, padded), loss(said, alone))


def assert_same(one, two, tolerance=1e-5):
    assert one.keys() == two.keys() == {"obj", "cls", "box", "point"}
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=tolerance, atol=tolerance)


def test_a_face_left_alone_costs_nothing_whatever_is_said_of_it():
    faces = faces_of([[10, 10, 60, 60], [100, 100, 170, 180]], [True, False])
    said = decode(random_levels(5))
    within = ((said.middles > 100) & (said.middles < torch.tensor([170, 180]))).all(1)
    assert within.sum() > 50
    sums = {}
    for name, mask in (("left alone", within), ("elsewhere", said.middles[:, 0] > 170)):
        for logit in (-12.0, 12.0):
            told = replace(
                said, cls=said.cls.masked_fill(mask, logit), obj=said.obj.masked_fill(mask, logit)
            )
            sums[name, logit] = loss(told, faces)
    assert_same(sums["left alone", -12.0], sums["left alone", 12.0])
    assert sums["elsewhere", 12.0]["obj"] > sums["elsewhere", -12.0]["obj"] + 10


def perfect(faces):
    """What a network says that knows every face."""
    said = decode(random_levels(6))
    middle = (faces.boxes[0, :, :2] + faces.boxes[0, :, 2:]) / 2
    nearest = (said.middles[:, None] - middle).norm(dim=-1).argmin(1)
    told = replace(said, boxes=faces.boxes[:, nearest], points=faces.points[:, nearest])
    owner = assign(replace(told, cls=said.cls * 0, obj=said.obj * 0), faces)[0]
    logit = torch.where(owner >= 0, 20.0, -20.0)
    return replace(told, cls=logit, obj=logit)


def test_a_perfect_answer_costs_nothing():
    faces = faces_of(apart(7, 5))
    said = perfect(faces)
    for name, value in loss(said, faces).items():
        assert 0 <= float(value) < 1e-3, name


@pytest.mark.parametrize("part", ["boxes", "points"])
def test_each_wrong_part_costs_its_own(part):
    faces = faces_of(apart(7, 5))
    said = perfect(faces)
    wrong = loss(replace(said, **{part: getattr(said, part) + 4.0}), faces)
    name = {"boxes": "box", "points": "point"}[part]
    assert float(wrong[name]) > 0.3
    assert float(wrong[{"box": "point", "point": "box"}[name]]) < 1e-3


@pytest.mark.parametrize(
    ("found", "wanted", "expected"),
    [
        ([0, 0, 2, 2], [0, 0, 2, 2], 0.0),
        ([0, 0, 2, 2], [1, 0, 3, 2], 1 - 1 / 3 + 1 / (9 + 4)),  # beside: a third is shared
        ([0, 0, 2, 4], [0, 0, 4, 4], 1 - 1 / 2 + 1 / 32 + 4 / 16),  # too narrow
        ([0, 0, 1, 1], [3, 0, 4, 1], 1 - 0 + 9 / (16 + 1)),  # nothing is shared
    ],
)
def test_eiou_computed_by_hand(found, wanted, expected):
    cost = edge_loss(torch.tensor([found]).float(), torch.tensor([wanted]).float())
    assert cost.shape == (1,) and float(cost) == pytest.approx(expected, abs=1e-6)


def mirrored_levels(levels):
    """What a network would say of the mirrored pictures."""
    turned = []
    for level, stride in zip(levels, (8, 16, 32), strict=True):
        level = level.flip(-1)
        other = level.clone()
        other[:, 2] = 1 - level[:, 2]
        order = [1, 0, 2, 4, 3]  # left and right change places
        other[:, 6::2] = 1 - 1 / stride - level[:, 6::2][:, order]
        other[:, 7::2] = level[:, 7::2][:, order]
        turned.append(other)
    return turned


@pytest.mark.parametrize("seed", range(4))
def test_a_mirrored_batch_costs_the_same(seed):
    """Edges lie between pixels, points on them: the same convention as `scene.mirrored`."""
    faces = faces_of(apart(seed, 4), [True, True, False, True])
    x0, y0, x1, y1 = faces.boxes.unbind(-1)
    points = faces.points[:, :, [1, 0, 2, 4, 3]].clone()
    points[..., 0] = SIDE - 1 - points[..., 0]
    seen = replace(faces, boxes=torch.stack([SIDE - x1, y0, SIDE - x0, y1], -1), points=points)
    levels = random_levels(seed)
    there = loss(decode(levels), faces)
    assert_same(loss(decode(mirrored_levels(levels)), seen), there, 1e-4)


def test_nobody_and_the_absurd_stay_finite():
    levels = [level.requires_grad_() for level in random_levels(8)]
    parts = loss(decode([level * 200 for level in levels]), faces_of(apart(8, 3)))
    nobody = loss(decode(levels), faces_of([[0, 0, 0, 0]], [False]))
    assert nobody["box"].item() == nobody["point"].item() == 0 < nobody["obj"].item()
    torch.stack([*parts.values(), *nobody.values()]).sum().backward()
    assert all(level.grad.isfinite().all() for level in levels)
