"""Codes of readers: strict reading, agreement and consensus by hand."""

import math

import numpy as np
import pytest

from feallm.model.coded import codes, faces
from feallm.runtime.contract.aus import AU_KEYS
from feallm.runtime.contract.errors import InputError

HEADER = "id,AU1,AU2,AU4,AU5,AU6,AU7,AU9,AU10,AU12,AU15,AU17,AU20,AU25,AU26,AU43"


def line(face, first, rest="0"):
    """A row: AU1 as given, every other AU as `rest`."""
    return ",".join([face, first, *[rest] * 14])


@pytest.fixture
def write(tmp_path):
    """Write lines under the header; gives the file."""

    def of(*lines, name="codes_a.csv", header=HEADER):
        path = tmp_path / name
        path.write_text("\n".join([header, *lines, ""]))
        return path

    return of


def test_what_a_file_says(write):
    read = codes.read(write(line("T001", "1"), line("T002", "?", "1"), line("T003", "0", "?")))
    assert read.ids == ("T001", "T002", "T003")
    assert read.values.dtype == np.int8 and read.values.shape == (3, 15)
    assert read.values[:, 0].tolist() == [1, -1, 0]
    assert read.values[:, 7].tolist() == [0, 1, -1]


def test_the_columns_are_the_projects_aus():
    assert HEADER == ",".join(["id", *codes.CODED_AUS])
    assert [AU_KEYS[k] for k in codes.COLUMNS] == list(codes.CODED_AUS)


BAD = {
    "empty": ("", "expected the header id,AU1"),
    "another order": (HEADER.replace("AU1,AU2", "AU2,AU1"), "expected the header"),
    "no face": (HEADER, "no face in it"),
    "too few cells": (f"{HEADER}\nT001,0,1", "line 2 has 3 cells, expected 16"),
    "too many cells": (f"{HEADER}\n{line('T001', '1')},0", "line 2 has 17 cells"),
    "a blank line": (f"{HEADER}\n{line('T001', '1')}\n\n", "line 3 has 0 cells"),
    "an intensity": (f"{HEADER}\n{line('T001', '1', '2')}", "line 2: AU2 is '2', expected 0, 1 or"),
    "nothing said": (f"{HEADER}\n{line('T001', '')}", "line 2: AU1 is ''"),
    "a space": (f"{HEADER}\n{line('T001', ' 1')}", "line 2: AU1 is ' 1'"),
    "twice": (f"{HEADER}\n{line('T001', '1')}\n{line('T001', '0')}", "line 3: id 'T001' is empty"),
    "no id": (f"{HEADER}\n{line('', '1')}", "line 2: id '' is empty or comes twice"),
    "an open quote": (f'{HEADER}\n"T001', "not a readable CSV file"),
    "not UTF-8": (b"id,\xff", "not a readable CSV file"),
}


@pytest.mark.parametrize("text, message", BAD.values(), ids=BAD.keys())
def test_bad_files(tmp_path, text, message):
    path = tmp_path / "codes_a.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match="codes_a.csv") as error:
        codes.read(path)
    assert message in error.value.line() and error.value.exit_code == 3


def test_no_file(tmp_path):
    with pytest.raises(InputError, match="codes_a.csv: no such file"):
        codes.read(tmp_path / "codes_a.csv")
    with pytest.raises(InputError, match="cannot be read"):
        codes.read(tmp_path)


def test_another_order_of_faces(write):
    read = codes.read(write(line("T002", "1"), line("T001", "0", "?"))).of(["T001", "T002"])
    assert read.ids == ("T001", "T002") and read.values[:, 0].tolist() == [0, 1]
    assert read.values[0, 1:].tolist() == [-1] * 14


def test_other_faces(write):
    read = codes.read(write(line("T001", "1"), line("T002", "1")))
    with pytest.raises(InputError, match="codes_a.csv: no code for T003 and 1 more"):
        read.of(["T001", "T002", "T003", "T004"])
    with pytest.raises(InputError, match="codes_a.csv: not on the list: T002$"):
        read.of(["T001"])


