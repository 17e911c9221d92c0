"""The ICT-FaceKit head: mean, identity modes, expression shapes, and what can be derived of them.

R. Li et al., "Learning Formation of Physically-Based Face Attributes", CVPR 2020; MIT licence,
Copyright (c) 2020 USC Institute for Creative Technologies. Read either as its publisher ships it
(the folder `FaceXModel` of .obj files) or as one compact .npz. Units are centimetres by the head's
size; +x is the head's own left, +y up, +z forward.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from feallm.model.data import archive
from feallm.runtime.contract.errors import InputError

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]

N_VERTICES = 26719
N_IDENTITIES = 100

PARTS: dict[str, tuple[int, int]] = {  # vertices of each part; the publisher's own order
    "face": (0, 9409),
    "head_neck": (9409, 11248),
    "mouth_socket": (11248, 13294),
    "eye_socket_L": (13294, 13678),
    "eye_socket_R": (13678, 14062),
    "gums_tongue": (14062, 17039),
    "teeth": (17039, 21451),
    "sclera_L": (21451, 22221),
    "iris_L": (22221, 23021),
    "sclera_R": (23021, 23791),
    "iris_R": (23791, 24591),
    "lacrimal_L": (24591, 24795),
    "lacrimal_R": (24795, 24999),
    "eye_blend_L": (24999, 25023),
    "eye_blend_R": (25023, 25047),
    "eye_occlusion_L": (25047, 25199),
    "eye_occlusion_R": (25199, 25351),
    "eyelashes_L": (25351, 26035),
    "eyelashes_R": (26035, 26719),
}
_STARTS = np.array([start for start, _ in PARTS.values()])

_SIDED = (
    "browDown browInnerUp browOuterUp cheekPuff cheekRaiser cheekSquint eyeBlink eyeLookDown "
    "eyeLookIn eyeLookOut eyeLookUp eyeSquint eyeWide mouthDimple mouthFrown mouthLowerDown "
    "mouthPress mouthSmile mouthStretch mouthUpperUp noseSneer"
).split()
_MIDDLE = (
    "jawForward jawLeft jawOpen jawRight mouthClose mouthFunnel mouthLeft mouthPucker mouthRight "
    "mouthRollLower mouthRollUpper mouthShrugLower mouthShrugUpper"
).split()
SHAPES: tuple[str, ...] = tuple(
    sorted([*(f"{name}_{side}" for name in _SIDED for side in "LR"), *_MIDDLE])
)
"""The expression shapes that the renderer needs. `PupilDilate_*` move nothing that can be seen."""


@dataclass(frozen=True, slots=True)
class Head:
    """V = 26,719 vertices, T triangles, M identity modes; S = len(SHAPES)."""

    mean: Floats  # (V, 3) cm
    identity: Floats  # (M, V, 3) displacement for weight 1; weights are drawn from N(0, 1)
    expression: Floats  # (S, V, 3) displacement for weight 1, in the order of SHAPES
    triangles: Ints  # (T, 3) vertices
    uv: Floats  # (U, 2) texture coordinates, v upwards
    triangles_uv: Ints  # (T, 3) rows of uv
    landmarks68: Ints  # (68,) vertices, iBUG order

    @property
    def part(self) -> NDArray[np.int64]:
        """Number of each triangle's part (T,), in the order of PARTS: where parts share border
        vertices, the later one owns the triangle."""
        owner = np.searchsorted(_STARTS, self.triangles, "right").max(1) - 1
        return np.asarray(owner, np.int64)

    @property
    def digest(self) -> str:
        """Short hash of shapes and landmarks: renders of two heads must not be mixed.

        Rounded coarsely, to 2 cm, so that the compact file and the publisher's folder agree."""
        text = hashlib.sha256()
        for array in (self.mean, self.identity[:3].sum(1), self.expression[:, ::97].sum(1)):
            text.update((array / 2).round().astype(np.int32).tobytes())
        text.update(self.landmarks68.astype(np.int32).tobytes())
        return text.hexdigest()[:12]


