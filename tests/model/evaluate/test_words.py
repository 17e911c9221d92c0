"""Scoring texts: what does not parse is wrong, and swapped tokens really are another face's."""

import numpy as np
import pytest

from feallm.model.evaluate import words
from feallm.runtime.contract.aus import AU_KEYS
from feallm.runtime.contract.expressions import EXPRESSIONS
from feallm.runtime.contract.reading import AUReading, ExpressionReading, Reading
from feallm.runtime.language import template


def reading(expression, *aus):
    scores = {word: 0.93 if word == expression else 0.01 for word in EXPRESSIONS}
    known = {
        key: AUReading(key, 3.0, key in aus, 0.9 if key in aus else 0.1, None, None)
        if key in ("AU1", "AU12")
        else None
        for key in AU_KEYS
    }
    return Reading(0, (0.0, 0.0, 1.0, 1.0), 1.0, known, ExpressionReading(scores))


def right(face):
    """A text that holds for a reading."""
    return template.explain(face, "").text


@pytest.fixture
def faces():
    return [reading(EXPRESSIONS[k % 8], *["AU12"] * (k % 8 == 1)) for k in range(24)]


@pytest.fixture
def tokens():
    """Visual tokens that carry the number of their face."""
    return np.arange(24, dtype=np.float32)[:, None, None].repeat(17, 1)


def score(say, tokens, faces, truth=None):
    truth = np.arange(24) % 8 if truth is None else truth
    return words.score(lambda visual: say(int(visual[0, 0])), tokens, faces, truth)


def test_texts_that_follow_the_tokens(faces, tokens):
    found = score(lambda k: right(faces[k]), tokens, faces)
    assert found["n"] == 24 and found["accuracy"] == 1
    assert found["unparsed"] == found["replaced"] == 0 and found["replaced_by"] == {}
    assert found["accuracy_swapped_tokens"] < 0.5


def test_what_does_not_parse_is_wrong(faces, tokens):
    found = score(lambda k: "happiness" if k < 6 else right(faces[k]), tokens, faces)
    assert found["accuracy"] == found["unparsed"] * 3 == pytest.approx(18 / 24)
    assert found["replaced"] == pytest.approx(6 / 24)
    assert found["replaced_by"] == {"form": pytest.approx(6 / 24)}


def test_accuracy_is_held_against_the_truth_not_the_heads(faces, tokens):
    found = score(lambda k: right(faces[k]), tokens, faces, np.full(24, 2))
    assert found["accuracy"] == pytest.approx(3 / 24) and found["replaced"] == 0


def test_false_claims_are_counted_by_kind(faces, tokens):
    wrong = {1: right(reading("sadness")), 2: right(reading("surprise", "AU12"))}
    found = score(lambda k: wrong.get(k) or right(faces[k]), tokens, faces)
    assert found["accuracy"] == pytest.approx(23 / 24)
    assert found["replaced"] == pytest.approx(2 / 24)
    assert found["replaced_by"] == {
        "au_not_present": pytest.approx(1 / 24),
        "expression": pytest.approx(1 / 24),
    }


@pytest.mark.parametrize("count", [2, 3, 24])
def test_no_face_keeps_its_own_tokens(faces, tokens, count):
    said, truth = [], np.full(24, -1)
    truth[:count] = 1

    def say(k):
        said.append(k)
        return right(faces[k])

    score(say, tokens, faces, truth)
    own, swapped = said[0::2], said[1::2]
    assert own == list(range(count))
    assert sorted(swapped) == own  # each face's tokens are used once more
    assert all(a != b for a, b in zip(own, swapped, strict=True))
    first, said[:] = list(said), []
    score(say, tokens, faces, truth)
    assert said == first


def test_faces_without_a_class_are_not_asked(faces, tokens):
    truth = np.full(24, -1)
    found = score(lambda k: pytest.fail("asked"), tokens, faces, truth)
    assert found["n"] == 0 and found["accuracy"] == 0


def test_words_that_ignore_the_face_gain_nothing_by_their_tokens(faces, tokens):
    found = score(lambda k: right(reading("happiness")), tokens, faces)
    assert found["accuracy"] == found["accuracy_swapped_tokens"] == pytest.approx(3 / 24)
