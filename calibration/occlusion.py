"""How much of a face is covered, read out of a bundle's visual tokens: fitted here, used by
`runtime/vision/quality.py`.

    python -m feallm.calibration.occlusion --bundle edge --renders R80 --photos PHOTOS CLEAN

One logistic layer over all tokens of a face. It learns from renders, which know what is covered,
and from photographs with the renderer's hands, masks and mugs painted over half of them: on renders
alone it takes a beard or a fringe for a cover. A photograph counts as bare before it is painted,
which is not true of all. Clear glasses cover nothing, dark ones do. The layer goes into
`runtime/vision/occlusion.json` under the sha256 of the checkpoint whose tokens it was fitted to;
those of other checkpoints stay. Printed are figures on people that the fit did not see.

The bundle `clean` has none: with the few photographs that it may learn from (`--photos CLEAN`) its
layer tells renders as well, but marks more than a quarter of FER+'s faces, most of them bare.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from feallm.model.data import archive, pack
from feallm.model.evaluate.metrics import auc
from feallm.model.synth import brush, camera, doubt, occlude
from feallm.model.synth.draw import HEIGHT, WIDTH
from feallm.model.synth.render import EYE_CANVAS_PX
from feallm.model.synth.sample import occluder_for
from feallm.runtime.backends.base import IMAGE, LANDMARKS, TOKENS
from feallm.runtime.backends.onnx import OnnxVision
from feallm.runtime.bundle.open import open_bundle
from feallm.runtime.contract.geometry import CropGeometry
from feallm.runtime.contract.landmarks import MIRRORED
from feallm.runtime.vision import align
from feallm.runtime.vision.quality import OCCLUSION_FILE

Rng = np.random.Generator
Floats = NDArray[np.float64]

SEED = 7
FACES = 8_000  # renders, and as many photographs; held out ones included
HELD_OUT = 5  # every fifth person
L2 = 0.03  # of standardised weights
_JITTER = 0.02  # of the distance from eyes to mouth: how far a detector's points are off
_PAINTED, _DARK_GLASSES = 0.5, 0.15  # shares of photographs, of painted ones
_SHRUNK, _DEVELOPED = 0.5, 0.4  # a small or poor photograph is no covered face
_LEAST_EYES_PX = 12.0
_COVERED, _BARE = 0.3, 0.05  # shares that the printed AUC tells apart
_JAW = 17  # landmarks that no label rests on


@dataclass(slots=True)
class Crops:
    """Crops (N, H, W, 3) RGB, the covered share (N,) of each, and whose face it is (N,)."""

    pixels: list[NDArray[np.uint8]]
    covered: list[float]
    group: list[int]


def _shaken(points: Floats, rng: Rng) -> Floats:
    reach = float(np.linalg.norm(points[3:].mean(0) - points[:2].mean(0)))
    return points + rng.normal(0, _JITTER * reach, points.shape)


def _rows(
    folder: Path, count: int, *arrays: str
) -> list[tuple[NDArray[np.uint8], dict[str, NDArray[np.generic]]]]:
    """Pictures (H, W, 3) RGB of a pack, `count` spread evenly over its parts, with their labels."""
    paths = list(pack.parts(folder, pack.read_index(folder)))
    paths = paths[:: max(1, len(paths) // 60)]
    found = []
    for k, path in enumerate(paths):
        table = archive.read(path, "images", "offsets", *arrays)
        images = archive.encoded(path, table)
        wanted = (k + 1) * count // len(paths) - k * count // len(paths)
        for i in np.linspace(0, len(images) - 1, min(wanted, len(images))).astype(int).tolist():
            bgr = archive.picture(path, i, images[i], cv2.IMREAD_COLOR)
            rgb = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)
            found.append((rgb, {name: table[name][i] for name in arrays}))
    return found


def of_renders(folder: Path, count: int, geometry: CropGeometry, rng: Rng) -> Crops:
    """Renders as they are."""
    crops = Crops([], [], [])
    for picture, row in _rows(folder, count, "points5", "occluded", "group"):
        points = _shaken(np.asarray(row["points5"], np.float64), rng)
        crops.pixels.append(align.align(picture, points, geometry)[0])
        crops.covered.append(float(row["occluded"]))
        crops.group.append(int(row["group"]))
    return crops


def of_photos(
    folder: Path, count: int, geometry: CropGeometry, vision: OnnxVision, rng: Rng
) -> Crops:
    """Photographs on the renderer's canvas, half of them with something painted over the face;
    mirrored and shrunk at random, so that a small pack gives more."""
    crops = Crops([], [], [])
    rows = [
        (picture, row, np.asarray(row["points5"], np.float64))
        for picture, row in _rows(folder, count, "points5", "group")
    ]
    rows = [row for row in rows if np.isfinite(row[2]).all()]
    scale = EYE_CANVAS_PX / float(np.linalg.norm(np.subtract(*geometry.points_px[:2])))
    middle = np.array([geometry.width_px, geometry.height_px]) / 2
    to_canvas = (np.array(geometry.points_px) - middle) * scale + (WIDTH / 2, HEIGHT / 2)
    right, left, nose, mouth_right, mouth_left = ((float(x), float(y)) for x, y in to_canvas)
    places = (right, left, nose, mouth_right, mouth_left)
    canvas = CropGeometry(WIDTH, HEIGHT, places, geometry.border)
    faces = [align.align(picture, points, geometry)[0] for picture, _, points in rows[:count]]
    marks = [
        one.astype(np.float64)
        for k in range(0, len(faces), 32)
        for one in vision.run({IMAGE: np.stack(faces[k : k + 32])})[LANDMARKS]
    ]
    for k in range(count if rows else 0):
        picture, row, points = rows[k % len(rows)]
        scene, _ = align.align(picture, points, canvas)
        flat = (marks[k % len(rows)] - middle) * scale + (WIDTH / 2, HEIGHT / 2)
        if rng.random() < 0.5:
            scene = np.ascontiguousarray(scene[:, ::-1])
            flat = (flat * (-1, 1) + (WIDTH - 1, 0))[list(MIRRORED)]
        hidden = np.zeros((HEIGHT, WIDTH), np.float32)
        if rng.random() < _PAINTED:
            if rng.random() < _DARK_GLASSES:
                hidden = _dark_glasses(scene, flat, rng)
            else:
                tone, shade = float(rng.uniform(0, 5)), float(rng.uniform(0.6, 1.2))
                hidden = occlude.occlude(scene, occluder_for(rng), flat, rng, tone, shade)
        eyes = float(np.linalg.norm(points[0] - points[1])) * float(np.exp(rng.normal(0, 0.12)))
        eyes = float(np.clip(eyes, _LEAST_EYES_PX, EYE_CANVAS_PX))
        if rng.random() < _SHRUNK:
            eyes = float(np.exp(rng.uniform(np.log(_LEAST_EYES_PX), np.log(eyes))))
        share = eyes / EYE_CANVAS_PX
        size = (round(WIDTH * share), round(HEIGHT * share))
        small = np.asarray(cv2.resize(scene, size, interpolation=cv2.INTER_AREA), np.uint8)
        if rng.random() < _DEVELOPED:
            small = camera.develop(small, rng)
        at = (to_canvas + 0.5) * (np.array(size) / (WIDTH, HEIGHT)) - 0.5
        crops.pixels.append(align.align(small, _shaken(at, rng), geometry)[0])
        crops.covered.append(float((doubt.covered(hidden, flat)[_JAW:] > 0.5).mean()))
        crops.group.append(int(row["group"]))
    return crops


def _dark_glasses(scene: NDArray[np.uint8], flat: Floats, rng: Rng) -> NDArray[np.float32]:
    """Two dark lenses painted in place; their mask."""
    mask = np.zeros((HEIGHT, WIDTH), np.float32)
    eyes = [flat[36:42].mean(0), flat[42:48].mean(0)]
    apart = float(np.linalg.norm(eyes[1] - eyes[0]))
    lean = float(np.rad2deg(np.arctan2(*(eyes[1] - eyes[0])[::-1])))
    axes = (round(apart * rng.uniform(0.34, 0.46)), round(apart * rng.uniform(0.22, 0.36)))
    for eye in eyes:
        at = (round(float(eye[0])), round(float(eye[1] + 0.04 * apart)))
        cv2.ellipse(mask, at, axes, lean, 0, 360, 1.0, -1, cv2.LINE_AA)
    ends = [tuple(np.round(eye).astype(int).tolist()) for eye in eyes]
    cv2.line(mask, ends[0], ends[1], 1.0, max(1, round(0.06 * apart)), cv2.LINE_AA)
    colour = np.full(3, rng.uniform(5, 60)) * rng.uniform(0.8, 1.2, 3)
    above, below = rng.uniform(0.6, 1.5, 2).tolist()  # lenses mirror the sky
    rows = np.linspace(above, below, HEIGHT)[:, None, None]
    layer = np.broadcast_to(colour * rows, scene.shape).astype(np.float32)
    brush.cover(scene, mask * np.float32(rng.uniform(0.8, 0.98)), layer)
    return mask


def fit(tokens: NDArray[np.float32], covered: Floats) -> tuple[Floats, float]:
    """Weights (tokens x width) and bias of the logistic layer that is nearest to the shares, by
    cross-entropy with soft labels."""
    from scipy.optimize import minimize

    mean, spread = tokens.mean(0), tokens.std(0) + 1e-3
    inputs = ((tokens - mean) / spread).astype(np.float64)

    def loss(at: Floats) -> tuple[float, Floats]:
        logit = inputs @ at[1:] + at[0]
        wrong = 1 / (1 + np.exp(-logit)) - covered
        value = (np.logaddexp(0, logit) - covered * logit).mean() + L2 * float(at[1:] @ at[1:]) / 2
        slope = inputs.T @ wrong / len(covered) + L2 * at[1:]
        return float(value), np.concatenate([[wrong.mean()], slope])

    start = np.zeros(inputs.shape[1] + 1)
    at = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 300}).x
    weights = at[1:] / spread
    return weights, float(at[0] - mean @ weights)


def keep(path: Path, sha256: str, weights: Floats, bias: float) -> None:
    """Put a layer into the file beside those of other artifacts."""
    layers = json.loads(path.read_text()) if path.is_file() else {}
    packed = base64.b64encode(weights.astype("<f2").tobytes()).decode()
    layers[sha256] = {"bias": round(bias, 5), "weights_f2": packed}
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(dict(sorted(layers.items())), indent=1) + "\n")
    os.replace(partial, path)


def _tell(name: str, answer: Floats, covered: Floats) -> None:
    sure = (covered > _COVERED) | (covered < _BARE)
    area = auc(answer[sure], covered[sure] > _COVERED)
    error, line = np.abs(answer - covered).mean(), np.corrcoef(answer, covered)[0, 1]
    print(f"{name:12} n {len(covered)}  AUC {area:.3f}  mean error {error:.3f}  r {line:.2f}")


def main() -> None:
    """Fit the layer of one bundle."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", required=True, type=Path)
    parser.add_argument("--renders", required=True, type=Path)
    parser.add_argument("--photos", nargs="*", default=[], type=Path)
    parser.add_argument("--faces", type=int, default=FACES)
    parser.add_argument("--out", type=Path, default=OCCLUSION_FILE)
    asked = parser.parse_args()
    rng = np.random.default_rng(SEED)
    bundle = open_bundle(asked.bundle)
    manifest = bundle.manifest
    vision, geometry = OnnxVision(bundle.file(bundle.in_format("onnx"))), manifest.geometry.crop()
    sets = {"renders": of_renders(asked.renders, asked.faces, geometry, rng)}
    for folder in asked.photos:
        each = asked.faces // len(asked.photos)
        sets[folder.name] = of_photos(folder, each, geometry, vision, rng)
    source = np.repeat(list(sets), [len(crops.group) for crops in sets.values()])
    group = np.concatenate([crops.group for crops in sets.values()])
    covered = np.concatenate([crops.covered for crops in sets.values()])
    pixels = np.concatenate([crops.pixels for crops in sets.values()])
    tokens = np.concatenate(
        [vision.run({IMAGE: pixels[k : k + 32]})[TOKENS] for k in range(0, len(pixels), 32)]
    ).reshape(len(pixels), -1)
    held = group % HELD_OUT == 0
    weights, bias = fit(tokens[~held], covered[~held])
    weights = weights.astype("<f2").astype(np.float64)  # as the file will have them
    answer = 1 / (1 + np.exp(-(tokens @ weights + bias)))
    for name in sets:
        _tell(name, answer[held & (source == name)], covered[held & (source == name)])
    keep(asked.out, manifest.training.checkpoint_sha256, weights, bias)
    print(f"{asked.out}  {len(covered) - held.sum()} faces, {held.sum()} held out")


if __name__ == "__main__":
    main()
