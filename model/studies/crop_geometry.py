"""Which crop? Trains one small network on each candidate and reads it on a slice of `train`.

    python -m feallm.model.studies.crop_geometry --data DATA --seconds 300 --only tall_1.3

The figures are in docs/adr/0002-crop-geometry.md. The slice is held out by groups of copies;
`valid` is not touched.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from feallm.model.data import augment, ferplus, pseudo
from feallm.model.encoder import PlainEncoder
from feallm.model.pixels import Pixels
from feallm.runtime.contract.aus import AU_INDEX
from feallm.runtime.contract.geometry import MEAN_POINTS_CROP, CropGeometry
from feallm.runtime.vision.align import crop_matrix, points_in_box, warp

BASE = ((41.0, 40.0), (71.0, 40.0), (56.0, 54.0), (44.3, 72.0), (67.7, 72.0))


def candidate(zoom: float, up: float, height: int = 112, down: float = 0.0) -> CropGeometry:
    """The template of docs/feallm.md 6.2, enlarged about (56, 60) and moved."""
    points = [(56 + (x - 56) * zoom, 60 + (y - 60) * zoom - up + down) for x, y in BASE]
    a, b, c, d, e = points
    return CropGeometry(112, height, (a, b, c, d, e), 128)


CANDIDATES = {
    "square_1.0": candidate(1.0, 0),
    "square_1.2": candidate(1.2, 3),
    "square_1.3": candidate(1.3, 4),
    "tall_1.3": candidate(1.3, 4, height=128, down=12),
}


class Probe(nn.Module):
    """The encoder with two linear read-outs."""

    def __init__(self, geometry: CropGeometry, n_aus: int) -> None:
        super().__init__()
        self.pixels = Pixels(shrink=2)
        self.encoder = PlainEncoder(
            (24, 48, 96, 192),
            (0, 1, 1, 1),
            rows=geometry.height_px // 2,
            columns=geometry.width_px // 2,
        )
        self.read = nn.Linear(192, 8 + n_aus)

    def forward(self, crop: Tensor) -> Tensor:
        features = self.encoder(self.pixels(crop))[3].mean((2, 3))
        result: Tensor = self.read(nn.functional.dropout(features, 0.2, self.training))
        return result


def study(name: str, data: Path, seconds: float) -> dict[str, object]:
    """Train for `seconds` of CPU time, then score the held-out slice."""
    geometry = CANDIDATES[name]
    torch.manual_seed(0)
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    fer = ferplus.read(data / "fer" / "train.npz")
    marks = pseudo.read(data / "fer" / "mediapipe_train.npz")
    keys = list(pseudo.SCALES)
    columns = [AU_INDEX[key] for key in keys]
    aus = np.clip(marks.intensity.mean(2)[:, columns] / 5, 0, 1)
    labels = ferplus.soft_labels(fer.votes)
    truth = ferplus.classes(fer.votes)
    outside = ferplus.held_out(fer.dup_group, share=0.12, seed=5)
    rows = np.flatnonzero(fer.usable & (truth >= 0) & ~outside)
    test = np.flatnonzero(fer.usable & (truth >= 0) & outside)
    mean_points = points_in_box((0, 0, ferplus.SIDE_PX, ferplus.SIDE_PX), MEAN_POINTS_CROP)
    to_mean = crop_matrix(mean_points, geometry)
    # torch runs this form of `to`, but its stub does not know it.
    model = Probe(geometry, len(keys)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.05)
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99), use_buffers=True
    )
    how, start, seen = augment.Augment(), time.process_time(), 0
    while (share := (time.process_time() - start) / seconds) < 1:
        rate = 2e-3 * min(share / 0.05, 0.5 * (1 + np.cos(np.pi * share)) + 1e-3)
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = rng.choice(rows, 64, replace=False)
        crops, soft, au, mask = [], labels[batch], aus[batch], np.isfinite(aus[batch])
        for i in batch:
            known = marks.found[i] and rng.random() < 0.5
            matrix = crop_matrix(marks.points5[i], geometry) if known else to_mean
            crops.append(augment.crop(fer.pictures[i], matrix, rng, how, geometry).pixels)
        model.train()
        out = model(torch.from_numpy(np.stack(crops)))
        loss = -(torch.from_numpy(soft) * out[:, :8].log_softmax(1)).sum(1).mean()
        wrong = nn.functional.binary_cross_entropy_with_logits(
            out[:, 8:], torch.from_numpy(np.nan_to_num(au)), reduction="none"
        )
        loss = loss + (wrong * torch.from_numpy(mask)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen += len(batch)
        if seen % 256 == 0:
            average.update_parameters(model)
    result: dict[str, object] = {"name": name, "seen": seen}
    average.eval()
    for place in ("mean", "points"):
        matrices = [
            crop_matrix(marks.points5[i], geometry)
            if place == "points" and marks.found[i]
            else to_mean
            for i in test
        ]
        crops = [warp(fer.pictures[i], m, geometry) for i, m in zip(test, matrices, strict=True)]
        with torch.no_grad():
            out = torch.cat(
                [average(part) for part in torch.from_numpy(np.stack(crops)).split(256)]
            ).numpy()
        correct = out[:, :8].argmax(1) == truth[test]
        result[f"{place}_accuracy"] = round(float(correct.mean()), 4)
        for k, key in enumerate(keys):
            good = np.isfinite(aus[test][:, k])
            r = np.corrcoef(out[good, 8 + k], aus[test][good, k])[0, 1]
            result[f"{place}_{key}"] = round(float(r), 3)
    return result


def main() -> None:
    """Run the chosen candidates one after the other; one JSON line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=300, help="CPU time for each")
    parser.add_argument("--only", nargs="*", default=list(CANDIDATES), choices=list(CANDIDATES))
    arguments = parser.parse_args()
    for name in arguments.only:
        print(json.dumps(study(name, arguments.data, arguments.seconds)), flush=True)


if __name__ == "__main__":
    main()
