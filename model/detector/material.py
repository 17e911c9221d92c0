"""What compositions are made of: photographs with a teacher's faces, and heads cut out.

    python -m feallm.model.detector.material --data ../shared/data --out packs/detector

writes `photos.npz` (LFW's training part, London's odd ids, the CC0 portraits, FER), `heads.npz`
(renders of the training stream) and `test-heads.npz` (of the test stream, for crowds that are
measured on). The teacher is the official YuNet file: its boxes and points from 0.6 on are faces,
and what it half believes is left alone.

`photos.npz`: `images` uint8 [bytes], `offsets` int64 [N+1], `clean` bool [N] (may teach the
licence-clean file), `faces` float32 [M,15] in FaceDetectorYN's order, `picture` int32 [M].
`heads.npz`: `images`, `offsets` (PNG with cover), `points68` float32 [N,68,2], `pose_deg` float32
[N,3], `occluded` float32 [N].
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from feallm.model.data import archive, ferplus
from feallm.model.synth import head as head_file
from feallm.model.synth.landmarks import photographs
from feallm.model.synth.render import Studio
from feallm.model.synth.sample import SHOTS, TEST_STREAM, TRAIN_STREAM, person, rng_for, shot
from feallm.runtime.contract.errors import InputError

SURE, HALF_SURE = 0.6, 0.25
TEACHER = Path("detector") / "face_detection_yunet_2023mar.onnx"
HEADS, TEST_HEADS = 8000, 800
_EYES_PX = (29.0, 44.0)  # distance of a head's eyes, pixels
_FER_PICTURES = 8000
_FER_PX, _FER_FRAME_PX = 171, 256  # FER's pictures cut faces off: the teacher wants some room

Picture = NDArray[np.uint8]  # (H, W, 3) BGR
Found = NDArray[np.float32]  # (N, 15) x y w h, five points, score; pixels of the picture


class Teacher:
    """The official YuNet file, asked at two sizes."""

    def __init__(self, data: Path) -> None:
        path = data / TEACHER
        if not path.is_file():
            raise InputError(f"{path}: no such detector file")
        self._detector = cv2.FaceDetectorYN.create(str(path), "", (320, 320), HALF_SURE, 0.3)

    def find(self, picture: Picture, scale: float = 1.0) -> Found:
        """Faces of a picture that is looked at `scale` times as large."""
        size = (round(picture.shape[1] * scale), round(picture.shape[0] * scale))
        if scale != 1.0:
            how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
            picture = np.asarray(cv2.resize(picture, size, interpolation=how), np.uint8)
        self._detector.setInputSize(size)
        found = self._detector.detect(picture)[1]
        if found is None:
            return np.zeros((0, 15), np.float32)
        told = np.array(found, np.float32)
        told[:, :14] /= scale
        return told

    def teach(self, picture: Picture) -> Found:
        """The mean of what is seen at both sizes; a face seen at one alone is as seen there."""
        near, far = self.find(picture, 2.0), self.find(picture)
        kept = list(near)
        for face in far:
            shares = [_overlap(face[:4], other[:4]) for other in near]
            if shares and max(shares) > 0.4:
                k = int(np.argmax(shares))
                score = max(face[14], near[k][14])
                # Points of a small face are truer at twice the size.
                large = face[3] > 60
                kept[k] = (near[k] + face) / 2 if large else near[k].copy()
                kept[k][14] = score
            else:
                kept.append(face)
        return np.array(kept, np.float32).reshape(-1, 15)


def _overlap(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[:2] + a[2:4], b[:2] + b[2:4])
    shared = float(np.clip(high - low, 0, None).prod())
    return shared / (float(a[2:4].prod() + b[2:4].prod()) - shared + 1e-6)


def _taught(data: Path) -> Iterator[tuple[bytes, bool, Found]]:
    teacher = Teacher(data)
    for name, picture in photographs(data):
        clean = not name.startswith("lfw/")
        side = max(picture.shape[:2])
        if side > 320:  # nothing is learnt from more pixels
            size = (round(picture.shape[1] * 320 / side), round(picture.shape[0] * 320 / side))
            picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
        yield _encoded(picture), clean, teacher.teach(picture)
    for path in sorted((data / "london").glob("*_smiling.webp")):
        if int(path.name[:3]) % 2 == 1:
            found = cv2.imread(str(path))
            if found is None:
                raise InputError(f"{path}: not a readable picture")
            small = cv2.resize(found, (320, 320), interpolation=cv2.INTER_AREA)
            picture = np.asarray(small, np.uint8)
            yield _encoded(picture), True, teacher.teach(picture)
    yield from _fer(data, teacher)


def _fer(data: Path, teacher: Teacher) -> Iterator[tuple[bytes, bool, Found]]:
    """FER's training part, one picture a group of copies."""
    path = data / "fer" / "train.npz"
    split = ferplus.read(path)
    images = archive.encoded(path, archive.read(path, "images", "offsets"))
    _, first = np.unique(split.dup_group, return_index=True)
    rows = np.intersect1d(first, np.flatnonzero(split.usable))
    rows = np.random.default_rng(13).permutation(rows)[:_FER_PICTURES]
    room = (_FER_FRAME_PX - _FER_PX) // 2
    for row in rows:
        small = archive.picture(path, int(row), images[row], cv2.IMREAD_COLOR)
        frame = np.full((_FER_FRAME_PX, _FER_FRAME_PX, 3), 128, np.uint8)
        frame[room : room + _FER_PX, room : room + _FER_PX] = cv2.resize(small, (_FER_PX, _FER_PX))
        found = teacher.find(frame)
        scale = _FER_PX / small.shape[0]
        found[:, :2] = (found[:, :2] - room) / scale
        found[:, 2:4] /= scale
        found[:, 4:14] = (found[:, 4:14] - room) / scale
        yield images[row], False, found


