"""Does the projector need a way around its first cross-attention? Trains the eyes with and without.

    python -m feallm.model.studies.projector_skip --pack packs --out runs/skip --steps 1200

The figures are in docs/adr/0003-network.md; accuracies are of the held-out slice of `train`.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch

from feallm.model.config import size
from feallm.model.data import pack
from feallm.model.train.run import Plan
from feallm.model.train.vision import VisionRecipe, score, split, train


def main() -> None:
    """One JSON line for each form."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pack", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1200)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config, faces = size("nano"), pack.read(arguments.pack)
    _, held = split(faces)
    for skip in (False, True):
        form = replace(config, vision=replace(config.vision, skip=skip))
        plan = Plan(arguments.steps, 2e-3, 200, 0)
        folder = arguments.out / ("with" if skip else "without")
        network, _ = train(form, faces, folder, plan, VisionRecipe())
        print(json.dumps({"skip": skip, **score(network, faces, held)}), flush=True)


if __name__ == "__main__":
    main()
