"""Which cells answer for which face, and what a wrong answer costs.

Cells are given to faces by SimOTA (Z. Ge, S. Liu, F. Wang, Z. Li, J. Sun, "YOLOX: exceeding YOLO
series in 2021", arXiv 2107.08430), as YuNet's are; boxes cost their EIoU (Y. Zhang et al.,
"Focal and efficient IOU loss", Neurocomputing 506, 2022).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from feallm.model.detector.network import STRIDES

_REACH = 2.5  # cells round a face's middle that may answer for it
_BEST = 10  # cells whose overlap says how many answer for a face
_FAR = 1e5


@dataclass(frozen=True, slots=True)
class Faces:
    """Faces of a batch, padded to the most that one picture has."""

    boxes: Tensor  # [B, G, 4] x0 y0 x1 y1
    points: Tensor  # [B, G, 5, 2]
    sure: Tensor  # [B, G] bool: taught
    alone: Tensor  # [B, G] bool: neither taught nor punished


@dataclass(frozen=True, slots=True)
class Said:
    """What the network says of all cells N of all levels, in pixels."""

    cls: Tensor  # [B, N] logits
    obj: Tensor  # [B, N]
    boxes: Tensor  # [B, N, 4] x0 y0 x1 y1
    points: Tensor  # [B, N, 5, 2]
    middles: Tensor  # [N, 2] of the cells
    strides: Tensor  # [N]


def decode(levels: list[Tensor]) -> Said:
    """The network's output in pixels, as FaceDetectorYN computes them."""
    parts, middles, strides = [], [], []
    for level, stride in zip(levels, STRIDES, strict=True):
        height, width = level.shape[2:]
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        corner = torch.stack([x, y], -1).reshape(-1, 2).to(level)
        flat = level.float().permute(0, 2, 3, 1).reshape(len(level), -1, 16)
        centre = (flat[..., 2:4] + corner) * stride
        half = flat[..., 4:6].clamp(max=6).exp() * stride / 2
        boxes = torch.cat([centre - half, centre + half], -1)
        points = flat[..., 6:].unflatten(-1, (5, 2)) + corner[:, None]
        parts.append((flat[..., 0], flat[..., 1], boxes, points * stride))
        middles.append((corner + 0.5) * stride)
        strides.append(torch.full((height * width,), float(stride)))
    cls, obj, boxes, points = (torch.cat(part, 1) for part in zip(*parts, strict=True))
    return Said(cls, obj, boxes, points, torch.cat(middles), torch.cat(strides))


def overlaps(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes [..., 4] and [..., 4]."""
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    return shared / (_area(a) + _area(b) - shared).clamp(min=1e-6)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


@torch.no_grad()
def assign(said: Said, faces: Faces) -> tuple[Tensor, Tensor]:
    """The face that each cell answers for [B, N], -1 none; and its overlap with it [B, N]."""
    middles, strides = said.middles, said.strides
    boxes = faces.boxes[:, :, None]  # [B, G, 1, 4]
    inside = ((middles > boxes[..., :2]) & (middles < boxes[..., 2:])).all(-1)
    away = (middles - (boxes[..., :2] + boxes[..., 2:]) / 2).abs().amax(-1)
    near = away < _REACH * strides
    allowed = (inside | near) & faces.sure[..., None]  # [B, G, N]
    shares = overlaps(said.boxes[:, None], boxes) * allowed
    score = (said.cls.sigmoid() * said.obj.sigmoid()).sqrt().clamp(1e-6, 1 - 1e-6)
    cost = -score.log()[:, None] - 3 * (shares + 1e-8).log() + _FAR * ~(inside & near)
    cost = cost.masked_fill(~allowed, torch.inf)
    most = min(_BEST, shares.shape[-1])
    wanted = shares.topk(most, -1).values.sum(-1).int().clamp(min=1)  # [B, G]
    ranked = cost.topk(most, -1, largest=False)
    taken = torch.arange(most) < wanted[..., None]
    taken &= ranked.values.isfinite()
    chosen = torch.zeros_like(allowed).scatter_(-1, ranked.indices, taken)
    cost = cost.masked_fill(~chosen, torch.inf)
    best = cost.min(1)
    owner = torch.where(best.values.isfinite(), best.indices, -1)  # [B, N]
    share = shares.gather(1, owner.clamp(min=0)[:, None])[:, 0]
    return owner, share


def edge_loss(found: Tensor, wanted: Tensor) -> Tensor:
    """EIoU loss [P] of boxes [P, 4]."""
    low = torch.minimum(found[:, :2], wanted[:, :2])
    hull = torch.maximum(found[:, 2:], wanted[:, 2:]) - low
    middle = (found[:, :2] + found[:, 2:] - wanted[:, :2] - wanted[:, 2:]) / 2
    size = (found[:, 2:] - found[:, :2]) - (wanted[:, 2:] - wanted[:, :2])
    square = hull.square().clamp(min=1e-6)
    apart = middle.square().sum(-1) / square.sum(-1) + (size.square() / square).sum(-1)
    return 1 - overlaps(found, wanted) + apart


def loss(said: Said, faces: Faces) -> dict[str, Tensor]:
    """Parts of the loss, weighed: their sum is what is made small."""
    owner, share = assign(said, faces)
    mine = owner >= 0
    count = mine.sum().clamp(min=1)
    boxes = faces.boxes[:, :, None]
    inside = ((said.middles > boxes[..., :2]) & (said.middles < boxes[..., 2:])).all(-1)
    ignored = (inside & faces.alone[..., None]).any(1) & ~mine
    weight = (~ignored).float()
    obj = functional.binary_cross_entropy_with_logits(
        said.obj, mine.float(), weight, reduction="sum"
    )
    cls = functional.binary_cross_entropy_with_logits(
        said.cls, share * mine, weight, reduction="sum"
    )
    picture, cell = mine.nonzero(as_tuple=True)
    face = owner[picture, cell]
    wanted = faces.boxes[picture, face]
    edge = edge_loss(said.boxes[picture, cell], wanted)
    size = (wanted[:, 2:] - wanted[:, :2]).mean(-1)[:, None, None]
    away = (said.points[picture, cell] - faces.points[picture, face]) / size
    point = functional.smooth_l1_loss(away, torch.zeros_like(away), beta=0.02, reduction="none")
    return {
        "obj": obj / count,
        "cls": cls / count,
        "box": 3 * edge.sum() / count,
        "point": 24 * point.mean((1, 2)).sum() / count,
    }
