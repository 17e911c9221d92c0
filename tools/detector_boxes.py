"""What a detector file finds in pictures, as JSON: for comparing two environments.

    python tools/detector_boxes.py --file detector.onnx PICTURE... > here.json
    other/bin/python tools/detector_boxes.py --file detector.onnx PICTURE... --against here.json

The first prints, for each picture, box, five points and score of every face, largest score first.
The second prints the largest differences from that: of boxes and points in pixels, and of scores.
It needs numpy and OpenCV alone, so any environment will do.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np

PARTS = {"box": slice(0, 4), "points": slice(4, 14), "score": slice(14, 15)}


def find(file: Path, picture: Path, score: float, longest_px: int) -> list[dict[str, Any]]:
    """The faces of a picture file: box x y w h and points x y in pixels of the searched picture,
    whose longer side is `longest_px` at most."""
    pixels = cv2.imread(str(picture))
    if pixels is None:
        raise SystemExit(f"{picture}: not a readable picture")
    scale = min(1.0, longest_px / max(pixels.shape[:2]))
    size = (round(pixels.shape[1] * scale), round(pixels.shape[0] * scale))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    try:
        detector = cv2.FaceDetectorYN.create(str(file), "", size, score, 0.3)
        found = detector.detect(small)[1]
    except cv2.error as error:
        raise SystemExit(f"{file}: not a detector that OpenCV {cv2.__version__} reads") from error
    rows = np.zeros((0, 15)) if found is None else np.asarray(found, np.float64)
    rows = rows[np.argsort(-rows[:, 14], kind="stable")]
    return [{name: row[part].round(4).tolist() for name, part in PARTS.items()} for row in rows]


def apart(a: dict[str, Any], b: dict[str, Any]) -> dict[str, float]:
    """The largest difference of each part. Ends the command where other faces were found."""
    most = dict.fromkeys(PARTS, 0.0)
    if list(a["pictures"]) != list(b["pictures"]):
        raise SystemExit(f"other pictures: {list(a['pictures'])} and {list(b['pictures'])}")
    for name, faces in a["pictures"].items():
        others = b["pictures"][name]
        if len(faces) != len(others):
            raise SystemExit(f"{name}: {len(faces)} faces here, {len(others)} there")
        for face, other in zip(faces, others, strict=True):
            for part in PARTS:
                gap = np.abs(np.subtract(face[part], other[part])).max()
                most[part] = max(most[part], round(float(gap), 4))
    return most


def main() -> None:
    """Print boxes, or how far they lie from others."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pictures", type=Path, nargs="+")
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--score", type=float, default=0.5)
    parser.add_argument("--longest", type=int, default=640, help="pixels of the longer side")
    parser.add_argument("--against", type=Path, help="what another environment printed")
    asked = parser.parse_args()
    if not asked.file.is_file():
        raise SystemExit(f"{asked.file}: no such file")
    faces = {
        str(path): find(asked.file, path, asked.score, asked.longest) for path in asked.pictures
    }
    told = {"opencv": cv2.__version__, "pictures": faces}
    if asked.against is not None:
        try:
            other = json.loads(asked.against.read_text(encoding="utf-8"))
            told = {"opencv": [cv2.__version__, other["opencv"]], "apart": apart(told, other)}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SystemExit(f"{asked.against}: not what this command prints") from error
    json.dump(told, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
