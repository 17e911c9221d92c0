"""What is drawn: all of it from one seed, nobody in two streams, and faces that a face can make."""

from dataclasses import fields

import numpy as np
import pytest

from feallm.model.synth import occlude
from feallm.model.synth.sample import (
    _APART,
    LIGHTS,
    PATTERN_AUS,
    TEST_STREAM,
    TRAIN_STREAM,
    expression,
    glasses_for,
    occluder_for,
    person,
    rng_for,
    shot,
)
from feallm.model.synth.skin import TONES
from feallm.runtime.contract.aus import AU_BY_KEY, AU_INDEX, AU_KEYS, N_AUS
from feallm.runtime.contract.expressions import EXPRESSIONS

N = 1500


@pytest.fixture(scope="module")
def drawn():
    """Patterns (N,) and intensities (N, 20, 2)."""
    rng = np.random.default_rng(5)
    pairs = [expression(rng) for _ in range(N)]
    return np.array([p for p, _ in pairs]), np.stack([sides for _, sides in pairs])


@pytest.fixture(scope="module")
def shots():
    rng = np.random.default_rng(6)
    return [shot(rng, k, 10) for k in range(N)]


def same(a, b):
    """Whether two dataclasses hold the same."""
    return all(np.array_equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))


def test_the_same_numbers_draw_the_same():
    first, again = rng_for(7, 3, 0), rng_for(7, 3, 0)
    assert same(person(first), person(again)) and same(shot(first, 1, 9), shot(again, 1, 9))


@pytest.mark.parametrize("other", [(8, 3, 0), (7, 4, 0), (7, 3, 1)])
def test_another_seed_number_or_stream_draws_another(other):
    one, two = person(rng_for(7, 3, 0)), person(rng_for(*other))
    assert one.paint.seed != two.paint.seed and not np.array_equal(one.weights, two.weights)


def test_nobody_is_in_both_streams():
    streams = []
    for stream in (TRAIN_STREAM, TEST_STREAM):
        people = [person(rng_for(seed, k, stream)) for seed in (1, 2) for k in range(150)]
        streams.append({(p.paint.seed, p.weights.tobytes()) for p in people})
        assert len(streams[-1]) == 300
    assert TRAIN_STREAM != TEST_STREAM and not streams[0] & streams[1]
    seeds = [{seed for seed, _ in stream} for stream in streams]
    assert not seeds[0] & seeds[1]


def test_intensities_lie_in_0_to_5(drawn):
    patterns, sides = drawn
    assert sides.shape == (N, N_AUS, 2) and sides.min() == 0 and 4.5 < sides.max() <= 5
    assert set(patterns.tolist()) == {-1, *range(len(EXPRESSIONS))}
    assert 0.4 < (patterns < 0).mean() < 0.5


def test_every_au_and_every_strength_happens(drawn):
    strongest = drawn[1].max(2)
    shown = (strongest > 0).mean(0)
    assert shown.min() > 0.008 and shown.max() < 0.5, dict(zip(AU_KEYS, shown, strict=True))
    present = strongest[strongest > 0]
    counts = np.histogram(present, [0, 1.5, 2.5, 3.5, 5])[0] / len(present)
    assert counts.min() > 0.1, counts  # traces and slight ones too


def test_only_sided_aus_are_one_sided(drawn):
    for key, k in AU_INDEX.items():
        left, right = drawn[1][:, k].T
        lone = (np.minimum(left, right) < 0.3 * np.maximum(left, right)).sum()
        if AU_BY_KEY[key].sided:
            assert lone > 0, key
        else:
            assert (left == right).all(), key


def test_either_side_may_be_the_lone_one(drawn):
    patterns, sides = drawn
    left, right = sides[..., 0], sides[..., 1]
    assert (left > 3 * right).sum() > 20 and (right > 3 * left).sum() > 20
    contempt = patterns == EXPRESSIONS.index("contempt")
    smirk = sides[contempt][:, [AU_INDEX["AU12"], AU_INDEX["AU14"]]]
    asked = smirk.max(2) > 0
    assert (smirk.min(2) < 0.3 * smirk.max(2))[asked].mean() > 0.6


def test_eyes_close_together_but_for_a_wink(drawn):
    left, right = drawn[1][:, AU_INDEX["AU43"]].T
    shut = (left > 0) | (right > 0)
    assert 0 < (shut & (left != right)).sum() < 0.2 * shut.sum()


def test_what_hides_each_other_is_never_asked_together(drawn):
    there = drawn[1].max(2) > 0
    for a, b in _APART:
        assert not (there[:, AU_INDEX[a]] & there[:, AU_INDEX[b]]).any(), (a, b)


@pytest.mark.parametrize("word", EXPRESSIONS)
def test_a_pattern_shows_its_aus(drawn, word):
    patterns, sides = drawn
    mine = sides[patterns == EXPRESSIONS.index(word)].max(2) > 0
    sure = [key for key, chance in PATTERN_AUS[word].items() if chance >= 0.75]
    assert len(mine) > 30
    for key in sure:
        assert mine[:, AU_INDEX[key]].mean() > 0.55, key
    if word == "neutral":
        assert mine.mean() < 0.05


def test_shots_stay_within_their_bounds(shots):
    poses = np.array([s.pose_deg for s in shots])
    gazes = np.array([s.gaze_deg for s in shots])
    assert np.abs(poses[:, 1]).max() <= 55 and (np.abs(poses[:, 1]) > 20).mean() > 0.15
    assert gazes.min() >= -30 and gazes.max() <= 28
    sizes = np.array([s.eye_px for s in shots])
    assert sizes.min() >= 13 and sizes.max() <= 46 and (sizes < 27).mean() > 0.3
    assert {s.light for s in shots} == set(range(len(LIGHTS)))
    assert {s.background for s in shots} == {-1, *range(10)}
    assert 0.1 < np.mean([s.occluder != "none" for s in shots]) < 0.22
    assert np.mean([s.distance for s in shots]) > 60


def test_without_backgrounds_every_ground_is_plain():
    rng = np.random.default_rng(0)
    assert {shot(rng, k, 0).background for k in range(50)} == {-1}


def test_every_occluder_can_be_painted():
    rng = np.random.default_rng(0)
    assert {occluder_for(rng) for _ in range(500)} == set(occlude._PAINTERS)


def test_people_are_of_every_kind():
    people = [person(rng_for(1, k, 0)) for k in range(400)]
    tones = np.array([round(p.paint.tone) for p in people])
    assert set(tones.tolist()) == set(range(len(TONES)))
    assert {p.hair.kind for p in people} == {
        "bald", "short", "full", "long", "cap", "scarf", "hat"
    }  # fmt: skip
    assert 0.12 < np.mean([p.glasses is not None for p in people]) < 0.28
    assert 0.05 < np.mean([p.paint.beard > 0 for p in people]) < 0.3
    assert min(p.weights.shape for p in people) == (100,)
    rng = np.random.default_rng(0)
    dark = np.mean([glasses_for(rng).dark > 0.5 for _ in range(600)])
    assert 0.1 < dark < 0.26
