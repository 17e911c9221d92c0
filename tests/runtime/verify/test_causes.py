"""Planted faults are named; what is right, or only rounded, is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from feallm.runtime.backends.base import AU_INTENSITY, AU_PROBABILITY, IMAGE
from feallm.runtime.bundle.open import open_bundle
from feallm.runtime.contract.manifest import LayerLimit
from feallm.runtime.verify import causes, trace
from feallm.runtime.verify.check import Doors
from feallm.runtime.verify.golden import Words


@pytest.fixture(scope="module")
def golden(record, toy_bundle):
    return record.of(toy_bundle, record.crops())


@pytest.fixture(scope="module")
def eyes(toy_bundle):
    bundle = open_bundle(toy_bundle)
    engine = Doors(bundle).eyes(bundle.manifest.vision[0])
    yield lambda crops: engine.run({IMAGE: np.ascontiguousarray(crops)})
    engine.close()


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("bgr", lambda crops: crops[..., ::-1]),
        ("mirrored", lambda crops: crops[:, :, ::-1]),
        ("inverted", lambda crops: 255 - crops),
    ],
)
def test_a_known_fault_is_named(golden, eyes, name, wrong):
    assert causes.of_eyes(eyes(golden.crops), golden) == ()
    found = eyes(wrong(golden.crops))
    assert causes.of_eyes(found, golden) == (causes.KNOWN[name],)
    unknown = causes.of_eyes(found, replace(golden, faults={}))
    assert unknown == (("left and right are exchanged",) if name == "mirrored" else ())
    others = {key: value for key, value in golden.faults.items() if key != name}
    assert causes.KNOWN[name] not in causes.of_eyes(found, replace(golden, faults=others))


def test_a_little_off_towards_a_fault_is_not_that_fault(golden, eyes):
    good, wrong = eyes(golden.crops), eyes(golden.crops[..., ::-1])
    for share, named in ((0.2, False), (0.9, True)):
        mixed = {key: (1 - share) * good[key] + share * wrong[key] for key in good}
        assert bool(causes.of_eyes(mixed, golden)) is named


def test_a_fault_that_nobody_knows_is_not_named(golden, eyes):
    rng = np.random.default_rng(0)
    found = {key: rng.permutation(value.ravel()).reshape(value.shape)
             for key, value in eyes(golden.crops).items()}  # fmt: skip
    assert causes.of_eyes(found, golden) == ()


def test_faults_of_a_later_version_are_passed_over(golden, eyes):
    found = eyes(golden.crops[..., ::-1])
    odd = {"of tomorrow": golden.faults["bgr"], "bgr": golden.faults["bgr"][:, :50]}
    assert causes.of_eyes(found, replace(golden, faults=odd)) == ()


@pytest.mark.parametrize("name", [AU_PROBABILITY, AU_INTENSITY])
@pytest.mark.parametrize(
    ("places", "told"),
    [(1, "one place later"), (-1, "one place earlier"), (2, "2 places later"), (3, None)],
)
def test_a_shifted_order_of_aus(golden, eyes, name, places, told):
    found = dict(eyes(golden.crops))
    found[name] = np.roll(found[name], places, 1)
    named = causes.of_eyes(found, golden)
    if told is None:
        assert not any("order" in one for one in named)
    else:
        assert named == (f"the order of the AUs is shifted: each stands {told}",)


@pytest.mark.parametrize(
    ("scale", "right", "down", "told"),
    [
        (1.0, 0.0, 0.0, []),
        (1.01, 0.01, -0.01, []),
        (1.08, 0.0, 0.0, ["the crop is off: faces stand 1.08 times as large in it"]),
        (1.0, 0.08, 0.0, ["the crop is off: 8% to the right"]),
        (1.0, -0.08, 0.05, ["the crop is off: 8% to the left, 5% too low"]),
        (0.9, 0.0, -0.1, ["the crop is off: faces stand 0.90 times as large in it, 10% too high"]),
    ],
)
def test_where_crops_lie(scale, right, down, told):
    assert causes.of_crop(scale, right, down) == told


def test_failures():
    (told,) = causes.of_failure("the vision network gave values that are not finite in tokens")
    assert "overflow" in told and "65504" in told
    assert causes.of_failure("it cannot be loaded") == ()


class Spelling:
    """A tokenizer of one token a letter; `shift` makes it another."""

    vocabulary = 200

    def __init__(self, shift=0):
        self.shift = shift

    def tokenize(self, text):
        return [ord(sign) + self.shift for sign in text]

    def piece(self, token):
        return bytes([token - self.shift])


def spoken(*texts):
    answers = tuple(tuple(map(ord, text)) for text in texts)
    none = np.zeros((0, 1))
    question = tuple(map(ord, "Why?\n"))
    return Words(np.arange(len(texts)), question, answers, texts, none, none, none, answers)


def test_a_tokenizer():
    words = spoken("one", "two", "")
    assert causes.of_tokenizer(Spelling(), "Why?", words) == []
    asked, cut, read = causes.of_tokenizer(Spelling(1), "Why?", words)
    assert "the question becomes other tokens" in asked and "2 of 3 golden answers" in read
    assert "golden answers are cut otherwise" in cut
    (asked,) = causes.of_tokenizer(Spelling(), "Why not?", words)
    assert "question" in asked


def test_tokens_beyond_a_smaller_vocabulary():
    small = Spelling()
    small.vocabulary = ord("p")
    (told,) = causes.of_tokenizer(small, "Why?", spoken("one", "two", "map"))
    assert "2 of 3" in told


def layer(name, values):
    return trace.sample(name, np.asarray(values, np.float32))


def test_the_first_layer_that_drifts_is_named():
    rng = np.random.default_rng(4)
    sound = rng.normal(0, 1, (4, 100))
    expected = [layer(name, sound) for name in ("stem", "body", "head")]
    limit = LayerLimit(error=0.01, scale=0.01)
    assert causes.of_layers(trace.drifts(expected, expected), limit) == []
    found = [expected[0], layer("body", 1.05 * sound), layer("head", 1.2 * sound)]
    (told,) = causes.of_layers(trace.drifts(expected, found), limit)
    assert told.startswith("first layer that drifts: body: 1.05 times") and "permuted" not in told


@pytest.mark.parametrize(("name", "named"), [("blocks.0.q", True), ("blocks.0.v", False)])
def test_q_and_k_in_another_order(name, named):
    rng = np.random.default_rng(4)
    sound = rng.normal(0, 1, 200)
    drifts = trace.drifts([layer(name, sound)], [layer(name, rng.permutation(sound))])
    (told,) = causes.of_layers(drifts, LayerLimit(error=0.01, scale=0.01))
    assert ("q and k are not permuted" in told) is named
