"""Is a file what its name says, and is all of it there?

Decoders are polite: OpenCV up to 4.12 turns half a JPEG into a picture with a gray lower half, and
FFmpeg plays a video up to the cut and calls that its end. For a measurement both are lies, so
the structure is checked here, from the bytes alone.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from typing import BinaryIO, Literal

Kind = Literal["picture", "video"]

HEAD_BYTES = 400  # enough for every signature below

_PICTURES = (
    b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"MM\0*",
    b"\x00\x00\x00\x0cjP  ", b"P1", b"P2", b"P3", b"P4", b"P5", b"P6",
)  # fmt: skip
_VIDEOS = (
    b"\x1a\x45\xdf\xa3", b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3", b"FLV\x01", b"OggS",
    b"\x30\x26\xb2\x75", b"GIF8",
)  # fmt: skip
_BOXES = frozenset(
    (b"ftyp", b"moov", b"mdat", b"moof", b"free", b"skip", b"wide", b"uuid", b"mfra", b"sidx",
     b"styp", b"meta", b"pnot", b"udta")
)  # fmt: skip
_STILL_BRANDS = frozenset((b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"avif", b"avis"))
_SCAN_END = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")  # a marker that is neither stuffed nor RSTn


def kind_of(head: bytes) -> Kind | None:
    """What a file that begins with `head` holds, whatever its name; None for anything else."""
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "picture"
    if head.startswith(b"RIFF") and head[8:12] == b"AVI ":
        return "video"
    if head[4:8] == b"ftyp" and head[8:12] in _STILL_BRANDS:
        return "picture"
    if head[4:8] in _BOXES or head.startswith(_VIDEOS):
        return "video"
    if head[:1] == b"\x47" and head[188:189] == b"\x47":  # MPEG transport stream
        return "video"
    if head[:1] == b"P" and head[2:3] not in b" \t\r\n#":  # "P5" needs white space after it
        return None
    return "picture" if head.startswith(_PICTURES) else None


def picture_cut(data: bytes) -> str | None:
    """What a picture's file lacks, or None where it is whole (or has no such sign)."""
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg_cut(data)
    if data.startswith(b"\x89PNG"):
        return _png_cut(data)
    if data.startswith(b"RIFF"):
        return _size_cut(8 + int.from_bytes(data[4:8], "little"), len(data))
    if data.startswith(b"BM"):
        return _size_cut(int.from_bytes(data[2:6], "little"), len(data))
    return None


def _size_cut(wanted: int, found: int) -> str | None:
    return f"its header promises {wanted} bytes, {found} are there" if wanted > found else None


def _jpeg_cut(data: bytes) -> str | None:
    """Walk the segments to the end-of-image marker. What lies behind it does no harm."""
    place = 2
    while (start := data.find(b"\xff", place)) >= 0:
        place = start + 1
        while data[place : place + 1] == b"\xff":  # fill bytes
            place += 1
        marker = data[place] if place < len(data) else 0
        place += 1
        if marker == 0xD9:
            return None
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD7:
            continue
        length = int.from_bytes(data[place : place + 2], "big")
        place += max(length, 2)
        if marker == 0xDA:  # compressed pixels follow, without a length
            found = _SCAN_END.search(data, place)
            place = found.start() if found else len(data)
    return "its end-of-image marker is missing"


def _png_cut(data: bytes) -> str | None:
    """Walk the chunks and their check sums, which libpng would complain of on stderr."""
    place = 8
    if data[12:16] != b"IHDR":
        return "its header chunk (IHDR) is missing"
    while place + 12 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        kind, end = data[place + 4 : place + 8], place + 8 + length
        if zlib.crc32(data[place + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            return f"its chunk {kind.decode('latin-1')!r} is incomplete or damaged"
        if kind == b"IEND":
            return None
        place = end + 4
    return "its last chunk (IEND) is missing"


def video_cut(file: BinaryIO) -> str | None:
    """What a video's container lacks, or None where it is whole (or states no length)."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(HEAD_BYTES)
    if head[4:8] in _BOXES:
        return _boxes_cut(file, size)
    if head.startswith(b"RIFF"):
        wanted = int.from_bytes(head[4:8], "little")
        return None if wanted == 0xFFFFFFFF else _size_cut(wanted + 8, size)
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return _matroska_cut(head, size)
    return None


def _boxes_cut(file: BinaryIO, size: int) -> str | None:
    """Walk the top-level boxes of an MP4 or MOV file."""
    index_seen = False
    for kind, start, length in _boxes(file, 0, size):
        index_seen |= kind in (b"moov", b"moof")
        if start + length > size:
            missing = start + length - size
            return f"{missing} bytes of its '{kind.decode()}' box are missing"
    return None if index_seen else "its index ('moov' box) is missing"


def _boxes(file: BinaryIO, start: int, end: int) -> list[tuple[bytes, int, int]]:
    """(type, start, length) of the known boxes from `start` on, up to the first unknown one."""
    found = []
    while start + 8 <= end:
        file.seek(start)
        length, kind = struct.unpack(">I4s", file.read(8))
        if length == 1:
            length = int.from_bytes(file.read(8), "big")
        length = length or end - start  # 0: up to the end of the file
        if kind not in _BOXES or length < 8:
            break
        found.append((kind, start, length))
        start += length
    return found


def _matroska_cut(head: bytes, size: int) -> str | None:
    """Compare the length that the Segment element states with the file's."""
    header, place = _vint(head, 4)
    place += header
    if head[place : place + 4] != b"\x18\x53\x80\x67":
        return None
    length, start = _vint(head, place + 4)
    unknown = length == (1 << 7 * (start - place - 4)) - 1  # a live recording: all ones
    return None if unknown else _size_cut(start + length, size)


def _vint(data: bytes, place: int) -> tuple[int, int]:
    """A Matroska number and the place after it."""
    if place >= len(data) or not data[place]:
        return 0, place + 1
    width = 9 - data[place].bit_length()
    value = int.from_bytes(data[place : place + width], "big")
    return value & ((1 << 7 * width) - 1), place + width


def movie_length_s(file: BinaryIO) -> float | None:
    """Playing time that an MP4's movie header states; None where there is none.

    Unlike the number of frames it knows of edit lists: a clip trimmed on a phone keeps the frames
    that it no longer shows.
    """
    size = file.seek(0, os.SEEK_END)
    for kind, start, length in _boxes(file, 0, size):
        if kind == b"moov":
            file.seek(start)
            moov = file.read(min(length, 4096))
            at = moov.find(b"mvhd")
            if at < 0 or len(moov) < at + 36:
                return None
            wide = moov[at + 4] == 1  # version 1: 64-bit times
            layout, place = (">IQ", at + 24) if wide else (">II", at + 16)
            scale, duration = struct.unpack_from(layout, moov, place)
            return duration / scale if scale and duration else None
    return None
