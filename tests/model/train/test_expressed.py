"""Rendered patterns as labels of the expression: of whom, and how sure."""

import numpy as np
import pytest

from feallm.model.data import pack
from feallm.model.train import whole
from feallm.runtime.contract.aus import N_AUS
from feallm.runtime.contract.expressions import EXPRESSION_INDEX

NAN = np.nan
VOTED = np.array([0.1, 0, 0.6, 0.3, 0, 0, 0, 0])


def made(*rows):
    """Faces of (rendered, pattern, strongest AU, soft labels)."""
    count = len(rows)
    rendered, pattern, strongest, expression = zip(*rows, strict=True)
    sides = np.full((count, N_AUS, 2), NAN, np.float32)
    sides[:, 3, 1] = strongest
    sides[np.isfinite(sides[:, 3, 1]), :3] = 0
    pose = np.where(np.array(rendered)[:, None], 1.0, NAN) * np.ones(3)
    nothing = np.zeros((count, 5, 2), np.float32)
    return pack.Faces(
        [np.zeros((48, 48), np.uint8)] * count,
        np.zeros((count, 10), np.float32),
        np.array(expression, np.float32),
        sides,
        nothing,
        nothing,
        np.arange(count),
        place={"pose_deg": pose.astype(np.float32)},
        pattern=np.array(pattern, np.int8),
    )


def label_of(*row):
    return whole.expressed(made(row)).expression[0]


def pattern_of(word):
    """Nine tenths for the word, the rest evenly for the seven others."""
    soft = np.full(8, 0.1 / 7)
    soft[EXPRESSION_INDEX[word]] = 0.9
    return pytest.approx(soft)


NOTHING = np.zeros(8)


def test_a_render_has_the_expression_that_it_was_drawn_from():
    assert label_of(True, EXPRESSION_INDEX["anger"], 3.0, NOTHING) == pattern_of("anger")
    assert label_of(True, 0, 3.0, NOTHING) == pattern_of("neutral")


def test_a_render_without_au_labels_has_it_too():
    assert label_of(True, EXPRESSION_INDEX["fear"], NAN, NOTHING) == pattern_of("fear")


@pytest.mark.parametrize("pattern", [-1, 0, EXPRESSION_INDEX["anger"]])
def test_a_render_that_hardly_moves_is_neutral(pattern):
    assert label_of(True, pattern, 0.99, NOTHING) == pattern_of("neutral")
    assert label_of(True, pattern, -2.0, NOTHING) == pattern_of("neutral")


def test_a_trace_is_enough_to_keep_the_pattern():
    assert label_of(True, EXPRESSION_INDEX["anger"], 1.0, NOTHING) == pattern_of("anger")


def test_a_render_that_moves_freely_has_no_expression():
    assert label_of(True, -1, 1.0, NOTHING).tolist() == NOTHING.tolist()


@pytest.mark.parametrize("pattern", [-1, 4])
@pytest.mark.parametrize("strongest", [0.0, 3.0, NAN])
def test_photographs_keep_their_votes(pattern, strongest):
    assert label_of(False, pattern, strongest, VOTED) == pytest.approx(VOTED)
    assert label_of(False, pattern, strongest, NOTHING).tolist() == NOTHING.tolist()


def test_faces_side_by_side():
    """Each by its own: rows are not mixed up, and the pack itself is left alone."""
    faces = made(
        (False, -1, 3.0, VOTED),
        (True, 2, 3.0, NOTHING),
        (True, 4, 0.5, NOTHING),
        (True, -1, 2.0, NOTHING),
        (True, 7, 1.5, NOTHING),
    )
    before = (faces.expression.copy(), faces.pattern.copy())
    found = whole.expressed(faces)
    assert found.expression.argmax(1).tolist() == [2, 2, 0, 0, 7]
    assert found.expression.sum(1) == pytest.approx([1, 1, 1, 0, 1])
    assert found.expression.dtype == np.float32
    np.testing.assert_array_equal(faces.expression, before[0])
    np.testing.assert_array_equal(faces.pattern, before[1])
    assert found.au_sides is faces.au_sides and found.pattern is faces.pattern


def test_a_job_with_patterns_is_another_job(tmp_path):
    """Its states are not gone on with."""
    folder = tmp_path / "pack"
    folder.mkdir()
    (folder / pack.INDEX).write_text("{}")
    jobs = [
        whole.Job("nano", (whole.Pack(folder),), tmp_path / "run", patterns=patterns)
        for patterns in (False, True)
    ]
    whole._same_job(jobs[0])
    whole._same_job(jobs[0])
    with pytest.raises(whole.UsageError, match="another patterns"):
        whole._same_job(jobs[1])
