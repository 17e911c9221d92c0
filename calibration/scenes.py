"""What the golden frames show, thought of one by one: who, which AUs, in which light, and where.

`draw_frames` draws them. The first 25 show three or four variants of each expression's AUs; the
others show what belongs to none. Colours and patterns of the light were chosen, scene by scene,
among fifty or more drawn by chance: those with which exchanged channels disturb the network most
while the shipped detector stays sure.
"""

from __future__ import annotations

from dataclasses import dataclass

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (1.0, 0.16, 0.12),
    "orange": (1.0, 0.5, 0.08),
    "yellow": (1.0, 0.85, 0.1),
    "green": (0.2, 1.0, 0.25),
    "cyan": (0.1, 0.8, 1.0),
    "blue": (0.12, 0.36, 1.0),
    "violet": (0.5, 0.25, 1.0),
    "magenta": (1.0, 0.15, 0.85),
    "dark": (0.12, 0.12, 0.14),
}
"""Lamps and grounds: sRGB shares."""


@dataclass(frozen=True, slots=True)
class Lamps:
    """Two coloured lamps and how their light falls: through blinds, or through leaves."""

    first: str
    second: str
    how: str  # blinds or leaves
    turn_deg: float  # across the blinds, clockwise; 0: they stand upright
    fine: float  # bands, or leaves, in a face's width
    strength: float  # 1: each colour alone somewhere; 0: both mixed everywhere


@dataclass(frozen=True, slots=True)
class Scene:
    """One frame, as it was thought of."""

    who: int  # number of the person
    aus: str  # as FACS writes it: 12D on both sides, R12D on the subject's right
    expression: str  # or none
    pose_deg: tuple[float, float, float]  # pitch (up), yaw (to the head's own left), roll
    light: str  # of `LIGHTS`
    lamps: Lamps
    ground: tuple[str, str, str]  # kind and two colours
    size: tuple[int, int]  # width and height of the picture, pixels
    face_px: float  # height of the face's box
    place: tuple[float, float]  # of its middle, shares of the picture's sides
    glasses: bool = False


