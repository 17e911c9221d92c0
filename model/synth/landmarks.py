"""68 points and blendshapes of photographs by MediaPipe's Face Landmarker, into one file.

    python -m feallm.model.synth.landmarks --data ../shared/data --out points68.npz

Only needed to move photographs other than FER's (`feallm data bank --points`). mediapipe is not a
dependency: it brings another OpenCV. Install it in an environment of its own, without this
package's extras (`pip install mediapipe==1.2.2`).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from feallm.model.data import archive
from feallm.runtime.contract.errors import BackendError


def photographs(data: Path) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Name and picture (H, W, 3) BGR of what may be trained on: London's odd ids at rest, LFW's
    training part, the CC0 portraits."""
    for path in sorted((data / "london").glob("*_neutral.webp")):
        if int(path.name[:3]) % 2 == 1:
            yield f"london/{path.stem}", np.asarray(cv2.imread(str(path)), np.uint8)
    for name in ("lfw", "lfw_more"):
        path = data / "lfw" / f"{name}.npz"
        arrays = archive.read(path, "images", "offsets", "test")
        images = archive.encoded(path, arrays)
        for i in np.flatnonzero(~arrays["test"].astype(bool)):
            yield f"lfw/{name}:{i}", archive.picture(path, int(i), images[i], cv2.IMREAD_COLOR)
    path = data / "cc0" / "portraits.npz"
    images = archive.encoded(path, archive.read(path, "images", "offsets"))
    for i, image in enumerate(images):
        yield f"cc0/{i}", archive.picture(path, i, image, cv2.IMREAD_COLOR)


def main() -> None:
    """Write the file; pictures without a face are left out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    try:
        import mediapipe
        from mediapipe.tasks import python as tasks
        from mediapipe.tasks.python import vision
    except ImportError as error:
        raise BackendError("landmarks need mediapipe 1.2.2", hint="see this file") from error
    data: Path = arguments.data
    marks = archive.read(data / "fer" / "mediapipe_train.npz", "mediapipe_index68")
    order = [int(k) for k in marks["mediapipe_index68"]]
    options = vision.FaceLandmarkerOptions(
        base_options=tasks.BaseOptions(
            model_asset_path=str(data / "peers" / "face_landmarker.task")
        ),
        output_face_blendshapes=True,
        num_faces=1,
    )
    names: list[str] = []
    points: list[list[tuple[float, float]]] = []
    values: list[list[float]] = []
    shapes: list[str] = []
    with vision.FaceLandmarker.create_from_options(options) as landmarker:
        for name, picture in photographs(data):
            height, width = picture.shape[:2]
            rgb = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
            image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=rgb)
            found = landmarker.detect(image)
            if not found.face_landmarks:
                continue
            face = found.face_landmarks[0]
            names.append(name)
            points.append([(face[k].x * width - 0.5, face[k].y * height - 0.5) for k in order])
            values.append([shape.score for shape in found.face_blendshapes[0]])
            shapes = [shape.category_name for shape in found.face_blendshapes[0]]
    np.savez(
        arguments.out,
        names=np.array(names),
        points68=np.array(points, np.float32),
        blendshapes=np.array(values, np.float32),
        blendshape_names=np.array(shapes),
    )
    print(f"{arguments.out}  {len(names)} faces")


if __name__ == "__main__":
    main()
