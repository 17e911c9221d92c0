"""Train the eyes: encoder, LCA, MPP features and the two heads, on packed faces."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from feallm.model.coded import faces as coded
from feallm.model.config import Config
from feallm.model.data import ferplus
from feallm.model.data.augment import Augment
from feallm.model.data.pack import Faces
from feallm.model.evaluate.metrics import auc
from feallm.model.train.batches import Batch, Crops, Mix, ahead, still
from feallm.model.train.distil import Teacher
from feallm.model.train.grow import grow
from feallm.model.train.run import Average, Plan, Run
from feallm.model.train.team import Team
from feallm.model.vision import Place, Seen, VisionNetwork
from feallm.runtime.contract.aus import AU_KEYS, INTENSITY_MAX

HELD_OUT = 0.06
"""Share of the groups kept from training, for thresholds and temperature; never reported."""

SPLIT_SEED = 5
CALIBRATION_ROWS = 2500

_PLACES = ("landmarks", "pose", "gaze")
_PLAIN = 5  # fields of `Seen` that every network has
_UNITS = (4.0, 15.0, 15.0)  # pixels and degrees that weigh alike
_NEARLY = 0.25  # of a unit: below it an error's square counts, beyond it the error itself


@dataclass(frozen=True, slots=True)
class VisionRecipe:
    """How the eyes are trained."""

    batch: int = 64
    mix: Mix = Mix()
    decay: float = 0.05  # weight decay
    average: float = 0.998
    device: str = "cpu"  # where it is trained; weights come back to the CPU
    workers: int = 0  # processes that draw crops ahead of the training
    rendered: bool = False  # intensities come from rendered movements alone, where there are any


def losses(seen: Seen, batch: Batch, *, rendered: bool = False) -> dict[str, Tensor]:
    """Soft cross-entropy of votes, and of presence; distance of intensities and of places. What
    is unknown counts for nothing.

    Presence begins at intensity 1 (A); its target rises softly there, since the pseudo-labels'
    own border is soft. `rendered`: intensities are learnt from rendered movements alone, which
    are those whose head pose is known; what a network reads off photographs is timid, and would
    teach timidity.
    """
    known = torch.isfinite(batch.au_sides)
    sides = torch.nan_to_num(batch.au_sides)
    logits, strength, there = seen.au_logits, sides.amax(2), known.all(2)
    if seen.side_logits is not None:
        logits, strength, there = seen.side_logits, sides, known
    presence = torch.sigmoid(3.0 * (strength - 1.0))
    au = nn.functional.binary_cross_entropy_with_logits(logits, presence, reduction="none")
    intensity = nn.functional.smooth_l1_loss(
        seen.intensity, sides.clamp(0, INTENSITY_MAX), reduction="none"
    )
    measured = known
    if rendered:
        measured = known & torch.isfinite(batch.pose_deg).all(1)[:, None, None]
    voted = batch.expression.sum(1)
    expression = -(batch.expression * seen.expression_logits.log_softmax(1)).sum(1)
    found = {
        "expression": expression.sum() / voted.sum().clamp(min=1),
        "presence": 2.0 * _masked_mean(au, there),
        "intensity": 0.5 * _masked_mean(intensity, measured),
    }
    if seen.side_logits is not None:
        found["sides"] = 0.3 * _which_side(seen.side_logits, sides, known.all(2))
    if seen.place is not None:
        labels = (batch.landmarks, batch.pose_deg, batch.gaze_deg)
        for name, value, label, unit in zip(_PLACES, seen.place, labels, _UNITS, strict=True):
            error = nn.functional.smooth_l1_loss(
                value / unit, torch.nan_to_num(label) / unit, reduction="none", beta=_NEARLY
            )
            found[name] = _masked_mean(error, torch.isfinite(label))
    return found


def _which_side(logits: Tensor, sides: Tensor, known: Tensor) -> Tensor:
    """Cross-entropy of which side it is, where an AU is seen on one side only."""
    gap = sides[..., 0] - sides[..., 1]
    only = known & (sides.amax(2) >= 1.5) & (sides.amin(2) <= 0.5)
    wrong = nn.functional.softplus(-gap.sign() * (logits[..., 0] - logits[..., 1]))
    return _masked_mean(wrong, only)


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum() / mask.sum().clamp(min=1)


def split(faces: Faces) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows to train on and rows held out, whole groups of copies or people together. Faces coded
    by eye are in neither."""
    out = ferplus.held_out(faces.group, share=HELD_OUT, seed=SPLIT_SEED)
    free = ~coded.among(faces.points5)
    return np.flatnonzero(~out & free), np.flatnonzero(out & free)


