"""What is drawn: people and shots, every number of them from one seed."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from feallm.model.synth.furrows import VARIANTS
from feallm.model.synth.skin import HAIR_TONES, IRIS_TONES, Paint
from feallm.runtime.contract.aus import AU_BY_KEY, AU_INDEX, AU_KEYS, N_AUS
from feallm.runtime.contract.expressions import EXPRESSIONS

Floats = NDArray[np.float64]
Rng = np.random.Generator

SHOTS = 4  # of one person, one after the other
TEST_STREAM, TRAIN_STREAM = 1, 0
"""Identities and textures of the frozen set come from their own stream of random numbers."""

LIGHTS = ("even", "window", "overhead", "side", "flash", "below", "backlit")


@dataclass(frozen=True, slots=True)
class HairCut:
    """Hair or headwear. Lengths in cm, shares 0–1."""

    kind: str  # bald, short, full, long, cap, scarf, hat
    line: float  # height of the hairline above the brows, cm
    peak: float  # how far it goes back at the temples
    thickness: float
    rough: float
    fringe: float  # share of the forehead that hangs over
    side: float  # how far it covers the cheeks, cm; below 0 nothing
    tone: tuple[float, float, float]
    cloth: tuple[float, float, float]
    seed: int


@dataclass(frozen=True, slots=True)
class Glasses:
    """Frames. Lengths in cm."""

    dark: float  # 0 clear … 1 opaque
    width: float
    height: float
    round: float  # 0 box … 1 circle
    thick: float
    tone: tuple[float, float, float]
    drop: float  # below the pupils
    glare: float


@dataclass(frozen=True, slots=True)
class Person:
    """One identity with its skin, hair and habits."""

    weights: NDArray[np.float32]  # (100,) identity modes
    paint: Paint
    hair: HairCut
    glasses: Glasses | None
    variant: int  # layout of furrows
    at_rest: NDArray[np.float32]  # (12,) depth of the furrows at rest
    relief: float  # cm
    gloss: float
    iris_tone: tuple[float, float, float]
    white_tone: tuple[float, float, float]
    teeth_tone: tuple[float, float, float]
    iris: float  # radius, cm


@dataclass(frozen=True, slots=True)
class Shot:
    """One picture of a person."""

    seed: int
    pattern: int  # index into EXPRESSIONS, or -1: sampled freely
    au_sides: Floats  # (20, 2) asked for; labels are read off the mesh afterwards
    extras: dict[str, float]  # weights of shapes outside the AU table
    pose_deg: tuple[float, float, float]  # pitch (up), yaw (to the head's left), roll
    gaze_deg: tuple[float, float]  # up, to the head's left; in the head
    distance: float  # cm
    light: int  # index into LIGHTS
    light_turn: tuple[float, float]  # degrees off the kind's own direction
    contrast: float  # of key to ambient
    warmth: float
    exposure: float
    background: int  # -1 plain
    occluder: str  # none, hand, mask, mug, microphone, bar, lock, finger
    eye_px: float  # distance of the eyes in the stored picture
    offset: tuple[float, float] = field(default=(0.0, 0.0))


# AUs that go with each expression word: certain, likely, possible (P. Ekman, W. V. Friesen,
# J. C. Hager, FACS Investigator's Guide, 2002: prototypes and variants), with chances.
PATTERN_AUS: dict[str, dict[str, float]] = {
    "neutral": {},
    "happiness": {"AU12": 1.0, "AU6": 0.7, "AU25": 0.65, "AU26": 0.25, "AU7": 0.25, "AU10": 0.12},
    "surprise": {"AU1": 0.9, "AU2": 0.9, "AU5": 0.75, "AU26": 0.75, "AU25": 0.85},
    "sadness": {"AU1": 0.8, "AU4": 0.65, "AU15": 0.75, "AU17": 0.5, "AU43": 0.1, "AU25": 0.15,
                "AU7": 0.15, "AU20": 0.1},
    "anger": {"AU4": 1.0, "AU5": 0.4, "AU7": 0.6, "AU23": 0.35, "AU24": 0.3, "AU17": 0.35,
              "AU10": 0.25, "AU25": 0.35, "AU26": 0.25, "AU9": 0.1},
    "disgust": {"AU9": 0.75, "AU10": 0.6, "AU17": 0.35, "AU15": 0.3, "AU4": 0.35, "AU25": 0.35,
                "AU26": 0.2, "AU6": 0.25, "AU7": 0.35},
    "fear": {"AU1": 0.9, "AU2": 0.75, "AU4": 0.65, "AU5": 0.8, "AU20": 0.65, "AU25": 0.75,
             "AU26": 0.55, "AU7": 0.2},
    "contempt": {"AU14": 0.65, "AU12": 0.45, "AU10": 0.15},
}  # fmt: skip

# Asked for together these make a face that no face makes, or hide each other.
_APART = (
    ("AU43", "AU5"), ("AU43", "AU7"), ("AU7", "AU5"), ("AU28", "AU26"), ("AU28", "AU25"),
    ("AU24", "AU25"), ("AU24", "AU26"), ("AU24", "AU28"), ("AU18", "AU12"), ("AU18", "AU20"),
    ("AU18", "AU14"), ("AU12", "AU15"), ("AU12", "AU20"), ("AU14", "AU20"), ("AU14", "AU15"),
    ("AU23", "AU25"), ("AU23", "AU24"), ("AU23", "AU28"), ("AU17", "AU26"), ("AU28", "AU18"),
    ("AU24", "AU18"), ("AU28", "AU17"), ("AU23", "AU26"), ("AU23", "AU18"), ("AU28", "AU10"),
)  # fmt: skip
_FREE_CHANCE = {
    "AU1": 0.16, "AU2": 0.14, "AU4": 0.22, "AU5": 0.14, "AU6": 0.15, "AU7": 0.15, "AU9": 0.1,
    "AU10": 0.12, "AU12": 0.2, "AU14": 0.08, "AU15": 0.13, "AU17": 0.17, "AU18": 0.06,
    "AU20": 0.08, "AU23": 0.04, "AU24": 0.07, "AU25": 0.28, "AU26": 0.2, "AU28": 0.03,
    "AU43": 0.07,
}  # fmt: skip


def rng_for(seed: int, number: int, stream: int) -> Rng:
    """The random numbers of one person and its shots. Streams never share a number."""
    return np.random.default_rng((seed, stream, number))


def _pick(rng: Rng, chances: dict[str, float]) -> str:
    names = list(chances)
    p = np.array(list(chances.values()))
    return names[int(rng.choice(len(names), p=p / p.sum()))]


def _tuple3(values: NDArray[np.floating]) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])


def person(rng: Rng) -> Person:
    """A random person. Identity weights are drawn a little narrower than N(0, 1)."""
    age = float(np.clip(rng.beta(1.6, 2.0), 0, 1))  # 0 young … 1 old
    male = rng.random() < 0.5
    tone = float(np.clip(rng.beta(1.1, 1.6) * 5, 0, 5))
    hair = HAIR_TONES[_hair_row(rng, tone, age)] * rng.uniform(0.75, 1.25)
    moustache = beard = stubble = 0.0
    if male:
        if rng.random() < 0.5:
            stubble = float(rng.uniform(0.1, 0.9))
        if rng.random() < 0.22:
            moustache = float(rng.uniform(0.4, 1.0))
            beard = float(rng.uniform(0.4, 1.0)) if rng.random() < 0.65 else 0.0
        elif rng.random() < 0.08:
            beard = float(rng.uniform(0.3, 0.9))
    make_up = not male and rng.random() < 0.55
    lip = np.array([0.98, 0.72, 0.72]) * rng.uniform(0.85, 1.08)
    if make_up and rng.random() < 0.6:
        lip = np.array([0.95, 0.42, 0.45]) * rng.uniform(0.7, 1.1)
    paint = Paint(
        seed=int(rng.integers(2**31)),
        tone=tone,
        hue=_tuple3(1 + rng.normal(0, 0.035, 3)),
        mottle=float(rng.uniform(0.3, 1.5) + 0.6 * age),
        red=float(rng.uniform(0, 0.9) * (1 - 0.12 * tone)),
        eye_shade=float(rng.uniform(0, 0.8) + 0.25 * age),
        lip_tone=_tuple3(lip),
        lipstick=float(rng.uniform(0.2, 0.7)) if make_up else 0.0,
        hair=_tuple3(hair),
        brow_weight=float(np.clip(rng.normal(0.85 if male else 0.65, 0.32), 0.15, 1.6)),
        brow_lift=float(rng.normal(0.0, 0.17)),
        brow_arch=float(rng.normal(0.0, 0.35)),
        brow_length=float(rng.uniform(0.75, 1.1)),
        lash=float(rng.uniform(0.3, 0.8) if male else rng.uniform(0.5, 1.0)),
        liner=float(rng.uniform(0.2, 1.0)) if make_up else 0.0,
        stubble=stubble,
        moustache=moustache,
        beard=beard,
        spots=int(rng.integers(0, 60) if rng.random() < 0.15 else rng.integers(0, 7)),
        age=age,
    )
    rest = rng.uniform(0, 0.55, 12) * max(age - 0.25, 0) ** 1.2 * 1.2
    rest[6] = rng.uniform(0.0, 0.25) + 0.4 * age * rng.random()  # the fold beside the nose
    rest[5] += 0.2 * rng.random()
    if rng.random() < 0.25:
        rest[2] += rng.uniform(0, 0.35)  # a frown line that stays, without a frown
    rest[9] *= 0.5
    return Person(
        weights=(rng.standard_normal(100) * 0.95).astype(np.float32),
        paint=paint,
        hair=_hair(rng, male, age, _tuple3(hair)),
        glasses=glasses_for(rng) if rng.random() < 0.2 else None,
        variant=int(rng.integers(VARIANTS)),
        at_rest=rest.clip(0, 0.8).astype(np.float32),
        relief=float(rng.uniform(0.06, 0.14) * (0.75 + 0.6 * age)),
        gloss=float(rng.uniform(0.01, 0.16)),
        iris_tone=_tuple3(_iris(rng, tone)),
        white_tone=_tuple3(np.array([0.88, 0.85, 0.82]) * rng.uniform(0.85, 1.06)),
        teeth_tone=_tuple3(np.array([0.86, 0.82, 0.72]) * rng.uniform(0.8, 1.1)),
        iris=float(rng.uniform(0.56, 0.64)),
    )


def _hair_row(rng: Rng, tone: float, age: float) -> int:
    if rng.random() < max(age - 0.45, 0) * 1.5:
        return int(rng.integers(6, 8))
    if tone > 2.6:
        return int(rng.integers(0, 2))
    return int(rng.choice(6, p=[0.2, 0.26, 0.22, 0.16, 0.11, 0.05]))


def _iris(rng: Rng, tone: float) -> NDArray[np.float32]:
    row = int(rng.integers(0, 2)) if tone > 2.4 else int(rng.integers(0, len(IRIS_TONES)))
    return np.asarray(IRIS_TONES[row] * rng.uniform(0.7, 1.3), np.float32)


def _hair(rng: Rng, male: bool, age: float, tone: tuple[float, float, float]) -> HairCut:
    kinds = (
        {"bald": 0.12, "short": 0.52, "full": 0.2, "long": 0.04, "cap": 0.08, "hat": 0.04}
        if male
        else {"short": 0.14, "full": 0.3, "long": 0.4, "scarf": 0.07, "cap": 0.05, "hat": 0.04}
    )
    kind = _pick(rng, kinds)
    back = 1.8 * age * rng.random() if male else 0.0
    line = float(np.clip(rng.normal(5.0, 0.8) + back, 3.2, 8.5))
    if kind in ("cap", "scarf", "hat"):
        line = float(rng.uniform(1.4, 3.2))
    thickness = {"bald": 0.03, "short": 0.5, "full": 1.3, "long": 1.1, "cap": 0.7, "scarf": 0.5}
    fringe = rng.uniform(0.2, 0.9) if kind in ("full", "long") and rng.random() < 0.3 else 0.0
    side = rng.uniform(-0.3, 2.0) if kind in ("long", "scarf") else -1.0
    return HairCut(
        kind,
        line,
        float(rng.uniform(0.2, 1.6)),
        float(thickness.get(kind, 0.6) * rng.uniform(0.6, 1.4)),
        float(rng.uniform(0.1, 0.8)),
        float(fringe),
        float(side),
        tone,
        _tuple3(rng.uniform(0.06, 0.8, 3) * rng.uniform(0.4, 1.0)),
        int(rng.integers(2**31)),
    )


def glasses_for(rng: Rng) -> Glasses:
    """Random frames; about one in six is dark."""
    dark = float(rng.uniform(0.75, 0.97)) if rng.random() < 0.18 else float(rng.uniform(0, 0.12))
    metal = rng.random() < 0.4
    tone = rng.uniform(0.35, 0.75, 3) if metal else rng.uniform(0.02, 0.25) * np.ones(3)
    if not metal and rng.random() < 0.25:
        tone = rng.uniform(0.05, 0.6, 3)
    return Glasses(
        dark,
        float(rng.uniform(4.6, 6.0)),
        float(rng.uniform(3.0, 4.8)),
        float(rng.uniform(0.25, 1.0)),
        float(rng.uniform(0.10, 0.2) if metal else rng.uniform(0.2, 0.5)),
        _tuple3(tone),
        float(rng.uniform(-0.1, 0.5)),
        float(rng.uniform(0, 0.6) if rng.random() < 0.5 else 0.0),
    )


def _strength(rng: Rng) -> float:
    """An intensity 0.6–5: traces and slight ones are as common as strong ones."""
    return float(np.clip(0.6 + 4.6 * rng.beta(1.25, 1.25), 0.6, 5.0))


def expression(rng: Rng) -> tuple[int, Floats]:
    """An expression pattern (index into EXPRESSIONS, -1: free) and intensities (20, 2), 0–5."""
    wanted: dict[str, float] = {}
    pattern = -1
    if rng.random() < 0.55:
        pattern = int(rng.choice(8, p=[0.16, 0.16, 0.12, 0.14, 0.15, 0.1, 0.1, 0.07]))
        strength = rng.uniform(0.45, 1.0)
        for key, chance in PATTERN_AUS[EXPRESSIONS[pattern]].items():
            if rng.random() < chance:
                wanted[key] = _strength(rng) * (0.5 + 0.5 * strength)
        for key, chance in _FREE_CHANCE.items():  # what else happens
            if rng.random() < 0.12 * chance:
                wanted.setdefault(key, 0.7 * _strength(rng))
    else:
        for key, chance in _FREE_CHANCE.items():
            if rng.random() < chance:
                wanted[key] = _strength(rng)
    order = list(wanted)
    rng.shuffle(order)
    for key in order:
        for a, b in _APART:
            other = b if key == a else a if key == b else None
            if other in wanted and key in wanted:
                wanted.pop(other)
    sides = np.zeros((N_AUS, 2))
    one_sided = pattern == EXPRESSIONS.index("contempt")
    for key, value in wanted.items():
        k = AU_INDEX[key]
        sides[k] = value
        if AU_BY_KEY[key].sided and key != "AU43":
            sides[k] *= np.clip(1 + rng.normal(0, 0.08, 2), 0, None)
            if rng.random() < (0.85 if one_sided and key in ("AU12", "AU14") else 0.08):
                sides[k, int(rng.integers(2))] *= rng.uniform(0, 0.25)
        elif key == "AU43" and rng.random() < 0.06:  # a wink
            sides[k, int(rng.integers(2))] = 0
    return pattern, sides.clip(0, 5)


def _extras(rng: Rng, au_sides: Floats) -> dict[str, float]:
    """Movements outside the AU list, and the small ones of a face at rest."""
    shapes: dict[str, float] = {}
    asked = {key: float(au_sides[AU_INDEX[key]].max()) for key in AU_KEYS}
    talk = rng.random()
    if talk < 0.05 and not asked["AU12"] and not asked["AU20"] and not asked["AU28"]:
        shapes["mouthFunnel"] = float(rng.uniform(0.2, 0.8))
    elif talk < 0.09:
        shapes["mouthLeft" if rng.random() < 0.5 else "mouthRight"] = float(rng.uniform(0.1, 0.45))
    elif talk < 0.12 and not asked["AU26"] and not asked["AU25"]:
        blow = float(rng.uniform(0.2, 0.8))
        shapes["cheekPuff_L"] = shapes["cheekPuff_R"] = blow
    elif talk < 0.16:
        shapes["jawLeft" if rng.random() < 0.5 else "jawRight"] = float(rng.uniform(0.1, 0.5))
    elif talk < 0.19:
        shapes["jawForward"] = float(rng.uniform(0.1, 0.6))
    if asked["AU12"] > 1.2 and asked["AU25"] > 0:  # a smile parts the lips by the upper one
        lift = float(rng.uniform(0.1, 0.5) * min(asked["AU12"] / 4, 1))
        shapes["mouthUpperUp_L"] = shapes["mouthUpperUp_R"] = lift
    if asked["AU26"] > 3.5 and rng.random() < 0.35:  # AU27, mouth stretch
        shapes["jawOpen"] = float(rng.uniform(0.1, 0.45))
    if asked["AU26"] > 0 and not asked["AU25"] and rng.random() < 0.12:  # lips shut over it
        shapes["mouthClose"] = 0.9
    for name, spread in (("eyeBlink", 0.10), ("eyeSquint", 0.10), ("eyeWide", 0.06)):
        value = abs(float(rng.normal(0, spread)))
        for letter in "LR":
            shapes[f"{name}_{letter}"] = value
    return shapes


def occluder_for(rng: Rng) -> str:
    """What comes between face and camera: a kind that `occlude` can paint."""
    kinds = {"hand": 0.3, "finger": 0.1, "mask": 0.08, "mug": 0.1, "microphone": 0.14,
             "bar": 0.14, "lock": 0.14}  # fmt: skip
    return _pick(rng, kinds)


def shot(rng: Rng, seed: int, backgrounds: int) -> Shot:
    """A random shot of anybody; `seed`: of what is drawn, `backgrounds`: how many there are."""
    pattern, sides = expression(rng)
    yaw = float(rng.normal(0, 17)) if rng.random() < 0.8 else float(rng.uniform(-50, 50))
    pitch, roll = float(rng.normal(-1, 8)), float(rng.normal(0, 7))
    gaze = (float(rng.normal(-2, 6)), float(rng.normal(0, 10)))
    if rng.random() < 0.5:
        gaze = (-pitch * 0.8 + gaze[0] * 0.3, -yaw * 0.8 + gaze[1] * 0.3)  # at the camera
    elif rng.random() < 0.2:
        gaze = (float(rng.uniform(-32, 22)), gaze[1])
    light = int(rng.choice(len(LIGHTS), p=[0.26, 0.2, 0.16, 0.12, 0.14, 0.04, 0.08]))
    occluder = "none"
    if rng.random() < 0.16:
        occluder = occluder_for(rng)
    small = rng.random()
    eye_px = rng.uniform(13, 27) if small < 0.42 else rng.uniform(27, 46)
    return Shot(
        seed=seed,
        pattern=pattern,
        au_sides=sides,
        extras=_extras(rng, sides),
        pose_deg=(pitch, float(np.clip(yaw, -55, 55)), roll),
        gaze_deg=(float(np.clip(gaze[0], -30, 22)), float(np.clip(gaze[1], -28, 28))),
        distance=float(np.exp(rng.uniform(np.log(38), np.log(240)))),
        light=light,
        light_turn=(float(rng.normal(0, 16)), float(rng.normal(0, 16))),
        contrast=float(rng.uniform(0.25, 1.0)),
        warmth=float(rng.normal(0, 0.08)),
        exposure=float(np.exp(rng.normal(0, 0.22))),
        background=int(rng.integers(backgrounds)) if backgrounds and rng.random() < 0.85 else -1,
        occluder=occluder,
        eye_px=float(eye_px),
        offset=(float(rng.normal(0, 5)), float(rng.normal(0, 5))),
    )
