"""The 20 facial action units (AUs) that the project reads: number, name, muscle, region.

Names and muscles follow the Facial Action Coding System: P. Ekman, W. V. Friesen, J. C. Hager,
"Facial Action Coding System. The Manual" (2002). The order of `AUS` is the order of every array
in the project that has an axis of AUs; an unnamed vector of AUs is a fault.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Part = Literal["upper", "lower"]

INTENSITY_MAX = 5.0
"""FACS scores intensity A to E; here A = 1 … E = 5, and 0 is "not there"."""

INTENSITY_LETTERS = ("A", "B", "C", "D", "E")
INTENSITY_MEANINGS = ("trace", "slight", "marked or pronounced", "severe or extreme", "maximum")


@dataclass(frozen=True, slots=True)
class ActionUnit:
    """One action unit, as FACS describes it."""

    number: int
    name: str
    muscle: str
    part: Part
    regions: tuple[str, ...]  # of `regions.REGIONS`, where its evidence lies
    sided: bool  # whether left and right can be told apart
    movement: str  # a clause without the AU's name: "the lip corners are pulled up"

    @property
    def key(self) -> str:
        """The name in rows, tables and texts: `AU12`."""
        return f"AU{self.number}"


_BROWS = ("forehead", "brow_right", "brow_left")
_EYES = ("eye_right", "eye_left")
_CORNERS = ("corner_right", "corner_left")
_CHEEKS = ("cheek_right", "cheek_left")

AUS: tuple[ActionUnit, ...] = (
    ActionUnit(1, "inner brow raiser", "frontalis, pars medialis", "upper",
               (*_BROWS, "glabella"), True, "the inner brows are raised"),
    ActionUnit(2, "outer brow raiser", "frontalis, pars lateralis", "upper",
               _BROWS, True, "the outer brows are raised"),
    ActionUnit(4, "brow lowerer", "corrugator supercilii, depressor supercilii, procerus", "upper",
               ("glabella", "brow_right", "brow_left", "nose_root"), True,
               "the brows are lowered and drawn together"),
    ActionUnit(5, "upper lid raiser", "levator palpebrae superioris", "upper",
               _EYES, True, "the upper lids are raised"),
    ActionUnit(6, "cheek raiser", "orbicularis oculi, pars orbitalis", "upper",
               (*_CHEEKS, *_EYES), True, "the cheeks are raised"),
    ActionUnit(7, "lid tightener", "orbicularis oculi, pars palpebralis", "upper",
               _EYES, True, "the lids are tightened"),
    ActionUnit(9, "nose wrinkler", "levator labii superioris alaeque nasi", "lower",
               ("nose_root", "nose_base", "glabella", "upper_lip"), True,
               "the nose is wrinkled"),
    ActionUnit(10, "upper lip raiser", "levator labii superioris", "lower",
               ("upper_lip", "nose_base", "mouth"), True, "the upper lip is raised"),
    ActionUnit(12, "lip corner puller", "zygomaticus major", "lower",
               (*_CORNERS, *_CHEEKS), True, "the lip corners are pulled up"),
    ActionUnit(14, "dimpler", "buccinator", "lower",
               _CORNERS, True, "the lip corners are tightened inwards"),
    ActionUnit(15, "lip corner depressor", "depressor anguli oris", "lower",
               (*_CORNERS, "chin"), True, "the lip corners are pulled down"),
    ActionUnit(17, "chin raiser", "mentalis", "lower",
               ("chin", "mouth"), False, "the chin is pushed up"),
    ActionUnit(18, "lip puckerer", "incisivii labii", "lower",
               ("mouth", "upper_lip", *_CORNERS), False, "the lips are puckered"),
    ActionUnit(20, "lip stretcher", "risorius", "lower",
               (*_CORNERS, "lower_face"), True, "the lips are stretched sideways"),
    ActionUnit(23, "lip tightener", "orbicularis oris", "lower",
               ("mouth", "upper_lip"), False, "the lips are tightened"),
    ActionUnit(24, "lip pressor", "orbicularis oris", "lower",
               ("mouth", *_CORNERS), False, "the lips are pressed together"),
    ActionUnit(25, "lips part", "depressor labii inferioris, or orbicularis oris relaxes",
               "lower", ("mouth", "chin"), False, "the lips are parted"),
    ActionUnit(26, "jaw drop", "masseter relaxes", "lower",
               ("chin", "mouth", "lower_face"), False, "the jaw is dropped"),
    ActionUnit(28, "lip suck", "orbicularis oris", "lower",
               ("mouth", "upper_lip", "chin"), False, "the lips are sucked in"),
    ActionUnit(43, "eyes closed", "levator palpebrae superioris relaxes", "upper",
               _EYES, True, "the eyes are closed"),
)  # fmt: skip

AU_KEYS: tuple[str, ...] = tuple(au.key for au in AUS)
AU_BY_KEY: dict[str, ActionUnit] = {au.key: au for au in AUS}
AU_INDEX: dict[str, int] = {key: i for i, key in enumerate(AU_KEYS)}
N_AUS = len(AUS)


def intensity_letter(intensity: float) -> str:
    """FACS letter A–E of an intensity 0–5, or "" where it rounds to 0."""
    step = round(min(max(intensity, 0.0), INTENSITY_MAX))
    return INTENSITY_LETTERS[step - 1] if step else ""
