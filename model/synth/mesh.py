"""The part of the head that is drawn, and the person and movement that it is given."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from feallm.model.synth.head import PARTS, Head

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]

SKIN = ("face", "head_neck", "eye_socket_L", "eye_socket_R")
MOUTH = ("mouth_socket", "gums_tongue", "teeth")
EYES = ("iris_L", "iris_R")  # the clear outer balls and the transparent shells are left out
_NAMES = tuple(PARTS)


@dataclass(frozen=True, slots=True)
class Group:
    """Triangles that one shader draws. N corners: pairs of a vertex and its texture place."""

    vertex: Ints  # (N,) rows of `Mesh` vertices
    uv: Floats  # (N, 2), v upwards
    part: Ints  # (N,) number of the part in the group's own list
    triangles: Ints  # (T, 3) rows of the corners


@dataclass(frozen=True, slots=True)
class Mesh:
    """The drawn head. V vertices (fewer than the head's), M identity modes, S shapes."""

    mean: Floats  # (V * 3,)
    identity: Floats  # (M, V * 3)
    expression: Floats  # (S, V * 3)
    skin: Group
    mouth: Group
    eyes: Group
    landmarks: Ints  # (68,) vertices
    probes: Ints  # (P,) vertices that labels are read from
    eye_rows: tuple[NDArray[np.int64], NDArray[np.int64]]  # vertices of the left, right eyeball
    skin_vertices: int  # skin vertices come first
    _skin_faces: Ints  # (T, 3) vertices
    _sum_faces: sparse.csr_matrix  # (skin vertices, T): 1 where a triangle touches a vertex
    _to_neighbours: sparse.csr_matrix  # (skin vertices, skin vertices): mean of neighbours - self

    @staticmethod
    def of(head: Head, probes: NDArray[np.int64]) -> Mesh:
        """The drawn part of a head; `probes` are vertices of the head (P,)."""
        part = head.part
        order = np.concatenate([np.arange(*PARTS[name]) for name in (*SKIN, *MOUTH, *EYES)])
        row = np.full(len(head.mean), -1, np.int64)
        row[order] = np.arange(len(order))

        def group(names: tuple[str, ...], behind: float) -> Group:
            """Triangles of some parts, without those that no camera sees: behind a depth, cm."""
            numbers = [_NAMES.index(name) for name in names]
            mine = np.isin(part, numbers) & (head.mean[head.triangles, 2].max(1) > behind)
            corners = np.stack([row[head.triangles[mine]], head.triangles_uv[mine]], 2).reshape(
                -1, 2
            )
            pairs, where = np.unique(corners, axis=0, return_inverse=True)
            own = np.zeros(len(pairs), np.int32)
            own[where] = np.repeat(np.searchsorted(numbers, part[mine]), 3)
            return Group(
                pairs[:, 0].astype(np.int32),
                head.uv[pairs[:, 1]],
                own,
                where.reshape(-1, 3).astype(np.int32),
            )

        skin = group(SKIN, -7.0)
        skin_faces = skin.vertex[skin.triangles]
        count = sum(PARTS[name][1] - PARTS[name][0] for name in SKIN)
        number = np.repeat(np.arange(len(skin_faces)), 3)
        ones = np.ones(len(number), np.float32)
        touches = sparse.csr_matrix(
            (ones, (skin_faces.ravel(), number)), shape=(count, len(skin_faces))
        )
        linked = touches @ touches.T
        linked.setdiag(0)
        linked.eliminate_zeros()
        linked.data[:] = 1
        degree = np.maximum(np.asarray(linked.sum(1)).ravel(), 1)
        mean = sparse.diags((1 / degree).astype(np.float32)) @ linked
        around = (mean - sparse.identity(count, np.float32)).tocsr()
        eyes = tuple(row[np.arange(*PARTS[name])] for name in EYES)
        return Mesh(
            head.mean[order].reshape(-1),
            np.ascontiguousarray(head.identity[:, order].reshape(len(head.identity), -1)),
            np.ascontiguousarray(head.expression[:, order].reshape(len(head.expression), -1)),
            skin,
            group(MOUTH, 6.5),
            group(EYES, 7.6),
            row[head.landmarks68].astype(np.int32),
            row[probes].astype(np.int32),
            (eyes[0], eyes[1]),
            count,
            skin_faces,
            touches,
            around,
        )

    def person(self, weights: NDArray[np.floating]) -> Floats:
        """A person's face at rest (V, 3) cm for identity weights (M,)."""
        rest = self.mean + weights.astype(np.float32) @ self.identity
        return np.asarray(rest.reshape(-1, 3), np.float32)

    def movement(self, weights: NDArray[np.floating]) -> Floats:
        """Displacement (V, 3) cm for shape weights (S,)."""
        used = np.flatnonzero(weights)
        moved = weights[used].astype(np.float32) @ self.expression[used]
        return np.asarray(moved.reshape(-1, 3), np.float32)

    def normals(self, points: Floats) -> Floats:
        """Unit normals (skin vertices, 3) of points (V, 3), weighted by area."""
        a, b, c = (points[self._skin_faces[:, k]] for k in range(3))
        u, v = (b - a).T, (c - a).T
        face = np.stack(
            [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]], 1
        )
        summed = self._sum_faces @ face
        length = np.sqrt(_summed(summed**2))[:, None]
        return np.asarray(summed / np.maximum(length, 1e-9), np.float32)

    def hollowness(self, points: Floats, normals: Floats) -> Floats:
        """How far each skin vertex lies below its neighbours (skin vertices,), in shares of a
        typical step between them: above 0 in folds, below on ridges.

        `points` (V, 3) cm; `normals` as `normals` gives them.
        """
        away = self._to_neighbours @ points[: self.skin_vertices]
        size = np.sqrt(_summed(away**2)).mean()
        return np.asarray(_summed(away * normals) / size, np.float32)


def _summed(rows: Floats) -> Floats:
    """Sums (N,) of rows (N, 3), column by column: five times as fast as along the short axis."""
    return np.asarray(rows[:, 0] + rows[:, 1] + rows[:, 2])


def openness(points: Floats, normals: Floats) -> Floats:
    """How much of the surroundings each vertex sees (N,), 0–1: nostrils, sockets and ears less.

    From heights around it: the mean of how far neighbours within 1.5 cm stand above its plane.
    """
    n = len(points)
    open_ = np.ones(n, np.float32)
    order = np.argsort(points[:, 1], kind="stable")
    sorted_y = points[order, 1]
    for i in range(n):
        a, b = np.searchsorted(sorted_y, (points[i, 1] - 1.5, points[i, 1] + 1.5))
        near = points[order[a:b]] - points[i]
        distance = np.sqrt((near**2).sum(1))
        close = near[(distance < 1.5) & (distance > 0.15)]
        if len(close):
            height = (close @ normals[i]) / np.sqrt((close**2).sum(1))
            open_[i] = 1 - 0.8 * float(np.clip(height, 0, 1).mean()) * 2
    return np.asarray(open_.clip(0.2, 1.0), np.float32)
