"""Small operations on MP4 files, for clips that OpenCV's writer does not make by itself.

Loaded with `runpy`, since test folders are no packages.
"""

from __future__ import annotations

import struct

PARENTS = (b"moov", b"trak", b"mdia", b"minf", b"stbl")


def boxes(data: bytes) -> list[tuple[bytes, bytes]]:
    """(type, contents) of the boxes in a row."""
    found, place = [], 0
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        found.append((kind, data[place + 8 : place + length]))
        place += length
    return found


def joined(parts: list[tuple[bytes, bytes]]) -> bytes:
    """The reverse of `boxes`."""
    return b"".join(struct.pack(">I4s", len(body) + 8, kind) + body for kind, body in parts)


def edited(data: bytes, wanted: bytes, change) -> bytes:
    """The boxes with `change` applied to the contents of every box of type `wanted`."""
    parts = []
    for kind, body in boxes(data):
        if kind == wanted:
            body = change(body)
        elif kind in PARENTS:
            body = edited(body, wanted, change)
        parts.append((kind, body))
    return joined(parts)


def index_first(data: bytes) -> bytes:
    """The file with its index before its frames, as cameras and web sites write it."""
    parts = boxes(data)
    moov = next(body for kind, body in parts if kind == b"moov")

    def move(body):
        count = struct.unpack_from(">I", body, 4)[0]
        places = struct.unpack_from(f">{count}I", body, 8)
        return body[:8] + struct.pack(f">{count}I", *(p + len(moov) + 8 for p in places))

    rest = [part for part in parts if part[0] != b"moov"]
    return joined([rest[0], (b"moov", edited(moov, b"stco", move)), *rest[1:]])


def turned(data: bytes) -> bytes:
    """The file with a note that it is to be shown turned by 90 degrees clockwise."""
    one = 1 << 16
    matrix = struct.pack(">9i", 0, one, 0, -one, 0, 0, 0, 0, 1 << 30)
    return edited(data, b"tkhd", lambda body: body[:40] + matrix + body[76:])


def uneven(data: bytes, first: int, *, keep_edits: bool = False) -> bytes:
    """The file whose `first` frames keep their time; each later one lasts three times as long.

    With `keep_edits` its edit list still ends it where it ended before.
    """

    def change(body):
        count, delta = struct.unpack_from(">II", body, 8)
        table = struct.pack(">IIIII", 2, first, delta, count - first, 3 * delta)
        return body[:4] + table

    return edited(data if keep_edits else data.replace(b"edts", b"free"), b"stts", change)
