"""Faces at rest that two readers coded: what either saw is excused."""

import csv
from pathlib import Path

import numpy as np
import pytest

from feallm.model.coded import codes, faces
from feallm.model.evaluate import coded, frozen
from feallm.runtime.contract.aus import AU_INDEX, AU_KEYS, N_AUS
from feallm.runtime.contract.errors import InputError

DATA = Path(__file__).parents[4] / "shared" / "data"
POINTS = np.array([[15.0, 19], [33, 19], [24, 28], [17, 36], [31, 36]])


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Lists and codes of AU1, AU2 and AU4, all others absent; pictures are their names."""
    monkeypatch.setattr(coded, "FOLDER", tmp_path)
    monkeypatch.setattr(faces.Shared, "encoded", lambda self, source, name: name.encode())

    def write(part, **readers):
        ids = next(iter(readers.values()))
        listed = [faces.CodedFace(face, "lfw", f"lfw:{face}", "neutral", POINTS) for face in ids]
        faces.write(listed, tmp_path / f"{part}.csv")
        for reader, rows in readers.items():
            lines = [",".join(["id", *codes.CODED_AUS])]
            lines += [",".join([face, *first, *"0" * 12]) for face, first in rows.items()]
            (tmp_path / f"codes_{reader}.csv").write_text("\n".join(lines) + "\n")
        return coded.labelled(tmp_path, part)

    return write


AT = [AU_INDEX[key] for key in ("AU1", "AU2", "AU4")]


def test_what_either_reader_saw_is_excused(own):
    """Sure absence and doubt excuse nothing; the second file is in another order."""
    data = own(
        "neutral",
        d={"N001": "100", "N002": "1??", "N003": "000"},
        e={"N003": "0?0", "N001": "010", "N002": "1?0"},
    )
    assert data.excused.dtype == bool and data.excused.shape == (3, N_AUS)
    assert data.excused[:, AT].tolist() == [
        [True, True, False],
        [True, False, False],
        [False, False, False],
    ]
    assert not np.delete(data.excused, AT, 1).any()


def test_faces_at_rest_are_neutral_and_their_aus_the_consensus(own):
    data = own("neutral", d={"N001": "101", "N002": "000"}, e={"N001": "110", "N002": "00?"})
    assert data.expression.tolist() == [0, 0]
    nan = np.nan
    np.testing.assert_array_equal(data.au[:, AT], [[1, nan, nan], [0, 0, nan]])
    assert data.images == [b"lfw:N001", b"lfw:N002"]
    assert data.slices["source"].tolist() == ["lfw", "lfw"] and not data.stand_in.any()


def test_other_parts_have_no_expression_and_excuse_nothing(own):
    for part, readers in (("test", "ab"), ("train", "c")):
        data = own(part, **{reader: {"X001": "111"} for reader in readers})
        assert data.expression is None and data.excused is None


def test_codes_of_other_faces_are_refused(own):
    with pytest.raises(InputError, match=r"codes_e.csv: no code for N002"):
        own("neutral", d={"N001": "000", "N002": "000"}, e={"N001": "000"})


def test_the_committed_faces_at_rest_are_those_that_were_frozen():
    found = coded.entry("neutral")
    assert found.n == 100
    frozen.check("coded-neutral", found)


def table(reader):
    """A reader's codes as the file has them: face -> AU -> cell."""
    with (faces.FOLDER / f"codes_{reader}.csv").open(newline="") as text:
        return {line.pop("id"): line for line in csv.DictReader(text)}


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data is not beside this checkout")
def test_the_shared_faces_at_rest():
    data = coded.labelled(DATA, "neutral")
    ids = [face.id for face in faces.listed("neutral")]
    first, second = table("d"), table("e")
    assert set(first) == set(second) == set(ids)
    assert len(data.images) == len(data.rows) == 100 and (data.expression == 0).all()
    some = 0
    for i, face in enumerate(ids):
        for k, key in enumerate(AU_KEYS):
            said = {first[face].get(key), second[face].get(key)}
            assert data.excused[i, k] == ("1" in said), (face, key)
            some += "1" in said
            expected = {frozenset("1"): 1.0, frozenset("0"): 0.0}.get(frozenset(said - {None}))
            assert data.au[i, k] == expected or (expected is None and np.isnan(data.au[i, k]))
    assert 0 < some < 300  # faces at rest show few
    assert sorted(set(data.slices["source"])) == ["lfw", "london"]
    shared = faces.Shared(DATA)
    for face, image in zip(faces.listed("neutral"), data.images, strict=True):
        assert image == shared.encoded(face.source, face.name)
        if face.source == "lfw":  # of people that no training sees
            file, row = face.name.split(":")
            assert shared.archive(DATA / "lfw" / f"{file}.npz")[1]["test"][int(row)]
