"""Recordings of one checkpoint that agree, and the same with one thing planted in the second."""

import dataclasses
import json

import numpy as np
import pytest

from feallm.export import recordings
from feallm.runtime.contract.aus import AU_KEYS
from feallm.runtime.contract.errors import InputError
from feallm.runtime.verify import golden_file
from feallm.runtime.verify.golden import Facts, Golden, Words, hash_of

FACES, FRAMES, KEPT = 6, 3, 4


def words(answers=((5, 6, 7), (5, 8), (9, 6, 3, 2)), seed=1):
    rng = np.random.default_rng(seed)
    places = sum(map(len, answers))
    logit = -np.sort(-rng.normal(8, 3, (places, 20)).astype(np.float32), 1)
    top = np.argsort(rng.random((places, 20)), 1)
    return Words(
        np.array([0, 2, 5]),
        (1, 2),
        answers,
        tuple(f"text of {one}" for one in answers),
        top[:, :KEPT],
        logit[:, :KEPT],
        np.log(np.exp(logit.astype(np.float64)).sum(1)).astype(np.float32),
    )


@pytest.fixture(scope="module")
def first():
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (FACES, 128, 112, 3), dtype=np.uint8)
    frames = tuple(golden_file._png(crop) for crop in crops[:FRAMES])
    shapes = {
        "au_probability": (20,), "au_intensity": (20, 2), "expression": (8,), "tokens": (4, 32),
        "landmarks": (68, 2), "pose_deg": (3,), "gaze_deg": (2,), "au_side_probability": (20, 2),
    }  # fmt: skip
    facts = Facts(
        model="nano", checkpoint_sha256="a" * 64, device="cpu", dtype="float32", settings={},
        versions={}, seed=0, pictures=(), sha256=hash_of(frames, crops), command="",
        aus_trained=AU_KEYS[:3], thresholds=dict.fromkeys(AU_KEYS[:3], 0.5),
    )  # fmt: skip
    matrix = np.tile(np.array([[0.8, 0.1, -20.0], [-0.1, 0.8, 3.0]]), (FRAMES, 1, 1))
    matrix[2] = np.nan  # no face found
    return Golden(
        facts,
        frames,
        matrix,
        rng.random((FRAMES, 20), np.float32),
        rng.random((FRAMES, 8), np.float32),
        crops,
        {name: rng.random((FACES, *shape), np.float32) for name, shape in shapes.items()},
        np.full((FACES, 20), np.nan, np.float32),
        np.full(FACES, -1),
        words(),
    )


def changed(one, name, by):
    """With something added to one value."""
    value = getattr(one, name).copy()
    value.flat[0] += by
    return dataclasses.replace(one, **{name: value})


def spoken(one, **given):
    return dataclasses.replace(one, words=dataclasses.replace(one.words, **given))


def output(one, name, by):
    value = one.outputs[name].copy()
    value.flat[0] += by
    return dataclasses.replace(one, outputs=one.outputs | {name: value})


def faults(first, second):
    found = recordings.compare(first, second)
    assert found.judged
    return {line.what for line in found.lines if not line.passed}


def test_the_same_agrees_and_every_figure_has_its_limit(first):
    assert faults(first, first) == set()
    limited = {
        line.what for line in recordings.compare(first, first).lines if line.limit is not None
    }
    assert {f"{name}: SQNR, dB" for name in (*first.outputs, "logits")} <= limited
    assert {"texts that changed, of 3", "frames: crop's corner, px"} <= limited


@pytest.mark.parametrize("name", ["landmarks", "pose_deg", "gaze_deg"])
def test_an_output_that_is_off_is_told(first, name):
    assert faults(first, output(first, name, 1e-5)) == set()
    assert f"{name}: largest difference" in faults(first, output(first, name, 0.02))


@pytest.mark.parametrize(
    ("name", "little", "much", "what"),
    [
        ("frame_au", 1e-5, 2e-3, "frames: AU probability, largest difference"),
        ("frame_expression", 1e-5, 2e-3, "frames: expression, largest difference"),
        ("frame_matrix", 1e-5, 0.01, "frames: crop's corner, px"),
        ("frame_matrix", 1e-5, np.nan, "frames in which one alone finds a face"),
    ],
)
def test_what_is_read_on_whole_frames_is_compared(first, name, little, much, what):
    assert faults(first, changed(first, name, little)) == set()
    assert faults(first, changed(first, name, much)) == {what}


def test_without_frames_their_lines_are_not_there(first):
    bare = dataclasses.replace(
        first, frames=(), frame_matrix=first.frame_matrix[:0],
        frame_au=first.frame_au[:0], frame_expression=first.frame_expression[:0],
    )  # fmt: skip
    assert not [x for x in recordings.compare(bare, bare).lines if x.tier == "way"]


