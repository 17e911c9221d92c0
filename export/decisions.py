"""How far an artifact's answers lie from the float network's, and how many decisions change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feallm.runtime.backends.base import AU_PROBABILITY, EXPRESSION
from feallm.runtime.contract.aus import AU_INDEX

LEAST_POSITIVES = 20
"""An AU counts where the float network sees it on so many faces: an F1 of three says nothing."""

Outputs = Mapping[str, NDArray[np.float32]]


def compare(
    found: Outputs,
    exact: Outputs,
    thresholds: Mapping[str, float],
    own: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """F1 of the AU decisions with the float network's as the truth (mean, worst and whose), share
    of faces with the same expression first, and each output's error. N faces, rows alike.

    own: thresholds of the artifact where they are not the network's. The error of an output:
    `max`, `mean` absolute and `relative`, its root mean square over that of the float output.
    """
    keys = list(thresholds)
    columns = [AU_INDEX[key] for key in keys]
    here = np.array([(own or thresholds)[key] for key in keys])
    there = np.array([thresholds[key] for key in keys])
    seen = found[AU_PROBABILITY][:, columns] >= here
    true = exact[AU_PROBABILITY][:, columns] >= there
    both, each = (seen & true).sum(0), seen.sum(0) + true.sum(0)
    scores = {
        key: float(2 * both[k] / each[k])
        for k, key in enumerate(keys)
        if true[:, k].sum() >= LEAST_POSITIVES
    }
    same = found[EXPRESSION].argmax(1) == exact[EXPRESSION].argmax(1)
    worst = min(scores, key=scores.__getitem__) if scores else None
    return {
        "faces": len(same),
        "au_f1": float(np.mean(list(scores.values()))) if scores else None,
        "aus": len(scores),
        "worst_au": worst,
        "worst_au_f1": scores[worst] if worst else None,
        "au_decisions_same": float((seen == true).mean()),
        "expression_same": float(same.mean()),
        "error": {name: _error(found[name], value) for name, value in exact.items()},
    }


def _error(found: NDArray[np.float32], exact: NDArray[np.float32]) -> dict[str, float]:
    gap = np.abs(found.astype(np.float64) - exact)
    scale = float(np.sqrt(np.mean(np.square(exact, dtype=np.float64))))
    return {
        "max": float(gap.max()),
        "mean": float(gap.mean()),
        "relative": float(np.sqrt(np.mean(gap**2)) / max(scale, 1e-12)),
    }
