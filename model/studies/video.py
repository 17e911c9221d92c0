"""The whole path of a video's frame against the peer's, pinned to one core in the same run.

    python -m feallm.model.studies.video --data ../shared/data --python P

Frames are 1280 x 720 with one face that moves a little; decoding them is left out. Ours: find or
follow, crop, AUs, expression, pose and gaze, quality. The peer: MediaPipe's Face Landmarker in
VIDEO mode, with blendshapes. P is an interpreter with mediapipe==1.2.2 and this checkout on its
path. Processes take turns; what is compared is the CPU time of a frame, its median and mean, since
a search falls on every n-th frame alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from feallm.runtime.contract.errors import InputError

FRAMES, WARM_UP, ROUNDS = 200, 20, 4
FPS = 30.0


def frames(data: Path) -> list[NDArray[np.uint8]]:
    """RGB (720, 1280, 3): a photograph that sways by a few pixels, with a sensor's grain."""
    bgr = cv2.imread(str(data / "clips" / "portrait_720p.jpg"))
    if bgr is None:
        raise InputError(f"{data}: no clips/portrait_720p.jpg in it")
    rgb = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)
    rng = np.random.default_rng(0)
    grain = rng.normal(0, 2, (8, *rgb.shape)).astype(np.int8)
    taken = []
    for k in range(FRAMES + WARM_UP):
        x, y = 6 * np.sin(k / 9), 4 * np.sin(k / 13)
        matrix = np.array([[1, 0, x], [0, 1, y]])
        size = (rgb.shape[1], rgb.shape[0])
        moved = cv2.warpAffine(rgb, matrix, size, borderMode=cv2.BORDER_REPLICATE)
        taken.append(np.clip(moved.astype(np.int16) + grain[k % 8], 0, 255).astype(np.uint8))
    return taken


def _timed(read: Callable[[int, NDArray[np.uint8]], None], data: Path) -> None:
    """Print CPU ms of each frame as JSON."""
    taken = []
    for k, pixels in enumerate(frames(data)):
        start = time.process_time()
        read(k, pixels)
        taken.append((time.process_time() - start) * 1e3)
    print(json.dumps(taken[WARM_UP:]))


def _ours(data: Path, bundle: Path | None, every: int) -> None:
    from feallm.runtime.analyze import Analyzer
    from feallm.runtime.contract.frame import Frame
    from feallm.runtime.follow import Follower

    cv2.setNumThreads(1)
    with Analyzer(bundle, words=False) as analyzer:
        follower = Follower(analyzer, every=every)

        def read(k: int, pixels: NDArray[np.uint8]) -> None:
            report = follower.read(Frame(pixels, "video", k, k / FPS))
            assert len(report.readings) == 1

        _timed(read, data)


def _peer(data: Path) -> None:
    import mediapipe
    from mediapipe.tasks import python as tasks
    from mediapipe.tasks.python import vision

    options = vision.FaceLandmarkerOptions(
        base_options=tasks.BaseOptions(
            model_asset_path=str(data / "peers" / "face_landmarker.task")
        ),
        running_mode=vision.RunningMode.VIDEO,
        output_face_blendshapes=True,
        num_faces=1,
    )
    with vision.FaceLandmarker.create_from_options(options) as landmarker:

        def read(k: int, pixels: NDArray[np.uint8]) -> None:
            image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=pixels)
            found = landmarker.detect_for_video(image, round(k / FPS * 1e3))
            assert len(found.face_landmarks) == 1

        _timed(read, data)


def compare(data: Path, bundle: Path | None, python: Path, core: int) -> dict[str, Any]:
    """Medians and means of CPU ms a frame over all rounds, and their ratios to the peer's."""

    def once(interpreter: str, *words: str) -> list[float]:
        command = [interpreter, "-m", "feallm.model.studies.video", "--data", str(data), *words]
        if bundle is not None:
            command += ["--bundle", str(bundle)]
        if hasattr(os, "sched_setaffinity"):
            command = ["taskset", "-c", str(core), *command]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        values: list[float] = json.loads(done.stdout.splitlines()[-1])
        return values

    calls = {
        "followed, searched every 5th frame": (sys.executable, "--only", "5"),
        "searched every frame": (sys.executable, "--only", "1"),
        "peer": (str(python), "--only", "peer"),
    }
    taken: dict[str, list[list[float]]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            taken[name].append(once(*call))
    table: dict[str, Any] = {}
    for name, rounds in taken.items():
        medians = [float(np.median(r)) for r in rounds]
        means = [float(np.mean(r)) for r in rounds]
        table[name] = {"median_ms": np.median(medians), "mean_ms": np.median(means)}
    peer = table["peer"]
    for row in table.values():
        row["ratio_of_medians"] = row["median_ms"] / peer["median_ms"]
        row["ratio_of_means"] = row["mean_ms"] / peer["mean_ms"]
    return {n: {k: round(float(v), 3) for k, v in row.items()} for n, row in table.items()}


def main() -> None:
    """Print the table as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--python", type=Path, help="an interpreter with mediapipe")
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.only == "peer":
        _peer(asked.data)
    elif asked.only:
        _ours(asked.data, asked.bundle, int(asked.only))
    elif asked.python is None:
        parser.error("--python is needed")
    else:
        print(json.dumps(compare(asked.data, asked.bundle, asked.python, asked.core), indent=1))


if __name__ == "__main__":
    main()
