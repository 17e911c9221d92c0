"""The peer: MediaPipe's Face Landmarker on the faces coded by eye, and its time for one picture.

    python -m feallm.model.studies.peer read --data D --out peer.npz  # needs mediapipe
    python -m feallm.model.studies.peer compare --data ../shared/data --peer peer.npz --bundle B
    python -m feallm.model.studies.peer time --data ../shared/data --vision vision.onnx --python P

    python -m feallm.model.studies.peer landmarks --data ../shared/data --peer points68.npz

`landmarks` holds the 68 points against the peer's on LFW; its file is that of `synth/landmarks.py`.
`read` and the peer's half of `time` need mediapipe==1.2.2, which brings another OpenCV: give it an
environment of its own, with numpy and OpenCV of its choice and this checkout on its path. `time`
runs both pinned to one core, one after the other in turns, and prints medians and their ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

BEST: dict[str, tuple[tuple[str, ...], ...]] = {
    "AU1": (("browInnerUp",),),
    "AU2": (("browOuterUpLeft", "browOuterUpRight"),),
    "AU4": (("browDownLeft", "browDownRight"),),
    "AU5": (("eyeWideLeft", "eyeWideRight"),),
    "AU6": (("cheekSquintLeft", "cheekSquintRight"), ("eyeSquintLeft", "eyeSquintRight")),
    "AU7": (("eyeSquintLeft", "eyeSquintRight"),),
    "AU9": (("noseSneerLeft", "noseSneerRight"),),
    "AU10": (("mouthUpperUpLeft", "mouthUpperUpRight"),),
    "AU12": (("mouthSmileLeft", "mouthSmileRight"),),
    "AU15": (("mouthFrownLeft", "mouthFrownRight"),),
    "AU17": (("mouthShrugLower",), ("mouthShrugUpper",)),
    "AU20": (("mouthStretchLeft", "mouthStretchRight"),),
    "AU25": (
        ("jawOpen",),
        ("mouthLowerDownLeft", "mouthLowerDownRight"),
        ("mouthUpperUpLeft", "mouthUpperUpRight", "mouthLowerDownLeft", "mouthLowerDownRight"),
    ),
    "AU26": (("jawOpen",),),
    "AU43": (("eyeBlinkLeft", "eyeBlinkRight"),),
}
"""Blendshapes, summed, that mean an AU; of several, the one that does best is taken."""

RUNS, WARM_UP, ROUNDS = 200, 20, 4
SIDE_PX = 256


def _landmarker(data: Path) -> tuple[Any, Any]:
    import mediapipe
    from mediapipe.tasks import python as tasks
    from mediapipe.tasks.python import vision

    options = vision.FaceLandmarkerOptions(
        base_options=tasks.BaseOptions(
            model_asset_path=str(data / "peers" / "face_landmarker.task")
        ),
        running_mode=vision.RunningMode.IMAGE,
        output_face_blendshapes=True,
        num_faces=1,
    )
    return mediapipe, vision.FaceLandmarker.create_from_options(options)


def _pictures(data: Path) -> Iterator[NDArray[np.uint8]]:
    """The coded faces, a wide square about each, as the peer likes them: 256 px."""
    from feallm.model.coded import faces

    shared = faces.Shared(data)
    for face in faces.listed("test"):
        picture = shared.picture(face.source, face.name)
        apart = float(np.linalg.norm(face.points5[1] - face.points5[0]))
        scale = SIDE_PX / (4.6 * apart)
        middle = face.points5.mean(0)
        matrix = np.array(
            [
                [scale, 0, SIDE_PX / 2 - scale * middle[0]],
                [0, scale, SIDE_PX / 2 - scale * middle[1]],
            ]
        )
        square = cv2.warpAffine(
            picture, matrix, (SIDE_PX, SIDE_PX), flags=cv2.INTER_LINEAR, borderValue=(128,) * 3
        )
        yield np.asarray(square, np.uint8)


def read(data: Path, out: Path) -> None:
    """Blendshapes of every coded face; NaN where the peer finds none."""
    mediapipe, landmarker = _landmarker(data)
    names: list[str] = []
    rows: list[list[float] | None] = []
    for square in _pictures(data):
        image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=square)
        found = landmarker.detect(image)
        if not found.face_blendshapes:
            rows.append(None)
            continue
        names = [shape.category_name for shape in found.face_blendshapes[0]]
        rows.append([shape.score for shape in found.face_blendshapes[0]])
    landmarker.close()
    values = np.array([row if row is not None else [np.nan] * len(names) for row in rows])
    np.savez(out, names=np.array(names), values=values.astype(np.float32))
    print(f"{out}  {sum(row is not None for row in rows)} of {len(rows)} faces found")


def compare(data: Path, peer: Path, bundle: Path | None, checkpoint: Path | None) -> dict[str, Any]:
    """AUC of both on the faces that the peer finds, and the paired difference with its interval."""
    from feallm.model.evaluate import bootstrap, metrics, named, run
    from feallm.model.evaluate.figures import ENOUGH
    from feallm.runtime.backends.base import AU_PROBABILITY
    from feallm.runtime.contract.aus import AU_INDEX

    labelled = named.read(data, "coded-test")
    analyzer, _ = run.analyzer_for(bundle, None, checkpoint)
    with analyzer:
        scored = run.run(analyzer, labelled, "coded-test")
    with np.load(peer) as file:
        names, values = [str(n) for n in file["names"]], file["values"].astype(np.float64)
    found = np.isfinite(values).all(1)[scored.rows]
    values = values[scored.rows]
    assert labelled.au is not None
    au = labelled.au[scored.rows]
    lines: dict[str, dict[str, Any]] = {}
    for key, choices in BEST.items():
        truth = au[:, AU_INDEX[key]]
        keep = np.isfinite(truth) & found
        true = truth[keep] >= 1
        if min(true.sum(), (~true).sum()) < 2:
            continue
        mine = scored.outputs[AU_PROBABILITY][keep, AU_INDEX[key]].astype(np.float64)
        scores = [values[keep][:, [names.index(n) for n in chosen]].sum(1) for chosen in choices]
        theirs = max(scores, key=lambda score: metrics.auc(score, true))
        gap = []
        for weights in bootstrap.weights(len(true)):
            gap.append(bootstrap.auc(mine, true, weights) - bootstrap.auc(theirs, true, weights))
        low, high = bootstrap.interval(np.concatenate(gap))
        lines[key] = {
            "n": int(keep.sum()),
            "positives": int(true.sum()),
            "auc": metrics.auc(mine, true),
            "peer": metrics.auc(theirs, true),
            "difference_95": [low, high],
        }
    counted = [k for k, one in lines.items() if one["positives"] >= ENOUGH]
    means = {
        name: float(np.mean([lines[key][name] for key in counted])) for name in ("auc", "peer")
    }
    return {"aus": lines, "mean_over": counted, "mean": means}


def landmarks(data: Path, peer: Path, bundle: Path | None, most: int = 300) -> dict[str, float]:
    """Mean distance of the 68 points from the peer's on LFW, in distances of the outer eye
    corners, with and without the jaw line; faces found by YuNet, as photographs are read."""
    from feallm.model.coded import faces
    from feallm.runtime.analyze import Analyzer
    from feallm.runtime.contract.frame import Face

    with np.load(peer) as file:
        names, points = [str(n) for n in file["names"]], file["points68"].astype(np.float64)
    rows = [k for k, name in enumerate(names) if name.startswith("lfw/")]
    rows = [rows[k] for k in np.linspace(0, len(rows) - 1, most).astype(int)]
    shared = faces.Shared(data)
    finder = faces.Points(shared)
    errors = []
    with Analyzer(bundle, detect=False, words=False) as analyzer:
        for k in rows:
            name = names[k].removeprefix("lfw/")
            found = finder.find("lfw", name)
            if found is None:
                continue
            picture = shared.picture("lfw", name)
            report = analyzer.read(picture, faces=[Face((0, 0, 1, 1), found, 1.0)])
            place = report.readings[0].place
            assert place is not None
            apart = np.linalg.norm(points[k][45] - points[k][36])
            errors.append(np.linalg.norm(np.array(place.landmarks) - points[k], axis=1) / apart)
    all_of_them = np.array(errors)
    near = np.median(all_of_them, 1) < 0.5  # the two found the same face
    all_of_them = all_of_them[near]
    return {
        "n": len(all_of_them),
        "mean": float(all_of_them.mean()),
        "mean_without_jaw": float(all_of_them[:, 17:].mean()),
    }


def _time_peer(data: Path) -> None:
    mediapipe, landmarker = _landmarker(data)
    square = next(_pictures(data))
    spent = []
    for _ in range(WARM_UP + RUNS):
        start = time.perf_counter()
        image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=square)
        landmarker.detect(image)
        spent.append(time.perf_counter() - start)
    landmarker.close()
    print(json.dumps(float(np.median(spent[WARM_UP:])) * 1e3))


def _time_vision(data: Path, vision: Path) -> None:
    from feallm.model.coded import faces
    from feallm.runtime.backends.base import IMAGE
    from feallm.runtime.backends.onnx import OnnxVision
    from feallm.runtime.vision.align import align

    face = faces.listed("test")[0]
    picture = faces.Shared(data).picture(face.source, face.name)
    backend = OnnxVision(vision)
    spent = []
    for _ in range(WARM_UP + RUNS):
        start = time.perf_counter()
        backend.run({IMAGE: align(picture, face.points5)[0][None]})
        spent.append(time.perf_counter() - start)
    print(json.dumps(float(np.median(spent[WARM_UP:])) * 1e3))


def timed(data: Path, vision: Path, python: Path, core: int) -> None:
    """Both in turns, each a process pinned to one core; the vision's time holds the crop too."""

    def once(interpreter: str, *arguments: str) -> float:
        command = [interpreter, "-m", "feallm.model.studies.peer", *arguments]
        done = subprocess.run(
            command,
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
        return float(json.loads(done.stdout.splitlines()[-1]))

    mine, theirs = [], []
    for _ in range(ROUNDS):
        theirs.append(once(str(python), "_peer", "--data", str(data)))
        mine.append(once(sys.executable, "_vision", "--data", str(data), "--vision", str(vision)))
    ratio = float(np.median(np.array(mine) / np.array(theirs)))
    print(
        f"one core, medians of {RUNS}, {ROUNDS} turns: {vision.name} {np.median(mine):.2f} ms, "
        f"peer {np.median(theirs):.2f} ms, ratio {ratio:.3f}"
    )


def main() -> None:
    """Read the arguments and do what is asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "what", choices=("read", "compare", "landmarks", "time", "_peer", "_vision")
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--vision", type=Path)
    parser.add_argument("--python", type=Path, help="interpreter with mediapipe")
    parser.add_argument("--core", type=int, default=0)
    chosen = parser.parse_args()
    if chosen.what == "read":
        read(chosen.data, chosen.out)
    elif chosen.what == "landmarks":
        print(landmarks(chosen.data, chosen.peer, chosen.bundle))
    elif chosen.what == "compare":
        found = compare(chosen.data, chosen.peer, chosen.bundle, chosen.checkpoint)
        for key, line in found["aus"].items():
            low, high = line["difference_95"]
            print(
                f"{key:5} {line['positives']:3} of {line['n']}  {line['auc']:.3f}"
                f"  peer {line['peer']:.3f}  difference {low:+.3f} to {high:+.3f}"
            )
        print(f"mean of {len(found['mean_over'])}: {found['mean']}")
        if chosen.out:
            chosen.out.write_text(json.dumps(found, indent=1) + "\n")
    elif chosen.what == "time":
        timed(chosen.data, chosen.vision, chosen.python, chosen.core)
    elif chosen.what == "_peer":
        _time_peer(chosen.data)
    else:
        _time_vision(chosen.data, chosen.vision)


if __name__ == "__main__":
    main()
