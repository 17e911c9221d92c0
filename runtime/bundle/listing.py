"""What lies on the disk of a bundle, no link followed: names, sizes and hashes."""

from __future__ import annotations

import hashlib
import os
import reprlib
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from feallm.runtime.contract.errors import BundleError
from feallm.runtime.contract.manifest import tree_sha256

CHUNK_BYTES = 1 << 20
MOST_FILES = 10_000
"""In the folder of one artifact; Core ML's have three."""

Sizes = dict[str, int]
"""Bytes of each file of a folder by its path within it, written with /; of a file alone by ""."""

KINDS = {
    stat.S_IFREG: "a file",
    stat.S_IFLNK: "a link",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}


@contextmanager
def told(path: Path, absent: str | None = None) -> Iterator[None]:
    """What the disk answers instead becomes one `BundleError`; `absent` says what it means that
    nothing is there."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # or a zero in the path
        raise BundleError(absent or f"{path}: is not there") from error
    except OSError as error:
        why = error.strerror or "the disk does not answer"
        raise BundleError(f"{path}: cannot be read: {why}") from error


def kind(mode: int) -> str:
    """What a thing on the disk is, by its `st_mode`, in words."""
    return KINDS.get(stat.S_IFMT(mode), "a device")


def contents(folder: Path) -> dict[str, os.stat_result]:
    """What lies in a folder by name, links as links."""
    with told(folder), os.scandir(folder) as entries:
        found = {entry.name: entry.stat(follow_symlinks=False) for entry in entries}
    for name in found:
        if not name.isprintable():  # so are bytes that are no UTF-8
            raise BundleError(f"{folder}: {shown(name)} is no name of a bundle's file")
    return found


def small(path: Path, most_bytes: int, *, absent: str) -> bytes:
    """What is in a plain file of at most `most_bytes`; a larger one is refused unread."""
    with told(path, absent):
        found = os.lstat(path)
    if not stat.S_ISREG(found.st_mode):
        raise BundleError(f"{path}: {kind(found.st_mode)}, where a file should be")
    with told(path), path.open("rb") as file:
        data = file.read(most_bytes + 1) if found.st_size <= most_bytes else None
    if data is None or len(data) > most_bytes:
        raise BundleError(f"{path}: {found.st_size} bytes, {most_bytes} at most are read")
    return data


def sizes(path: Path) -> Sizes:
    """Of a plain file, or of all files of a folder. `BundleError` for links and whatever else is
    neither, and for empty folders, which no hash would show."""
    with told(path):
        found = os.lstat(path)
    if stat.S_ISREG(found.st_mode):
        return {"": found.st_size}
    if not stat.S_ISDIR(found.st_mode):
        raise BundleError(f"{path}: {kind(found.st_mode)}, where a file of the bundle should be")
    result: Sizes = {}
    folders = [path]
    while folders:
        folder = folders.pop()
        inside = contents(folder)
        if not inside:
            raise BundleError(f"{folder}: an empty folder, where files of the bundle should be")
        for name, entry in inside.items():
            place = folder / name
            if stat.S_ISDIR(entry.st_mode):
                folders.append(place)
            elif stat.S_ISREG(entry.st_mode):
                result[place.relative_to(path).as_posix()] = entry.st_size
            else:
                what = kind(entry.st_mode)
                raise BundleError(f"{place}: {what}, where a file of the bundle should be")
        if len(result) + len(folders) > MOST_FILES:
            raise BundleError(f"{path}: more than {MOST_FILES} files")
    return result


def sha256_of(path: Path, files: Sizes) -> str:
    """Of a file's bytes, or `tree_sha256` of a folder with these files."""
    hashes = {name: _sha256(path / name) for name in files}
    return hashes[""] if "" in hashes else tree_sha256(hashes)


def _sha256(path: Path) -> str:
    """By chunks: a file may be larger than the device's memory."""
    result = hashlib.sha256()
    with told(path), path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK_BYTES):
            result.update(chunk)
    return result.hexdigest()


def measure(path: Path, *, absent: str) -> tuple[int, str]:
    """Bytes and sha256 of a file, or of a folder with all that is in it; `BundleError` with the
    text `absent` where there is neither."""
    if not os.path.lexists(path):
        raise BundleError(absent)
    files = sizes(path)
    return sum(files.values()), sha256_of(path, files)


def shown(text: object, most: int = 200) -> str:
    """What a stranger wrote, fit for a terminal: printable, in one line, not too long."""
    whole = text if isinstance(text, str) else reprlib.repr(text)  # however deep it is
    clean = "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in whole)
    return clean if len(clean) <= most else f"{clean[:most]}…"
