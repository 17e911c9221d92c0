"""AU intensities read off a moved head: what the geometry shows, whatever made it move.

The movement of landmarks against the same person's face at rest is taken apart by least squares
into the movements that each AU alone would make (`action_units`), left and right. Four AUs are
judged by what a coder looks at instead: the gap of the lips (AU25), the drop of the lower teeth
(AU26), the opening of the lids (AU43), the upper lid (AU5); and AU10 also counts the lip that a
wrinkled nose lifts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from feallm.model.synth.action_units import LEFT, RIGHT, SHAPE_WEIGHTS, intensity
from feallm.model.synth.head import PARTS, SHAPES, Head
from feallm.runtime.contract.aus import AU_INDEX, AU_KEYS, INTENSITY_MAX, N_AUS

Floats = NDArray[np.float64]

GAP_CM = (0.05, 0.14, 0.35, 0.75, 1.35, 2.2)
"""Gap between the lips beyond rest where no trace ends and A … E stand (AU25)."""
JAW_CM = (0.12, 0.30, 0.62, 1.05, 1.6, 2.2)
"""The same for the drop of the lower front teeth (AU26)."""
SHUT = (0.45, 0.26, 0.2, 0.14, 0.08, 0.02)
"""The same for the opening of the lids as a share of the same eye's at rest (AU43)."""
_LANDMARKS, _CHEEK_POINTS = 68, 12  # first probes; then cheeks left, cheeks right, teeth
_DIRECT = ("AU5", "AU25", "AU26", "AU43")
_OTHERS = (
    "cheekPuff_L cheekPuff_R jawForward jawLeft jawRight mouthClose mouthFunnel mouthLeft "
    "mouthRight mouthLowerDown_L mouthLowerDown_R mouthShrugUpper jawOpen eyeBlink_L eyeBlink_R"
).split()
_UPPER_LID = ((43, 44), (37, 38))  # iBUG points, subject's left and right
_LOWER_LID = ((47, 46), (41, 40))
_LIP = (52, 50)
_INNER_LIPS = ((61, 67), (62, 66), (63, 65))


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads labels off the moved points of one head model.

    P probe vertices: the 68 landmarks without the jaw line's upper part, cheeks, and lower teeth.
    """

    vertices: NDArray[np.int64]  # (P,) probes
    solve: Floats  # (K, P * 3) least squares: movement -> share of each column
    columns: tuple[tuple[str, int], ...]  # AU and side of each of the first columns
    lip_lift: Floats  # (K,) rise of the upper lip's side, cm, that a share of 1 makes, own side
    lid_lift: Floats  # (2,) rise of the upper lid at AU5 E

    @staticmethod
    def of(head: Head) -> Reader:
        """A reader for a head; the responses are taken from the head itself."""
        vertices = np.concatenate([head.landmarks68, _cheeks(head), _lower_teeth(head)]).astype(
            np.int64
        )
        moved = head.expression[:, vertices].reshape(len(SHAPES), -1).astype(np.float64)
        columns: list[tuple[str, int]] = []
        responses: list[Floats] = []
        for key in AU_KEYS:
            if key in _DIRECT or key in ("AU23", "AU28"):
                continue
            for side in (LEFT, RIGHT):
                columns.append((key, side))
                responses.append(SHAPE_WEIGHTS[AU_INDEX[key], side] @ moved)
        for key in ("AU28",):
            columns.append((key, LEFT))
            responses.append(SHAPE_WEIGHTS[AU_INDEX[key]].sum(0) @ moved)
        others = [moved[SHAPES.index(name)] for name in _OTHERS]
        matrix = np.stack([*responses, *others], 1)  # (P * 3, K)
        ridge = 1e-3 * np.eye(matrix.shape[1])
        solve = np.linalg.solve(matrix.T @ matrix + ridge, matrix.T)
        lift = np.zeros(len(columns))
        for k, (_, side) in enumerate(columns):
            lift[k] = responses[k].reshape(-1, 3)[_LIP[side], 1]
        wide = [
            (SHAPE_WEIGHTS[AU_INDEX["AU5"], side] @ moved).reshape(-1, 3)[list(_UPPER_LID[side]), 1]
            for side in (LEFT, RIGHT)
        ]
        return Reader(vertices, solve, tuple(columns), lift, np.array([w.mean() for w in wide]))

    def read(self, rest: Floats, moved: Floats, gaze: Floats | None = None) -> Floats:
        """Intensities (20, 2), 0–5, left and right; AU23 is not read (0).

        `rest`, `moved`: probe points (P, 3) in cm, of one person. `gaze`: the part of the movement
        (P, 3) that the lids make only because the eyes look elsewhere; it counts for closing
        (AU43) but not as AU5 or AU7.
        """
        by_muscle = moved - rest if gaze is None else moved - rest - gaze
        shares = self.solve @ by_muscle.ravel()
        result = np.zeros((N_AUS, 2))
        for k, (key, side) in enumerate(self.columns):
            result[AU_INDEX[key], side] = shares[k]
        result[AU_INDEX["AU28"], RIGHT] = result[AU_INDEX["AU28"], LEFT]
        self._upper_lip(result)
        for side in (LEFT, RIGHT):
            lid = by_muscle[list(_UPPER_LID[side]), 1].mean()
            wider = opening(rest + by_muscle, side) > opening(rest, side)
            result[AU_INDEX["AU5"], side] = lid / self.lid_lift[side] if wider else 0
        result = intensity(result)
        result[AU_INDEX["AU25"]] = _steps(gap_cm(moved) - gap_cm(rest), GAP_CM)
        teeth = slice(_LANDMARKS + 2 * _CHEEK_POINTS, None)
        drop = float((rest - moved)[teeth, 1].mean())
        result[AU_INDEX["AU26"]] = _steps(drop, JAW_CM)
        for side in (LEFT, RIGHT):
            open_share = opening(moved, side) / opening(rest, side)
            result[AU_INDEX["AU43"], side] = _steps(-open_share, tuple(-s for s in SHUT))
        for key in ("AU17", "AU18", "AU24", "AU28"):  # one muscle in the middle: no sides
            result[AU_INDEX[key]] = result[AU_INDEX[key]].mean()
        return result

    def _upper_lip(self, result: Floats) -> None:
        """A wrinkled nose lifts the lip as AU10 does."""
        for side in (LEFT, RIGHT):
            lifts = {
                key: self.lip_lift[k]
                for k, (key, s) in enumerate(self.columns)
                if s == side and key in ("AU9", "AU10")
            }
            carried = max(result[AU_INDEX["AU9"], side], 0.0) * lifts["AU9"] / lifts["AU10"]
            result[AU_INDEX["AU10"], side] += carried


def gap_cm(points: Floats) -> float:
    """Largest opening between the inner lips, cm, below 0 where they overlap; probes (P, 3)."""
    return float(max(points[up, 1] - points[low, 1] for up, low in _INNER_LIPS))


def opening(points: Floats, side: int) -> float:
    """Mean distance of the lids' edges of one eye, cm; probes (P, 3), `side` LEFT or RIGHT."""
    upper, lower = points[list(_UPPER_LID[side])], points[list(_LOWER_LID[side])]
    return float((upper[:, 1] - lower[:, 1]).mean())


def _steps(value: float, marks: tuple[float, ...]) -> float:
    return float(np.interp(value, marks, np.arange(INTENSITY_MAX + 1)))


def _cheeks(head: Head) -> NDArray[np.int64]:
    """Skin under each eye that a raised cheek moves and a smile hardly does, left then right."""
    start, end = PARTS["face"]
    found = []
    for letter in "LR":
        raised = head.expression[SHAPES.index(f"cheekRaiser_{letter}"), start:end, 1]
        smiling = head.expression[SHAPES.index(f"mouthSmile_{letter}"), start:end, 1]
        found.append(np.argsort(np.abs(smiling) - raised, kind="stable")[:_CHEEK_POINTS])
    return np.concatenate(found)


def _lower_teeth(head: Head) -> NDArray[np.int64]:
    """Vertices of the teeth that go down with the jaw, the foremost ones."""
    start, end = PARTS["teeth"]
    drop = -head.expression[SHAPES.index("jawOpen"), start:end, 1]
    lower = np.flatnonzero(drop > drop.max() / 2)
    front = head.mean[start + lower, 2]
    return start + lower[np.argsort(-front, kind="stable")[:24]]
