"""What single layers answered, in short, and the first of them that drifts.

Of each layer's output some values are kept, at places that follow from its size alone, so that a
device compares the same ones. Layers come in the order in which the network computes them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feallm.runtime.backends.base import ALL_OUTPUTS
from feallm.runtime.contract.errors import InputError
from feallm.runtime.contract.manifest import LayerLimit, Precision

Floats = NDArray[np.float32]

SAMPLED = 256
"""Values kept of a layer."""
FACES = 8
"""Crops to compare at a time: of one alone, int8 may lie as far off as a fault moves it."""
_GOLDEN = 0x9E3779B97F4A7C15  # 2**64 over the golden ratio
_ENOUGH = 32
"""Values that tell a wrong scale from noise; of fewer, the error alone counts."""
_ALIKE = 0.98
"""The least cosine of values whose scale can be told."""
_FAINT = 0.1
"""Of the median layer's size: what is smaller weighs no more in what follows, and the rounding of
what it was made from drowns it: on aarch64 float16 moves one such layer by 5 %, others by .6 %."""


LIMITS: dict[Precision, LayerLimit] = {
    "fp32": LayerLimit(error=0.01, scale=0.01),
    "fp16": LayerLimit(error=0.015, scale=0.015),
    "int8": LayerLimit(error=0.35, scale=0.2),
    "int6": LayerLimit(error=0.35, scale=0.2),
    "q8_0": LayerLimit(error=0.04, scale=0.02),
    "q6_k": LayerLimit(error=0.1, scale=0.03),
    "q4_k_m": LayerLimit(error=0.3, scale=0.1),
}
"""Above what clean files of both shipped networks were measured at, over 500 photographs, 500
renders and the golden frames, `FACES` at a time, or 100 conversations. Of int8 the scale tells
little: ranges hold what nine faces in ten reach, so in hard light the strongest values are cut off
(.24 at worst, .05 as a rule)."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer's output."""

    name: str  # as the network's modules are named
    shape: tuple[int, ...]
    values: Floats  # (up to SAMPLED,)
    rms: float  # of the whole output


@dataclass(frozen=True, slots=True)
class Drift:
    """How far one layer lies from what it should be."""

    name: str
    count: int  # values compared
    error: float  # root mean square of the differences beside that of the values, or `_FAINT`
    cosine: float
    scale: float  # found = scale * expected + offset fits best ...
    offset: float  # in root mean squares of the expected values
    left: float  # ... and leaves this error
    rms: float  # of the expected values
    odd: str = ""  # where no numbers tell: another size, values that are not finite, cut off

    def line(self) -> str:
        """For a person."""
        return f"{self.name}: {self._told()}"

    def _told(self) -> str:
        if not math.isfinite(self.error):
            return self.odd
        error = f"error {100 * self.error:.3g} %"
        if self.odd:
            return f"{self.odd} ({error})"
        if self.cosine < 0.5 and self.left > self.error / 2:
            return f"unlike what it should be ({error}, cosine {self.cosine:.2f})"
        if not self.left < self.error * 0.8:
            return f"{error}, cosine {self.cosine:.4f}"
        much = abs(self.scale - 1) > self.error / 10
        plus = abs(self.offset) > self.error / 10
        times = f"{self.scale:.3g} times what it should be" if much else "what it should be"
        added = f", plus {self.offset * self.rms:.3g}".replace("plus -", "less ") if plus else ""
        return f"{times}{added} ({error})"


def places(size: int) -> NDArray[np.int64]:
    """Flat places that are kept of an output of `size` values: all, or SAMPLED of them.

    Steps of the golden ratio: equal ones would fall on the same channels again and again.
    """
    if size <= SAMPLED:
        return np.arange(size)
    return np.array([(k * _GOLDEN % 2**64) * size >> 64 for k in range(SAMPLED)], np.int64)


def sample(name: str, output: NDArray[Any]) -> Layer:
    """A layer's whole output in short."""
    flat = np.asarray(output, np.float32).ravel()
    rms = math.sqrt(float(np.square(flat, dtype=np.float64).mean())) if flat.size else 0.0
    return Layer(name, tuple(output.shape), flat[places(flat.size)], rms)


def drifts(expected: Sequence[Layer], found: Sequence[Layer]) -> tuple[Drift, ...]:
    """One for each expected layer that was found, in the expected order."""
    there = {layer.name: layer for layer in found}
    least = _FAINT * float(np.median([layer.rms for layer in expected])) if expected else 0.0
    asked = [one for one in expected if one.name in there and len(one.values)]
    return tuple(_drift(one, there[one.name], least) for one in asked)


