"""Which sets are frozen: `model/coded/frozen.json` names each with its size and its hash.

A figure on a frozen set can be compared with every other figure on it, since nobody can have
changed a picture or a label in between.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feallm.runtime.contract.errors import InputError

FILE = Path(__file__).parents[1] / "coded" / "frozen.json"


@dataclass(frozen=True, slots=True)
class Entry:
    """One frozen set."""

    n: int  # faces
    sha256: str  # of its identity and labels, as `digest`


def digest(parts: Iterable[bytes]) -> str:
    """sha256, hexadecimal, of parts each led by its length: no byte can move from one to the
    next unseen."""
    hasher = hashlib.sha256()
    for part in parts:
        hasher.update(len(part).to_bytes(8, "little"))
        hasher.update(part)
    return hasher.hexdigest()


def canonical(array: NDArray[Any], kind: str) -> bytes:
    """An array as little-endian `kind` ("f4", "i8", …) in C order, every NaN the same."""
    values = np.ascontiguousarray(array, np.dtype(kind).newbyteorder("<"))
    if values.dtype.kind == "f":
        values = np.where(np.isnan(values), np.nan, values).astype(values.dtype)
    return repr(values.shape).encode() + values.tobytes()


def read() -> dict[str, Entry]:
    """The frozen sets by name; none where the file is not there yet."""
    if not FILE.is_file():
        return {}
    try:
        fields = json.loads(FILE.read_text(encoding="utf-8"))
        return {
            str(name): Entry(int(entry["n"]), str(entry["sha256"]))
            for name, entry in fields.items()
        }
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{FILE}: not a readable list of frozen sets: {error!r}") from error


def check(name: str, found: Entry) -> None:
    """`InputError` unless this is the set that was frozen under the name."""
    expected = read().get(name)
    if expected is None:
        raise InputError(f"{name} is not frozen yet", hint="`feallm data freeze` does that, once")
    if found != expected:
        raise InputError(f"{name} is not the set that was frozen: {_apart(found, expected)}")


def freeze(found: Mapping[str, Entry], *, again: bool = False) -> list[str]:
    """Write the entries beside those that are there; gives the names of those that are new or
    other. `InputError`, and nothing is written, where an entry would change without `again`."""
    before = read()
    changed = [name for name, entry in found.items() if before.get(name) != entry]
    for name in changed:
        if name in before and not again:
            raise InputError(
                f"{name} is frozen, and this is another: {_apart(found[name], before[name])}",
                hint="--again freezes it anew; figures from before are then of another set",
            )
    if changed:
        entries = {name: asdict(entry) for name, entry in sorted({**before, **found}.items())}
        temporary = FILE.with_name(f".{FILE.name}.partial")
        try:
            temporary.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
            os.replace(temporary, FILE)
        except OSError as error:
            raise InputError(f"{FILE}: cannot be written: {error.strerror}") from error
    return changed


def _apart(found: Entry, expected: Entry) -> str:
    return (
        f"{found.n} faces, sha256 {found.sha256[:12]}…, "
        f"expected {expected.n} faces, {expected.sha256[:12]}…"
    )
