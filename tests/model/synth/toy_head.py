"""A head that is drawn by rule: the real one's parts and shapes, none of its beauty.

Not a test module: the conftest beside it loads it. Every number is a whole multiple of 1/64, so
that float16 and six decimals of text hold it exactly.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np

from feallm.model.synth.head import N_IDENTITIES, N_VERTICES, PARTS, SHAPES, Head

SIDE = 97  # the face is a sheet of SIDE x SIDE vertices
EDGE = 9.0  # cm: it reaches from -EDGE to EDGE
LIPS = -3.375  # cm: height of the line between the lips
EYE = np.array([3.2, 3.5])  # cm: middle of the left eye

# iBUG points of the right half of the face, the midline, and the lips' inner edge, cm
_RIGHT = {
    **dict(enumerate([(-7.4, 3.7), (-7.3, 1.5), (-6.9, -0.5), (-6.6, -2.4), (-5.7, -4.5),
                      (-4.3, -6.2), (-3.0, -6.9), (-1.5, -7.3)])),
    17: (-5.8, 5.2), 18: (-4.9, 6.0), 19: (-3.8, 6.3), 20: (-2.4, 6.2), 21: (-1.2, 5.9),
    31: (-1.25, -1.1), 32: (-0.6, -1.1), 36: (-4.5, 3.4), 37: (-3.9, 3.9), 38: (-2.8, 3.9),
    39: (-1.8, 3.25), 40: (-2.8, 3.0), 41: (-3.9, 3.0), 48: (-2.6, -3.4), 49: (-1.7, -2.8),
    50: (-0.75, -2.4), 60: (-2.2, -3.4), 61: (-1.0, LIPS + 0.1), 67: (-1.0, LIPS - 0.1),
    58: (-1.0, -4.3), 59: (-1.8, -4.0),
}  # fmt: skip
_MIDDLE = {
    8: (0, -7.6), 27: (0, 3.7), 28: (0, 2.6), 29: (0, 1.6), 30: (0, 0.4), 33: (0, -1.2),
    51: (0, -2.5), 62: (0, LIPS + 0.1), 66: (0, LIPS - 0.1), 57: (0, -4.4),
}  # fmt: skip
_TWIN = {
    **{k: 16 - k for k in range(8)}, 17: 26, 18: 25, 19: 24, 20: 23, 21: 22, 31: 35, 32: 34,
    36: 45, 37: 44, 38: 43, 39: 42, 40: 47, 41: 46, 48: 54, 49: 53, 50: 52, 60: 64, 61: 63,
    67: 65, 58: 56, 59: 55,
}  # fmt: skip

# Of each shape: what it moves, around where (cm), how far, and how far around. Sided shapes are
# written for the left and mirrored.
_ALL, _UP, _LOW, _LID, _POUCH = "all", "upper lip and above", "lower lip", "upper lid", "lower lid"
_BUMPS: dict[str, list[tuple[str, tuple[float, float], tuple[float, float, float], float]]] = {
    "browDown": [(_ALL, (2.6, 6.1), (-0.2, -0.4, 0.1), 1.4)],
    "browInnerUp": [(_ALL, (1.4, 6.0), (0.0, 0.6, 0.0), 0.9)],
    "browOuterUp": [(_ALL, (4.6, 6.0), (0.1, 0.8, -0.2), 1.1)],
    "cheekPuff": [(_ALL, (4.6, -2.5), (0.3, 0.0, 1.2), 1.6)],
    "cheekRaiser": [(_ALL, (5.84, 1.93), (-0.1, 0.6, 0.2), 0.8)],
    "cheekSquint": [(_ALL, (4.8, 2.2), (0.0, 0.4, 0.3), 1.0)],
    "eyeBlink": [(_LID, (3.3, 3.8), (0.0, -1.0, 0.0), 1.3)],
    "eyeLookDown": [(_LID, (3.3, 3.8), (0.0, -0.6, 0.1), 1.3)],
    "eyeLookIn": [(_LID, (2.4, 3.6), (-0.1, 0.0, 0.0), 0.7)],
    "eyeLookOut": [(_LID, (4.2, 3.6), (0.1, 0.0, 0.0), 0.7)],
    "eyeLookUp": [(_LID, (3.3, 3.8), (0.0, 0.3, 0.1), 1.2)],
    "eyeSquint": [(_POUCH, (3.3, 3.0), (0.0, 0.3, 0.0), 0.8)],
    "eyeWide": [(_LID, (3.3, 3.8), (0.0, 0.35, -0.1), 1.0)],
    "mouthDimple": [(_ALL, (2.6, -3.4), (0.2, 0.05, -0.6), 0.8)],
    "mouthFrown": [(_ALL, (2.6, -3.5), (0.1, -0.6, 0.0), 0.9)],
    "mouthLowerDown": [(_LOW, (0.9, -3.6), (0.0, -0.8, 0.0), 0.9)],
    "mouthPress": [(_UP, (1.5, -2.8), (0, -0.2, -0.2), 0.8), (_LOW, (1.5, -4), (0, 0.2, -0.2), 1)],
    "mouthSmile": [(_ALL, (2.6, -3.4), (0.8, 0.8, -0.3), 1.1)],
    "mouthStretch": [(_ALL, (2.6, -3.6), (0.9, -0.1, -0.2), 1.3)],
    "mouthUpperUp": [(_UP, (0.9, -2.7), (0.0, 0.6, 0.1), 0.9)],
    "noseSneer": [(_ALL, (1.1, -0.8), (0.0, 0.5, 0.2), 0.9), (_UP, (0.9, -2.7), (0, 0.3, 0), 0.8)],
    "jawForward": [(_LOW, (0.0, -6.5), (0.0, 0.0, 1.1), 3.0)],
    "jawLeft": [(_LOW, (0.0, -6.5), (1.0, 0.0, 0.0), 3.0)],
    "jawOpen": [(_LOW, (0.0, -5.5), (0.0, -4.2, -1.0), 3.0)],
    "jawRight": [(_LOW, (0.0, -6.5), (-1.0, 0.0, 0.0), 3.0)],
    "mouthClose": [(_LOW, (0.0, -3.5), (0.0, 3.3, 0.3), 1.6)],
    "mouthFunnel": [(_UP, (0, -2.8), (0, 0.2, 0.9), 1.3), (_LOW, (0, -4.2), (0, -0.5, 0.9), 1.3)],
    "mouthLeft": [(_ALL, (0.0, -3.4), (0.9, 0.0, 0.0), 2.0)],
    "mouthPucker": [(_ALL, (2.4, -3.4), (-0.8, 0, 0.3), 1), (_ALL, (-2.4, -3.4), (0.8, 0, 0.3), 1),
                    (_ALL, (0, -3.4), (0, 0, 0.8), 1.2)],
    "mouthRight": [(_ALL, (0.0, -3.4), (-0.9, 0.0, 0.0), 2.0)],
    "mouthRollLower": [(_LOW, (0.0, -4.2), (0.0, 0.4, -0.6), 1.1)],
    "mouthRollUpper": [(_UP, (0.0, -2.6), (0.0, -0.3, -0.6), 1.1)],
    "mouthShrugLower": [(_LOW, (0.0, -5.2), (0.0, 0.5, 0.5), 1.2)],
    "mouthShrugUpper": [(_UP, (0.0, -2.4), (0.0, 0.3, 0.4), 1.3)],
}  # fmt: skip


@cache
def head() -> Head:
    """The toy head; not to be changed."""
    mean = np.zeros((N_VERTICES, 3))
    uv = np.zeros((N_VERTICES, 2))
    for name, (start, end) in PARTS.items():
        mean[start:end] = _place(name, end - start)
    uv[:] = np.clip(0.5 + 0.4 * mean[:, :2] / EDGE, 0, 1)
    expression = np.stack([_shape(name, mean) for name in SHAPES])
    triangles = _fans(quads())
    return Head(
        _exact(mean),
        _exact(_identities(mean)),
        _exact(expression),
        triangles,
        _exact(uv),
        triangles,
        landmarks(),
    )


def landmarks() -> np.ndarray:
    """Vertices (68,) in iBUG order, mirrored about the middle column."""
    found = np.zeros(68, np.int32)
    for k, (x, y) in _MIDDLE.items():
        found[k] = _vertex(x, y)
    for k, (x, y) in _RIGHT.items():
        found[k], found[_TWIN[k]] = _vertex(x, y), _vertex(-x, y)
    return found


def quads() -> np.ndarray:
    """Four corners (Q, 4) of each facet, none over the eyes or between the lips."""
    kept = []
    for name, (start, end) in PARTS.items():
        wide = SIDE if name == "face" else 20
        tall = (end - start) // wide
        first = start + np.arange(tall * wide).reshape(tall, wide)
        corners = [first[1:, :-1], first[1:, 1:], first[:-1, 1:], first[:-1, :-1]]
        kept.append(np.stack([c.ravel() for c in corners], 1))
    found = np.concatenate(kept)
    middle = _place("face", SIDE**2)[:, :2][np.minimum(found, SIDE**2 - 1)].mean(1)
    on_face = found.max(1) < SIDE**2
    away = (np.abs(middle) * (1, 0) + middle * (0, 1) - EYE) / (1.3, 0.4)
    mouth = (np.abs(middle[:, 1] - LIPS) < 0.09) & (np.abs(middle[:, 0]) < 2.2)
    return found[~(on_face & ((np.linalg.norm(away, axis=1) < 1) | mouth))]


def compact(made: Head) -> dict[str, np.ndarray]:
    """Arrays of the compact file."""
    return {
        "neutral": made.mean,
        "faces": made.triangles,
        "uv": made.uv,
        "faces_uv": made.triangles_uv,
        "identity": made.identity.astype(np.float16),
        "expression": made.expression.astype(np.float16),
        "expression_names": np.array(SHAPES),
        "landmarks68": made.landmarks68,
    }


def write_folder(made: Head, folder: Path, *, identities: int) -> None:
    """The head as its publisher ships it, with so many identity modes."""
    folder.mkdir(parents=True)
    lines = _lines(made.mean)
    facets = [" ".join(f"{v + 1}/{v + 1}" for v in row) for row in quads().tolist()]
    (folder / "generic_neutral_mesh.obj").write_text(
        "\n".join(lines)
        + "".join(f"\nvt {u:.6f} {v:.6f}" for u, v in made.uv.tolist())
        + "".join(f"\nf {facet}" for facet in facets)
    )
    table = {"idx_to_landmark_verts": made.landmarks68.tolist()}
    (folder / "vertex_indices.json").write_text(json.dumps(table))
    names = [*(f"identity{k:03d}" for k in range(identities)), *SHAPES]
    for name, moved in zip(names, [*made.identity[:identities], *made.expression], strict=True):
        changed = lines.copy()
        rows = np.flatnonzero(moved.any(1))
        for row, line in zip(rows.tolist(), _lines(made.mean[rows] + moved[rows]), strict=True):
            changed[row] = line
        (folder / f"{name}.obj").write_text("\n".join(changed))


def _lines(points: np.ndarray) -> list[str]:
    return [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in points.tolist()]


def _exact(values: np.ndarray) -> np.ndarray:
    return (np.round(values * 64) / 64).astype(np.float32)


def _vertex(x: float, y: float) -> int:
    column, row = (round((v + EDGE) / (2 * EDGE) * (SIDE - 1)) for v in (x, -y))
    return row * SIDE + column


def _fans(corners: np.ndarray) -> np.ndarray:
    return corners[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3).astype(np.int32)


def _sheet(count: int, wide: int) -> np.ndarray:
    """Places (count, 2) -1–1 row by row from the top; what is left over lies in the last row."""
    tall = count // wide
    k = np.arange(count)
    row = np.minimum(k // wide, tall - 1)
    return np.stack([2 * (k % wide) / (wide - 1) - 1, 1 - 2 * row / max(tall - 1, 1)], 1)


def _place(name: str, count: int) -> np.ndarray:
    """Where a part's vertices (count, 3) lie, cm."""
    if name == "face":
        x, y = _sheet(count, SIDE).T * EDGE
        nose = 2.5 * np.exp(-(x**2) / 2 - (y - 0.5) ** 2 / 4)
        return np.stack([x, y, 11 - 0.06 * x**2 - 0.02 * y**2 + nose], 1)
    at = _sheet(count, 20)
    if name.startswith("iris"):
        k = (np.arange(count) + 0.5) / count  # a ball, its points evenly spread
        up, turn = 1 - 2 * k, np.pi * (1 + 5**0.5) * np.arange(count)
        round_ = np.sqrt(1 - up**2)
        ball = 1.4 * np.stack([round_ * np.cos(turn), up, round_ * np.sin(turn)], 1)
        return ball + np.array([EYE[0] * (1 if name.endswith("L") else -1), EYE[1], 8.4])
    if name == "teeth":  # two rows of them
        half = count // 2
        upper, lower = _sheet(half, 20), _sheet(count - half, 20)
        x = np.concatenate([upper[:, 0], lower[:, 0]]) * 2.5
        y = np.concatenate([upper[:, 1] * 0.4 - 2.9, lower[:, 1] * 0.4 - 3.9])
        return np.stack([x, y, 10.4 - 0.3 * x**2], 1)
    depth = {"head_neck": -3.0, "mouth_socket": 7.0, "gums_tongue": 7.5}.get(name, 5.0)
    size = 11.0 if name == "head_neck" else 2.5
    return np.stack([at[:, 0] * size, at[:, 1] * size - 3, np.full(count, depth)], 1)


