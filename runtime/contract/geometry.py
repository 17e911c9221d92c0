"""Crop geometry: where the five points of a face come to lie in the network's picture.

docs/adr/0002-crop-geometry.md tells how it was chosen. The five points stand in YuNet's order:
the subject's right eye (left in the picture), left eye, nose tip, right and left mouth corner.
"""

from __future__ import annotations

from dataclasses import dataclass

Point = tuple[float, float]
FivePoints = tuple[Point, Point, Point, Point, Point]


@dataclass(frozen=True, slots=True)
class CropGeometry:
    """Size of a crop, the places of the five points in it, and the gray around the picture."""

    width_px: int
    height_px: int
    points_px: FivePoints
    border: int  # gray value 0–255 beyond the picture's edge, all channels

    def __post_init__(self) -> None:
        if self.width_px < 16 or self.height_px < 16 or not 0 <= self.border <= 255:
            raise ValueError(f"impossible crop geometry: {self}")


CROP = CropGeometry(
    width_px=112,
    height_px=128,
    points_px=((36.5, 42.0), (75.5, 42.0), (56.0, 60.2), (40.8, 83.6), (71.2, 83.6)),
    border=128,
)
"""The project's crop. Final: weights, regions and golden outputs depend on it."""

MEAN_POINTS_CROP: FivePoints = (
    (0.319, 0.387), (0.679, 0.384), (0.499, 0.577), (0.357, 0.767), (0.650, 0.765),
)  # fmt: skip
"""Mean place of the five points in a FER picture, as shares of its sides: median over 24,211
pictures of FER+ `train`. Stands in for the points of pictures that are face crops already."""

MEAN_POINTS_HAAR: FivePoints = (
    (0.311, 0.389), (0.696, 0.386), (0.515, 0.607), (0.348, 0.777), (0.675, 0.774),
)  # fmt: skip
"""The same in a box of OpenCV's frontalface_alt2 cascade: median over 399 photos of LFW's
training part, points by YuNet. Its boxes are close to FER's crops (which such a cascade made), and
training takes them where only such a box is known."""

MEAN_POINTS_BOX: FivePoints = (
    (0.263, 0.375), (0.737, 0.375), (0.503, 0.572), (0.300, 0.730), (0.700, 0.730),
)  # fmt: skip
"""The same in a box of YuNet's kind, for faces of which a caller knows the box alone: median over
7,733 faces of LFW's training part, London's odd ids and the CC0 portraits, both eyes and both
corners of the mouth made symmetric."""
