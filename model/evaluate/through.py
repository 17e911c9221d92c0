"""Expressions through all of `analyze`: the face has to be found first.

A crop that is all face leaves a detector nothing to look for, so pictures are enlarged and laid on
gray, as a face in a small frame: 171 of 256 pixels, for a FER picture 3.6 times its size. They are
also read as they are stored, which is what a folder of them gets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from feallm.model.data import archive
from feallm.model.evaluate import metrics
from feallm.model.evaluate.sets import Labelled
from feallm.runtime.analyze import Analyzer
from feallm.runtime.contract.errors import UsageError
from feallm.runtime.contract.expressions import EXPRESSIONS
from feallm.runtime.contract.frame import Frame, Image

SIDE_PX, FACE_PX, GRAY = 256, 171, 128


def framed(picture: Image) -> Image:
    """A picture (H, W, 3) as a face of `FACE_PX` in a square of gray."""
    height, width = picture.shape[:2]
    scale = FACE_PX / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    big = cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR)
    square = np.full((SIDE_PX, SIDE_PX, 3), GRAY, np.uint8)
    x, y = (SIDE_PX - size[0]) // 2, (SIDE_PX - size[1]) // 2
    square[y : y + size[1], x : x + size[0]] = big
    return square


def as_stored(picture: Image) -> Image:
    """The picture itself."""
    return picture


def score(
    analyzer: Analyzer,
    data: Labelled,
    step: Callable[[int], None] = lambda count: None,
    laid: Callable[[Image], Image] = framed,
) -> dict[str, Any]:
    """Accuracy with missed faces as wrong, and on the faces found; the largest face counts.

    `laid`: what is made of a picture (H, W, 3) before it is read."""
    if data.expression is None:
        raise UsageError("--detector: this split has no expressions")
    rows = np.flatnonzero(data.expression >= 0)
    if not len(rows):
        raise UsageError("--detector: no face of this split has an expression")
    answers = np.full(len(rows), -1)
    for k, i in enumerate(rows):
        picture = archive.picture(data.path, int(i), data.images[i], cv2.IMREAD_COLOR)
        rgb = np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)
        report = analyzer.read(Frame(laid(rgb), str(i), still=True))
        if report.readings and report.readings[0].expression is not None:
            answers[k] = EXPRESSIONS.index(report.readings[0].expression.top)
        step(1)
    truth = data.expression[rows]
    found = answers >= 0
    right = answers == truth
    return {
        "n": len(rows),
        "found": int(found.sum()),
        "accuracy": float(right.mean()),
        "accuracy_95": list(metrics.interval(right)),
        "accuracy_found": float(right[found].mean()) if found.any() else None,
        "rows": rows[found].tolist(),
    }
