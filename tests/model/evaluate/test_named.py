"""Sets by name: what is in them, points and stand-ins, and that a changed set is refused."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from feallm.model.coded import codes, faces
from feallm.model.evaluate import coded, frozen, named, photos
from feallm.runtime.contract.aus import AU_INDEX
from feallm.runtime.contract.errors import InputError, UsageError

DATA = Path(__file__).parents[4] / "shared" / "data"
PEOPLE = [  # id, sex, age, ethnicity
    ("002", "female", "24", "white"),
    ("003", "male", "50", "white"),  # odd: may be trained on
    ("004", "male", "30", "black"),
    ("010", "female", "", "east_asian/white"),
    ("012", "male", "26", "white"),
]
EYES = np.array([[15.0, 19], [33, 19], [24, 28], [17, 36], [31, 36]])


class Finder:
    """Finds faces a little further right each time; none in the pictures named."""

    def __init__(self, *unseen):
        self.unseen = unseen
        self.asked = []

    def find(self, source, name):
        self.asked.append((source, name))
        return None if name in self.unseen else EYES + len(self.asked)


@pytest.fixture(autouse=True)
def own_files(tmp_path, monkeypatch):
    """Nothing of the repository is read or written: lists and codes come from this folder."""
    folder = tmp_path / "coded"
    folder.mkdir()
    monkeypatch.setattr(frozen, "FILE", folder / "frozen.json")
    monkeypatch.setattr(coded, "FOLDER", folder)
    return folder


@pytest.fixture
def finder(monkeypatch):
    """Stands in for YuNet wherever a named set is read."""
    made = Finder("lfw:2", "004_smiling")
    monkeypatch.setattr(photos, "Points", lambda shared: made)
    return made


@pytest.fixture
def shared(tmp_path, tiny):
    """A small folder of shared data."""
    folder = tmp_path / "shared"
    (folder / "london").mkdir(parents=True)
    (folder / "lfw").mkdir()
    with (folder / "london" / "info.csv").open("w", newline="") as text:
        csv.writer(text).writerows([("id", "sex", "age", "ethnicity"), *PEOPLE])
    pictures = iter(tiny.webp(p) for p in tiny.pictures(22))
    for person in PEOPLE:
        for word in ("neutral", "smiling"):
            (folder / "london" / f"{person[0]}_{word}.webp").write_bytes(next(pictures))
    for file, test, expression in (
        ("lfw", [1, 0, 1, 1, 1], [0, 0, 1, -1, 2]),
        ("lfw_more", [0, 0, 1], [1, 1, 7]),
    ):
        images = [next(pictures) for _ in test]
        np.savez(
            folder / "lfw" / f"{file}.npz",
            images=np.frombuffer(b"".join(images), np.uint8),
            offsets=np.cumsum([0, *map(len, images)]),
            names=np.array([f"Somebody_{k:04d}" for k in range(len(test))]),
            test=np.array(test, bool),
            expression=np.array(expression, np.int8),
        )
    return folder


@pytest.fixture
def codings(own_files):
    """Lists and codes of three test faces and two training faces."""
    lists = {
        "test": [
            ("T001", "lfw", "lfw:0", "neutral"),
            ("T002", "london", "002_smiling", "happiness"),
            ("T003", "lfw", "lfw:2", "none expressions:48"),
        ],
        "train": [
            ("D001", "lfw", "lfw:1", "neutral"),
            ("D002", "lfw", "lfw_more:0", "happiness"),
        ],
    }
    for part, rows in lists.items():
        listed = [faces.CodedFace(*row, EYES + k) for k, row in enumerate(rows)]
        faces.write(listed, own_files / f"{part}.csv")
    given = {
        "a": {"T001": "00?", "T002": "111", "T003": "1?0"},
        "b": {"T003": "100", "T002": "101", "T001": "00?"},  # in another order
        "c": {"D001": "1?0", "D002": "001"},
    }
    for reader, rows in given.items():
        write_codes(own_files / f"codes_{reader}.csv", rows)
    return own_files


def write_codes(path, rows):
    """Codes of AU1, AU2 and AU4 as given; all others absent."""
    lines = [",".join(["id", *codes.CODED_AUS])]
    lines += [",".join([face, *first, *"0" * 12]) for face, first in rows.items()]
    path.write_text("\n".join(lines) + "\n")


def freeze(shared):
    return frozen.freeze(named.entries(shared, None)[0])


def test_london_even(shared):
    chosen = photos.london_even(shared)
    data = chosen.located(Finder())
    assert chosen.names[:2] == ["002_neutral", "002_smiling"] and len(chosen.names) == 8
    assert data.images[3] == (shared / "london" / "004_smiling.webp").read_bytes()
    assert data.expression.tolist() == [0, 1] * 4
    assert data.au[:, AU_INDEX["AU12"]].tolist() == [0, 1] * 4
    assert np.isnan(np.delete(data.au, AU_INDEX["AU12"], 1)).all()
    assert data.rows.tolist() == list(range(8))


def test_slices_of_london(shared):
    """The median of 24, 26 and 30 is 26; one gave no age."""
    slices = photos.london_even(shared).labelled.slices
    assert slices["sex"].tolist() == np.repeat(["female", "male", "female", "male"], 2).tolist()
    assert slices["ethnicity"].tolist()[4:6] == ["east_asian/white"] * 2
    assert slices["age"].tolist() == np.repeat(["<26", ">=26", "", ">=26"], 2).tolist()


def test_lfw_test(shared):
    chosen = photos.lfw_test(shared)
    assert chosen.names == ["lfw:0", "lfw:2", "lfw:4", "lfw_more:2"]
    data = chosen.located(Finder())
    assert data.expression.tolist() == [0, 1, 2, 7] and data.au is None and data.slices == {}
    assert data.images[3] == faces.Shared(shared).encoded("lfw", "lfw_more:2")


def test_a_picture_without_a_face_is_scored_at_the_middle_and_counted(shared):
    finder = Finder("lfw:2")
    data = photos.lfw_test(shared).located(finder)
    assert finder.asked[1] == ("lfw", "lfw:2") and len(data.images) == 4
    assert data.stand_in.tolist() == [False, True, False, False]
    np.testing.assert_array_equal(data.points5[1], EYES + 3)  # of EYES + 1, + 3 and + 4
    np.testing.assert_array_equal(data.points5[2], EYES + 3)
    with pytest.raises(InputError, match="no face found in any picture of lfw"):
        photos.lfw_test(shared).located(Finder("lfw:0", "lfw:2", "lfw:4", "lfw_more:2"))


def test_no_detector_file(shared):
    with pytest.raises(InputError, match="no such detector file"):
        photos.lfw_test(shared).located()


def test_coded_test_is_the_consensus(shared, codings):
    data = coded.labelled(shared, "test")
    nan = np.nan
    found = data.au[:, [AU_INDEX[key] for key in ("AU1", "AU2", "AU4", "AU12")]]
    np.testing.assert_array_equal(found, [[0, 0, nan, 0], [1, nan, 1, 0], [1, nan, 0, 0]])
    assert np.isnan(data.au[:, AU_INDEX["AU14"]]).all()  # not coded
    assert data.images[1] == (shared / "london" / "002_smiling.webp").read_bytes()
    np.testing.assert_array_equal(data.points5[2], EYES + 2)
    assert data.slices["source"].tolist() == ["lfw", "london", "lfw"]
    assert data.slices["expression"].tolist() == ["neutral", "happiness", "none"]
    assert data.expression is None and not data.stand_in.any()


def test_coded_train_is_the_third_reader(shared, codings):
    data = coded.labelled(shared, "train")
    found = data.au[:, [AU_INDEX[key] for key in ("AU1", "AU2", "AU4")]]
    np.testing.assert_array_equal(found, [[1, np.nan, 0], [0, 0, 1]])


def test_each_name_is_read(shared, codings, finder):
    freeze(shared)
    for name, count in (("london-even", 8), ("lfw-test", 4), ("coded-test", 3), ("coded-train", 2)):
        assert len(named.read(shared, name).images) == count
    assert named.read(shared, "london-even").stand_in.sum() == 1


def change_picture(shared, codings):
    """One byte of a picture."""
    path = shared / "london" / "002_smiling.webp"
    path.write_bytes(path.read_bytes() + b"!")


def change_class(shared, codings):
    path = shared / "lfw" / "lfw.npz"
    with np.load(path) as file:
        arrays = dict(file)
    arrays["expression"][0] = 6
    np.savez(path, **arrays)


def change_code(shared, codings):
    write_codes(codings / "codes_b.csv", {"T001": "000", "T002": "101", "T003": "100"})


def change_list(shared, codings):
    path = codings / "train.csv"
    path.write_text(path.read_text().replace("lfw:1", "lfw:0"))


CHANGES = {
    "london-even": change_picture,
    "lfw-test": change_class,
    "coded-test": change_code,
    "coded-train": change_list,
}


@pytest.mark.parametrize("name, change", CHANGES.items())
def test_a_changed_set_is_refused_before_a_face_is_looked_for(
    shared, codings, finder, name, change
):
    freeze(shared)
    change(shared, codings)
    with pytest.raises(InputError, match=f"{name} is not the set that was frozen"):
        named.read(shared, name)
    assert finder.asked == []
    with pytest.raises(InputError, match=f"{name} is frozen, and this is another"):
        freeze(shared)


@pytest.mark.parametrize("name", named.NAMES)
def test_names_are_not_for_data_files(shared, name, split, votes):
    with pytest.raises(UsageError, match=f"{name} is a frozen set"):
        named.read(split(count=1, votes=votes(0)), name)
    with pytest.raises(InputError, match="no such folder"):
        named.read(shared / "none", name)


@pytest.mark.parametrize("name", ["london-even", "lfw-test", "renders-frozen"])
def test_a_folder_without_the_data(tmp_path, name):
    with pytest.raises(InputError, match="info.csv|lfw.npz|pack.json"):
        named.read(tmp_path, name)


TABLES = {
    "empty": "",
    "no age": "id,sex,ethnicity\n002,male,white",
    "a short row": "id,sex,age,ethnicity\n002,male,30",
    "an id of letters": "id,sex,age,ethnicity\nx,male,30,white",
}


@pytest.mark.parametrize("text", TABLES.values(), ids=TABLES.keys())
def test_bad_tables(shared, text):
    (shared / "london" / "info.csv").write_text(text)
    with pytest.raises(InputError, match="info.csv"):
        photos.london_even(shared)


@pytest.mark.parametrize("array", ["test", "expression"])
def test_bad_lfw(shared, array):
    path = shared / "lfw" / "lfw.npz"
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **{**arrays, array: arrays[array][:-1]})
    with pytest.raises(InputError, match="one value a picture"):
        photos.lfw_test(shared)
    np.savez(path, **{**arrays, "expression": np.full(5, 8)})
    with pytest.raises(InputError, match="0–7"):
        photos.lfw_test(shared)


def test_codes_that_are_not_there(shared, own_files, feallm, exported):
    faces.write([faces.CodedFace("T001", "lfw", "lfw:0", "neutral", EYES)], own_files / "test.csv")
    code, _, err = feallm(
        "evaluate", "--data", shared, "--split", "coded-test",
        "--bundle", exported[1], "--json", shared / "out.json",
    )  # fmt: skip
    assert (code, err.count("\n")) == (3, 1) and "codes_a.csv: no such file" in err


def test_the_command_freezes_what_is_there(shared, own_files, feallm):
    code, out, _ = feallm("data", "freeze", "--data", shared)
    assert code == 0
    assert out.splitlines()[0].startswith("london-even  8 faces, sha256 ")
    assert "coded-test  left out: no codes_a.csv and no codes_b.csv yet" in out
    assert "renders-frozen  left out: no --renders" in out
    entries = json.loads((own_files / "frozen.json").read_text())
    assert set(entries) == {"lfw-test", "london-even"} and entries["lfw-test"]["n"] == 4
    code, out, _ = feallm("data", "freeze", "--data", shared)
    assert code == 0 and out.count("as it was frozen") == 2


def test_the_command_changes_only_what_it_is_told_to(shared, own_files, codings, feallm):
    feallm("data", "freeze", "--data", shared)
    before = (own_files / "frozen.json").read_bytes()
    change_code(shared, codings)
    code, out, err = feallm("data", "freeze", "--data", shared)
    assert (code, out, err.count("\n")) == (3, "", 1) and "--again" in err
    assert (own_files / "frozen.json").read_bytes() == before
    code, out, _ = feallm("data", "freeze", "--data", shared, "--again")
    assert code == 0 and out.count(", frozen\n") == 1 and out.count("as it was frozen") == 3
    assert (own_files / "frozen.json").read_bytes() != before


def test_codes_with_a_fault_are_not_frozen(shared, codings, feallm):
    (codings / "codes_c.csv").write_text("id\n")
    code, _, err = feallm("data", "freeze", "--data", shared)
    assert (code, err.count("\n")) == (3, 1) and "codes_c.csv: expected the header" in err


def test_the_command_scores_a_named_set(shared, feallm, exported, finder):
    freeze(shared)
    out = shared / "out.json"
    code, text, _ = feallm(
        "evaluate", "--data", shared, "--split", "london-even",
        "--bundle", exported[1], "--json", out,
    )  # fmt: skip
    assert code == 0
    found = json.loads(out.read_text())
    assert (found["n"], found["points_missing"], found["split"]) == (8, 1, "london-even")
    assert found["expression"]["n"] == 8 and set(found["aus"]) == {"AU12"}
    assert set(found["slices"]) == {"sex", "ethnicity", "age"}
    assert found["slices"]["sex"]["female"]["n"] == 4
    assert set(found["slices"]["sex"]["female"]["auc"]) == {"AU12"}
    assert "1 of them without points of their own" in text
    assert "ethnicity  east_asian/white" in text


def test_a_changed_set_is_one_line(shared, codings, feallm, exported, finder):
    freeze(shared)
    change_picture(shared, codings)
    out = shared / "out.json"
    code, text, err = feallm(
        "evaluate", "--data", shared, "--split", "london-even",
        "--bundle", exported[1], "--json", out,
    )  # fmt: skip
    assert (code, text, err.count("\n")) == (3, "", 1) and "was frozen" in err
    assert not out.exists()


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data is not beside this checkout")
def test_the_shared_data_is_what_was_frozen(monkeypatch):
    monkeypatch.setattr(frozen, "FILE", faces.FOLDER / "frozen.json")
    monkeypatch.setattr(coded, "FOLDER", faces.FOLDER)
    found, _ = named.entries(DATA, None)
    assert (found["london-even"].n, found["lfw-test"].n) == (104, 654)
    for name, entry in found.items():
        frozen.check(name, entry)
