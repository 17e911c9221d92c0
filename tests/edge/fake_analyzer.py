"""A stand-in for the analyzer: a face is whatever is pure red. Run as a script it is `feallm`."""

from __future__ import annotations

import os
import time
from types import SimpleNamespace

import cv2
import numpy as np

from feallm.runtime.contract.aus import AU_KEYS
from feallm.runtime.contract.errors import BackendError
from feallm.runtime.contract.expressions import EXPRESSIONS
from feallm.runtime.contract.frame import Crop, Face
from feallm.runtime.contract.reading import (
    AUReading,
    Explanation,
    ExpressionReading,
    FrameReport,
    Reading,
)

PRESENT = {"AU6": (1.2, 1.2, 1.1), "AU12": (3.1, 3.1, 2.0), "AU25": (2.0, None, None)}
UNTRAINED = ("AU18", "AU28")


class FakeAnalyzer:
    """Finds red rectangles, and reads the same smile in each."""

    def __init__(self, digest="d" * 64, words_missing="llama-cpp-python is not installed"):
        self.words_missing = words_missing
        trained = [key for key in AU_KEYS if key not in UNTRAINED]
        manifest = SimpleNamespace(intensity_calibrated=False, aus=AU_KEYS, aus_trained=trained)
        self.bundle = SimpleNamespace(digest=digest, manifest=manifest)
        self.language = None
        self.expression = True
        self.frames_read = []
        self.delay_s = float(os.environ.get("FAKE_DELAY_S", "0"))
        self.fail_at = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        pass

    def running(self):
        return {"vision": {"provider": "fake", "artifact": "fake.onnx", "why": "asked"}}

    def find(self, frame):
        red, green, blue = (frame.pixels[..., i].astype(int) for i in range(3))
        mask = ((red > 180) & (green < 90) & (blue < 90)).astype(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(mask)
        faces = []
        for x, y, w, h, area in stats[1:].tolist():
            if area > 60:
                faces.append(Face((x, y, x + w, y + h), None, 0.9, len(faces)))
        return faces

    def read(self, frame, *, faces=None, explain=False, crops=None):
        time.sleep(self.delay_s)
        self.frames_read.append((frame.source, frame.index))
        if self.fail_at == len(self.frames_read):
            raise BackendError("the network gave no answer")
        faces = self.find(frame) if faces is None else faces
        if crops is not None:
            crops += [Crop(frame.pixels, np.eye(2, 3)) for _ in faces]
        wanted = {f.track for f in faces} if explain is True else set(explain or ())
        readings = tuple(self._reading(face, face.track in wanted) for face in faces)
        timings = {"detect": 1.0, "crop": 0.5, "vision": 2.0, "words": 30.0}
        return FrameReport(
            frame.source, frame.index, frame.time_s, readings, self.bundle.digest, timings
        )

    def _reading(self, face, explained):
        aus = {}
        for key in AU_KEYS:
            intensity, left, right = PRESENT.get(key, (0.2, 0.2, 0.2))
            aus[key] = AUReading(key, intensity, key in PRESENT, 0.8, left, right)
        aus.update(dict.fromkeys(UNTRAINED))
        scores = dict.fromkeys(EXPRESSIONS, 0.02) | {"happiness": 0.8, "surprise": 0.08}
        words = Explanation(
            "The lip corners are pulled up.", ("AU12",), "template", self.words_missing
        )
        return Reading(
            face.track, face.box, face.score, aus,
            ExpressionReading(scores) if self.expression else None,
            words if explained else None,
        )  # fmt: skip


if __name__ == "__main__":
    from feallm.edge import analyze, cli, live

    analyze.open_analyzer = live.open_analyzer = lambda request: FakeAnalyzer()
    cli.main()
