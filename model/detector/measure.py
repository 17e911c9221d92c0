"""How well a detector file finds faces, beside the official YuNet file in the same run.

    python -m feallm.model.detector.measure --data ../shared/data --material packs/detector \\
        [--file detector.onnx] [--score 0.6]

Prints, at inputs of 320 and 640 pixels: recall of the official file's faces (overlap 0.5) and the
distance of the points on LFW's test part, London's even ids and the clips; recall of the exact
boxes of rendered crowds, both files; and what is found where nobody is.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from feallm.model.data import archive
from feallm.model.detector import crowd
from feallm.model.detector.material import TEACHER
from feallm.model.synth.pack import backgrounds
from feallm.runtime.contract.errors import InputError

INPUTS = (320, 640)
OFFICIAL_SCORE = 0.6
_EYE_CORNERS = 1.5  # distance of the outer corners, in distances of the middles of the eyes
_LEAST_PX = 20.0
# Of scikit-image's pictures: those with people, and skin too near to tell.
_WITH_PEOPLE = ("astronaut", "camera", "microaneurysms", "lfw_subset", "multipage", "skin")

Picture = NDArray[np.uint8]  # (H, W, 3) BGR
Found = NDArray[np.float64]  # (N, 15) in pixels of the network's input


class Detector:
    """A file, asked at one longest side."""

    def __init__(self, path: Path, score: float) -> None:
        self._detector = cv2.FaceDetectorYN.create(str(path), "", (320, 320), score, 0.3)

    def find(self, picture: Picture) -> Found:
        """Faces of a picture of the input's size."""
        self._detector.setInputSize((picture.shape[1], picture.shape[0]))
        found = self._detector.detect(picture)[1]
        return np.zeros((0, 15)) if found is None else np.asarray(found, np.float64)


def fitted(picture: Picture, longest: int) -> tuple[Picture, float]:
    """The picture with its longer side as the input wants it, and the scale."""
    scale = longest / max(picture.shape[:2])
    size = (round(picture.shape[1] * scale), round(picture.shape[0] * scale))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, size, interpolation=how), np.uint8), scale


def overlaps(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union (N, M) of boxes x y w h."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, :2] + a[:, None, 2:4], b[None, :, :2] + b[None, :, 2:4])
    shared = np.clip(high - low, 0, None).prod(2)
    total = a[:, None, 2:4].prod(2) + b[None, :, 2:4].prod(2) - shared
    return np.asarray(shared / np.maximum(total, 1e-9), np.float64)


@dataclass(slots=True)
class Agreement:
    """Of the official file's faces."""

    faces: int = 0
    found: int = 0
    away: list[float] = field(default_factory=list)  # in distances of the outer eye corners
    more: int = 0  # found by ours alone

    def add(self, own: Found, official: Found) -> None:
        """One picture."""
        self.faces += len(official)
        if not len(own) or not len(official):
            self.more += len(own)
            return
        shares = overlaps(official, own)
        best = shares.argmax(1)
        for k, j in enumerate(best.tolist()):
            if shares[k, j] >= 0.5:
                self.found += 1
                a, b = official[k, 4:14].reshape(5, 2), own[j, 4:14].reshape(5, 2)
                eyes = np.linalg.norm(a[0] - a[1]) * _EYE_CORNERS
                size = max(eyes, 0.3 * official[k, 2])  # a profile's eyes are close
                self.away.append(float(np.linalg.norm(a - b, axis=1).mean() / size))
        self.more += int((shares.max(0) < 0.5).sum())


def lfw_test(data: Path) -> Iterator[Picture]:
    """LFW's test part: 676 pictures."""
    for name in ("lfw", "lfw_more"):
        path = data / "lfw" / f"{name}.npz"
        arrays = archive.read(path, "images", "offsets", "test")
        images = archive.encoded(path, arrays)
        for i in np.flatnonzero(arrays["test"].astype(bool)).tolist():
            yield archive.picture(path, i, images[i], cv2.IMREAD_COLOR)


def london_even(data: Path) -> Iterator[Picture]:
    """London's even ids: 104 pictures."""
    for path in sorted((data / "london").glob("*_*.webp")):
        if int(path.name[:3]) % 2 == 0:
            yield _picture(path)


def frames(path: Path) -> Iterator[Picture]:
    """A clip's frames, or a picture."""
    if path.suffix == ".mp4":
        video = cv2.VideoCapture(str(path))
        while True:
            good, frame = video.read()
            if not good:
                break
            yield np.asarray(frame, np.uint8)
    else:
        yield _picture(path)


def _picture(path: Path) -> Picture:
    found = cv2.imread(str(path))
    if found is None:
        raise InputError(f"{path}: not a readable picture")
    return np.asarray(found, np.uint8)


def clips(data: Path) -> Iterator[Picture]:
    """All frames of all clips with somebody in them."""
    for path in sorted((data / "clips").glob("*.*")):
        if path.suffix in (".jpg", ".mp4") and not path.name.startswith("noface"):
            yield from frames(path)


def nobody(data: Path) -> Iterator[tuple[str, Picture]]:
    """Pictures without people: backgrounds of the test part, scikit-image's, the clips'."""
    for k, ground in enumerate(backgrounds(data / "backgrounds" / "backgrounds.npz", True)):
        yield f"backgrounds:{k}", np.ascontiguousarray(ground[..., ::-1])
    yield from scikit_pictures()
    for name in ("noface.jpg", "noface.mp4"):
        for k, frame in enumerate(frames(data / "clips" / name)):
            yield f"{name}:{k}", frame


def scikit_pictures() -> Iterator[tuple[str, Picture]]:
    """Pictures that lie within scikit-image and show no person."""
    import skimage

    folder = Path(skimage.__file__).parent / "data"
    for path in sorted(folder.glob("*")):
        if path.suffix.lower() not in (".png", ".jpg", ".jpeg", ".gif", ".tif", ".tiff"):
            continue
        if path.stem.startswith(_WITH_PEOPLE):
            continue
        picture = cv2.imread(str(path))
        if picture is not None and min(picture.shape[:2]) >= 32:
            yield f"skimage:{path.name}", np.asarray(picture, np.uint8)


def agreement(
    own: Detector, official: Detector, pictures: Iterator[Picture], longest: int
) -> Agreement:
    """Over a set of pictures, each with its longer side as `longest` pixels."""
    result = Agreement()
    for picture in pictures:
        small, _ = fitted(picture, longest)
        result.add(own.find(small), official.find(small))
    return result


def crowds(
    detectors: dict[str, Detector], heads: Path, data: Path, longest: int, count: int
) -> dict[str, dict[str, tuple[int, int, int]]]:
    """Per kind and detector: faces of 20 px and more in the input, those found, and boxes without
    a face of any size."""
    table: dict[str, dict[str, tuple[int, int, int]]] = {}
    for scene in crowd.scenes(heads, data, count=count):
        small, scale = fitted(scene.picture, longest)
        boxes = scene.faces.boxes * scale
        exact = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)
        counted = (exact[:, 2:].min(1) >= _LEAST_PX) & scene.faces.sure
        for name, detector in detectors.items():
            found = detector.find(small)
            shares = overlaps(exact, found) if len(found) else np.zeros((len(exact), 1))
            hit = shares.max(1) >= 0.5
            wrong = int((shares.max(0) < 0.3).sum()) if len(found) else 0
            row = table.setdefault(scene.kind, {})
            faces, right, more = row.get(name, (0, 0, 0))
            faces, right = faces + int(counted.sum()), right + int((hit & counted).sum())
            row[name] = (faces, right, more + wrong)
    return table