def test_texts_may_change_in_one_of_a_hundred(first):
    one = spoken(first, said=("another text", *first.words.said[1:]))
    assert faults(first, one) == {"texts that changed, of 3"}
    for count, told in ((99, {"texts that changed, of 99"}), (100, set())):
        many = dataclasses.replace(
            first.words, spoken=np.zeros(count, int), answers=((5,),) * count,
            said=("a",) * count, top=np.tile(first.words.top[:1], (count, 1)),
            logit=np.tile(first.words.logit[:1], (count, 1)),
            total=np.tile(first.words.total[:1], count),
        )  # fmt: skip
        full = dataclasses.replace(first, words=many)
        assert faults(full, full) == set()
        assert faults(full, spoken(full, said=("b", *many.said[1:]))) == told


def test_answers_that_part_are_compared_up_to_the_token_that_differs(first):
    rows = [0, 1, 3, 4, 5, 6, 7, 8]  # without the last of the first answer
    own = first.words
    parted = spoken(
        first, answers=((5, 1), (5, 8), (9, 6, 3, 2)), top=own.top[rows], logit=own.logit[rows],
        total=own.total[rows],
    )  # fmt: skip
    assert faults(first, parted) == {"texts that changed, of 3"}
    assert [len(rows) for rows in recordings._places(own, parted.words)] == [8, 8]
    # The place that chose the other token counts, what comes after it does not.
    for row, seen in ((1, True), (2, False)):
        total = own.total.copy()
        total[row] += 1
        told = "KL of the next token, nats, mean" in faults(spoken(first, total=total), parted)
        assert told is seen


def test_logits_are_compared_at_every_place(first):
    own = first.words
    swapped = own.top.copy()
    swapped[3, :2] = own.top[3, 1::-1]
    found = faults(first, spoken(first, top=swapped))
    assert found >= {"same token first", "KL of the next token, nats, mean"}
    order = np.array([0, 2, 1, 3])  # the same, told in another order
    assert faults(first, spoken(first, top=own.top[:, order], logit=own.logit[:, order])) == set()


@pytest.mark.parametrize(("keep_first", "keep_second"), [(4, 3), (3, 4), (1, 4)])
def test_another_number_of_tokens_is_no_fault(first, keep_first, keep_second):
    def cut(count):
        own = first.words
        return spoken(first, top=own.top[:, :count], logit=own.logit[:, :count])

    assert faults(cut(keep_first), cut(keep_second)) == set()


def test_nothing_in_common_is_a_fault(first):
    others = spoken(first, top=first.words.top + 100)
    assert faults(first, others) >= {"same token first", "KL of the next token, nats, mean"}


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize(
    ("plant", "told"),
    [
        (lambda one: dataclasses.replace(one, words=None), "words: the .* recording holds answers"),
        (lambda one: spoken(one, spoken=np.array([0, 2, 4])), "answers are about other faces"),
        (lambda one: spoken(one, question=(1, 3)), "the question is other tokens"),
        (
            lambda one: dataclasses.replace(
                one, outputs={k: v for k, v in one.outputs.items() if k != "au_side_probability"}
            ),
            "au_side_probability: .*none",
        ),
        (
            lambda one: dataclasses.replace(
                one, outputs=one.outputs | {"tokens": one.outputs["tokens"][:, :2]}
            ),
            r"tokens: \(6, .*, 32\)",
        ),
    ],
)
def test_what_one_side_lacks_is_refused_or_told(first, plant, told, swap):
    pair = (plant(first), first) if swap else (first, plant(first))
    with pytest.raises(InputError, match=told):
        recordings.compare(*pair)
    facts = first.facts.model_copy(update={"checkpoint_sha256": "b" * 64})
    found = recordings.compare(pair[0], dataclasses.replace(pair[1], facts=facts))
    assert not found.judged and len(found.left_out) == 1
    assert f"Left out: {found.left_out[0]}." in recordings.markdown(found)


def test_of_two_checkpoints_nothing_is_judged(first, feallm, tmp_path):
    facts = first.facts.model_copy(update={"checkpoint_sha256": "b" * 64})
    other = output(dataclasses.replace(first, facts=facts), "pose_deg", 5)
    assert "pose_deg: largest difference" in faults(first, output(first, "pose_deg", 5))
    for name, one in (("a", first), ("b", other)):
        golden_file.write(one, tmp_path / name)
    call = ["reference", "compare", tmp_path / "a", tmp_path / "b"]
    code, out, _ = feallm(*call)
    assert code == 0 and "Nothing is judged" in out.splitlines()[0]
    code, out, _ = feallm(*call, "--json")
    found = json.loads(out)
    assert code == 0 and found["judged"] is False and found["passed"] is None
    code, out, _ = feallm("reference", "compare", tmp_path / "a", tmp_path / "a", "--json")
    assert code == 0 and json.loads(out)["judged"] and json.loads(out)["passed"]
