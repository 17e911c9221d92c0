"""What is declared of faces at rest: by hand on four faces."""

import json

import numpy as np
import pytest

from feallm.model.evaluate import decisions
from feallm.runtime.contract.aus import AU_INDEX, N_AUS

THRESHOLDS = {"AU4": 0.5, "AU12": 0.4}
NEUTRAL = np.array([True, True, False, True])


@pytest.fixture
def outputs():
    """AU4 on the first two faces, AU12 on the second; a face that is not neutral shows all. AU1 is
    likely everywhere, but has no threshold: it was not trained."""
    probability = np.zeros((4, N_AUS), np.float64)
    probability[:, AU_INDEX["AU1"]] = 0.99
    probability[:, AU_INDEX["AU4"]] = [0.5, 0.9, 0.9, 0.49]
    probability[:, AU_INDEX["AU12"]] = [0.39, 0.4, 0.9, 0.1]
    expression = np.full((4, 8), 0.05)
    expression[np.arange(4), [0, 1, 0, 0]] = 0.65
    return {"au_probability": probability, "expression": expression}


@pytest.fixture
def excused():
    """A reader saw AU4 on the first and the third face, and AU12 on the last, where none is."""
    seen = np.zeros((4, N_AUS), bool)
    seen[[0, 2], AU_INDEX["AU4"]] = True
    seen[3, AU_INDEX["AU12"]] = True
    return seen


def test_without_readers(outputs):
    found = decisions.at_rest(outputs, NEUTRAL, None, THRESHOLDS)
    assert found == {
        "n": 3,
        "declared": 1,  # three on three faces
        "neutral_first": pytest.approx(2 / 3),
        "by_au": {"AU4": 2, "AU12": 1},
    }


def test_what_a_reader_saw_is_excused(outputs, excused):
    found = decisions.at_rest(outputs, NEUTRAL, excused, THRESHOLDS)
    assert found["declared"] == 1
    assert found["beyond_readers"] == pytest.approx(2 / 3)
    assert found["by_au"] == {"AU4": 1, "AU12": 1}
    excused[1] = True
    found = decisions.at_rest(outputs, NEUTRAL, excused, THRESHOLDS)
    assert found["beyond_readers"] == 0 and found["by_au"] == {}
    json.dumps(found, allow_nan=False)


def test_no_face_at_rest(outputs, excused):
    assert decisions.at_rest(outputs, np.zeros(4, bool), excused, THRESHOLDS) == {}
    nobody = {name: values[:0] for name, values in outputs.items()}
    assert decisions.at_rest(nobody, NEUTRAL[:0], None, THRESHOLDS) == {}


def test_evaluation_tells_it_of_a_set(feallm, exported, split, votes, tmp_path):
    """Two faces that the votes call neutral, one that they do not."""
    out = tmp_path / "out.json"
    code, text, err = feallm(
        "evaluate", "--data", split(count=3, votes=votes(0, 4, 0)), "--split", "valid",
        "--bundle", exported[1], "--json", out,
    )  # fmt: skip
    assert code == 0, err
    found = json.loads(out.read_text())
    resting = found["at_rest"]
    assert resting["n"] == 2 and "beyond_readers" not in resting
    assert resting["neutral_first"] == found["expression"]["classes"]["neutral"]["recall"]
    assert resting["declared"] == sum(resting["by_au"].values()) / 2
