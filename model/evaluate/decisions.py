"""What is declared of faces at rest, at the shipped thresholds: AUs that nobody sees there are what
a user notices first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from feallm.model.evaluate.figures import Outputs
from feallm.model.evaluate.metrics import Bools
from feallm.runtime.backends.base import AU_PROBABILITY, EXPRESSION
from feallm.runtime.contract.aus import AU_KEYS
from feallm.runtime.contract.expressions import EXPRESSION_INDEX


def at_rest(
    outputs: Outputs, neutral: Bools, excused: Bools | None, thresholds: Mapping[str, float]
) -> dict[str, Any]:
    """Of the faces (N,) that are labelled neutral: how many AUs are declared on one, how many of
    them beyond what a reader saw (`excused` (N, 20), where readers looked), and how often neutral
    comes first; {} where there are none."""
    if not neutral.any():
        return {}
    limits = np.array([thresholds.get(key, np.inf) for key in AU_KEYS])
    called = (outputs[AU_PROBABILITY] >= limits)[neutral]
    first = outputs[EXPRESSION][neutral].argmax(1) == EXPRESSION_INDEX["neutral"]
    found: dict[str, Any] = {
        "n": int(neutral.sum()),
        "declared": float(called.sum(1).mean()),
        "neutral_first": float(first.mean()),
    }
    if excused is not None:
        called = called & ~excused[neutral]
        found["beyond_readers"] = float(called.sum(1).mean())
    found["by_au"] = {
        key: int(count) for key, count in zip(AU_KEYS, called.sum(0), strict=True) if count
    }
    return found
