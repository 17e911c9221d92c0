"""The 16 named, overlapping face regions of the Local Clue Aggregator, as data.

Boxes are x0 y0 x1 y1 in pixels of the project's crop (`geometry.CROP`, 112 x 128). "right" is the
subject's right, which is the left of the picture. `PAPER16` is the grid of half, three-quarter and
quarter crops that arXiv 2505.13419 draws (three of the 16 are in its figure, the rest inferred),
stretched to the crop; the two tables are interchangeable.
"""

from __future__ import annotations

from dataclasses import dataclass

from feallm.runtime.contract.geometry import CROP


@dataclass(frozen=True, slots=True)
class Region:
    """A named box of the crop."""

    name: str
    box_px: tuple[float, float, float, float]
    text: str  # how a sentence calls it


REGIONS: tuple[Region, ...] = (
    Region("forehead", (14, 0, 98, 35), "forehead"),
    Region("glabella", (40, 16, 72, 50), "area between the brows"),
    Region("brow_right", (12, 11, 56, 45), "right brow"),
    Region("brow_left", (56, 11, 100, 45), "left brow"),
    Region("eye_right", (18, 27, 55, 59), "right eye"),
    Region("eye_left", (57, 27, 94, 59), "left eye"),
    Region("nose_root", (41, 37, 71, 65), "root of the nose"),
    Region("nose_base", (36, 52, 76, 77), "base of the nose"),
    Region("cheek_right", (9, 47, 48, 89), "right cheek"),
    Region("cheek_left", (64, 47, 103, 89), "left cheek"),
    Region("upper_lip", (36, 65, 76, 89), "upper lip"),
    Region("mouth", (31, 70, 81, 107), "mouth"),
    Region("corner_right", (25, 68, 53, 102), "right lip corner"),
    Region("corner_left", (59, 68, 87, 102), "left lip corner"),
    Region("chin", (32, 91, 80, 128), "chin"),
    Region("lower_face", (9, 65, 103, 128), "lower face"),
)

REGION_NAMES: tuple[str, ...] = tuple(region.name for region in REGIONS)


def _paper_boxes() -> tuple[Region, ...]:
    width, height = CROP.width_px, CROP.height_px
    regions = []
    for share, word in ((0.5, "half"), (0.75, "three quarters")):
        for side, x0, y0, x1, y1 in (
            ("upper", 0.0, 0.0, 1.0, share),
            ("lower", 0.0, 1 - share, 1.0, 1.0),
            ("left", 0.0, 0.0, share, 1.0),
            ("right", 1 - share, 0.0, 1.0, 1.0),
            ("upper left", 0.0, 0.0, share, share),
            ("upper right", 1 - share, 0.0, 1.0, share),
            ("lower left", 0.0, 1 - share, share, 1.0),
            ("lower right", 1 - share, 1 - share, 1.0, 1.0),
        ):
            box = (x0 * width, y0 * height, x1 * width, y1 * height)
            name = f"{side} {word}".replace(" ", "_")
            regions.append(Region(name, box, f"{side} {word} of the picture"))
    return tuple(regions)


PAPER16: tuple[Region, ...] = _paper_boxes()