def train(
    config: Config,
    faces: Faces,
    folder: Path,
    plan: Plan,
    recipe: VisionRecipe,
    teacher: VisionNetwork | None = None,
    start: VisionNetwork | None = None,
) -> tuple[VisionNetwork, dict[str, float]]:
    """Train, or go on training, in `folder`; returns the averaged network and its thresholds.

    `teacher`: a trained network whose answers are learnt beside the labels; `start`: one
    whose weights are the first, of this size or smaller.
    """
    team = Team.join(recipe.device)
    rows, held = split(faces)
    torch.manual_seed(plan.seed)
    network = VisionNetwork(config.vision, config.language.width)
    if start is not None:
        grow(network, start)
    # torch runs this form of `to`, but its stub does not know it.
    network.to(recipe.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    rendered = recipe.rendered and bool(np.isfinite(faces.place["pose_deg"]).any())
    average = Average(network, recipe.average)
    modules: dict[str, nn.Module] = {"network": network, "average": average}
    groups = _groups(network, recipe.decay)
    taught = None
    if teacher is not None:
        taught = Teacher(teacher.to(recipe.device), network).to(recipe.device)
        modules["teacher"] = taught
        groups += _groups(taught, recipe.decay)
    optimizer = torch.optim.AdamW(groups, lr=plan.rate)
    run = Run(folder, "vision", plan, modules, optimizer, team)
    batches = ahead(
        Crops(faces, rows, recipe.mix),
        plan.seed,
        recipe.batch,
        Augment(),
        steps=team.steps(run.step, plan.steps),
        workers=recipe.workers,
    )
    # bfloat16 halves the time where the device has instructions for it.
    half = torch.autocast(recipe.device, torch.bfloat16, enabled=recipe.device != "cpu")

    def step_losses(step: int) -> dict[str, Tensor]:
        if step:
            average.update(network, step)
        network.train()
        batch = next(batches).to(recipe.device)
        with half:
            seen = as_float(network.see(batch.crops))
            wanted = as_float(taught.see(batch.crops)) if taught is not None else None
        found = losses(seen, batch, rendered=rendered)
        if taught is not None and wanted is not None:
            found |= taught.losses(seen, wanted, batch.au_sides)
        return found

    result = VisionNetwork(config.vision, config.language.width)
    for _ in run.steps(step_losses):
        average.copy_to(result)
        result.eval()
        run.log(**{f"held_{k}": v for k, v in score(result, faces, held).items()})
    average.copy_to(result)
    result.eval()
    return result, calibrate(result, faces, held)


def _groups(network: nn.Module, decay: float) -> list[dict[str, object]]:
    """Weight decay for matrices only."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]


def as_float(seen: Seen) -> Seen:
    """The same in float32: losses are summed over many crops."""
    place = None if seen.place is None else Place(*(value.float() for value in seen.place))
    sides = None if seen.side_logits is None else seen.side_logits.float()
    plain = [value.float() for value in (seen.au_logits, seen.intensity, seen.expression_logits)]
    return Seen(plain[0], plain[1], plain[2], seen.x_3, seen.f_attn, sides, place)


@torch.no_grad()
def outputs(network: VisionNetwork, crops: Tensor, size: int = 256) -> Seen:
    """Outputs for many crops, in parts."""
    parts = [network.answer(part) for part in crops.split(size)]
    place = None
    if parts[0].place is not None:
        places = zip(*(part.place for part in parts if part.place is not None), strict=True)
        place = Place(*(torch.cat(columns) for columns in places))
    columns = [torch.cat(column) for column in zip(*(part[:_PLAIN] for part in parts), strict=True)]
    sides = [part.side_logits for part in parts if part.side_logits is not None]
    au, intensity, expression, x_3, f_attn = columns
    return Seen(au, intensity, expression, x_3, f_attn, torch.cat(sides) if sides else None, place)


def score(network: VisionNetwork, faces: Faces, rows: NDArray[np.int64]) -> dict[str, float]:
    """Held-out figures: accuracy by the FER+ rule at the mean place and at points, and for each
    pack with AUs the mean AUC of presence (>= B) against absence (below A / 2)."""
    result = {}
    voted = rows[ferplus.classes(faces.votes[rows]) >= 0]
    truth = ferplus.classes(faces.votes[voted])
    for name, at_points in (("mean", False), ("points", True)):
        if len(voted):
            seen = outputs(network, still(faces, voted, at_points=at_points))
            correct = seen.expression_logits.argmax(1).numpy() == truth
            result[f"accuracy_{name}"] = round(float(correct.mean()), 4)
    few = _few_of_each(faces, rows, 1000)
    for k in np.unique(faces.source[few]):
        own = few[faces.source[few] == k]
        sides = faces.au_sides[own].max(2)
        if not np.isfinite(sides).any():
            continue
        logits = outputs(network, still(faces, own, at_points=True)).au_logits.numpy()
        found = []
        for au in range(sides.shape[1]):
            present, absent = sides[:, au] >= 2, sides[:, au] < 0.5
            if min(present.sum(), absent.sum()) >= 10:
                clear = present | absent
                found.append(auc(logits[clear, au].astype(np.float64), present[clear]))
        if found:
            result[f"auc_{k}"] = round(float(np.mean(found)), 4)
    return result


def calibrate(network: VisionNetwork, faces: Faces, rows: NDArray[np.int64]) -> dict[str, float]:
    """Set the network's temperature and return a threshold for each AU that has labels.

    Both are fitted on held-out rows of `train`, from every pack alike, and where the votes are
    the crop also stands at the mean place: temperature by the likelihood of the votes, thresholds
    by F1 of presence (>= A).
    """
    chosen = _few_of_each(faces, rows)
    voted = chosen[faces.expression[chosen].sum(1) > 0]
    order = np.concatenate([chosen, voted])
    places = [still(faces, chosen, at_points=True)]
    if len(voted):
        places.append(still(faces, voted, at_points=False))
    seen = outputs(network, torch.cat(places))
    soft = torch.from_numpy(faces.expression[order])
    if len(voted):
        temperatures = torch.linspace(0.5, 2.5, 81)
        fits = [-(soft * (seen.expression_logits / t).log_softmax(1)).sum() for t in temperatures]
        network.temperature.copy_(temperatures[int(torch.stack(fits).argmin())])
    probability = seen.au_logits.sigmoid().numpy()
    sides = faces.au_sides[order].max(2)
    thresholds = {}
    for k, key in enumerate(AU_KEYS):
        known = np.isfinite(sides[:, k])
        if known.any():
            thresholds[key] = best_threshold(probability[known, k], sides[known, k] >= 1)
    return thresholds


def _few_of_each(
    faces: Faces, rows: NDArray[np.int64], most: int = CALIBRATION_ROWS
) -> NDArray[np.int64]:
    """At most so many rows of each pack, in order."""
    rng = np.random.default_rng(SPLIT_SEED)
    kept = [
        rng.permutation(rows[faces.source[rows] == k])[:most] for k in np.unique(faces.source[rows])
    ]
    return np.sort(np.concatenate(kept))


def best_threshold(probability: NDArray[np.float32], present: NDArray[np.bool_]) -> float:
    """The threshold of highest F1, from 0.25 to 0.75 in steps of 0.01."""
    grid = np.arange(0.25, 0.751, 0.01)
    called = probability[:, None] >= grid
    hits = (called & present[:, None]).sum(0)
    f1 = 2 * hits / np.maximum(called.sum(0) + present.sum(), 1)
    return round(float(grid[f1.argmax()]), 2)
