"""Arrays out of an `.npz` file, whatever may be wrong with it."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import cv2
import numpy as np
from numpy.typing import NDArray

from feallm.runtime.contract.errors import InputError


def read(path: Path, *needed: str) -> dict[str, NDArray[Any]]:
    """Every array of the file; `InputError` where it is none, is damaged, or lacks a needed one."""
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise InputError(f"{path}: one bare array, expected an .npz file")
            arrays = {name: archive[name] for name in archive.files}
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    # NotImplementedError is how zipfile names a compression that it does not know.
    except (OSError, ValueError, EOFError, BadZipFile, zlib.error, NotImplementedError) as error:
        raise InputError(f"{path}: not a readable .npz file: {error}") from error
    if missing := [name for name in needed if name not in arrays]:
        raise InputError(f"{path}: no array named {', '.join(missing)}")
    return arrays


def encoded(path: Path, arrays: dict[str, NDArray[Any]]) -> list[bytes]:
    """The encoded pictures that `images` holds end to end, cut at `offsets`."""
    images, offsets = arrays["images"], arrays["offsets"]
    if images.dtype != np.uint8 or images.ndim != 1:
        raise InputError(f"{path}: images is {images.dtype} {images.shape}, expected uint8 [bytes]")
    if offsets.dtype.kind not in "iu" or offsets.ndim != 1 or not len(offsets):
        raise InputError(
            f"{path}: offsets is {offsets.dtype} {offsets.shape}, expected int64 [N+1]"
        )
    edges = [int(edge) for edge in offsets]
    if edges[0] < 0 or edges[-1] > len(images) or edges != sorted(edges):
        raise InputError(f"{path}: offsets do not lie in images one after the other")
    return [images[i:j].tobytes() for i, j in zip(edges[:-1], edges[1:], strict=True)]


def picture(path: Path, number: int, data: bytes, flag: int) -> NDArray[np.uint8]:
    """A decoded picture; `flag` as OpenCV's `imdecode` takes it."""
    found = cv2.imdecode(np.frombuffer(data, np.uint8), flag) if data else None
    if found is None:
        raise InputError(f"{path}: picture {number} cannot be decoded")
    return np.asarray(found, np.uint8)
