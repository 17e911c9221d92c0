"""Packs: there and back, the size of a part, and what is refused."""

import json

import numpy as np
import pytest

from feallm.model.data import pack
from feallm.runtime.contract.errors import InputError


def test_there_and_back(tiny, tmp_path):
    sources = [tiny.rows(7, name="first"), tiny.rows(5, seed=1, name="second")]
    parts = pack.write(sources, tmp_path / "new" / "pack")
    assert [part.name for part in parts] == ["first-00.npz", "second-00.npz"]
    faces = pack.read(tmp_path / "new" / "pack")
    for name in pack.ROW_ARRAYS:
        expected = np.concatenate([getattr(source, name) for source in sources])
        found = getattr(faces, name)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    assert faces.origins == tuple(source.origin for source in sources)
    assert [picture.shape for picture in faces.pictures] == [(48, 48)] * 12
    assert np.abs(faces.pictures[7].astype(int) - tiny.pictures(5, seed=1)[0]).mean() < 5


def test_no_part_grows_over_its_limit(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(pack, "PART_BYTES", 12_000)
    rows = tiny.rows(40)
    parts = pack.write([rows], tmp_path)
    assert len(parts) > 2
    assert max(part.stat().st_size for part in parts) <= 12_000
    np.testing.assert_array_equal(pack.read(tmp_path).votes, rows.votes)


def test_the_shipped_limit_is_25_mib():
    assert pack.PART_BYTES == 25 * 2**20


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "swap"])
def test_a_damaged_part_is_refused(tiny, tmp_path, damage):
    first, second = pack.write([tiny.rows(6, name="a"), tiny.rows(6, seed=1, name="b")], tmp_path)
    data = bytearray(first.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
        first.write_bytes(data)
    elif damage == "cut":
        first.write_bytes(data[:-10])
    elif damage == "remove":
        first.unlink()
    else:
        first.write_bytes(second.read_bytes())
    with pytest.raises(InputError, match="a-00.npz"):
        pack.read(tmp_path)


@pytest.mark.parametrize("content", [None, "", "{half"])
def test_a_missing_or_damaged_index_is_refused(tiny, tmp_path, content):
    pack.write([tiny.rows(4)], tmp_path)
    index = tmp_path / pack.INDEX
    index.unlink()
    if content is not None:
        index.write_text(content)
    with pytest.raises(InputError, match="pack.json") as error:
        pack.read(tmp_path)
    assert "feallm data pack" in error.value.line()


def test_a_pack_that_was_not_finished_is_not_read(tiny, tmp_path, monkeypatch):
    pack.write([tiny.rows(4)], tmp_path)

    def fail(*words, **arrays):
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="disk full"):
        pack.write([tiny.rows(4, seed=2)], tmp_path)
    with pytest.raises(InputError):
        pack.read(tmp_path)


def test_the_index_names_sources_and_licences(tiny, tmp_path):
    pack.write([tiny.rows(4, name="faces")], tmp_path)
    (origin,) = json.loads((tmp_path / pack.INDEX).read_text())["origins"]
    assert origin == {"name": "faces", "licence": "none: random", "rows": 4, "sha256": "0" * 64}


@pytest.fixture
def with_pattern(tiny, tmp_path):
    """A pack of two parts, the second of renders: as the renderer writes them, with `pattern`."""
    folder = tmp_path / "renders"
    _, part = pack.write([tiny.rows(3, name="a"), tiny.rows(4, seed=1, name="b")], folder)
    with np.load(part) as file:
        arrays = dict(file)
    np.savez(part, **arrays, pattern=np.array([-1, 0, 7, 3], np.int8))
    index = json.loads((folder / pack.INDEX).read_text())
    index["parts"][1]["sha256"] = pack.sha256(part)
    (folder / pack.INDEX).write_text(json.dumps(index))
    return folder


def test_the_pattern_of_a_render_is_kept(with_pattern):
    faces = pack.read(with_pattern)
    assert faces.pattern.tolist() == [-1, -1, -1, -1, 0, 7, 3]  # photographs come from none
    assert faces.pattern.dtype == np.int8
    assert pack.read(with_pattern, 6).pattern.tolist() == [-1, -1, -1, -1, 0, 7]


def test_patterns_stay_with_their_rows_when_packs_are_joined(tiny, with_pattern, tmp_path):
    pack.write([tiny.rows(2, seed=2)], tmp_path / "photos")
    renders, photos = pack.read(with_pattern), pack.read(tmp_path / "photos")
    assert photos.pattern.tolist() == [-1, -1]
    both = pack.join([photos, renders, photos])
    assert both.pattern.tolist() == [-1, -1, *renders.pattern, -1, -1]
    assert both.source.tolist() == [0] * 2 + [1] * 7 + [2] * 2
    assert len(both.pictures) == len(both.group) == len(both.pattern)
    assert pack.join([renders]).pattern.tolist() == renders.pattern.tolist()
