"""Where a rendered head's face is: the box and five points that a detector is to give for it.

The box reaches from the hairline to the chin as people draw it for WIDER FACE, and so YuNet; it is
made from the 68 landmarks. The points are YuNet's idea of them: its tip of the nose lies lower and
its mouth is a little smaller than the head's own. Both were fitted to YuNet's answers on renders
(`python -m feallm.model.detector.places`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from feallm.model.data import archive
from feallm.model.data.pseudo import five_points
from feallm.model.detector.material import TEST_HEADS, Teacher

Points = NDArray[np.float64]  # (68, 2) or (5, 2) x y, pixels

FOREHEAD = 0.31
"""How far the box reaches above the brows, as a share of the way from the brows to the chin."""
WIDER = 0.01
"""By how much of its width the box is wider than the landmarks, on each side."""
LOWER = 0.02
"""By how much of its height the box ends below the landmarks."""
SHIFT = ((-0.005, -0.027), (0.005, -0.027), (0.0, 0.048), (-0.016, -0.08), (0.016, -0.08))
"""From the head's five points to YuNet's: to the right and down of an upright face, as shares of
the way from the middle of the eyes to the middle of the mouth."""


def box_of(points68: Points) -> NDArray[np.float64]:
    """The box x0 y0 x1 y1 of a face with these landmarks (68, 2)."""
    chin, brows = points68[8], points68[17:27]
    up = (brows.mean(0) - chin) * FOREHEAD
    outline = np.concatenate([points68, brows + up])
    low, high = outline.min(0), outline.max(0)
    wide, tall = high - low
    left, right, end = low[0] - WIDER * wide, high[0] + WIDER * wide, high[1] + LOWER * tall
    return np.array([left, low[1], right, end], np.float64)


def points_of(points68: Points) -> Points:
    """The five points (5, 2) of a face with these landmarks (68, 2)."""
    five: Points = five_points(points68[None].astype(np.float32))[0].astype(np.float64)
    down = five[3:].mean(0) - five[:2].mean(0)
    right = np.array([down[1], -down[0]])
    shift = np.array(SHIFT)
    return np.asarray(five + shift[:, :1] * right + shift[:, 1:] * down, np.float64)


def main() -> None:
    """Compare with YuNet's answers on heads before plain gray, and print what would fit better."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--heads", type=Path, required=True, help="a heads.npz of `material`")
    asked = parser.parse_args()
    arrays = archive.read(asked.heads, "images", "offsets", "points68", "occluded")
    images = archive.encoded(asked.heads, arrays)
    teacher = Teacher(asked.data)
    edges, shifts, shares, rough = [], [], [], []
    for i in np.flatnonzero(arrays["occluded"] < 0.02)[:TEST_HEADS].tolist():
        bgra = archive.picture(asked.heads, i, images[i], cv2.IMREAD_UNCHANGED)
        cover = bgra[..., 3:] / 255
        cut = np.asarray(bgra[..., :3] * cover + 128 * (1 - cover), np.uint8)
        framed = cv2.copyMakeBorder(cut, 40, 40, 40, 40, cv2.BORDER_CONSTANT, value=(128,) * 3)
        found = teacher.find(np.asarray(framed, np.uint8))
        if len(found) != 1 or found[0, 14] < 0.7:
            continue
        marks = arrays["points68"][i].astype(np.float64) + 40
        x, y, w, h = found[0, :4]
        box = box_of(marks)
        edges.append((np.array([x, y, x + w, y + h]) - box) / np.tile(box[2:] - box[:2], 2))
        low, high = np.maximum(box[:2], [x, y]), np.minimum(box[2:], [x + w, y + h])
        shared = np.clip(high - low, 0, None).prod()
        shares.append(shared / (w * h + (box[2:] - box[:2]).prod() - shared))
        five = points_of(marks)
        down = five[3:].mean(0) - five[:2].mean(0)
        right = np.array([down[1], -down[0]])
        away = found[0, 4:14].reshape(5, 2) - five
        shifts.append(np.stack([away @ right, away @ down], 1) / (down @ down))
        rough.append(np.linalg.norm(away, axis=1).mean() / np.linalg.norm(marks[45] - marks[36]))
    print(f"{len(edges)} heads; overlap of the boxes {np.median(shares):.3f}")
    print("edges of YuNet's box from ours, left top right bottom:", np.median(edges, 0).round(3))
    print("shift of YuNet's points from ours:", np.median(shifts, 0).round(3).tolist())
    print(f"mean distance of the points, share of the outer eye corners': {np.median(rough):.3f}")


if __name__ == "__main__":
    main()
