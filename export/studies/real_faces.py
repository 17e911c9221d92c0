"""Whether photographs would calibrate better than the committed renders: an int8 file with the
ranges of each, judged by the float network's decisions on other faces.

    python -m feallm.export.studies.real_faces --checkpoint model/checkpoints/edge.safetensors \
        --photos packs/taught packs/coded --fer ../shared/data/fer --renders packs/frozen

As many faces each time. Photographs are training rows of packs: half of them those with the
strongest movements, half as they come, drawn anew three times.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from feallm.calibration import faces as calibration
from feallm.export import int8
from feallm.export.decisions import compare
from feallm.export.onnx import export_vision
from feallm.export.run import answers, float_answers
from feallm.export.studies import judge
from feallm.model.checkpoint import load
from feallm.model.data import pack
from feallm.model.train.batches import still
from feallm.model.train.vision import split
from feallm.runtime.backends.base import AU_INTENSITY, AU_PROBABILITY, TOKENS

SEEDS = (1, 2, 3)

Crops = NDArray[np.uint8]


def photographs(faces: pack.Faces, count: int, seed: int) -> Crops:
    """Crops (count, H, W, 3) of the training rows of joined packs, as many of each pack."""
    rng = np.random.default_rng(seed)
    rows, _ = split(faces)
    packs, picked = np.unique(faces.source[rows]), []
    for k, source in enumerate(packs):
        each = (k + 1) * count // len(packs) - k * count // len(packs)
        own = rng.permutation(rows[faces.source[rows] == source])
        strength = np.nan_to_num(faces.au_sides[own]).clip(0).max(2).sum(1)
        # Of the strongest there are always the same few: twice as many, of which a half is drawn.
        order = np.argsort(-strength, kind="stable")
        strong, rest = own[np.sort(order[:each])], own[np.sort(order[each:])]
        picked += [strong[: each // 2], rest[: each - each // 2]]
    gray = still(faces, np.concatenate(picked), at_points=True).numpy()
    return np.repeat(gray[..., None], 3, 3)


def sets_of(renders: Crops, photos: pack.Faces) -> Iterator[tuple[str, Crops]]:
    """What is compared, by name."""
    yield "renders", renders
    for seed in SEEDS:
        drawn = photographs(photos, len(renders), seed)
        yield f"photographs, {seed}", drawn
        half = np.random.default_rng(seed).permutation(len(renders))
        both = np.concatenate([renders[half[::2]], drawn[half[1::2]]])
        yield f"half and half, {seed}", both


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True, type=Path)
    parser.add_argument("--photos", required=True, nargs="+", type=Path)
    parser.add_argument("--fer", required=True, type=Path, help="folder with valid.npz of FER+")
    parser.add_argument("--renders", required=True, type=Path, help="pack that no training saw")
    parser.add_argument("--faces", type=int, default=2000)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    checkpoint = load(asked.checkpoint)
    photos = pack.join([pack.read(folder) for folder in asked.photos])
    judged = judge.faces(asked.faces, asked.fer, asked.renders)
    exact = float_answers(checkpoint.vision, judged)
    print("| calibrated on | mean F1 | worst AU | expression | probability | intensity | tokens |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        export_vision(checkpoint.vision, source)
        for name, crops in sets_of(calibration.load().crops, photos):
            int8.quantize(source, crops, out)
            cost = compare(answers(out, judged), exact, checkpoint.thresholds)
            error = cost["error"]
            print(
                f"| {name} | {cost['au_f1']:.4f} | {cost['worst_au_f1']:.3f} {cost['worst_au']} |"
                f" {100 * cost['expression_same']:.2f} % | {error[AU_PROBABILITY]['mean']:.4f} |"
                f" {error[AU_INTENSITY]['mean']:.4f} | {error[TOKENS]['relative']:.4f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
