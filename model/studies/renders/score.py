"""Read a small network on the faces coded by eye.

python -m feallm.model.studies.renders.score --data ../shared/data --weights FILE --part test
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from feallm.model.coded import codes
from feallm.model.coded import faces as coded
from feallm.model.evaluate.coded import code_files
from feallm.model.evaluate.metrics import auc
from feallm.model.studies.renders.crops import coded_crops
from feallm.model.studies.renders.network import SmallNetwork
from feallm.runtime.contract.aus import AU_KEYS

ENOUGH = 10  # positives and negatives for an AU to count in the mean


def coded_truth(part: coded.Part) -> NDArray[np.float64]:
    """(150, 15) 1, 0 or NaN in the order of `codes.COLUMNS`: both readers' word for the test."""
    ids = [face.id for face in coded.listed(part)]
    given = [codes.read(path).of(ids) for path in code_files(part)]
    return codes.consensus(*given) if len(given) == 2 else codes.labels(given[0])


@torch.no_grad()
def see(network: SmallNetwork, crops: Tensor) -> NDArray[np.float64]:
    """Scores (N, 20) of crops (N, H, W) uint8: the stronger side's logit, mean of the crop and its
    mirror image. Leaves the network in its evaluating state."""
    network.eval()
    both = [network(c)[0].max(2).values for c in (crops, crops.flip(2))]
    return np.asarray((both[0] + both[1]) / 2, np.float64)


def figures(
    scores: NDArray[np.float64], truth: NDArray[np.float64], draws: int = 0
) -> dict[str, Any]:
    """AUC of each AU and their mean over AUs with enough of both.

    `scores` (N, 20); `truth` (N, 15) as `coded_truth` gives it. With `draws`, 95 % intervals of
    as many bootstrap draws over faces.
    """
    aus: dict[str, dict[str, Any]] = {}
    for k, column in enumerate(codes.COLUMNS):
        known = np.isfinite(truth[:, k])
        true = truth[known, k] == 1
        aus[AU_KEYS[column]] = {
            "positives": int(true.sum()),
            "auc": auc(scores[known, column], true),
        }
    counted = [
        key
        for k, (key, line) in enumerate(aus.items())
        if line["positives"] >= ENOUGH and (truth[:, k] == 0).sum() >= ENOUGH
    ]
    result: dict[str, Any] = {
        "mean_auc": float(np.mean([aus[key]["auc"] for key in counted])),
        "over": counted,
        "aus": aus,
    }
    if draws:
        rng = np.random.default_rng(0)
        means: list[float] = []
        single: dict[str, list[float]] = {key: [] for key in aus}
        for _ in range(draws):
            rows = rng.integers(0, len(truth), len(truth))
            again = figures(scores[rows], truth[rows])["aus"]
            means.append(float(np.nanmean([again[key]["auc"] for key in counted])))
            for key, line in again.items():
                single[key].append(line["auc"])
        result["mean_auc_95"] = [float(v) for v in np.nanquantile(means, [0.025, 0.975])]
        for key, values in single.items():
            found = np.nanquantile(values, [0.025, 0.975])
            aus[key]["auc_95"] = [float(v) for v in found]
    return result


def load(path: Path) -> SmallNetwork:
    """The network of a file of weights, ready to read with."""
    network = SmallNetwork()
    network.load_state_dict(
        {
            key: value.float() if value.is_floating_point() else value
            for key, value in load_file(path).items()
        }
    )
    return network.eval()


def main() -> None:
    """Print a table and, with --json, write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--part", choices=("train", "test"), required=True)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    network = load(arguments.weights)
    seen = figures(
        see(network, coded_crops(arguments.data, arguments.part)),
        coded_truth(arguments.part),
        draws=1000,
    )
    for key, line in seen["aus"].items():
        low, high = line["auc_95"]
        mark = "" if key in seen["over"] else "  (too few: not in the mean)"
        text = (
            f"{key:5} positives {line['positives']:3}  AUC {line['auc']:.3f} ({low:.3f}-{high:.3f})"
        )
        print(text + mark)
    low, high = seen["mean_auc_95"]
    print(f"mean over {len(seen['over'])} AUs  AUC {seen['mean_auc']:.4f} ({low:.3f}-{high:.3f})")
    if arguments.json:
        arguments.json.write_text(json.dumps(seen, indent=1) + "\n")


if __name__ == "__main__":
    main()
