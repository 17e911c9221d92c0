"""The command that compares a detector's boxes in two environments."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).parent.parent.parent
DETECTOR = ROOT / "runtime" / "bundle" / "edge" / "detector.onnx"


def call(*words, good=True):
    command = [sys.executable, str(ROOT / "tools" / "detector_boxes.py"), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode == 0) == good, done.stderr
    return done.stdout if good else done.stderr


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """Three rendered heads before gray."""
    with np.load(ROOT / "tests" / "model" / "detector" / "heads.npz") as file:
        images, offsets = file["images"], file["offsets"]
    parts = []
    for k in (0, 5, 13):
        bgra = cv2.imdecode(images[offsets[k] : offsets[k + 1]], cv2.IMREAD_UNCHANGED)
        cover = bgra[..., 3:] / 255
        cut = (bgra[..., :3] * cover + 128 * (1 - cover)).astype(np.uint8)
        parts.append(cv2.resize(cut, (240, 300)))
    path = tmp_path_factory.mktemp("pictures") / "three.png"
    cv2.imwrite(str(path), np.hstack(parts))
    return path


@pytest.fixture(scope="module")
def told(picture):
    return json.loads(call("--file", DETECTOR, picture))


def test_it_tells_faces_in_pixels_of_the_searched_picture(told, picture):
    faces = told["pictures"][str(picture)]
    assert told["opencv"] == cv2.__version__ and faces
    small = cv2.resize(cv2.imread(str(picture)), (640, 267), interpolation=cv2.INTER_AREA)
    found = cv2.FaceDetectorYN.create(str(DETECTOR), "", (640, 267), 0.5, 0.3).detect(small)[1]
    found = found[np.argsort(-found[:, 14])]
    rows = [[*face["box"], *face["points"], *face["score"]] for face in faces]
    np.testing.assert_allclose(rows, found, atol=1e-3)


def test_nothing_lies_apart_from_itself(told, picture, tmp_path):
    here = tmp_path / "here.json"
    here.write_text(json.dumps(told))
    found = json.loads(call("--file", DETECTOR, picture, "--against", here))
    assert found["apart"] == {"box": 0.0, "points": 0.0, "score": 0.0}
    assert found["opencv"] == [cv2.__version__] * 2
    told["pictures"][str(picture)][0]["points"][3] += 0.25
    here.write_text(json.dumps(told))
    found = json.loads(call("--file", DETECTOR, picture, "--against", here))
    assert found["apart"] == {"box": 0.0, "points": 0.25, "score": 0.0}


def test_other_faces_are_told_apart(told, picture, tmp_path):
    here = tmp_path / "here.json"
    here.write_text(json.dumps({**told, "pictures": {str(picture): []}}))
    assert "0 there" in call("--file", DETECTOR, picture, "--against", here, good=False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--file", "none.onnx", "x.png"], "none.onnx: no such file"),
        (["--file", DETECTOR, "none.png"], "none.png: not a readable picture"),
        (["--file", __file__, "{picture}"], "not a detector that OpenCV"),
        (["--file", DETECTOR, "{picture}", "--against", __file__], "not what this command prints"),
    ],
)
def test_bad_input_is_one_line(picture, words, message):
    told = call(*(str(word).format(picture=picture) for word in words), good=False)
    assert message in told and "Traceback" not in told
