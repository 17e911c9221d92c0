"""Thresholds and intensities by hand: where they stand, and what is folded into the network."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from feallm.model.checkpoint import Checkpoint
from feallm.model.data import pack
from feallm.model.evaluate import sets
from feallm.model.train import calibrate, vision
from feallm.model.train.batches import still
from feallm.runtime.contract.aus import AU_INDEX, N_AUS

AU12, AU25 = AU_INDEX["AU12"], AU_INDEX["AU25"]
NOBODY = np.zeros((0, N_AUS))


def faces_of(*values):
    """One column (N, 20) of AU12, the same for AU25; the other AUs unknown."""
    table = np.full((len(values), N_AUS), np.nan)
    table[:, AU12] = table[:, AU25] = values
    return table


def evidence(rendered=(), coded=(), resting=()):
    """Of pairs (probability, label), and of the probabilities of faces at rest."""
    tables = []
    for pairs in (rendered, coded):
        read, truth = zip(*pairs, strict=True) if pairs else ((), ())
        tables += [faces_of(*read), faces_of(*truth)]
    return calibrate.Evidence(*tables, faces_of(*resting))


APART = ((0.8, 2.0), (0.9, 3.0), (0.31, 0.5), (0.1, 0.0))
"""Clearly present and clearly absent renders: any threshold above .31 and up to .8 is perfect; the
first of the grid .06, .08 … is .32."""


def test_the_lowest_threshold_that_parts_all_renders():
    assert calibrate.threshold(evidence(APART), AU12, 0.5) == 0.32


def test_renders_between_clearly_there_and_clearly_not_are_not_asked():
    """As absent, the first two would move it to .80; as present, the others to .08."""
    between = [(0.79, 1.0), (0.79, 0.6), (0.09, 1.9), (0.09, 1.5), (0.09, 1.9), (0.95, np.nan)]
    assert calibrate.threshold(evidence([*APART, *between]), AU12, 0.5) == 0.32


def test_faces_at_rest_push_it_up():
    assert calibrate.threshold(evidence(APART, resting=[0.51] * 4), AU12, 0.5) == 0.52


@pytest.mark.parametrize("alarmed, expected", [(4, 0.32), (5, 0.76)])
def test_a_face_at_rest_weighs_less_than_what_would_be_missed(alarmed, expected):
    """From .62 on one of two positives is missed: F1 falls from 1 to 2/3. Four of ten faces at rest
    cost .75 * .4 = .3 below .76, five cost .375: more than the third that a miss costs."""
    missed = [(0.61, 2.0), (0.9, 3.0), (0.31, 0.0)]
    resting = [0.75] * alarmed + [0.01] * (10 - alarmed)
    assert calibrate.threshold(evidence(missed, resting=resting), AU12, 0.5) == expected


def test_lips_may_part_at_rest():
    parted = evidence(APART, resting=[0.51] * 4)
    assert calibrate.threshold(parted, AU25, 0.5) == 0.32
    assert set(calibrate.OPEN_AT_REST) == {"AU25", "AU26"}


def test_photographs_that_no_reader_was_sure_of_are_not_asked():
    """As absent, they would move it to .46."""
    sure = [(0.6, 1.0)] * 5 + [(0.31, 0.0)] * 5
    assert calibrate.threshold(evidence(coded=sure), AU12, 0.5) == 0.32
    assert calibrate.threshold(evidence(coded=[*sure, *[(0.45, np.nan)] * 5]), AU12, 0.5) == 0.32
    assert calibrate.threshold(evidence(coded=[*sure, *[(0.45, 0.0)] * 5]), AU12, 0.5) == 0.46


@pytest.mark.parametrize("count, expected", [(4, 0.32), (5, 0.86)])
def test_few_photographs_say_nothing(count, expected):
    rendered = [(0.9, 2.0), (0.95, 3.0), (0.31, 0.0)]
    coded = [(0.9, 1.0)] * count + [(0.85, 0.0)] * count
    assert calibrate.threshold(evidence(rendered, coded), AU12, 0.5) == expected


def test_renders_and_photographs_weigh_alike():
    """Renders alone ask for .32. Up to .56 one photograph in four that is called is wrong, F1 10 of
    11; above .7 a render is missed, F1 2 of 3: between them both are perfect."""
    rendered = [(0.7, 2.0), (0.9, 3.0), (0.31, 0.0)]
    coded = [(0.9, 1.0)] * 5 + [(0.55, 0.0)]
    assert calibrate.threshold(evidence(rendered, coded), AU12, 0.5) == 0.56


@pytest.mark.parametrize(
    "scale, shift", [(1.0, 0.0), (1.3, 0.0), (1.1, -0.2), (2.4, -0.4), (0.9, 0.1)]
)
def test_the_line_undoes_what_was_done_to_intensities(scale, shift):
    truth = np.linspace(0.5, 4.5, 60)
    found = calibrate.line((truth - shift) / scale, truth)
    assert found == pytest.approx((scale, shift), abs=1e-9)


def test_the_line_goes_no_further_than_its_grid():
    truth = np.linspace(0, 5, 60)
    assert calibrate.line(truth / 5, truth)[0] == pytest.approx(3.0)


def test_the_line_gives_timid_readings_their_spread_back():
    rng = np.random.default_rng(0)
    truth = rng.uniform(0, 5, 200)
    read = 1 + 0.5 * truth + rng.normal(0, 0.4, 200)
    scale, shift = calibrate.line(read, truth)
    assert scale > 1  # timid readings are spread
    straight = np.clip(scale * read + shift, 0, 5)
    assert abs(straight.std() - truth.std()) < abs(read.std() - truth.std())


COUNT = 300


@pytest.fixture(scope="module")
def mixed(tiny):
    """Faces of which every other pair is a render, with intensities that the network reads too
    low; the photographs are neutral by their votes, but for some."""
    rows = tiny.rows(COUNT)
    faces = pack.Faces(
        list(tiny.pictures(COUNT)),
        *(getattr(rows, name) for name in pack.ROW_ARRAYS),
        place={
            name: np.full((COUNT, *shape), np.nan, np.float32)
            for name, shape in pack.PLACE_ARRAYS.items()
        },
        pattern=np.full(COUNT, -1, np.int8),
        source=np.zeros(COUNT, np.int64),
    )
    faces.place["pose_deg"][np.arange(COUNT) // 2 % 2 == 0] = 0
    faces.expression[:] = np.eye(8)[0]
    faces.expression[::3] = 1 / 8  # no face at rest by its votes
    read = tiny.vision().see(still(faces, np.arange(COUNT), at_points=True)).intensity
    faces.au_sides[:] = (1.2 * read.detach() - 0.1).numpy()
    untrained = [k for k in range(N_AUS) if k not in [AU_INDEX[key] for key in tiny.TRAINED]]
    faces.au_sides[:, untrained] = np.nan
    return faces


@pytest.fixture
def photographs(tiny, monkeypatch):
    """Stand in for the coded faces of `train`: eight of lfw, two of london."""
    images = [tiny.webp(picture) for picture in tiny.pictures(10, seed=4)]
    au = faces_of(*[1.0] * 6, *[0.0] * 4)
    source = np.array(["lfw"] * 8 + ["london"] * 2)
    made = sets.Labelled(Path("none"), images, None, au, None, slices={"source": source})
    asked = []
    monkeypatch.setattr(calibrate.coded, "labelled", lambda *given: asked.append(given) or made)
    return asked


def checkpoint(tiny):
    before = dict.fromkeys(tiny.TRAINED, 0.07)  # off the grid, unless nothing speaks against it
    return Checkpoint(tiny.CONFIG, tiny.vision(), None, None, tiny.TRAINED, (), before, {"seed": 3})


def test_a_checkpoint_is_calibrated_on_what_no_training_saw(tiny, mixed, photographs):
    made = calibrate.calibrated(checkpoint(tiny), mixed, Path("shared"), ("lfw",))
    _, held = vision.split(mixed)
    rendered = np.isfinite(mixed.place["pose_deg"][held, 0])
    resting = ~rendered & (mixed.expression[held, 0] == 1)
    assert 0 < resting.sum() < (~rendered).sum()
    assert made.training == {
        "seed": 3,
        "calibrated_on": {
            "renders": rendered.sum(),
            "coded": 16,  # the stand-in serves both lists
            "at rest": resting.sum(),
            "intensities": ["AU25"],  # of no other do five of these renders tell an intensity
        },
    }
    assert set(made.thresholds) == set(tiny.TRAINED)
    assert all(0.06 <= value <= 0.94 for value in made.thresholds.values())
    assert photographs == [(Path("shared"), "train"), (Path("shared"), "more")]


@torch.no_grad()
def test_the_line_is_folded_into_the_intensities_of_labelled_aus(tiny, mixed, photographs):
    """The labels are 1.2 times what is read, less .1: the same is read of other faces then."""
    crops = torch.from_numpy(tiny.crops(6, seed=5))
    made = calibrate.calibrated(checkpoint(tiny), mixed, Path("shared"), ("lfw",))
    before, after = tiny.vision().see(crops), made.vision.see(crops)
    changed = [
        AU_INDEX[key]
        for key in tiny.TRAINED
        if (mixed.au_sides[vision.split(mixed)[1], AU_INDEX[key]] >= 1).any()
    ]
    assert changed
    expected = before.intensity.clone()
    expected[:, changed] = 1.2 * expected[:, changed] - 0.1
    torch.testing.assert_close(after.intensity, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(after.au_logits, before.au_logits)


def test_without_any_evidence_the_threshold_stays():
    blank = evidence([(0.9, 1.0)] * 3)  # between B and the clear absence: no render says anything
    assert calibrate.threshold(blank, AU12, 0.37) == 0.37


def test_photographs_alone_calibrate_thresholds(tiny, mixed, photographs):
    place = {name: np.full_like(values, np.nan) for name, values in mixed.place.items()}
    faces = replace(mixed, place=place)
    made = calibrate.calibrated(checkpoint(tiny), faces, Path("shared"), ("lfw",))
    assert made.training["calibrated_on"]["renders"] == 0
