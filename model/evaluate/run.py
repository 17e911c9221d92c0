"""Score a bundle, one of its files, or a checkpoint on a labelled split."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feallm.model.evaluate import metrics, sets
from feallm.model.evaluate import words as words_score
from feallm.runtime.analyze import Analyzer
from feallm.runtime.backends.base import (
    AU_INTENSITY,
    AU_PROBABILITY,
    EXPRESSION,
    TOKENS,
    VISION_OUTPUTS,
)
from feallm.runtime.backends.onnx import OnnxVision
from feallm.runtime.bundle.open import Bundle, open_bundle
from feallm.runtime.contract.aus import AU_KEYS
from feallm.runtime.contract.errors import BackendError
from feallm.runtime.contract.expressions import EXPRESSIONS, N_EXPRESSIONS
from feallm.runtime.contract.frame import Face
from feallm.runtime.language.explain import Speaker
from feallm.runtime.vision import decode

Outputs = dict[str, NDArray[np.float32]]
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
    step: Callable[[int], None] = lambda count: None,
) -> Scored:
    """Figures for every labelled row; `words` also reads the language model's text of each."""
    rows = data.rows
    manifest = analyzer.bundle.manifest
    parts: list[Outputs] = []
    for crops in sets.crops(data, rows, manifest.geometry.crop()):
        parts.append(analyzer.outputs(crops))
        step(len(crops))
    outputs = {
        key: np.concatenate([part[key] for part in parts])
        if parts
        else np.zeros((0, 1), np.float32)
        for key in VISION_OUTPUTS
    }
    figures: dict[str, Any] = {"split": name, "n": len(rows), "bundle": analyzer.bundle.digest}
    if data.expression is not None:
        figures["expression"] = expression_figures(outputs, data.expression[rows])
    figures["aus"] = {}
    if data.au is not None:
        figures["aus"] = au_figures(outputs, data.au[rows], manifest.thresholds)
    if words and data.expression is not None:
        speaker = Speaker(analyzer.bundle)
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


def expression_figures(outputs: Outputs, truth: NDArray[np.int64]) -> dict[str, Any]:
    """Accuracy with its interval, macro F1, and F1 and count of each class."""
    there = truth >= 0
    predicted, truth = outputs[EXPRESSION][there].argmax(1), truth[there]
    correct = predicted == truth
    classes = {
        word: {
            "n": int((truth == k).sum()),
            "f1": _plain(metrics.f1(predicted == k, truth == k)),
            "recall": _plain(float(correct[truth == k].mean())) if (truth == k).any() else None,
        }
        for k, word in enumerate(EXPRESSIONS)
    }
    return {
        "n": len(truth),
        "accuracy": _plain(float(correct.mean())) if len(truth) else None,
        "accuracy_95": [_plain(v) for v in metrics.interval(correct)],
        "macro_f1": metrics.macro_f1(predicted, truth, N_EXPRESSIONS),
        "classes": classes,
    }


def au_figures(
    outputs: Outputs, au: NDArray[np.float64], thresholds: dict[str, float]
) -> dict[str, dict[str, Any]]:
    """For each AU that is known somewhere and was trained: AUC, F1 at the shipped threshold, and
    absolute error of the intensity where the labels are more than 0 and 1. Present is >= 1 (A)."""
    result = {}
    for k, key in enumerate(AU_KEYS):
        if key not in thresholds:
            continue
        threshold = thresholds[key]
        known = np.isfinite(au[:, k])
        if not known.any():
            continue
        value, probability = au[known, k], outputs[AU_PROBABILITY][known, k].astype(np.float64)
        true, called = value >= 1, probability >= threshold
        graded = bool(((value > 0) & (value != 1)).any())
        error = np.abs(outputs[AU_INTENSITY][known, k].max(1) - value).mean()
        result[key] = {
            "n": int(known.sum()),
            "positives": int(true.sum()),
            "auc": _plain(metrics.auc(probability, true)),
            "f1": _plain(metrics.f1(called, true)),
            "called": int(called.sum()),
            "mean_absolute_error": _plain(float(error)) if graded else None,
        }
    return result


def _plain(value: float) -> float | None:
    """JSON knows no NaN."""
    return None if np.isnan(value) else value


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


def analyzer_for(
    bundle: Path | None, artifact: str | None, checkpoint: Path | None
) -> tuple[Analyzer, bool]:
    """What is scored: a bundle, one of its files by name or file name, or a torch checkpoint; and
    whether that file is the language model, whose texts are then read."""
    opened = open_bundle(bundle)
    if checkpoint is not None:
        return _checkpoint_analyzer(opened, checkpoint), False
    if artifact is None:
        return Analyzer(opened, detect=False), False
    artifacts = opened.manifest.artifacts
    named = {facts.file: name for name, facts in artifacts.items()}
    name = named.get(artifact, artifact)
    path = opened.file(name)
    if artifacts[name].format == "gguf":
        return Analyzer(opened, detect=False), True
    return Analyzer(opened, detect=False, vision=OnnxVision(path)), False


def _checkpoint_analyzer(opened: Bundle, path: Path) -> Analyzer:
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
    return Analyzer(replace(opened, manifest=manifest), detect=False, vision=vision)
