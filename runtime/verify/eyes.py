"""Eyes against golden outputs: whole frames, numbers, decisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from feallm.runtime.analyze import Analyzer
from feallm.runtime.backends.base import (
    AU_INTENSITY,
    AU_PROBABILITY,
    AU_SIDES,
    EXPRESSION,
    VisionBackend,
)
from feallm.runtime.bundle.open import Bundle
from feallm.runtime.contract.aus import AU_INDEX, AU_KEYS
from feallm.runtime.contract.errors import BackendError
from feallm.runtime.contract.expressions import EXPRESSIONS
from feallm.runtime.contract.manifest import Tolerance
from feallm.runtime.verify import agree, ask, causes, way
from feallm.runtime.verify.agree import Stated
from feallm.runtime.verify.golden import Golden
from feallm.runtime.verify.lines import LEAST_POSITIVES, NO_LIMITS, WORST, answers, mean, numbers
from feallm.runtime.verify.verdict import Line, Result, Worst

Floats = NDArray[np.float32]

LEAST_SIDES = 5
"""Movements of one side, from which on sides are held to a limit."""


def judge(
    bundle: Bundle, backend: VisionBackend, golden: Golden, result: Result, frames: bool
) -> Result:
    """`result` with what was found; `BackendError` where the artifact does not answer. `frames`:
    whether whole frames are looked at, or crops alone."""
    manifest = bundle.manifest
    artifact = manifest.artifacts[result.artifact]
    limits = artifact.tolerance.get("eyes", NO_LIMITS)
    found = ask.outputs(backend, golden.crops)
    own = artifact.thresholds or manifest.thresholds
    said, wanted = _stated(found, own), _stated(golden.outputs, golden.facts.thresholds)
    passage: list[str] = []
    lines: list[Line] = []
    if frames and golden.frames:
        own_bundle = replace(bundle, manifest=manifest.model_copy(update={"thresholds": own}))
        lines, passage = _way(own_bundle, backend, golden, limits)
    numbers_of = _tensors(found, golden, limits)
    lines += numbers_of
    lines += _decisions(found, golden, said, wanted, limits, manifest.aus_trained)
    lines += answers(said, wanted, golden, limits, None)
    result = replace(result, lines=tuple(lines), worst=_worst_faces(found, golden, said, wanted))
    if result.passed:
        return result
    # Eyes that answer otherwise about the golden crops also stand the next crop elsewhere.
    likely = passage if all(line.passed for line in numbers_of) else []
    likely = [*likely, *causes.of_eyes(found, golden)]
    if artifact.thresholds is None and manifest.thresholds != golden.facts.thresholds:
        likely.append("thresholds are not those that the golden model was asked with")
    return replace(result, causes=tuple(likely))


def _tensors(found: dict[str, Floats], golden: Golden, limits: Tolerance) -> list[Line]:
    lines: list[Line] = []
    for name, value in golden.outputs.items():
        if name not in found or found[name].shape != value.shape:
            raise BackendError(f"the artifact gives no {name} of the golden shape {value.shape}")
        here, there = (agree.in_order(name, one) for one in (found[name], value))
        lines += numbers(name, agree.apart(here, there), limits)
    return lines


def _stated(outputs: dict[str, Floats], thresholds: dict[str, float]) -> Stated:
    least = agree.shares(thresholds, AU_KEYS)
    return Stated(outputs[AU_PROBABILITY] >= least, outputs[EXPRESSION].argmax(1))


def _decisions(
    found: dict[str, Floats],
    golden: Golden,
    said: Stated,
    wanted: Stated,
    limits: Tolerance,
    aus: Sequence[str],
) -> list[Line]:
    columns = [AU_INDEX[key] for key in aus]
    same = said.present[:, columns] == wanted.present[:, columns]
    alike = said.expression == wanted.expression
    known = np.ones_like(wanted.present)
    scores = agree.f1_of_aus(said.present, wanted.present, known, LEAST_POSITIVES)
    a, b = (one[AU_INTENSITY][:, columns].astype(np.float64) for one in (found, golden.outputs))
    each = [(a[:, k].ravel(), b[:, k].ravel()) for k in range(len(columns))]
    lines = [
        Line("head", "AU decisions that are the same", float(same.mean()), limits.au_same, True,
             of=same.size),
        Line("head", "F1 of AU decisions, golden ones as truth, mean", mean(scores.values())),
        Line("head", "F1 of the worst AU", min(scores.values(), default=float("nan"))),
        Line("head", "intensity: r over all AUs", agree.correlation(a.ravel(), b.ravel())),
        Line("head", "intensity: r, mean of the AUs", mean(agree.correlation(*p) for p in each)),
        Line("head", "intensity: ICC(A,1) over all AUs", agree.icc_agreement(a.ravel(), b.ravel()),
             limits.intensity_icc, True),
        Line("head", "intensity: ICC(A,1), mean of the AUs",
             mean(agree.icc_agreement(*p) for p in each)),
        *_sides(found, golden, columns, limits),
        Line("head", "same expression first", float(alike.mean()), limits.expression_same, True,
             of=len(alike)),
        Line("head", "KL of the expression's distribution, nats",
             agree.mean_kl(found[EXPRESSION], golden.outputs[EXPRESSION]), limits.expression_kl),
    ]  # fmt: skip
    return lines


def _sides(
    found: dict[str, Floats], golden: Golden, columns: list[int], limits: Tolerance
) -> list[Line]:
    """Left and right: judged on their own, since few faces move on one side alone, and figures of
    all values hardly tell where sides are exchanged."""
    exact = golden.outputs[AU_INTENSITY][:, columns]
    clear = agree.clear_sides(exact)
    limit = limits.side_same if clear.sum() >= LEAST_SIDES else None
    told = f"on {int(clear.sum())} movements of one side: same side"
    share = agree.same_side(found[AU_INTENSITY][:, columns], exact, clear)
    lines = [Line("head", f"intensity, {told}", share, limit, True)]
    if AU_SIDES in golden.outputs:
        here, there = found[AU_SIDES][:, columns], golden.outputs[AU_SIDES][:, columns]
        share = agree.same_side(here, there, clear)
        lines.append(Line("head", f"presence, {told}", share, limit, True))
    return lines


def _way(
    bundle: Bundle, eyes: VisionBackend, golden: Golden, limits: Tolerance
) -> tuple[list[Line], list[str]]:
    """Whole frames, through detector and crop, and what is off where they are."""
    stated, geometry = bundle.manifest.golden, bundle.manifest.geometry.crop()
    analyzer = Analyzer(bundle, vision=eyes, words=False)  # it must not be closed: eyes are ours
    frames = (golden.frame(k) for k in range(len(golden.frames)))  # many are too large at once
    seen = way.look(analyzer, frames)
    expected = np.isfinite(golden.frame_matrix).all((1, 2))
    other, there = seen.found != expected, seen.found & expected
    gaps = way.corners_apart(seen.matrix, golden.frame_matrix, geometry)[there]
    columns = [AU_INDEX[key] for key in bundle.manifest.aus_trained]
    wanted = golden.frame_au >= agree.shares(golden.facts.thresholds, AU_KEYS)
    same = (seen.present == wanted)[there][:, columns]
    alike = (seen.expression.argmax(1) == golden.frame_expression.argmax(1))[there]
    far = float(gaps.max()) if len(gaps) else float("nan") if expected.any() else 0.0
    lines = [
        Line("way", "frames whose face was not found, or found where none should be",
             float(other.sum()),
             stated.missed if stated else None),
        Line("way", "farthest corner of a crop, pixels of the crop", far,
             stated.crop_px if stated else None),
        Line("way", "AU decisions that are the same", mean(same.ravel()), limits.au_same, True,
             of=same.size),
        Line("way", "same expression first", mean(alike), limits.expression_same, True,
             of=len(alike)),
    ]  # fmt: skip
    likely = []
    if not lines[1].passed:
        likely = causes.of_crop(*way.off_by(seen.matrix, golden.frame_matrix, geometry))
    return lines, likely


def _worst_faces(
    found: dict[str, Floats], golden: Golden, said: Stated, wanted: Stated
) -> tuple[Worst, ...]:
    chances = np.abs(found[AU_PROBABILITY] - golden.outputs[AU_PROBABILITY]).max(1)
    chances = np.maximum(chances, np.abs(found[EXPRESSION] - golden.outputs[EXPRESSION]).max(1))
    other = (said.present != wanted.present).sum(1) + (said.expression != wanted.expression)
    order = sorted(range(len(golden)), key=lambda k: (-int(other[k]), -float(chances[k])))
    return tuple(
        Worst(k, _line_of(wanted, k), _line_of(said, k), float(chances[k])) for k in order[:WORST]
    )


def _line_of(stated: Stated, row: int) -> str:
    keys = [key for key, there in zip(AU_KEYS, stated.present[row], strict=True) if there]
    return f"{EXPRESSIONS[int(stated.expression[row])]}: {' '.join(keys) or 'no AU'}"
