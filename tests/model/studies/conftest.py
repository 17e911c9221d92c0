"""Packs of photographs for the study."""

import json
from pathlib import Path

import numpy as np
import pytest

from feallm.model.data import pack
from feallm.runtime.contract.aus import AU_INDEX, N_AUS

torch = pytest.importorskip("torch", reason="the study needs torch")
DATA = Path(__file__).parents[4] / "shared" / "data"


@pytest.fixture
def data():
    """The folder of the shared data."""
    if not DATA.is_dir():
        pytest.skip("the shared data is not beside this checkout")
    return DATA


@pytest.fixture
def write(tiny, tmp_path):
    """Write a pack of `count` faces in parts of `size`; arrays may be given instead of random."""

    def of(count=10, size=4, name="pack", **arrays):
        rows = tiny.rows(count)
        sides = np.zeros((count, N_AUS, 2), np.float32)
        sides[:, AU_INDEX["AU12"]] = np.arange(count)[:, None] / count * [5, 1]
        given = {"au_sides": sides, "points5": rows.mean5, **arrays}
        folder = tmp_path / name
        folder.mkdir()
        parts = []
        for start in range(0, count, size):
            images = rows.images[start : start + size]
            path = folder / f"part-{start:03d}.npz"
            np.savez(
                path,
                images=np.frombuffer(b"".join(images), np.uint8),
                offsets=np.cumsum([0, *map(len, images)]),
                **{key: value[start : start + size] for key, value in given.items()},
            )
            parts.append({"file": path.name, "sha256": pack.sha256(path)})
        (folder / pack.INDEX).write_text(json.dumps({"parts": parts}))
        return folder, rows.images

    return of
