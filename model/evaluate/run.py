"""Score a bundle, one of its files, or a checkpoint on a labelled split."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from feallm.model.data import archive
from feallm.model.evaluate import clear, decisions, places, sets
from feallm.model.evaluate import figures as of
from feallm.model.evaluate import words as words_score
from feallm.model.evaluate.figures import Outputs
from feallm.runtime.analyze import Analyzer
from feallm.runtime.backends.base import (
    AU_INTENSITY,
    AU_PROBABILITY,
    EXPRESSION,
    LANDMARKS,
    TOKENS,
    VISION_OUTPUTS,
)
from feallm.runtime.bundle.open import Bundle, open_bundle
from feallm.runtime.contract.aus import AU_KEYS, N_AUS
from feallm.runtime.contract.errors import BackendError
from feallm.runtime.contract.expressions import EXPRESSION_INDEX, EXPRESSIONS
from feallm.runtime.contract.frame import Face
from feallm.runtime.contract.geometry import CropGeometry
from feallm.runtime.language.explain import Speaker
from feallm.runtime.vision import decode
from feallm.runtime.vision.align import align, crop_matrix

NOBODY = Face((0.0, 0.0, 1.0, 1.0), None, 1.0)


@dataclass(frozen=True, slots=True)
class Scored:
    """Outputs and figures of one split."""

    rows: NDArray[np.int64]
    outputs: Outputs
    figures: dict[str, Any]


def run(
    analyzer: Analyzer,
    data: sets.Labelled,
    name: str,
    *,
    words: bool = False,
    looks: int = 2,
    step: Callable[[int], None] = lambda count: None,
) -> Scored:
    """Figures for every labelled row; `words` also reads the language model's text of each, `looks`
    = 1 takes each face as a frame of a video is taken, without the second look."""
    rows = data.rows
    manifest = analyzer.manifest
    outputs = outputs_of(analyzer, data, rows, step)
    if looks > 1:
        data, again = at_own_points(data, rows, outputs, manifest.geometry.crop())
        looks = 2 if len(again) else 1
        if len(again):
            second = outputs_of(analyzer, data, rows[again], step)
            for key, values in decode.both_looks(outputs, again.tolist(), second).items():
                outputs[key][again] = values
    figures = {"split": name, "n": len(rows), "looks": looks, "bundle": analyzer.bundle.digest}
    figures |= _figures(outputs, data, manifest.thresholds)
    geometry = manifest.geometry.crop()
    figures |= places.figures(outputs, data, rows, geometry, manifest.aus_sided)
    if words and data.expression is not None:
        speaker = Speaker(analyzer.bundle, engine=analyzer.language_engine)
        readings = [decode.reading(outputs, k, NOBODY, manifest) for k in range(len(rows))]
        figures["words"] = words_score.score(
            lambda tokens: speaker.say(tokens, free=True),
            outputs[TOKENS],
            readings,
            data.expression[rows],
            step=lambda: step(1),
        )
        speaker.close()
    return Scored(rows, outputs, figures)


def outputs_of(
    analyzer: Analyzer,
    data: sets.Labelled,
    rows: NDArray[np.int64],
    step: Callable[[int], None] = lambda count: None,
) -> Outputs:
    """Raw outputs for rows of a set."""
    parts: list[Outputs] = []
    for crops in sets.crops(data, rows, analyzer.bundle.manifest.geometry.crop()):
        parts.append(analyzer.outputs(crops))
        step(len(crops))
    return {
        key: np.concatenate([part[key] for part in parts])
        if parts
        else np.zeros((0, 1), np.float32)
        for key in (parts[0] if parts else VISION_OUTPUTS)
    }


def at_own_points(
    data: sets.Labelled, rows: NDArray[np.int64], outputs: Outputs, geometry: CropGeometry
) -> tuple[sets.Labelled, NDArray[np.int64]]:
    """As `Analyzer` does with photographs: the points that the first look found, for a second one.
    The set with them, and which of the rows have them."""
    if LANDMARKS not in outputs:
        return data, np.zeros(0, np.int64)
    points5 = np.full((len(data.images), 5, 2), np.nan) if data.points5 is None else data.points5
    points5, kept = points5.copy(), []
    for k in range(len(rows)):
        i = int(rows[k])
        picture = archive.picture(data.path, i, data.images[i], cv2.IMREAD_COLOR)
        image = np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)
        first = crop_matrix(sets.points_of(data, i, image), geometry)
        points = decode.own_points(outputs, k, first)
        try:
            align(image, points, geometry)
        except ValueError:
            continue
        points5[i] = points
        kept.append(k)
    return replace(data, points5=points5), np.array(kept, np.int64)


def _figures(outputs: Outputs, data: sets.Labelled, thresholds: dict[str, float]) -> dict[str, Any]:
    """Everything that is computed from the answers and labels of the labelled rows."""
    rows = data.rows
    figures: dict[str, Any] = {}
    if data.stand_in is not None:
        figures["points_missing"] = int(data.stand_in[rows].sum())
    expression = None if data.expression is None else data.expression[rows]
    if expression is not None:
        figures["expression"] = of.expression_figures(outputs, expression)
        neutral = expression == EXPRESSION_INDEX["neutral"]
        excused = None if data.excused is None else data.excused[rows]
        if resting := decisions.at_rest(outputs, neutral, excused, thresholds):
            figures["at_rest"] = resting
    au = np.full((len(rows), N_AUS), np.nan) if data.au is None else data.au[rows]
    trained, untrained = of.answers(outputs, au, thresholds)
    figures |= of.au_figures(trained, len(rows))
    figures["not_trained"] = untrained
    slices = {name: values[rows] for name, values in data.slices.items()}
    if clearly := clear.figures(trained, len(rows), slices):
        figures["clear"] = clearly
    figures["slices"] = of.slice_figures(trained, outputs, expression, slices)
    return figures


def predictions(scored: Scored, trained: tuple[str, ...]) -> str:
    """CSV of the answers: index, expression, eight scores, AU intensities, then probabilities.

    What was not trained is an empty cell."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["index", "expression", *EXPRESSIONS, *AU_KEYS, *(f"{key}_p" for key in AU_KEYS)]
    )
    intensity = scored.outputs[AU_INTENSITY]
    for k, row in enumerate(scored.rows.tolist()):
        scores = scored.outputs[EXPRESSION][k]
        cells: list[object] = [row, EXPRESSIONS[int(scores.argmax())]]
        cells += [f"{value:.5f}" for value in scores]
        for values in (intensity[k].max(1), scored.outputs[AU_PROBABILITY][k]):
            cells += [
                f"{value:.4f}" if key in trained else ""
                for key, value in zip(AU_KEYS, values.tolist(), strict=True)
            ]
        writer.writerow(cells)
    return text.getvalue()


