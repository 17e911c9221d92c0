"""Thresholds of presence and the scale of intensities, fitted on renders and on real faces of
`train` together; nothing that is reported is looked at.

A threshold is the one of the highest mean F1 over two kinds of faces: held-out renders that clearly
have the AU or clearly have it not, and the photographs of `coded-train` and `coded-more`; less what
it declares of held-out faces at rest (`ALARM_WEIGHT` for each share of them). Faces at rest come
from votes and words, which say nothing of parted lips, so AU25 and AU26 are left out there.

Intensities follow a line of their own for each AU, a x + b, that is folded into the head: least
squares make a network timid (it answers near the mean where it is unsure), and the line gives
back the spread that the labels have, as far as absolute errors allow.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from feallm.model.checkpoint import Checkpoint
from feallm.model.coded.faces import Part
from feallm.model.data.pack import Faces
from feallm.model.evaluate import clear, coded, metrics, sets
from feallm.model.train.batches import still
from feallm.model.train.vision import CALIBRATION_ROWS, outputs, split
from feallm.model.vision import Seen, VisionNetwork
from feallm.runtime.contract.aus import AU_INDEX, AU_KEYS, INTENSITY_MAX, N_AUS
from feallm.runtime.contract.expressions import EXPRESSION_INDEX
from feallm.runtime.contract.geometry import CROP

Floats = NDArray[np.float64]

CODED: tuple[Part, ...] = ("train", "more")
ALARM_WEIGHT = 0.75
FEW = 5  # coded faces that have the AU, below which their F1 is not asked
GRID = np.arange(0.06, 0.941, 0.02)
OPEN_AT_REST = ("AU25", "AU26")

SCALES, SHIFTS = np.arange(0.9, 3.01, 0.1), np.arange(-0.5, 0.21, 0.1)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a threshold is fitted on. Probabilities and labels (N, 20); NaN = not known."""

    rendered: Floats
    rendered_truth: Floats  # intensities 0–5
    coded: Floats
    coded_truth: Floats  # 0 and 1
    resting: Floats


def threshold(of: Evidence, k: int, known: float) -> float:
    """The threshold of AU number `k`; `known` where nothing speaks for another."""
    truth = of.rendered_truth[:, k]
    sure = (truth >= clear.PRESENT) | (truth <= clear.ABSENT)
    coded_here = np.isfinite(of.coded_truth[:, k])
    seen = of.coded_truth[coded_here, k] == 1
    asked = seen.sum() >= FEW
    clearly = bool((truth[sure] >= clear.PRESENT).any())
    if not clearly and not asked:
        return known
    score = np.zeros(len(GRID))
    for i, least in enumerate(GRID):
        parts = []
        if clearly:
            called = of.rendered[sure, k] >= least
            parts.append(metrics.f1(called, truth[sure] >= clear.PRESENT))
        if asked:
            parts.append(metrics.f1(of.coded[coded_here, k] >= least, seen))
        score[i] = np.mean(parts)
        if len(of.resting) and AU_KEYS[k] not in OPEN_AT_REST:
            score[i] -= ALARM_WEIGHT * float((of.resting[:, k] >= least).mean())
    return round(float(GRID[score.argmax()]), 2)


def line(read: Floats, truth: Floats) -> tuple[float, float]:
    """Scale and shift of one AU's intensities, read and true: the highest ICC(3,1) less two fifths
    of the mean absolute error."""
    best, chosen = -np.inf, (1.0, 0.0)
    for scale in SCALES:
        for shift in SHIFTS:
            value = (scale * read + shift).clip(0, INTENSITY_MAX)
            icc = metrics.icc31(np.stack([truth, value], 1))
            score = icc - 0.4 * float(np.abs(value - truth).mean())
            if score > best + 1e-9:
                best, chosen = score, (float(scale), float(shift))
    return chosen


