"""Which labels are unknown: their evidence is hidden, or coders would not agree."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from feallm.model.synth.sample import Shot
from feallm.runtime.contract.aus import AU_INDEX

Floats = NDArray[np.float32]

_HIDDEN = 0.55  # share of an AU's evidence that may be covered before its label is unknown

# Landmarks (iBUG) near which an AU is seen; a sided AU is judged with both sides.
_EVIDENCE: dict[str, tuple[int, ...]] = {
    "AU1": (20, 21, 22, 23),
    "AU2": (17, 18, 19, 24, 25, 26),
    "AU4": (20, 21, 22, 23, 27),
    "AU5": (37, 38, 43, 44),
    "AU6": (36, 40, 41, 45, 46, 47),
    "AU7": (40, 41, 46, 47),
    "AU9": (27, 28, 29, 31, 35),
    "AU10": (31, 35, 50, 51, 52),
    "AU12": (48, 54),
    "AU14": (48, 54),
    "AU15": (48, 54, 59, 55),
    "AU17": (57, 8, 7, 9),
    "AU18": (48, 51, 54, 57),
    "AU20": (48, 54),
    "AU23": (48, 51, 54, 57),
    "AU24": (51, 57, 62, 66),
    "AU25": (61, 62, 63, 65, 66, 67),
    "AU26": (57, 8, 62, 66),
    "AU28": (51, 57, 62, 66),
    "AU43": (36, 37, 38, 39, 42, 43, 44, 45),
}


def covered(hidden: Floats, flat: NDArray[np.float64]) -> Floats:
    """How far each landmark (68,) is covered, 0–1."""
    if not hidden.any():
        return np.zeros(68, np.float32)
    soft = cv2.GaussianBlur(hidden, (0, 0), 2.5)
    at = flat.astype(np.float32)
    found = cv2.remap(soft, at[:, 0], at[:, 1], cv2.INTER_LINEAR)
    return np.asarray(found, np.float32).reshape(-1)


def unknown(labels: NDArray[np.float64], hidden: Floats, shot: Shot) -> NDArray[np.float64]:
    """Labels without those whose evidence is covered, or on which coders would not agree."""
    known = labels.copy()
    for key, marks in _EVIDENCE.items():
        if hidden[list(marks)].mean() > _HIDDEN:
            known[AU_INDEX[key]] = np.nan
    frown, nose = AU_INDEX["AU4"], AU_INDEX["AU9"]
    asked = shot.au_sides[frown].max()
    if asked == 0 and labels[nose].max() >= 1:  # the nose lowers the brows too: not scored apart
        known[frown] = np.nan
    lip, smile = AU_INDEX["AU10"], AU_INDEX["AU12"]
    if shot.au_sides[lip].max() == 0 and labels[smile].max() >= 1:
        # teeth bared by a smile are not scored as AU10, and cannot be told from a slight one
        known[lip] = np.where(labels[lip] >= 0.5, np.nan, labels[lip])
    if shot.gaze_deg[0] < -18:  # lids that follow the eyes down look shut
        shut = AU_INDEX["AU43"]
        known[shut] = np.where(labels[shut] >= 3, labels[shut], np.nan)
    return known
