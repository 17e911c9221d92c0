"""How far each artifact may lie from the golden outputs: what `feallm export` writes into the
manifest, for `feallm verify` to hold an artifact to.

Each limit is two to four times what was measured on the shipped checkpoint (docs/agreement.md), so
that another processor's rounding passes and one layer that is 5 % too strong does not.
"""

from __future__ import annotations

from feallm.export.matrix import EXPORTERS
from feallm.runtime.backends.base import (
    AU_INTENSITY,
    AU_PROBABILITY,
    AU_SIDES,
    EXPRESSION,
    GAZE,
    LANDMARKS,
    POSE,
    TOKENS,
)
from feallm.runtime.contract.manifest import LayerLimit, Part, TensorLimit, Tolerance
from feallm.runtime.verify.trace import LIMITS

CROP_PX, MISSED = 1.5, 0
"""Of the frames: crops stand where the network's own landmarks are, so that 8 bits move them a
little (.3 px measured; a crop that is off by 8 % lies 5 px off or more). No face may be missed."""

Limits = dict[str, TensorLimit]


def _eyes(sqnr_db: float, probability: float | None, points_db: float | None = None) -> Limits:
    """By one figure for all outputs, another for landmarks, which stand on a large constant."""
    scores = {
        name: TensorLimit(sqnr_db=sqnr_db, max=probability)
        for name in (AU_PROBABILITY, AU_SIDES, EXPRESSION)
    }
    strength = None if probability is None else 8 * probability
    return scores | {
        AU_INTENSITY: TensorLimit(sqnr_db=sqnr_db, max=strength),
        TOKENS: TensorLimit(sqnr_db=sqnr_db),
        LANDMARKS: TensorLimit(sqnr_db=points_db or sqnr_db),
        POSE: TensorLimit(sqnr_db=sqnr_db),
        GAZE: TensorLimit(sqnr_db=sqnr_db),
    }


_EYES: dict[str, Tolerance] = {
    "fp32": Tolerance(
        tensors=_eyes(60, 2e-3),
        au_same=0.999,
        expression_same=0.999,
        expression_kl=1e-5,
        intensity_icc=0.9999,
        side_same=0.95,
        no_worse=0.995,
        points=0.1,
        layers=LIMITS["fp32"],
    ),
    "fp16": Tolerance(
        tensors=_eyes(42, 1e-2, 55),
        au_same=0.995,
        expression_same=0.995,
        expression_kl=1e-4,
        intensity_icc=0.999,
        side_same=0.95,
        no_worse=0.99,
        points=0.3,
        layers=LIMITS["fp16"],
    ),
    "int8": Tolerance(
        tensors=_eyes(24, None, 44),
        au_same=0.985,
        expression_same=0.98,
        expression_kl=5e-3,
        intensity_icc=0.99,
        side_same=0.85,
        no_worse=0.97,
        points=0.5,
        layers=LIMITS["int8"],
    ),
    "int6": Tolerance(
        tensors=_eyes(17, None, 40),
        au_same=0.975,
        expression_same=0.95,
        expression_kl=2e-2,
        intensity_icc=0.97,
        side_same=0.75,
        no_worse=0.94,
        points=1.0,
        layers=LIMITS["int6"],
    ),
}


def _words(
    sqnr_db: float,
    kl: tuple[float, float],
    same_top: float,
    no_worse: float,
    points: float,
    layers: LayerLimit,
) -> Tolerance:
    return Tolerance(
        tensors={"logits": TensorLimit(sqnr_db=sqnr_db)},
        kl_mean=kl[0],
        kl_tail=kl[1],
        same_top=same_top,
        no_worse=no_worse,
        points=points,
        layers=layers,
    )


_WORDS: dict[str, Tolerance] = {
    "fp32": _words(60, (1e-7, 1e-5), 0.999, 0.995, 0.1, LIMITS["fp32"]),
    "fp16": _words(55, (1e-6, 1e-4), 0.998, 0.99, 0.3, LIMITS["fp16"]),
    "q8_0": _words(39, (5e-5, 5e-3), 0.993, 0.97, 0.5, LIMITS["q8_0"]),
    "8da8w": _words(36, (1e-4, 1e-2), 0.99, 0.97, 0.5, LIMITS["q8_0"]),
    "q6_k": _words(31, (3e-4, 2e-2), 0.988, 0.95, 1.0, LIMITS["q6_k"]),
    "q4_k_m": _words(22, (3e-3, 0.2), 0.98, 0.9, 2.0, LIMITS["q4_k_m"]),
    "8da4w": _words(20, (6e-3, 0.6), 0.975, 0.9, 2.0, LIMITS["q4_k_m"]),
}
_SEES = {"fp32": "fp32", "8da8w": "int8", "8da4w": "int8"}  # eyes of a file that holds both parts


def of(file: str) -> dict[Part, Tolerance]:
    """The tolerance of each part of a file of `matrix`; none of any other file."""
    exporter = EXPORTERS.get(file)
    found: dict[Part, Tolerance] = {}
    if exporter is None:
        return found
    if "vision" in exporter.parts:
        both = "language" in exporter.parts
        found["eyes"] = _EYES[_SEES[exporter.precision] if both else exporter.precision]
    if "language" in exporter.parts:
        found["words"] = _WORDS[exporter.precision]
    return found
