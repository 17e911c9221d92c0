"""The list of frozen sets: what counts as another set, and that it does not change unseen."""

import json

import numpy as np
import pytest

from feallm.model.evaluate import frozen
from feallm.runtime.contract.errors import InputError

ONE, OTHER = frozen.Entry(3, "a" * 64), frozen.Entry(3, "b" * 64)


@pytest.fixture(autouse=True)
def file(tmp_path, monkeypatch):
    path = tmp_path / "frozen.json"
    monkeypatch.setattr(frozen, "FILE", path)
    return path


def test_a_digest_knows_where_a_part_ends():
    assert frozen.digest([b"ab", b"c"]) != frozen.digest([b"a", b"bc"]) != frozen.digest([b"abc"])
    assert frozen.digest(iter([b"ab", b"c"])) == frozen.digest([b"ab", b"c"])
    assert len(frozen.digest([])) == 64


def test_arrays_are_the_same_whatever_holds_them():
    values = np.array([[0.5, np.nan], [2, 3]], np.float32)
    odd = values.copy()
    odd.view(np.uint32)[0, 1] = 0xFFC00001  # another NaN
    expected = frozen.canonical(values, "f4")
    for same in (odd, values.astype(">f4"), np.asfortranarray(values), values.astype(np.float64)):
        assert frozen.canonical(same, "f4") == expected
    assert frozen.canonical(values.ravel(), "f4") != expected
    assert frozen.canonical(np.array([1, 2]), "i8") == frozen.canonical(
        np.array([1, 2], "u1"), "i8"
    )


def test_there_and_back(file):
    assert frozen.read() == {}
    assert frozen.freeze({"b": ONE, "a": OTHER}) == ["b", "a"]
    assert frozen.read() == {"a": OTHER, "b": ONE}
    assert list(json.loads(file.read_text())) == ["a", "b"] and file.read_text().endswith("}\n")
    frozen.check("a", OTHER)


def test_what_is_frozen_stays(file):
    frozen.freeze({"a": ONE})
    before = file.read_bytes()
    assert frozen.freeze({"a": ONE}) == []
    with pytest.raises(InputError, match="a is frozen, and this is another") as error:
        frozen.freeze({"new": ONE, "a": OTHER})
    assert "--again" in error.value.line()
    assert file.read_bytes() == before  # nothing of it was written
    assert frozen.freeze({"new": ONE}) == ["new"] and frozen.read()["a"] == ONE
    assert frozen.freeze({"a": OTHER}, again=True) == ["a"]
    assert frozen.read() == {"a": OTHER, "new": ONE}


def test_check():
    with pytest.raises(InputError, match="a is not frozen yet") as error:
        frozen.check("a", ONE)
    assert error.value.exit_code == 3
    frozen.freeze({"a": ONE})
    for found in (OTHER, frozen.Entry(2, ONE.sha256)):
        with pytest.raises(InputError, match="not the set that was frozen: . faces") as error:
            frozen.check("a", found)
        assert "expected 3 faces, aaaaaaaaaaaa…" in error.value.line()


@pytest.mark.parametrize("text", ["", "[]", '{"a": 3}', '{"a": {"n": 3}}', '{"a": {"n": "x"}}'])
def test_a_list_that_cannot_be_read(file, text):
    file.write_text(text)
    with pytest.raises(InputError, match="not a readable list of frozen sets"):
        frozen.read()


def test_a_place_that_cannot_be_written(file, monkeypatch):
    monkeypatch.setattr(frozen, "FILE", file.parent / "none" / "frozen.json")
    with pytest.raises(InputError, match="cannot be written"):
        frozen.freeze({"a": ONE})