def read(path: Path) -> Head:
    """A head from the publisher's folder (or one above it), or from a compact .npz.

    Raises `InputError` where a shape is missing, a count of vertices is wrong, or a file damaged.
    """
    if not path.exists():
        raise InputError(
            f"{path}: no such file or folder",
            hint="--head names ICT-FaceKit's folder FaceXModel, as its publisher ships it, or an "
            ".npz; without it, --data names the shared data",
        )
    if path.is_dir():
        inner = path / "FaceXModel"
        return _from_folder(inner if inner.is_dir() else path)
    return _from_archive(path)


def _from_archive(path: Path) -> Head:
    arrays = archive.read(
        path,
        *("neutral", "faces", "uv", "faces_uv", "identity", "expression"),
        *("expression_names", "landmarks68"),
    )
    names = [str(name) for name in arrays["expression_names"]]
    if missing := [name for name in SHAPES if name not in names]:
        raise InputError(f"{path}: no shape named {missing[0]}", hint=_hint(missing))
    for key, shape in (
        ("neutral", (N_VERTICES, 3)),
        ("identity", (N_IDENTITIES, N_VERTICES, 3)),
        ("expression", (len(names), N_VERTICES, 3)),
        ("landmarks68", (68,)),
    ):
        if arrays[key].shape != shape:
            raise InputError(f"{path}: {key} is {arrays[key].shape}, expected {shape}")
    rows = [names.index(name) for name in SHAPES]
    return Head(
        arrays["neutral"].astype(np.float32),
        arrays["identity"].astype(np.float32),
        arrays["expression"][rows].astype(np.float32),
        arrays["faces"].astype(np.int32),
        arrays["uv"].astype(np.float32),
        arrays["faces_uv"].astype(np.int32),
        arrays["landmarks68"].astype(np.int32),
    )


def _hint(missing: list[str]) -> str:
    return f"{len(missing)} of {len(SHAPES)} shapes are missing" if len(missing) > 1 else ""


def _from_folder(folder: Path) -> Head:
    mean, uv, triangles, triangles_uv = _mesh(folder / "generic_neutral_mesh.obj")
    table = folder / "vertex_indices.json"
    try:
        landmarks = np.array(json.loads(table.read_text())["idx_to_landmark_verts"], np.int32)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{table}: no readable list idx_to_landmark_verts") from error
    if landmarks.shape != (68,):
        raise InputError(f"{table}: {landmarks.shape} landmarks, expected 68")

    def displacement(name: str) -> Floats:
        moved: Floats = _vertices(folder / f"{name}.obj") - mean
        moved[np.abs(moved) < 1e-4] = 0  # noise of the text's last digit
        return moved

    return Head(
        mean,
        np.stack([displacement(f"identity{k:03d}") for k in range(N_IDENTITIES)]),
        np.stack([displacement(name) for name in SHAPES]),
        triangles,
        uv,
        triangles_uv,
        landmarks,
    )


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such shape") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def _vertices(path: Path, lines: list[str] | None = None) -> Floats:
    lines = _lines(path) if lines is None else lines
    try:
        found = np.array([line.split()[1:4] for line in lines if line.startswith("v ")], np.float32)
    except ValueError as error:
        raise InputError(f"{path}: a vertex is not three numbers") from error
    if found.shape != (N_VERTICES, 3):
        raise InputError(f"{path}: {len(found)} vertices, expected {N_VERTICES}")
    return found


def _mesh(path: Path) -> tuple[Floats, Floats, Ints, Ints]:
    """Vertices, texture coordinates, triangles and their texture ids; quads are split."""
    lines = _lines(path)
    triangles: list[tuple[int, int, int]] = []
    triangles_uv: list[tuple[int, int, int]] = []
    try:
        uv = np.array([line.split()[1:3] for line in lines if line.startswith("vt ")], np.float32)
        for line in lines:
            if line.startswith("f "):
                corners = [[int(n) - 1 for n in c.split("/")[:2]] for c in line.split()[1:]]
                for k in range(1, len(corners) - 1):
                    fan = (corners[0], corners[k], corners[k + 1])
                    triangles.append((fan[0][0], fan[1][0], fan[2][0]))
                    triangles_uv.append((fan[0][1], fan[1][1], fan[2][1]))
    except (ValueError, IndexError) as error:
        raise InputError(f"{path}: not a mesh with texture coordinates") from error
    return (
        _vertices(path, lines),
        uv,
        np.array(triangles, np.int32),
        np.array(triangles_uv, np.int32),
    )
