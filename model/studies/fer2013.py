"""FER2013's seven labels, read off the network's features by a linear layer that is never shipped.

    python -m feallm.model.studies.fer2013 --data ../shared/data --checkpoint edge.safetensors

How good the features are for labels that the network was not trained on: what its expression head
reads, of FER `train` (without near copies of evaluation pictures), through one linear layer;
strength of decay chosen on a slice of `train`; accuracy on `valid`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from feallm.model.data import archive, ferplus
from feallm.model.evaluate import metrics, run, sets
from feallm.model.evaluate.torch_vision import TorchVision
from feallm.runtime.analyze import Analyzer

UNKNOWN, CLASSES = 255, 7
DECAYS = (1e-4, 1e-3, 1e-2, 3e-2)
EPOCHS, BATCH, RATE, SEED = 12, 512, 1e-3, 0


def features(
    analyzer: Analyzer, network: TorchVision, path: Path, rows: NDArray[np.int64]
) -> Tensor:
    """What the expression head reads of these rows, the mean over the crop and its mirror image and
    over both looks: the given points, then those that the network finds."""
    arrays = archive.read(path, "images", "offsets")
    encoded = archive.encoded(path, arrays)
    images = [encoded[i] for i in rows]
    data = sets.Labelled(path, images, np.zeros(len(rows), np.int64), None, None)
    every = np.arange(len(rows))
    views = 1 if network.network.mirror is None else 2
    seen: list[Tensor] = []
    hook = network.network.expression_head.register_forward_hook(
        lambda _, inputs, __: seen.append(inputs[0].unflatten(0, (views, -1)).mean(0))
    )
    found = run.outputs_of(analyzer, data, every)
    first = torch.cat(seen)
    seen.clear()
    data, _ = run.at_own_points(data, every, found, analyzer.bundle.manifest.geometry.crop())
    run.outputs_of(analyzer, data, every)
    hook.remove()
    return (first + torch.cat(seen)) / 2


def fit(x: Tensor, y: Tensor, decay: float) -> nn.Linear:
    """A linear layer of standardized features."""
    torch.manual_seed(SEED)
    layer = nn.Linear(x.shape[1], CLASSES)
    nn.init.zeros_(layer.weight)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=RATE, weight_decay=0.0)
    steps = EPOCHS * (len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        rows = torch.randint(len(x), (BATCH,), generator=torch.Generator().manual_seed(step))
        loss = nn.functional.cross_entropy(layer(x[rows]), y[rows])
        loss = loss + decay * layer.weight.square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return layer


def main() -> None:
    """Extract, fit, score."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, required=True)
    chosen = parser.parse_args()
    analyzer, _ = run.analyzer_for(None, None, chosen.checkpoint)
    network = analyzer.vision
    assert isinstance(network, TorchVision)
    xs, ys, groups = {}, {}, np.zeros(0)
    for split in ("train", "valid"):
        path = chosen.data / "fer" / f"{split}.npz"
        arrays = archive.read(path, "fer2013_label", "dup_group")
        keep = arrays["fer2013_label"] != UNKNOWN
        if split == "train":
            keep &= ferplus.read(path).usable
            groups = arrays["dup_group"][keep]
        rows = np.flatnonzero(keep)
        xs[split] = features(analyzer, network, path, rows)
        ys[split] = torch.from_numpy(arrays["fer2013_label"][rows].astype(np.int64))
    mean, spread = xs["train"].mean(0), xs["train"].std(0) + 1e-3
    x, valid = (xs["train"] - mean) / spread, (xs["valid"] - mean) / spread
    held = torch.from_numpy(ferplus.held_out(groups.astype(np.int64), share=0.1, seed=SEED))
    best, decay = 0.0, DECAYS[0]
    for tried in DECAYS:
        layer = fit(x[~held], ys["train"][~held], tried)
        right = (layer(x[held]).argmax(1) == ys["train"][held]).float().mean().item()
        print(f"decay {tried:g}: {right:.4f} on a slice of train")
        if right > best:
            best, decay = right, tried
    layer = fit(x, ys["train"], decay)
    correct = (layer(valid).argmax(1) == ys["valid"]).numpy()
    low, high = metrics.interval(correct)
    print(f"FER2013, valid, {len(correct)} faces: {correct.mean():.4f} (95 % {low:.4f}–{high:.4f})")


if __name__ == "__main__":
    main()
