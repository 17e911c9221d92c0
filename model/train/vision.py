"""Train the eyes: encoder, LCA, MPP features and the two heads, on packed faces."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from feallm.model.config import Config
from feallm.model.data import ferplus
from feallm.model.data.augment import Augment
from feallm.model.data.pack import Faces
from feallm.model.train.batches import Batch, Crops, still
from feallm.model.train.run import Average, Plan, Run
from feallm.model.vision import Seen, VisionNetwork
from feallm.runtime.contract.aus import AU_KEYS, INTENSITY_MAX

HELD_OUT = 0.06
"""Share of the groups kept from training, for thresholds and temperature; never reported."""

SPLIT_SEED = 5


@dataclass(frozen=True, slots=True)
class VisionRecipe:
    """How the eyes are trained."""

    batch: int = 64
    mean_share: float = 0.65  # crops at the mean place: what a box without points gives
    rare: float = 0.25  # rows drawn with class size ^ -rare
    decay: float = 0.05  # weight decay
    average: float = 0.998


def losses(seen: Seen, batch: Batch) -> dict[str, Tensor]:
    """Soft cross-entropy of votes, and of presence; distance of intensities. Unknown is masked.

    Presence begins at intensity 1 (A); its target rises softly there, since the pseudo-labels'
    own border is soft.
    """
    known = torch.isfinite(batch.au_sides)
    sides = torch.nan_to_num(batch.au_sides)
    presence = torch.sigmoid(3.0 * (sides.amax(2) - 1.0))
    au = nn.functional.binary_cross_entropy_with_logits(seen.au_logits, presence, reduction="none")
    intensity = nn.functional.smooth_l1_loss(
        seen.intensity, sides.clamp(0, INTENSITY_MAX), reduction="none"
    )
    return {
        "expression": -(batch.expression * seen.expression_logits.log_softmax(1)).sum(1).mean(),
        "presence": 2.0 * _masked_mean(au, known.all(2)),
        "intensity": 0.5 * _masked_mean(intensity, known),
    }


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum() / mask.sum().clamp(min=1)


def split(faces: Faces) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows to train on and rows held out, whole groups of copies or people together."""
    out = ferplus.held_out(faces.group, share=HELD_OUT, seed=SPLIT_SEED)
    return np.flatnonzero(~out), np.flatnonzero(out)


def train(
    config: Config, faces: Faces, folder: Path, plan: Plan, recipe: VisionRecipe
) -> tuple[VisionNetwork, dict[str, float]]:
    """Train, or go on training, in `folder`; returns the averaged network and its thresholds."""
    rows, held = split(faces)
    torch.manual_seed(plan.seed)
    network = VisionNetwork(config.vision, config.language.width)
    # torch runs this form of `to`, but its stub does not know it.
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = Average(network, recipe.average)
    optimizer = torch.optim.AdamW(_groups(network, recipe.decay), lr=plan.rate)
    run = Run(folder, "vision", plan, {"network": network, "average": average}, optimizer)
    crops, how = Crops(faces, rows, rare=recipe.rare), Augment()

    def step_losses(step: int) -> dict[str, Tensor]:
        if step:
            average.update(network, step)
        network.train()
        batch = crops.draw(plan.seed, step, recipe.batch, how, recipe.mean_share)
        return losses(network.see(batch.crops), batch)

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


@torch.no_grad()
def outputs(network: VisionNetwork, crops: Tensor, size: int = 256) -> Seen:
    """Outputs for many crops, in parts."""
    parts = [network.see(part) for part in crops.split(size)]
    return Seen(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def score(network: VisionNetwork, faces: Faces, rows: NDArray[np.int64]) -> dict[str, float]:
    """Accuracy by the FER+ rule at the mean place and at points, on rows with votes."""
    rows = rows[ferplus.classes(faces.votes[rows]) >= 0]
    truth = ferplus.classes(faces.votes[rows])
    result = {}
    for name, at_points in (("mean", False), ("points", True)):
        seen = outputs(network, still(faces, rows, at_points=at_points))
        correct = seen.expression_logits.argmax(1).numpy() == truth
        result[f"accuracy_{name}"] = round(float(correct.mean()), 4)
    return result


def calibrate(network: VisionNetwork, faces: Faces, rows: NDArray[np.int64]) -> dict[str, float]:
    """Set the network's temperature and return a threshold for each AU that has labels.

    Both are fitted on held-out rows of `train`, half of the crops at the mean place and half at
    points: temperature by the likelihood of the votes, thresholds by F1 of presence (>= A).
    """
    crops = torch.cat([still(faces, rows, at_points=p) for p in (False, True)])
    seen = outputs(network, crops)
    soft = torch.from_numpy(np.concatenate([faces.expression[rows]] * 2))
    temperatures = torch.linspace(0.5, 2.5, 81)
    fits = [
        -(soft * (seen.expression_logits / t).log_softmax(1)).sum(1).mean() for t in temperatures
    ]
    network.temperature.copy_(temperatures[int(torch.stack(fits).argmin())])
    probability = seen.au_logits.sigmoid().numpy()
    sides = np.concatenate([faces.au_sides[rows]] * 2).max(2)
    thresholds = {}
    for k, key in enumerate(AU_KEYS):
        known = np.isfinite(sides[:, k])
        if known.any():
            thresholds[key] = best_threshold(probability[known, k], sides[known, k] >= 1)
    return thresholds


def best_threshold(probability: NDArray[np.float32], present: NDArray[np.bool_]) -> float:
    """The threshold of highest F1, from 0.25 to 0.75 in steps of 0.01."""
    grid = np.arange(0.25, 0.751, 0.01)
    called = probability[:, None] >= grid
    hits = (called & present[:, None]).sum(0)
    f1 = 2 * hits / np.maximum(called.sum(0) + present.sum(), 1)
    return round(float(grid[f1.argmax()]), 2)
