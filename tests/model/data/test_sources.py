"""The shared faces: nothing that is for evaluation may get into a training pack."""

import csv
import hashlib
from pathlib import Path

import numpy as np
import pytest

from feallm.model.data import ferplus, sources
from feallm.model.evaluate import sets
from feallm.runtime.contract.errors import InputError
from feallm.runtime.contract.expressions import EXPRESSION_INDEX

DATA = Path(__file__).parents[4] / "shared" / "data"
needs_data = [
    pytest.mark.data,
    pytest.mark.skipif(not DATA.is_dir(), reason="the shared data is not beside this checkout"),
]


def marked(test):
    for mark in needs_data:
        test = mark(test)
    return test


@pytest.mark.parametrize("make", [sources.fer_train, sources.lfw_train])
def test_a_folder_without_the_data(tmp_path, make):
    with pytest.raises(InputError, match="no such file"):
        make(tmp_path)


@marked
def test_valid_has_3199_rows_under_the_rule():
    data = sets.read(DATA / "fer", "valid")
    counts = np.bincount(data.expression[data.rows], minlength=8).tolist()
    assert counts == [1182, 865, 415, 351, 287, 24, 62, 13] and sum(counts) == 3199
    assert data.points5 is None


@marked
def test_the_rule_is_the_data_pages_own():
    with np.load(DATA / "fer" / "train.npz") as file:
        found, expected = ferplus.classes(file["votes"]), file["ferplus_class"]
    np.testing.assert_array_equal(found, expected)


@pytest.fixture(scope="module")
def fer():
    return sources.fer_train(DATA)


@marked
def test_near_copies_of_evaluation_pictures_are_dropped(fer):
    with np.load(DATA / "fer" / "train.npz") as file:
        near, group, votes = file["near_eval"], file["dup_group"], file["votes"]
    with np.load(DATA / "fer" / "valid.npz") as file:
        reported = set(file["dup_group"].tolist())
    assert not set(fer.group.tolist()) & reported
    assert not set(fer.group.tolist()) & set(group[near != 0].tolist())
    usable = (near == 0) & (ferplus.soft_labels(votes).sum(1) > 0)
    assert len(fer.images) == usable.sum() == fer.origin.rows
    assert (ferplus.classes(fer.votes) >= 0).sum() == 23069
    assert (fer.group >= 0).all()  # people of LFW are numbered below 0


@marked
def test_labels_are_in_step_with_pictures(fer):
    """Smiles are found on faces called happy: rows of labels and pictures were not shifted."""
    from feallm.runtime.contract.aus import AU_INDEX

    smile = fer.au_sides[:, AU_INDEX["AU12"]].max(1)
    winner = ferplus.classes(fer.votes)
    found = np.isfinite(smile)
    happy = (smile[found & (winner == 1)] >= 1).mean()
    others = (smile[found & (winner == 0)] >= 1).mean()
    assert happy > 0.6 and others < 0.15


@marked
@pytest.mark.parametrize("name, table", [("lfw", "attributes"), ("lfw_more", "attributes_more")])
def test_no_person_of_the_test_part_is_trained_on(name, table, monkeypatch):
    """Detector apart (a stub that finds every face): it is the choice of rows that is tested."""
    face = np.zeros((1, 15), np.float32)
    face[0] = [80, 80, 90, 90, 105, 110, 145, 110, 125, 130, 108, 150, 142, 150, 0.9]

    class Stub:
        def detect(self, picture):
            return 1, face

    monkeypatch.setattr(sources.cv2.FaceDetectorYN, "create", lambda *given: Stub())
    rows = sources.lfw_train(DATA, name)
    with (DATA / "lfw" / f"{table}.csv").open(newline="") as file:
        people = list(csv.DictReader(file))
    with np.load(DATA / "lfw" / f"{name}.npz") as file:
        test, offsets, images = file["test"], file["offsets"], file["images"].tobytes()
        assert [person["name"] for person in people] == file["names"].tolist()
    place = {images[offsets[i] : offsets[i + 1]]: i for i in range(len(people))}
    trained = [place[image] for image in rows.images]
    assert len(trained) == rows.origin.rows > 1000
    assert not test[trained].any()
    for k, i in enumerate(trained):
        person = people[i]["name"].rsplit("_", 1)[0]
        assert int(hashlib.sha256(person.encode()).hexdigest(), 16) % 10 != 0
        assert rows.expression[k].argmax() == EXPRESSION_INDEX[people[i]["expression"]]
    assert (rows.group < 0).all() and np.isnan(rows.au_sides).all()
    assert np.allclose(rows.expression.sum(1), 1)
    names = {}
    for k, i in enumerate(trained):
        names.setdefault(int(rows.group[k]), set()).add(people[i]["name"].rsplit("_", 1)[0])
    assert all(len(people) == 1 for people in names.values())