def _encoded(picture: Picture) -> bytes:
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()


def photos(data: Path, out: Path) -> int:
    """Write `photos.npz`; returns the number of pictures."""
    images: list[bytes] = []
    clean, faces, numbers = [], [], []
    for image, free, found in tqdm(_taught(data), desc="photos", unit="photo"):
        faces.append(found)
        numbers += [len(images)] * len(found)
        images.append(image)
        clean.append(free)
    _save(
        out / "photos.npz",
        **_joined(images),
        clean=np.array(clean),
        faces=np.concatenate(faces),
        picture=np.array(numbers, np.int32),
    )
    return len(images)


def heads(data: Path, path: Path, n: int, seed: int, stream: int) -> None:
    """Write `n` heads, `SHOTS` of each person."""
    for name in ("LP_NUM_THREADS", "OMP_NUM_THREADS"):  # a core is enough for one studio
        os.environ.setdefault(name, "1" if name.startswith("OMP") else "0")
    images, points, poses, occluded = [], [], [], []
    with Studio(head_file.read(data / "head" / "ict_head.npz")) as studio:
        for k in tqdm(range(n), desc=path.stem, unit="head"):
            if k % SHOTS == 0:
                rng = rng_for(seed, k // SHOTS, stream)
                ready = studio.prepare(person(rng))
            taken = shot(rng, int(rng.integers(2**62)), 0)
            cut = studio.cut_out(ready, taken, float(rng.uniform(*_EYES_PX)))
            bgra = cv2.cvtColor(cut.picture, cv2.COLOR_RGBA2BGRA)
            images.append(cv2.imencode(".png", bgra)[1].tobytes())
            points.append(cut.points68)
            poses.append(cut.pose_deg)
            occluded.append(cut.occluded)
    _save(
        path,
        **_joined(images),
        points68=np.array(points, np.float32),
        pose_deg=np.array(poses, np.float32),
        occluded=np.array(occluded, np.float32),
    )


def _joined(images: list[bytes]) -> dict[str, NDArray[Any]]:
    sizes = [len(image) for image in images]
    return {
        "images": np.frombuffer(b"".join(images), np.uint8),
        "offsets": np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
    }


def _save(path: Path, **arrays: NDArray[Any]) -> None:
    partial = path.with_name(f".{path.stem}.partial.npz")
    write: Any = np.savez  # its annotations take one of the arrays for another option
    write(partial, **arrays)
    os.replace(partial, path)


def main() -> None:
    """Write what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", choices=("photos", "heads", "test-heads"))
    asked = parser.parse_args()
    out: Path = asked.out
    out.mkdir(parents=True, exist_ok=True)
    wanted = {"photos", "heads", "test-heads"} if asked.only is None else {asked.only}
    if "photos" in wanted and not (out / "photos.npz").exists():
        photos(asked.data, out)
    for name, n, seed, stream in (
        ("heads", HEADS, 31, TRAIN_STREAM),
        ("test-heads", TEST_HEADS, 37, TEST_STREAM),
    ):
        if name in wanted and not (out / f"{name}.npz").exists():
            heads(asked.data, out / f"{name}.npz", n, seed, stream)


if __name__ == "__main__":
    main()
