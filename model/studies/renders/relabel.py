"""Give photographs the labels that a network trained on renders reads off them, as a new pack.

    python -m feallm.model.studies.renders.relabel --weights w.safetensors --pack packs/photos \\
        --out packs/self

A second training on renders and these then sees photographs too (Q. Xie et al., "Self-training
with Noisy Student improves ImageNet classification", CVPR 2020). Votes, words and pseudo-labels of
the first pack are not copied; with `--keep` all is copied, and where the first pack knows an AU
too, the label is the mean of both: two teachers' faults are not the same. `--checkpoint` in place
of `--weights` reads them with a network of `feallm train`, whose thresholds, fitted on faces coded
by eye, say where presence begins.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feallm.model import checkpoint
from feallm.model.checkpoint import Checkpoint
from feallm.model.data import pack
from feallm.model.studies.renders.crops import aligned, read
from feallm.model.studies.renders.network import SmallNetwork
from feallm.model.studies.renders.score import load
from feallm.model.studies.renders.train import SOFT
from feallm.model.train.batches import still
from feallm.model.train.vision import outputs
from feallm.runtime.contract.aus import AU_KEYS
from feallm.runtime.contract.geometry import MEAN_POINTS_CROP
from feallm.runtime.vision.align import points_in_box

Labels = Callable[[Tensor], NDArray[np.float32]]
_LIKE_LOGITS = (-1 / 3, 7 / 3)  # what `labels` gives at its own surest
_PRESENT = 2.0  # a soft label from here on is sure
_SURE = 4.0  # logits beyond it say nothing more


@torch.no_grad()
def labels(network: SmallNetwork, crops: Tensor) -> NDArray[np.float32]:
    """Intensities (N, 20, 2) whose soft presence is what the network says of crops (N, H, W) and
    of their mirror images; where that is sure, the intensity that it reads."""
    found = []
    for part in crops.split(256):
        plain, mirrored = network(part), network(part.flip(2))
        logits, read = ((a + b.flip(2)) / 2 for a, b in zip(plain, mirrored, strict=True))
        soft = 1 + logits.clamp(-_SURE, _SURE) / SOFT
        found.append(torch.where(soft >= _PRESENT, torch.maximum(soft, read.clamp(max=5)), soft))
    return np.asarray(torch.cat(found).clamp(min=0), np.float32)


def taught(teacher: Checkpoint, crops: Tensor) -> NDArray[np.float32]:
    """The same of a checkpoint's eyes, presence counted from its thresholds on."""
    seen = outputs(teacher.vision, crops)
    logits = seen.au_logits[..., None] if seen.side_logits is None else seen.side_logits
    least = torch.tensor([teacher.thresholds.get(key, 0.5) for key in AU_KEYS]).logit()
    soft = 1 + (logits - least[:, None]).clamp(-_SURE, _SURE) / SOFT
    strong = torch.maximum(soft, seen.intensity.clamp(max=5))
    labels = torch.where(soft >= _PRESENT, strong, soft).clamp(min=0)
    untrained = torch.tensor([key not in teacher.thresholds for key in AU_KEYS])
    return np.asarray(labels.masked_fill(untrained[:, None], torch.nan), np.float32)


def blended(mine: NDArray[np.float32], theirs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Labels (N, 20, 2): the mean where both are known, else the one that is (NaN = unknown)."""
    both = np.isfinite(mine) & np.isfinite(theirs)
    either = np.where(np.isfinite(mine), mine, theirs)
    sure = both & (mine >= _PRESENT) & (theirs >= _PRESENT)
    mean = np.where(sure, mine, (mine.clip(*_LIKE_LOGITS) + theirs.clip(*_LIKE_LOGITS)) / 2)
    return np.where(both, mean, either).astype(np.float32)


def kept(read_labels: Labels, folder: Path, out: Path) -> None:
    """A pack with everything that it had, and AU labels from both teachers."""
    faces, index = pack.read(folder), pack.read_index(folder)
    found = np.isfinite(faces.points5).all((1, 2))
    rows = np.flatnonzero(found)
    sides = np.full_like(faces.au_sides, np.nan)
    for part in np.array_split(rows, max(1, len(rows) // 2048)):
        sides[part] = read_labels(still(faces, part, at_points=True))
    sides = blended(sides, faces.au_sides)
    images: list[bytes] = []
    for path in pack.parts(folder, index):
        with np.load(path) as file:
            images += pack.encoded(file["images"], file["offsets"])
    rows_of, start = [], 0
    for origin in faces.origins:
        own = slice(start, start + origin.rows)
        start += origin.rows
        columns = [getattr(faces, n)[own] for n in pack.ROW_ARRAYS if n != "au_sides"]
        named = dict(zip([n for n in pack.ROW_ARRAYS if n != "au_sides"], columns, strict=True))
        place = {"points68": faces.place["points68"][own]}
        rows_of.append(
            pack.Rows(images[own], **named, au_sides=sides[own], origin=origin, place=place)
        )
    pack.write(rows_of, out)
    print(f"{out}  {len(images)} photographs, {len(rows)} with the network's labels")


def main() -> None:
    """Read the pack, relabel it, write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--weights", type=Path, help="a network of studies.renders.train")
    which.add_argument("--checkpoint", type=Path, help="one of `feallm train`; asks for --keep")
    parser.add_argument("--pack", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--keep", action="store_true", help="keep what the pack says already")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.checkpoint and not arguments.keep:
        parser.error("--checkpoint asks for --keep")
    if arguments.keep:
        read_labels = (
            partial(taught, checkpoint.load(arguments.checkpoint))
            if arguments.checkpoint
            else partial(labels, load(arguments.weights))
        )
        kept(read_labels, arguments.pack, arguments.out)
        return
    store = read(arguments.pack, 1.0, labelled=False)
    crops = torch.from_numpy(np.stack([aligned(store, i) for i in range(len(store.images))]))
    count = len(store.images)
    mean = points_in_box((0, 0, 48, 48), MEAN_POINTS_CROP).astype(np.float32)
    origin = pack.Origin("relabelled", "as the pack that was read", count, "0" * 64)
    rows = pack.Rows(
        store.images,
        np.zeros((count, 10), np.float32),
        np.zeros((count, 8), np.float32),
        labels(load(arguments.weights), crops),
        store.points5,
        np.tile(mean, (count, 1, 1)),
        np.arange(count),
        replace(origin, sha256=pack.sha256(arguments.weights)),
    )
    pack.write([rows], arguments.out)
    print(f"{arguments.out}  {count} photographs")


if __name__ == "__main__":
    main()
