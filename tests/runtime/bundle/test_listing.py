"""What lies on the disk: told as it is, links never followed, strange things refused."""

from __future__ import annotations

import hashlib
import os
import stat

import pytest

from feallm.runtime.bundle import listing
from feallm.runtime.contract.errors import BundleError
from feallm.runtime.contract.manifest import tree_sha256


@pytest.fixture
def package(tmp_path):
    """A folder with two files, one of them in a folder within."""
    root = tmp_path / "package"
    (root / "Data").mkdir(parents=True)
    (root / "a").write_bytes(b"abc")
    (root / "Data" / "b").write_bytes(b"12345")
    return root


def test_a_file_and_a_folder(package):
    assert listing.sizes(package / "a") == {"": 3}
    assert listing.sizes(package) == {"a": 3, "Data/b": 5}
    hashes = {"a": hashlib.sha256(b"abc"), "Data/b": hashlib.sha256(b"12345")}
    expected = tree_sha256({name: made.hexdigest() for name, made in hashes.items()})
    assert listing.measure(package, absent="") == (8, expected)
    assert listing.measure(package / "a", absent="") == (3, hashes["a"].hexdigest())


def test_a_file_of_many_chunks(tmp_path):
    data = os.urandom(2 * listing.CHUNK_BYTES + 77)
    (tmp_path / "x").write_bytes(data)
    assert listing.measure(tmp_path / "x", absent="")[1] == hashlib.sha256(data).hexdigest()


def link(path):
    path.symlink_to("a")


def link_out(path):
    path.symlink_to(path.parent)


def socket(path):
    os.mknod(path, stat.S_IFSOCK | 0o600)


@pytest.mark.parametrize("where", ["c", "Data/c"])
@pytest.mark.parametrize(
    ("plant", "words"),
    [
        (link, "a link, where"),
        (link_out, "a link, where"),
        (os.mkfifo, "a pipe, where"),
        (socket, "a socket, where"),
        (os.mkdir, "an empty folder"),
    ],
)
def test_what_does_not_belong_into_a_folder(package, plant, words, where):
    plant(package / where)
    with pytest.raises(BundleError, match=words) as caught:
        listing.sizes(package)
    assert where in caught.value.message


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[2J", b"\xff\xfe", "\u202egnp", "a\u2028b"])
def test_names_that_could_lie_on_a_terminal(package, name):
    with open(os.path.join(os.fsencode(package), os.fsencode(name)), "wb"):
        pass
    with pytest.raises(BundleError, match="is no name of a bundle's file") as caught:
        listing.contents(package)
    assert caught.value.line().isprintable()


def test_too_many_files(package, monkeypatch):
    monkeypatch.setattr(listing, "MOST_FILES", 2)
    assert len(listing.sizes(package)) == 2
    (package / "c").write_bytes(b"")
    with pytest.raises(BundleError, match="more than 2 files"):
        listing.sizes(package)


def test_a_small_file(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"12345")
    assert listing.small(path, 5, absent="") == b"12345"
    with pytest.raises(BundleError, match="5 bytes, 4 at most are read"):
        listing.small(path, 4, absent="")
    with pytest.raises(BundleError, match="nothing here"):
        listing.small(tmp_path / "y", 5, absent="nothing here")
    with pytest.raises(BundleError, match="a folder, where a file should be"):
        listing.small(tmp_path, 5, absent="")
    link(tmp_path / "z")
    with pytest.raises(BundleError, match="a link, where a file should be"):
        listing.small(tmp_path / "z", 5, absent="")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BundleError, match="a pipe"):
        listing.small(tmp_path / "pipe", 5, absent="")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain ü 顔", "plain ü 顔"),
        ("a\nb\x1b[0m", "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}[0m"),
        ("\ud800", "\N{REPLACEMENT CHARACTER}"),
        ("x" * 9000, "x" * 200 + "…"),
        (None, "None"),
        (2, "2"),
    ],
)
def test_what_a_stranger_wrote(text, expected):
    assert listing.shown(text) == expected