OWN = Path("own")
"""As `detector`: the bundle's."""


def analyzer_for(
    bundle: Path | None,
    artifact: str | None,
    checkpoint: Path | None,
    detector: Path | None = None,
) -> tuple[Analyzer, bool]:
    """What is scored: a bundle, one of its files by name or file name, or a torch checkpoint; and
    whether that file is the language model, whose texts are then read. `detector`: a file that
    finds the faces, or `OWN`; without one, every picture is a face."""
    opened = open_bundle(bundle)
    there = detector is not None
    detector = None if detector == OWN else detector
    if checkpoint is not None:
        return _checkpoint_analyzer(opened, checkpoint, detector, there), False
    if artifact is None:
        return Analyzer(opened, detector=detector, detect=there, words=False), False
    artifacts = opened.manifest.artifacts
    named = {facts.file: name for name, facts in artifacts.items()}
    name = named.get(artifact, artifact)
    opened.file(name)  # there must be one of that name
    if name not in opened.manifest.vision:
        return Analyzer(opened, detect=False, language_engine=name), True
    eyes = Analyzer(opened, detector=detector, detect=there, words=False, vision_engine=name)
    return eyes, False


def _checkpoint_analyzer(
    opened: Bundle, path: Path, detector: Path | None, there: bool
) -> Analyzer:
    """The float network of a checkpoint, with the checkpoint's own AUs and thresholds."""
    try:
        from feallm.model.evaluate.torch_vision import TorchVision
    except ImportError as error:
        raise BackendError(
            "scoring a checkpoint needs torch", hint="pip install 'feallm-edge[train]'"
        ) from error
    vision = TorchVision(path)
    own = {
        "aus_trained": vision.aus_trained,
        "aus_sided": vision.aus_sided,
        "thresholds": vision.thresholds,
    }
    manifest = opened.manifest.model_copy(update=own)
    return Analyzer(
        replace(opened, manifest=manifest),
        detector=detector,
        detect=there,
        words=False,
        vision=vision,
    )