def _drift(expected: Layer, found: Layer, least: float) -> Drift:
    count = len(expected.values)
    wanted, given = (np.asarray(layer.values, np.float64) for layer in (expected, found))
    odd = ""
    if math.prod(expected.shape) != math.prod(found.shape):
        odd = f"of the shape {list(found.shape)} instead of {list(expected.shape)}"
    elif not (math.isfinite(found.rms) and np.isfinite(given).all()):
        odd = "holds values that are not finite"
    if odd:
        return Drift(expected.name, count, math.inf, 0.0, 0.0, 0.0, math.inf, expected.rms, odd)
    rms = max(_rms(wanted), least, 1e-30)
    mean, other = wanted.mean(), given.mean()
    spread = float(np.square(wanted - mean).mean())
    scale = float(((wanted - mean) * (given - other)).mean()) / spread if spread > 0 else 1.0
    offset = float(other - scale * mean)
    lengths = float(np.linalg.norm(wanted) * np.linalg.norm(given))
    return Drift(
        expected.name,
        count,
        _rms(given - wanted) / rms,
        float(wanted @ given) / lengths if lengths else float(np.array_equal(wanted, given)),
        scale,
        offset / rms,
        _rms(given - scale * wanted - offset) / rms,
        rms,
        _cut_off(wanted, given),
    )


def _rms(values: NDArray[np.float64]) -> float:
    return math.sqrt(float(np.square(values).mean()))


def _cut_off(wanted: NDArray[np.float64], given: NDArray[np.float64]) -> str:
    """Whether most of the error is that values end where those of a range too small do."""
    if len(given) > 1 and np.ptp(given) == 0 < np.ptp(wanted):
        return f"{given[0]:.3g} throughout"
    gap, cut, told = np.square(given - wanted), 0.0, ("", 0.0)
    for end, side, sign in ((given.max(), "above", 1), (given.min(), "below", -1)):
        beyond = sign * (wanted - end) > 0
        if beyond.sum() >= 3 and np.isclose(given[beyond], end, rtol=1e-5, atol=0).all():
            lost = float(gap[beyond].sum())
            furthest = sign * (sign * wanted).max()
            line = f"nothing {side} {end:.3g}, where it should reach {furthest:.3g}"
            cut, told = cut + lost, max(told, (line, lost), key=lambda one: one[1])
    return told[0] if cut > gap.sum() / 2 else ""


def first(found: Sequence[Drift], limit: LayerLimit) -> Drift | None:
    """The first layer that lies further off than an artifact of this precision may, or is larger or
    smaller than it should be by more: the fault is in it, or between it and those before."""
    return next((one for one in found if drifted(one, limit)), None)


def drifted(one: Drift, limit: LayerLimit) -> bool:
    """Whether a layer lies further off than it may, or is larger or smaller by more."""
    sure = one.count >= _ENOUGH and one.cosine > _ALIKE
    return not one.error <= limit.error or (sure and abs(one.scale - 1) > limit.scale)


def report(found: Sequence[Drift], limit: LayerLimit) -> str:
    """One line for a person: the first layer that drifts, and how."""
    one = first(found, limit)
    if one is None:
        furthest = max(found, key=lambda other: other.error, default=None)
        told = f"; furthest off: {furthest.line()}" if furthest is not None else ""
        return f"none of {len(found)} layers drifts{told}"
    before = [other.name for other in found].index(one.name)
    line = f"{one.line()}; {before} of {len(found)} layers before it agree"
    if one.name in ALL_OUTPUTS:
        line += ", so what follows the last layer is wrong, or how the engine fuses layers"
    return line


def pack(layers: Sequence[Layer], part: str) -> dict[str, NDArray[Any]]:
    """Arrays for a golden file, their names begun with `part`."""
    facts = json.dumps([[layer.name, list(layer.shape)] for layer in layers])
    return {
        f"{part}_layers": np.frombuffer(facts.encode(), np.uint8),
        f"{part}_values": np.concatenate(
            [np.zeros(0, np.float32), *(one.values for one in layers)]
        ),
        f"{part}_rms": np.array([layer.rms for layer in layers], np.float32),
    }


def unpack(arrays: Mapping[str, NDArray[Any]], part: str) -> list[Layer]:
    """The layers that `pack` made arrays of, none where there are none; `InputError` where they do
    not fit together."""
    names = [f"{part}_{what}" for what in ("layers", "values", "rms")]
    if not any(name in arrays for name in names):
        return []
    try:
        facts, values, rms = (arrays[name] for name in names)
        for name, value in zip(names[1:], (values, rms), strict=True):
            if value.ndim != 1 or value.dtype.kind not in "fiu" or not np.isfinite(value).all():
                raise ValueError(f"{name} is no row of numbers: {value.dtype} {value.shape}")
        layers, at = [], 0
        for (name, shape), size in zip(json.loads(facts.tobytes()), rms, strict=True):
            sides = shape if isinstance(shape, list) else [None]
            if not all(type(side) is int and 0 <= side < 2**31 for side in sides):
                raise ValueError(f"layer {name!r} has an impossible shape")
            count = min(SAMPLED, math.prod(shape))
            kept = np.asarray(values[at : at + count], np.float32)
            if not isinstance(name, str) or kept.shape != (count,) or not size >= 0:
                raise ValueError(f"layer {name!r} has {kept.shape} values instead of {count}")
            layers.append(Layer(name, tuple(shape), kept, float(size)))
            at += count
        if at != len(values):
            raise ValueError(f"{len(values)} values for {at} places")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"layers of {part} cannot be read: {error}") from error
    return layers