def time_ratio(own: Path, official: Path, runs: int = 60) -> tuple[float, float, float]:
    """Median ms of both files at 320 x 320 on one thread, taken in turn, and their ratio."""
    cv2.setNumThreads(1)
    picture = np.random.default_rng(0).integers(0, 256, (320, 320, 3), np.uint8)
    files = [Detector(path, 0.6) for path in (own, official)]
    taken: list[list[float]] = [[], []]
    for run in range(-5, runs):
        for k, file in enumerate(files):
            start = time.perf_counter()
            file.find(picture)
            if run >= 0:
                taken[k].append((time.perf_counter() - start) * 1e3)
    pairs = [a / b for a, b in zip(*taken, strict=True)]
    return statistics.median(taken[0]), statistics.median(taken[1]), statistics.median(pairs)


def main() -> None:
    """Print it all; the last line is one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--material", type=Path, required=True)
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--score", type=float, default=0.6)
    parser.add_argument("--scenes", type=int, default=crowd.SCENES)
    parser.add_argument("--skip-photos", action="store_true")
    asked = parser.parse_args()
    data: Path = asked.data
    own = Detector(asked.file, asked.score)
    official = Detector(data / TEACHER, OFFICIAL_SCORE)
    summary: dict[str, object] = {"score": asked.score, "kb": asked.file.stat().st_size / 1000}
    sets = {"lfw test": lfw_test, "london even": london_even, "clips": clips}
    for longest in INPUTS:
        for name, pictures in {} if asked.skip_photos else sets.items():
            result = agreement(own, official, pictures(data), longest)
            recall = result.found / max(result.faces, 1)
            away = float(np.mean(result.away or [np.nan]))
            print(
                f"{longest}  {name}: {recall:.4f} of {result.faces}; points {away:.4f} of the outer"
                f" eye corners' distance; ours alone {result.more}"
            )
            summary[f"{name} {longest}"] = [round(recall, 4), round(away, 4), result.more]
        heads = asked.material / "test-heads.npz"
        table = crowds({"own": own, "yunet": official}, heads, data, longest, asked.scenes)
        for kind, row in table.items():
            told = {name: (round(b / max(a, 1), 4), c) for name, (a, b, c) in row.items()}
            print(f"{longest}  crowd, {kind}: {row['own'][0]} faces; recall, wrong boxes: {told}")
            summary[f"crowd {kind} {longest}"] = told
    for side in (None, *INPUTS):
        wrong: list[str] = []
        for label, picture in nobody(data):
            small = picture if side is None else fitted(picture, side)[0]
            wrong += [f"{label} {face[14]:.2f}" for face in own.find(small)]
        print(f"{side or 'own size'}: found where nobody is: {len(wrong)} {wrong[:12]}")
        summary[f"nobody {side or 'own size'}"] = len(wrong)
    own_ms, official_ms, ratio = time_ratio(asked.file, data / TEACHER)
    print(f"320 x 320, one thread: {own_ms:.2f} ms, YuNet {official_ms:.2f} ms, ratio {ratio:.3f}")
    summary["ratio"] = round(ratio, 3)
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