@pytest.fixture
def two(write):
    """Two readers of twenty faces; the second's file is in another order."""
    first, second = "1" * 8 + "0" * 9 + "?" * 3, "1" * 6 + "0?" + "1" + "0" * 7 + "?" + "?0" + "1"
    ids = [f"T{k:03d}" for k in range(20)]
    a = [line(face, code) for face, code in zip(ids, first, strict=True)]
    b = [line(face, code) for face, code in zip(ids, second, strict=True)]
    return codes.read(write(*a)), codes.read(write(*b[::-1], name="codes_b.csv"))


def test_agreement_by_hand(two):
    """Rows A, columns B: present 6 0-called 1 unsure 1; absent 1 7 1; unsure 1 1 1. po = 14 / 20;
    pe = (8 * 8 + 9 * 9 + 3 * 3) / 400 = .385; kappa = .315 / .615."""
    one, other = codes.agreement(*two)[:2]
    assert one.kappa == pytest.approx(0.315 / 0.615)
    assert (one.au, one.n, one.agreed) == ("AU1", 20, 0.7)
    assert (one.present, one.unsure) == ((8, 8), (3, 3))
    assert (one.both_present, one.both_absent) == (6, 7)
    assert other.au == "AU2" and other.agreed == 1
    assert math.isnan(other.kappa)  # both said absent of all: no chance to disagree
    assert other.both_absent == 20


def test_agreement_needs_the_same_faces(two, write):
    other = codes.read(write(line("T000", "1"), name="codes_c.csv"))
    with pytest.raises(InputError, match="codes_c.csv: no code for T001"):
        codes.agreement(two[0], other)


def test_consensus(two):
    found = codes.consensus(*two)
    assert found.shape == (20, 15) and found.dtype == np.float64
    nan = math.nan
    expected = [1.0] * 6 + [nan, nan, nan] + [0.0] * 7 + [nan] * 4
    np.testing.assert_array_equal(found[:, 0], expected)
    np.testing.assert_array_equal(codes.consensus(*two[::-1])[::-1], found)
    assert (found[:, 1:] == 0).all()


def test_one_readers_labels(two):
    np.testing.assert_array_equal(
        codes.labels(two[0])[:, 0], [1.0] * 8 + [0.0] * 9 + [math.nan] * 3
    )


def test_the_command_prints_a_line_an_au(feallm, two):
    code, out, _ = feallm("data", "agreement", "--a", two[0].path, "--b", two[1].path)
    assert code == 0
    table = {row.split()[0]: row.split() for row in out.splitlines() if row.startswith("AU")}
    assert list(table) == ["AU", *codes.CODED_AUS]
    assert table["AU1"][1:] == ["20", ".512", ".700", "8", "8", "3", "3", "6", "7"]
    assert table["AU2"][1:4] == ["20", "–", "1.000"]
    assert "mean kappa 0.512 over 1 AUs" in out


def test_the_command_without_codes_is_one_line(feallm, tmp_path, monkeypatch):
    from feallm.model.evaluate import coded

    monkeypatch.setattr(coded, "FOLDER", tmp_path)
    code, out, err = feallm("data", "agreement")
    assert (code, out, err.count("\n")) == (3, "", 1) and "codes_a.csv: no such file" in err


@pytest.mark.parametrize(
    "part, readers, count",
    [
        ("test", "ab", 150),
        ("train", "c", 150),
        ("neutral", "de", 100),
        ("more", "f", 232),
        ("learn", "g", 1427),
    ],
)
def test_the_committed_codes_are_of_the_committed_lists(part, readers, count):
    ids = [face.id for face in faces.listed(part)]
    for reader in readers:
        assert codes.read(faces.FOLDER / f"codes_{reader}.csv").of(ids).values.shape == (count, 15)


def test_readers_of_faces_in_common(feallm):
    """324 faces of `learn` were read twice."""
    first, second = (faces.FOLDER / f"codes_{reader}.csv" for reader in "hg")
    code, _, err = feallm("data", "agreement", "--a", first, "--b", second)
    assert code == 3 and "not on the list" in err
    code, out, err = feallm("data", "agreement", "--a", first, "--b", second, "--common")
    assert code == 0, err
    lines = [line.split() for line in out.splitlines() if line.startswith("AU")][1:]
    assert {line[1] for line in lines} == {"324"} and len(lines) == 15
    assert all(float(line[2]) > 0.6 for line in lines)
