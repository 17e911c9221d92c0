"""Where does a reading stop agreeing with the labels? The table that the gate's limits come from.

    python -m feallm.model.studies.quality --bundle edge --renders R80 --faces 4000

`--renders` is a pack of renders (not the frozen one: limits are chosen here). The first tables take
faces as the pack has them, by what was measured of each. In the others the same good faces are made
worse step by step. A line of a table: the step, the median of the measure, faces, mean AUC of the
action units (present: intensity 1 and more), mean error of their intensities, how many faces still
have the expression that was read before (renders carry none), and how many the gate marks for that
reason.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from feallm.model.data import archive, pack
from feallm.model.evaluate.metrics import auc
from feallm.runtime.backends.base import AU_INTENSITY, AU_PROBABILITY, EXPRESSION, IMAGE, TOKENS
from feallm.runtime.backends.onnx import OnnxVision
from feallm.runtime.bundle.open import Bundle, open_bundle
from feallm.runtime.contract.aus import INTENSITY_MAX
from feallm.runtime.contract.frame import Crop, Face, Image
from feallm.runtime.contract.quality import Gate, Quality
from feallm.runtime.vision import align, decode, quality
from feallm.runtime.vision.align import Points

Floats = NDArray[np.float64]

SEED = 11
LEAST_POSITIVE = 12  # of an AU, in a line, for its AUC to count
_JITTER = 0.02  # of the distance from eyes to mouth: how far a detector's points are off
_PRESENT = 1.0

SIZES_PX = (40, 28, 22, 18, 15, 12, 10, 8, 6, 5)
SIGMAS = (0.0, 0.02, 0.04, 0.06, 0.08, 0.1, 0.13, 0.16, 0.2)  # of the eyes' distance
LIGHTS = (1.0, 0.5, 0.25, 0.15, 0.1, 0.07, 0.05, 0.03)
CUTS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4)  # of the face's height, from below

Pictures = list[Image]
Worse = Callable[[Image, Points, float], tuple[Image, Points]]


@dataclass(slots=True)
class Set:
    """Rendered faces and what is known of them. N faces."""

    pictures: Pictures
    points5: list[Points]
    au: Floats  # (N, 20) intensities, NaN = unknown
    occluded: Floats  # (N,)
    pose_deg: Floats  # (N, 3)


@dataclass(slots=True)
class Answers:
    """What was read, and how well it could be."""

    probability: Floats  # (N, 20)
    intensity: Floats  # (N, 20)
    top: NDArray[np.int64]  # (N,) expression
    quality: list[Quality]


def read(folder: Path, count: int) -> Set:
    """`count` faces, spread evenly over the parts of a pack."""
    names = ("points5", "au_sides", "occluded", "pose_deg")
    paths = list(pack.parts(folder, pack.read_index(folder)))
    pictures: Pictures = []
    columns: dict[str, list[NDArray[np.float32]]] = {name: [] for name in names}
    for k, path in enumerate(paths):
        wanted = (k + 1) * count // len(paths) - k * count // len(paths)
        if not wanted:
            continue
        table = archive.read(path, "images", "offsets", *names)
        images = archive.encoded(path, table)
        for i in np.linspace(0, len(images) - 1, min(wanted, len(images))).astype(int).tolist():
            bgr = archive.picture(path, i, images[i], cv2.IMREAD_COLOR)
            pictures.append(np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8))
            for name in names:
                columns[name].append(table[name][i])
    rows = {name: np.array(values, np.float64) for name, values in columns.items()}
    rng = np.random.default_rng(SEED)
    points = rows["points5"]
    reach = np.linalg.norm(points[:, 3:].mean(1) - points[:, :2].mean(1), axis=1)
    points = points + rng.normal(0, _JITTER, points.shape) * reach[:, None, None]
    au = rows["au_sides"].max(2).clip(0, INTENSITY_MAX)
    return Set(pictures, list(points), au, rows["occluded"], rows["pose_deg"])


class Reader:
    """Reads faces at their points as the analyzer reads a frame of a video."""

    def __init__(self, bundle: Bundle, gate: Gate) -> None:
        manifest = bundle.manifest
        self._geometry, self._gate = manifest.geometry.crop(), gate
        self._vision = OnnxVision(bundle.file(bundle.in_format("onnx")))
        self._occlusion = quality.occlusion_for(manifest.training.checkpoint_sha256)
        self._manifest = manifest

    def read(self, faces: Iterator[tuple[Image, Points]]) -> Answers:
        """Answers for pictures and the five points of their faces."""
        parts: dict[str, list[NDArray[np.float32]]] = {}
        found: list[Quality] = []
        for picture, points in faces:
            crop = Crop(*align.align(picture, points, self._geometry))
            outputs = self._vision.run({IMAGE: crop.pixels[None]})
            face = Face((0.0, 0.0, 1.0, 1.0), points, 1.0)
            place = decode.reading(outputs, 0, face, self._manifest, matrix=crop.to_crop).place
            covered = None
            if self._occlusion is not None:
                covered = self._occlusion.share(outputs[TOKENS][0])
            found.append(
                quality.measure(
                    picture, face, crop, self._geometry,
                    gate=self._gate, place=place, covered=covered,
                )
            )  # fmt: skip
            for name in (AU_PROBABILITY, AU_INTENSITY, EXPRESSION):
                parts.setdefault(name, []).append(outputs[name])
        raw = {name: np.concatenate(values).astype(np.float64) for name, values in parts.items()}
        strength = raw[AU_INTENSITY].max(2).clip(0, INTENSITY_MAX)
        return Answers(raw[AU_PROBABILITY], strength, raw[EXPRESSION].argmax(1), found)


def shrunk(picture: Image, points: Points, size_px: float) -> tuple[Image, Points]:
    """The picture with its eyes `size_px` apart, or as it is where they are nearer already."""
    share = size_px / float(np.linalg.norm(points[0] - points[1]))
    if share >= 1:
        return picture, points
    height, width = picture.shape[:2]
    size = (max(2, round(width * share)), max(2, round(height * share)))
    small = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
    return small, (points + 0.5) * (np.array(size) / (width, height)) - 0.5


def blurred(picture: Image, points: Points, sigma: float) -> tuple[Image, Points]:
    """The picture out of focus; `sigma` in distances of the eyes."""
    spread = sigma * float(np.linalg.norm(points[0] - points[1]))
    if not spread:
        return picture, points
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), spread), np.uint8), points


def darkened(picture: Image, points: Points, light: float) -> tuple[Image, Points]:
    """The picture under so much of its light, with the noise of a camera that has little."""
    rng = np.random.default_rng(int(picture.sum()) % 2**32)
    noise = rng.normal(0, 2.0, picture.shape) if light < 1 else 0.0
    return np.clip(picture * light + noise, 0, 255).astype(np.uint8), points


def cut(picture: Image, points: Points, share: float) -> tuple[Image, Points]:
    """The picture without the lowest part of the face: the frame ends there."""
    apart = float(np.linalg.norm(points[0] - points[1]))
    chin = float(points[:2].mean(0)[1]) + 1.7 * apart
    end = min(picture.shape[0], round(chin - share * 2.1 * apart)) if share else picture.shape[0]
    return np.ascontiguousarray(picture[: max(2, end)]), points


def line(truth: Floats, answers: Answers, rows: NDArray[np.bool_]) -> tuple[float, float]:
    """Mean AUC of the AUs and mean error of their intensities over these faces."""
    areas = []
    for k in range(truth.shape[1]):
        known = rows & np.isfinite(truth[:, k])
        present = truth[known, k] >= _PRESENT
        if present.sum() >= LEAST_POSITIVE and (~present).sum() >= LEAST_POSITIVE:
            areas.append(auc(answers.probability[known, k], present))
    error = np.abs(answers.intensity - truth)[rows]
    error = error[np.isfinite(error)]
    return (
        float(np.mean(areas)) if areas else float("nan"),
        float(error.mean()) if len(error) else float("nan"),
    )


def by_measure(
    name: str, values: Floats, edges: tuple[float, ...], data: Set, answers: Answers, reason: str
) -> None:
    """Print one table of faces as they are."""
    marked = np.array([reason in q.below for q in answers.quality])
    print(f"\n{name:22} {'n':>6} {'AUC':>6} {'error':>6} {'marked':>7}")
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        rows = (values >= low) & (values < high)
        if rows.sum() < 3 * LEAST_POSITIVE:
            continue
        area, error = line(data.au, answers, rows)
        print(f"{low:>9g} to {high:<9g} {rows.sum():6} {area:6.3f} {error:6.3f} "
              f"{marked[rows].mean():7.2f}")  # fmt: skip


def by_step(
    name: str, worse: Worse, steps: tuple[float, ...], measure: str, reason: str,
    data: Set, reader: Reader,
) -> None:  # fmt: skip
    """Print one table of the same faces, worse from line to line."""
    print(f"\n{name:22} {'median':>7} {'n':>6} {'AUC':>6} {'error':>6} {'same':>6} {'marked':>7}")
    first: Answers | None = None
    rows = np.ones(len(data.pictures), bool)
    for step in steps:
        answers = reader.read(
            worse(picture, points, step)
            for picture, points in zip(data.pictures, data.points5, strict=True)
        )
        first = first or answers
        area, error = line(data.au, answers, rows)
        middle = (
            np.nan if not measure else np.median([getattr(q, measure) for q in answers.quality])
        )
        same = (answers.top == first.top).mean()
        marked = np.mean([reason in q.below for q in answers.quality])
        print(f"{step:22g} {middle:7.3g} {len(rows):6} {area:6.3f} {error:6.3f} {same:6.2f} "
              f"{marked:7.2f}")  # fmt: skip


def _good(data: Set, answers: Answers) -> Set:
    """The faces that are large, sharp, bare and seen from the front."""
    keep = [
        i
        for i, q in enumerate(answers.quality)
        if q.size_px > 30
        and q.blur < 0.36
        and data.occluded[i] == 0
        and np.abs(data.pose_deg[i, :2]).max() < 20
    ]
    return Set(
        [data.pictures[i] for i in keep],
        [data.points5[i] for i in keep],
        data.au[keep],
        data.occluded[keep],
        data.pose_deg[keep],
    )


def main() -> None:
    """Print every table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--renders", required=True, type=Path)
    parser.add_argument("--faces", type=int, default=4000)
    asked = parser.parse_args()
    bundle = open_bundle(asked.bundle)
    print(f"bundle {bundle.digest[:8]}  {Gate()}")
    reader = Reader(bundle, Gate())
    data = read(asked.renders, asked.faces)
    answers = reader.read(zip(data.pictures, data.points5, strict=True))
    five = np.array([quality.turn_of_points(points) for points in data.points5])
    off = np.abs(five - data.pose_deg[:, [1, 0]]).mean(0)
    print(f"\nturn told by five points, mean error: yaw {off[0]:.1f}, pitch {off[1]:.1f} degrees")
    turn = np.abs(data.pose_deg)
    by_measure("yaw_deg", turn[:, 1], (0, 10, 20, 25, 30, 35, 40, 45, 50), data, answers, "turned")
    front = np.where(turn[:, 1] < 15, turn[:, 0], np.nan)
    by_measure("pitch_deg (yaw < 15)", front, (0, 5, 10, 15, 20, 25, 30), data, answers, "turned")
    shares = (0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 1.01)
    by_measure("covered, truth", data.occluded, shares, data, answers, "occluded")
    if answers.quality[0].occluded is not None:
        told = np.array([q.occluded for q in answers.quality], np.float64)
        by_measure("occluded, as measured", told, shares, data, answers, "occluded")
    good = _good(data, answers)
    by_step("eyes apart, px", shrunk, SIZES_PX, "size_px", "small", good, reader)
    by_step("sigma / eyes", blurred, SIGMAS, "blur", "blurred", good, reader)
    by_step("light", darkened, LIGHTS, "", "dark", good, reader)
    by_step("cut from below", cut, CUTS, "", "cut", good, reader)


if __name__ == "__main__":
    main()