def _shape(name: str, mean: np.ndarray) -> np.ndarray:
    bare, _, letter = name.partition("_")
    sign = -1 if letter == "R" else 1
    x, y = mean[:, 0] * sign, mean[:, 1]
    face = np.arange(len(mean)) < PARTS["face"][1]
    moved = np.zeros_like(mean)
    for what, centre, way, radius in _BUMPS[bare]:
        keep = (
            face
            & {
                _ALL: np.ones(len(mean), bool),
                _UP: y > LIPS,
                _LOW: y < LIPS,
                _LID: y > EYE[1] - 0.15,
                _POUCH: y < EYE[1] - 0.15,
            }[what]
        )
        near = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * radius**2))
        moved += np.where(near > 0.02, near * keep, 0)[:, None] * (np.array(way) * (sign, 1, 1))
    if bare == "jawOpen":
        start, end = PARTS["teeth"]
        moved[(start + end) // 2 : end] = (0, -3.8, -0.8)
    return moved


def _identities(mean: np.ndarray) -> np.ndarray:
    """Smooth modes, of which the later ones are smaller; the first few move nearly all of it."""
    rng = np.random.default_rng(0)
    x, y = mean[:, 0] / EDGE, mean[:, 1] / EDGE
    modes = np.zeros((N_IDENTITIES, *mean.shape))
    for k in range(N_IDENTITIES):
        a, b, phase = rng.integers(0, 3), rng.integers(0, 3), rng.uniform(0, 6)
        wave = np.cos(a * np.pi * x) * np.cos(b * np.pi * y + phase)
        modes[k, :, k % 3] = wave * 0.4 / (1 + k / 8)
    return modes
