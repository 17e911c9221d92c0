"""Give photographs the labels that a network trained on renders reads off them, as a new pack.

    python -m feallm.model.studies.renders.relabel --weights w.safetensors --pack packs/photos \\
        --out packs/self

A second training on renders and these then sees photographs too (Q. Xie et al., "Self-training
with Noisy Student improves ImageNet classification", CVPR 2020). Votes, words and pseudo-labels of
the first pack are not copied.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feallm.model.data import pack
from feallm.model.studies.renders.crops import aligned, read
from feallm.model.studies.renders.network import SmallNetwork
from feallm.model.studies.renders.score import load
from feallm.model.studies.renders.train import SOFT
from feallm.runtime.contract.geometry import MEAN_POINTS_CROP
from feallm.runtime.vision.align import points_in_box

_SURE = 4.0  # logits beyond it say nothing more


@torch.no_grad()
def labels(network: SmallNetwork, crops: Tensor) -> NDArray[np.float32]:
    """Intensities (N, 20, 2) whose soft presence is what the network says of crops (N, H, W) and
    of their mirror images."""
    found = []
    for part in crops.split(256):
        plain, mirrored = network(part)[0], network(part.flip(2))[0].flip(2)
        logits = ((plain + mirrored) / 2).clamp(-_SURE, _SURE)
        found.append(1 + logits / SOFT)
    return np.asarray(torch.cat(found).clamp(min=0), np.float32)


def main() -> None:
    """Read the pack, relabel it, write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--pack", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
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