SCENES: tuple[Scene, ...] = (
    Scene(5, "6D 12D 25C", "happiness", (4, -8, 0), "window",
          Lamps("red", "blue", "leaves", 0, 17, 0.6),
          ("slope", "blue", "violet"), (320, 240), 120, (0.24, 0.5)),
    Scene(27, "12E 6D 25D 26B", "happiness", (-4, 12, 6), "even",
          Lamps("orange", "blue", "blinds", 60, 16, 0.3),
          ("plain", "green", "green"), (256, 256), 130, (0.66, 0.46)),
    Scene(33, "6D 12E 25C", "happiness", (0, 18, -10), "overhead",
          Lamps("orange", "blue", "blinds", 60, 16, 0.2),
          ("stripes", "green", "dark"), (240, 320), 150, (0.45, 0.45)),
    Scene(12, "1D 2D 5D 25C 26D", "surprise", (0, 0, 0), "window",
          Lamps("cyan", "red", "blinds", 60, 16, 0.25),
          ("checks", "yellow", "magenta"), (360, 270), 130, (0.75, 0.5)),
    Scene(52, "1E 2E 5D 25D 26E", "surprise", (6, 10, -6), "even",
          Lamps("red", "violet", "blinds", -20, 16, 0.25),
          ("slope", "green", "blue"), (300, 300), 150, (0.33, 0.48)),
    Scene(26, "1C 2C 5E 26C 25C", "surprise", (-5, -14, 0), "window",
          Lamps("violet", "red", "blinds", 20, 10, 0.3),
          ("plain", "cyan", "cyan"), (320, 240), 84, (0.82, 0.4)),
    Scene(15, "1D 4D 15D 17D", "sadness", (-8, 6, 4), "overhead",
          Lamps("blue", "orange", "blinds", 20, 16, 0.25),
          ("discs", "orange", "dark"), (260, 340), 160, (0.55, 0.4)),
    Scene(18, "1D 4D 15E", "sadness", (-4, -10, -8), "even",
          Lamps("blue", "orange", "blinds", 60, 14, 0.3),
          ("plain", "blue", "blue"), (256, 192), 110, (0.33, 0.5), glasses=True),
    Scene(49, "1E 4C 15D 17D", "sadness", (0, 15, 0), "window",
          Lamps("red", "cyan", "blinds", 45, 12, 0.3),
          ("slope", "red", "orange"), (400, 300), 140, (0.78, 0.5)),
    Scene(21, "4E 7D 23D", "anger", (0, 0, 0), "window",
          Lamps("magenta", "blue", "blinds", 45, 16, 0.25),
          ("stripes", "cyan", "dark"), (320, 240), 140, (0.4, 0.5)),
    Scene(20, "4E 7D 17D 24D", "anger", (-4, 10, 0), "even",
          Lamps("violet", "red", "leaves", 0, 14, 0.7),
          ("plain", "green", "green"), (280, 210), 110, (0.68, 0.48)),
    Scene(29, "4E 5D 25C 10C", "anger", (5, -12, 8), "flash",
          Lamps("red", "cyan", "blinds", 45, 16, 0.3),
          ("clouds", "orange", "blue"), (300, 360), 150, (0.37, 0.4)),
    Scene(35, "4E 7D 23D", "anger", (-3, 8, -15), "window",
          Lamps("red", "violet", "leaves", 0, 17, 0.7),
          ("slope", "magenta", "yellow"), (400, 300), 120, (0.2, 0.55)),
    Scene(31, "9E 10C", "disgust", (0, -6, 0), "window",
          Lamps("green", "red", "blinds", 45, 16, 0.3),
          ("plain", "red", "red"), (320, 240), 130, (0.64, 0.5)),
    Scene(40, "9E 10D 25C", "disgust", (4, 10, 10), "even",
          Lamps("red", "violet", "blinds", 60, 16, 0.25),
          ("discs", "blue", "yellow"), (256, 256), 140, (0.4, 0.5)),
    Scene(44, "9E 15D 17D", "disgust", (-4, -16, 0), "window",
          Lamps("red", "blue", "blinds", 60, 16, 0.2),
          ("checks", "green", "cyan"), (360, 270), 110, (0.83, 0.42)),
    Scene(14, "1E 2D 4D 5E 20E 25C", "fear", (0, 6, 0), "even",
          Lamps("cyan", "orange", "blinds", 60, 12, 0.3),
          ("plain", "magenta", "magenta"), (320, 240), 130, (0.3, 0.5)),
    Scene(58, "1E 4E 5E 20D 25D 26C", "fear", (5, -8, -10), "flash",
          Lamps("blue", "yellow", "blinds", 60, 16, 0.25),
          ("slope", "yellow", "red"), (240, 320), 150, (0.5, 0.45)),
    Scene(48, "1D 2C 4D 5E 20E 25D 26C", "fear", (-3, 14, 0), "even",
          Lamps("yellow", "blue", "blinds", 20, 14, 0.25),
          ("stripes", "orange", "dark"), (340, 255), 110, (0.72, 0.55)),
    Scene(10, "R14E R12B", "contempt", (0, -4, 0), "window",
          Lamps("blue", "orange", "blinds", 60, 16, 0.3),
          ("plain", "cyan", "cyan"), (300, 300), 170, (0.4, 0.5)),
    Scene(57, "L14E", "contempt", (-2, 5, 5), "window",
          Lamps("blue", "magenta", "blinds", 60, 16, 0.3),
          ("clouds", "violet", "orange"), (320, 240), 120, (0.68, 0.5)),
    Scene(37, "R12D", "contempt", (3, 0, 0), "even",
          Lamps("cyan", "red", "leaves", 0, 12, 0.7),
          ("slope", "blue", "green"), (280, 280), 150, (0.5, 0.45)),
    Scene(36, "", "neutral", (0, -5, 0), "even",
          Lamps("blue", "yellow", "leaves", 0, 14, 0.7),
          ("plain", "yellow", "yellow"), (320, 240), 120, (0.25, 0.45), glasses=True),
    Scene(45, "", "neutral", (-5, 20, 8), "window",
          Lamps("red", "cyan", "blinds", 45, 16, 0.25),
          ("slope", "cyan", "magenta"), (256, 320), 130, (0.6, 0.42)),
    Scene(24, "", "neutral", (4, -18, -24), "even",
          Lamps("yellow", "blue", "blinds", 45, 14, 0.25),
          ("checks", "red", "orange"), (400, 300), 130, (0.72, 0.5)),
    Scene(53, "18E", "none", (0, 8, 0), "even",
          Lamps("violet", "red", "leaves", 0, 17, 0.7),
          ("plain", "green", "green"), (320, 240), 120, (0.35, 0.5)),
    Scene(55, "18D 43E", "none", (-4, -8, 20), "window",
          Lamps("red", "violet", "blinds", 20, 10, 0.3),
          ("slope", "violet", "red"), (300, 240), 120, (0.64, 0.48), glasses=True),
    Scene(30, "43E 24D", "none", (0, 0, -6), "window",
          Lamps("orange", "blue", "leaves", 0, 17, 0.6),
          ("plain", "blue", "blue"), (320, 240), 120, (0.7, 0.5)),
    Scene(34, "28E", "none", (3, 12, 0), "even",
          Lamps("orange", "blue", "leaves", 0, 10, 0.55),
          ("discs", "magenta", "dark"), (260, 300), 150, (0.42, 0.45)),
    Scene(8, "28E 1D 2D", "none", (-2, -5, 3), "window",
          Lamps("red", "cyan", "blinds", 20, 16, 0.2),
          ("stripes", "blue", "violet"), (300, 220), 110, (0.3, 0.5)),
)  # fmt: skip
