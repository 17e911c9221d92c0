"""Layers in short: what is kept of them, how far two lie apart, and which is named first."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import numpy as np
import pytest

from feallm.runtime.backends.base import TOKENS
from feallm.runtime.contract.errors import InputError
from feallm.runtime.verify.trace import (
    LIMITS,
    SAMPLED,
    drifts,
    first,
    pack,
    places,
    report,
    sample,
    unpack,
)

SHAPES = {"pixels": (2, 1, 40, 30), "stage": (2, 8, 9, 7), "norm": (2, 16, 32), TOKENS: (2, 4, 32)}


def outputs(seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(0.3, 1, shape).astype(np.float32) for name, shape in SHAPES.items()}


def layers(values):
    return [sample(name, value) for name, value in values.items()]


def rounded(values, amount, seed=1):
    """As few bits leave them: each value off by so much of the whole."""
    rng = np.random.default_rng(seed)
    return {
        name: value
        + np.float32(amount * np.sqrt(np.square(value).mean()))
        * rng.normal(size=value.shape).astype(np.float32)
        for name, value in values.items()
    }


def compared(found, expected=None):
    return drifts(layers(expected or outputs()), layers(found))


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 700, 4096, 65536, 9_999_991, 2**40])
def test_places_are_within_and_spread_over_all(size):
    kept = places(size)
    assert len(kept) == min(size, SAMPLED)
    assert not size or (kept.min() >= 0 and kept.max() < size)
    if size > 4 * SAMPLED:
        assert len(set(kept.tolist())) == SAMPLED
        assert np.diff(np.sort(kept)).max() < 4 * size / SAMPLED


@pytest.mark.parametrize("width", [32, 64, 96, 256])
def test_places_fall_on_every_channel_alike(width):
    """Equal steps would fall on one channel in so many, and never see the others."""
    columns = np.bincount(places(width * 64) % width, minlength=width)
    assert (columns > 0).sum() > 0.6 * min(width, SAMPLED) and columns.max() < 24


def test_the_same_layers_do_not_drift():
    found = compared(outputs())
    assert [one.name for one in found] == list(SHAPES)
    assert all(one.error == 0 and one.scale == pytest.approx(1) for one in found)
    assert report(found, LIMITS["fp32"]).startswith("none of 4 layers drifts; furthest off: pixels")
    assert report((), LIMITS["fp32"]) == "none of 0 layers drifts"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda x: x * 1.05, "stage: 1.05 times what it should be (error 5 %)"),
        (lambda x: x * 0.5 + 0.25, "stage: 0.5 times what it should be, plus 0.25 "),
        (lambda x: x - 0.5, "stage: what it should be, less 0.5 "),
        (lambda x: np.minimum(x, 0.4), "stage: nothing above 0.4, where it should reach "),
        (lambda x: np.maximum(x, -0.4), "stage: nothing below -0.4, where it should reach -"),
        (lambda x: x[::-1].copy(), "stage: unlike what it should be (error "),
        (lambda x: np.where(x > 1, np.inf, x), "stage: holds values that are not finite"),
        (lambda x: np.where(np.arange(x.size).reshape(x.shape) == 0, np.nan, x), "not finite"),
        (lambda x: x[..., :-1], "stage: of the shape [2, 8, 9, 6] instead of [2, 8, 9, 7]"),
        (lambda x: np.zeros_like(x), "stage: 0 throughout (error 100 %)"),
    ],
)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "q8_0"])
def test_the_first_that_drifts_is_named_with_what_is_wrong(change, told, precision):
    values = outputs()
    values["stage"] = change(values["stage"])
    values["norm"] = values["norm"] * 3  # what follows is wrong too
    one = first(compared(values), LIMITS[precision])
    assert one is not None and told in one.line()
    assert "\n" not in one.line()
    assert report(compared(values), LIMITS[precision]).endswith("; 1 of 4 layers before it agree")


@pytest.mark.parametrize(
    ("precision", "noise"),
    [
        ("fp32", 1e-4),
        ("fp16", 5e-3),
        ("int8", 0.06),
        ("q8_0", 0.02),
        ("q6_k", 0.05),
        ("q4_k_m", 0.15),
    ],
)
def test_rounding_is_no_drift_and_a_twentieth_is_told_from_it(precision, noise):
    values = rounded(outputs(), noise)
    assert first(compared(values), LIMITS[precision]) is None
    if precision in ("int8", "q4_k_m"):  # they hide it
        return
    values["norm"] = values["norm"] * np.float32(1.06)
    one = first(compared(values), LIMITS[precision])
    assert one is not None and one.name == "norm"


def test_a_faint_layer_may_be_noisy_but_not_another():
    """Noise of the size of what all other layers round by."""
    values = outputs()
    values["stage"] *= np.float32(0.004)
    noisy = dict(values, stage=values["stage"] + np.float32(0.001) * outputs(5)["stage"])
    assert first(compared(noisy, values), LIMITS["fp16"]) is None
    other = dict(values, stage=outputs(6)["stage"] * np.float32(0.02))
    assert first(compared(other, values), LIMITS["fp16"]).name == "stage"
    scaled = dict(values, stage=values["stage"] * np.float32(1.05))
    assert first(compared(scaled, values), LIMITS["fp16"]).name == "stage"


def test_a_layer_that_was_not_found_is_passed_over():
    values = outputs()
    del values["stage"]
    assert [one.name for one in compared(values)] == ["pixels", "norm", TOKENS]


def test_an_output_alone_points_behind_the_layers():
    values = outputs()
    values[TOKENS] = values[TOKENS] * np.float32(1.2)
    told = report(compared(values), LIMITS["fp32"])
    assert told.startswith("tokens: 1.2 times") and "fuses layers" in told
    values["norm"] = values["norm"] * np.float32(1.2)
    assert "fuses" not in report(compared(values), LIMITS["fp32"])


def test_a_layer_without_values_is_passed_over():
    empty = {"none": np.zeros((0, 3), np.float32)}
    assert compared(empty, empty) == ()


def test_a_layer_of_zeros_is_compared():
    zeros = {"still": np.zeros((4, 64), np.float32)}
    assert first(compared(zeros, zeros), LIMITS["fp32"]) is None
    assert (
        first(compared({"still": np.ones((4, 64), np.float32)}, zeros), LIMITS["fp32"]) is not None
    )


def test_every_precision_that_can_be_traced_has_its_limit():
    for limit in LIMITS.values():
        assert 0 < limit.scale <= limit.error < 0.5
    assert all(LIMITS[name].error < 0.05 for name in ("fp32", "fp16", "q8_0"))


def test_layers_come_out_of_a_file_as_they_went_in():
    kept = [
        *layers(outputs()),
        sample("none", np.zeros((0, 3), np.float32)),
        sample("日", np.ones(3)),
    ]
    file = io.BytesIO()
    np.savez(file, **pack(kept, "eyes"))
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        found = unpack(dict(arrays), "eyes")
    assert [(one.name, one.shape) for one in found] == [(one.name, one.shape) for one in kept]
    for one, other in zip(found, kept, strict=True):
        np.testing.assert_array_equal(one.values, other.values)
        assert one.rms == pytest.approx(other.rms, rel=1e-6)
    assert unpack({}, "eyes") == [] == unpack(pack([], "words"), "words")


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a.pop("eyes_rms"),
        lambda a: a.update(eyes_rms=a["eyes_rms"][:-1]),
        lambda a: a.update(eyes_values=a["eyes_values"][:-1]),
        lambda a: a.update(eyes_values=np.append(a["eyes_values"], 1)),
        lambda a: a.update(eyes_values=a["eyes_values"] * np.nan),
        lambda a: a.update(eyes_values=np.array(["a"] * 3)),
        lambda a: a.update(eyes_values=a["eyes_values"].astype(str)),
        lambda a: a.update(eyes_rms=a["eyes_rms"][:, None]),
        lambda a: a.update(eyes_rms=a["eyes_rms"] * np.nan),
        lambda a: a.update(eyes_rms=-a["eyes_rms"]),
        lambda a: a.update(eyes_rms=a["eyes_rms"].astype(str)),
        lambda a: a.update(eyes_layers=np.frombuffer(b'[["a", [-4]]]', np.uint8)),
        lambda a: a.update(eyes_layers=np.frombuffer(b'[["a", ["4"]]]', np.uint8)),
        lambda a: a.update(eyes_layers=np.frombuffer(b"[[1, [4]]]", np.uint8)),
        lambda a: a.update(eyes_layers=np.frombuffer(b'[["a"]]', np.uint8)),
        lambda a: a.update(eyes_layers=np.frombuffer(b"{]", np.uint8)),
        lambda a: a.update(eyes_layers=np.frombuffer(b"\xff\xfe", np.uint8)),
        lambda a: a.update(eyes_layers=np.frombuffer(b"[" * 100_000, np.uint8)),
        lambda a: a.update(eyes_layers=np.zeros(0, np.uint8)),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(change):
    arrays = pack(layers(outputs()), "eyes")
    change(arrays)
    with pytest.raises(InputError, match="layers of eyes cannot be read"):
        unpack(arrays, "eyes")


@pytest.mark.parametrize(
    "shape", ["[1e400]", "[Infinity]", "[300.0]", "[true, 300]", f"[{10**400}]", '"300"', "{}"]
)
def test_a_shape_that_cannot_be(shape):
    """Beside values that fill it: nothing else is wrong."""
    arrays = pack([sample("a", np.ones(300))], "eyes")

    def read(stated):
        facts = np.frombuffer(f'[["a", {stated}]]'.encode(), np.uint8)
        return unpack(arrays | {"eyes_layers": facts}, "eyes")

    assert read("[3, 100]")[0].shape == (3, 100)
    with pytest.raises(InputError, match="layer 'a' has an impossible shape"):
        read(shape)


def test_a_drift_without_numbers_still_makes_a_line():
    one = replace(compared(outputs())[0], error=math.inf, odd="gone")
    assert one.line() == "pixels: gone"
