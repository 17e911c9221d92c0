"""How each action unit moves the head: which expression shapes, and how far at A to E.

Chosen by looking at the head (docs/renders.md has the pictures), beside the publisher's own table
of shapes and the descriptions of P. Ekman, W. V. Friesen, J. C. Hager, "Facial Action Coding
System. The Manual" (2002). The head has no shape for AU23, the lip tightener: it is `APPROXIMATE`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from feallm.model.synth.head import SHAPES
from feallm.runtime.contract.aus import AU_BY_KEY, AU_INDEX, N_AUS

LEFT, RIGHT = 0, 1
SIDES = "LR"

# Weights of the shapes at E. A name without a side stands for both _L and _R of a sided AU.
AT_E: dict[str, dict[str, float]] = {
    "AU1": {"browInnerUp": 1.75},
    "AU2": {"browOuterUp": 1.2},
    "AU4": {"browDown": 1.75},
    "AU5": {"eyeWide": 1.3},
    "AU6": {"cheekRaiser": 1.25, "cheekSquint": 0.6, "eyeSquint": 0.3, "eyeBlink": 0.06},
    "AU7": {"eyeSquint": 1.5, "eyeBlink": 0.28},
    "AU9": {"noseSneer": 1.0, "browDown": 0.3},
    "AU10": {"mouthUpperUp": 1.0},
    "AU12": {"mouthSmile": 1.0},
    "AU14": {"mouthDimple": 1.2},
    "AU15": {"mouthFrown": 1.5},
    "AU17": {"mouthShrugLower": 1.1, "mouthShrugUpper": 0.2},
    "AU18": {"mouthPucker": 1.0},
    "AU20": {"mouthStretch": 1.3},
    "AU23": {"mouthRollLower": 0.28, "mouthRollUpper": 0.28, "mouthPucker": 0.12},
    "AU24": {"mouthPress": 1.2, "mouthRollLower": 0.34, "mouthRollUpper": 0.34},
    "AU25": {"mouthLowerDown": 0.9, "mouthUpperUp": 0.14, "jawOpen": 0.1},
    "AU26": {"jawOpen": 0.5},
    "AU28": {"mouthRollLower": 0.95, "mouthRollUpper": 0.85, "jawOpen": 0.1, "mouthClose": 0.1},
    "AU43": {"eyeBlink": 1.0},
}

APPROXIMATE = ("AU23",)
"""Drawn and labelled by weight, without a shape of its own; outside every mean."""

SHARE_AT = (0.0, 0.16, 0.32, 0.54, 0.78, 1.0)
"""Share of the movement at E that stands for no trace, A, B, C, D, E. FACS's steps are not equal:
A and B are narrow."""

SHUT_AT = (0.0, 0.74, 0.8, 0.86, 0.93, 1.0)
"""The same for AU43: A is a lid that covers the pupil, not one that droops a little."""


def share(au_sides: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shares 0–1 of the movement at E (20, 2) for intensities 0–5 (20, 2), left and right."""
    steps = np.arange(6.0)
    shares = np.interp(au_sides, steps, SHARE_AT)
    shares[AU_INDEX["AU43"]] = np.interp(au_sides[AU_INDEX["AU43"]], steps, SHUT_AT)
    return np.asarray(shares, np.float64)


def intensity(moved: NDArray[np.float64]) -> NDArray[np.float64]:
    """The way back, of any shape: 0–5; shares beyond 1 stay at 5, below 0 at 0. Not for AU43."""
    return np.asarray(np.interp(moved, SHARE_AT, np.arange(6.0)), np.float64)


def _columns() -> NDArray[np.float64]:
    table = np.zeros((N_AUS, 2, len(SHAPES)))
    for key, weights in AT_E.items():
        for name, weight in weights.items():
            for side, letter in enumerate(SIDES):
                sided = f"{name}_{letter}"
                if sided in SHAPES:
                    table[AU_INDEX[key], side, SHAPES.index(sided)] = weight
                elif AU_BY_KEY[key].sided:
                    raise ValueError(f"{key} is sided, {name} is not")
                else:  # half from each side, so that both together are the whole
                    table[AU_INDEX[key], side, SHAPES.index(name)] = weight / 2
    return table


SHAPE_WEIGHTS = _columns()
"""(20, 2, S): weights at E of each AU's left and right half."""


def shape_weights(au_sides: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights (S,) of the head's shapes for intensities (20, 2), left and right, 0–5.

    Where several AUs ask for one shape the weights add up; lids stop at closed, and `mouthClose`
    at the jaw it closes.
    """
    weights = np.einsum("as,asw->w", share(au_sides), SHAPE_WEIGHTS)
    for letter in SIDES:
        lid = SHAPES.index(f"eyeBlink_{letter}")
        weights[lid] = min(weights[lid], 1.0)
    close, jaw = SHAPES.index("mouthClose"), SHAPES.index("jawOpen")
    weights[close] = min(weights[close], weights[jaw])
    return np.asarray(weights, np.float64)
