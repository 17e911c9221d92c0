"""iBUG's 68 landmarks, the head's pose and the gaze: their order and their signs.

C. Sagonas et al., "300 Faces in-the-Wild Challenge", ICCV Workshops 2013, gives the order: jaw line
0–16, brows 17–26, nose 27–35, eyes 36–47, outer lips 48–59, inner lips 60–67; in each group from
the left of the picture, which is the subject's right.
"""

from __future__ import annotations

N_LANDMARKS = 68

MIRRORED: tuple[int, ...] = (
    *range(16, -1, -1),
    *range(26, 16, -1),
    *(27, 28, 29, 30),
    *range(35, 30, -1),
    *(45, 44, 43, 42, 47, 46),
    *(39, 38, 37, 36, 41, 40),
    *range(54, 47, -1),
    *range(59, 54, -1),
    *range(64, 59, -1),
    *(67, 66, 65),
)
"""Which landmark stands at each place of a mirrored picture."""

POSE = ("pitch", "yaw", "roll")
"""Degrees: pitch up, yaw to the head's own left, roll with the head's own left side up; turned by
yaw first, roll last, so that turning the picture changes roll alone."""

GAZE = ("up", "left")
"""Degrees of both eyes' mean direction in the head: up, and to the head's own left."""

FIVE: tuple[tuple[int, ...], ...] = (
    tuple(range(36, 42)),
    tuple(range(42, 48)),
    (30,),
    (48,),
    (54,),
)
"""The landmarks whose means are YuNet's five points: eyes, nose tip, corners of the mouth."""