def calibrated(
    checkpoint: Checkpoint, faces: Faces, data: Path, sources: tuple[str, ...]
) -> Checkpoint:
    """The checkpoint with thresholds and intensities fitted on held-out rows of its packs and on
    the coded faces that come from `sources`. The network is changed in place."""
    network = checkpoint.vision
    _, held = split(faces)
    rng = np.random.default_rng(5)
    rendered = np.asarray(np.isfinite(faces.place["pose_deg"]).all(1))
    chosen = rng.permutation(held[rendered[held]])[: 2 * CALIBRATION_ROWS]
    truth = faces.au_sides[chosen].clip(0, INTENSITY_MAX)
    folded: list[str] = []
    probability = np.zeros((0, N_AUS))
    if len(chosen):
        seen = outputs(network, still(faces, chosen, at_points=True))
        folded, probability = _fold(network, seen, truth), _probability(seen)
    neutral = faces.expression.argmax(1) == EXPRESSION_INDEX["neutral"]
    neutral &= (faces.expression.max(1) > 0.75) & ~rendered
    resting = held[neutral[held]]
    coded_read, coded_truth = _coded(network, data, sources)
    evidence = Evidence(
        probability,
        truth.max(2).astype(np.float64),
        coded_read,
        coded_truth,
        _probability(outputs(network, still(faces, resting, at_points=True)))
        if len(resting)
        else np.zeros((0, N_AUS)),
    )
    thresholds = {
        key: threshold(evidence, AU_INDEX[key], checkpoint.thresholds[key])
        for key in checkpoint.aus_trained
    }
    facts = checkpoint.training | {
        "calibrated_on": {
            "renders": len(chosen),
            "coded": len(coded_read),
            "at rest": len(resting),
            "intensities": folded,
        }
    }
    return replace(checkpoint, thresholds=thresholds, training=facts)


def _coded(network: VisionNetwork, data: Path, sources: tuple[str, ...]) -> tuple[Floats, Floats]:
    """Probabilities and codes (N, 20) of the coded faces that no training sees with their codes and
    no figure is told of, from `sources`."""
    read, truth = [np.zeros((0, N_AUS))], [np.zeros((0, N_AUS))]
    for part in CODED:
        faces = coded.labelled(data, part)
        rows = np.flatnonzero(np.isin(faces.slices["source"], sources))
        if len(rows) and faces.au is not None:
            read.append(_read(network, faces, rows))
            truth.append(faces.au[rows])
    return np.concatenate(read), np.concatenate(truth)


def _probability(seen: Seen) -> Floats:
    return seen.au_logits.sigmoid().numpy().astype(np.float64)


@torch.no_grad()
def _read(network: VisionNetwork, labelled: sets.Labelled, rows: NDArray[np.int64]) -> Floats:
    """Probabilities (N, 20) of labelled photographs."""
    parts = [network.answer(torch.from_numpy(p)) for p in sets.crops(labelled, rows, CROP)]
    return np.concatenate([_probability(part) for part in parts] or [np.zeros((0, N_AUS))])


@torch.no_grad()
def _fold(network: VisionNetwork, seen: Seen, truth: NDArray[np.float32]) -> list[str]:
    """Put each AU's line into the last layer, both sides alike; the AUs that have one."""
    folded = []
    read = seen.intensity.clamp(0, INTENSITY_MAX).numpy().max(2)
    strongest = truth.max(2)
    for k in range(N_AUS):
        known = np.isfinite(strongest[:, k])
        if known.sum() < FEW or not (strongest[known, k] >= 1).any():
            continue
        scale, shift = line(
            read[known, k].astype(np.float64), strongest[known, k].astype(np.float64)
        )
        for side in (0, 1):
            network.intensity_head.weight[2 * k + side] *= scale
            bias = network.intensity_head.bias
            bias[2 * k + side] = bias[2 * k + side] * scale + shift
        folded.append(AU_KEYS[k])
    return folded
