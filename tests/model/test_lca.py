"""Pooling weights of the regions: they sum to 1, lie in their box, and mirror with the face."""

import numpy as np
import pytest

from feallm.model.lca import region_matrix
from feallm.runtime.contract.geometry import CROP
from feallm.runtime.contract.regions import PAPER16, REGIONS

SIZES = [(64, 56), (32, 28), (16, 14), (8, 7)]


@pytest.mark.parametrize("rows, columns", SIZES)
@pytest.mark.parametrize("table", [REGIONS, PAPER16], ids=["named", "paper16"])
def test_each_row_sums_to_one(table, rows, columns):
    matrix = region_matrix(table, rows, columns).numpy()
    assert matrix.shape == (16, rows * columns)
    assert (matrix >= 0).all()
    np.testing.assert_allclose(matrix.sum(1), 1, rtol=1e-5)


@pytest.mark.parametrize("rows, columns", SIZES)
@pytest.mark.parametrize("table", [REGIONS, PAPER16], ids=["named", "paper16"])
def test_the_mass_lies_in_the_box(table, rows, columns):
    """All of it within a cell of the box; a cell in the middle of the box has the full weight."""
    matrix = region_matrix(table, rows, columns).numpy().reshape(16, rows, columns)
    y = (np.arange(rows) + 0.5) * CROP.height_px / rows
    x = (np.arange(columns) + 0.5) * CROP.width_px / columns
    for region, weights in zip(table, matrix, strict=True):
        x0, y0, x1, y1 = region.box_px
        wide, high = CROP.width_px / columns, CROP.height_px / rows
        near = ((y > y0 - high) & (y < y1 + high))[:, None] & ((x > x0 - wide) & (x < x1 + wide))
        inside = ((y >= y0) & (y <= y1))[:, None] & ((x >= x0) & (x <= x1))
        assert weights[~near].sum() == 0, region.name
        assert np.allclose(weights[inside], weights.max()), region.name
        mean = ((weights.sum(0) * x).sum(), (weights.sum(1) * y).sum())
        assert abs(mean[0] - (x0 + x1) / 2) < wide / 2 and abs(mean[1] - (y0 + y1) / 2) < high / 2


@pytest.mark.parametrize("rows, columns", SIZES)
def test_left_and_right_mirror_each_other(rows, columns):
    matrix = region_matrix(REGIONS, rows, columns).numpy().reshape(16, rows, columns)
    weights = dict(zip((region.name for region in REGIONS), matrix, strict=True))
    for name, of_left in weights.items():
        other = name.replace("_left", "_right") if name.endswith("_left") else name
        if not name.endswith("_right"):
            np.testing.assert_allclose(of_left[:, ::-1], weights[other], atol=1e-7)


def test_a_flat_map_pools_to_itself(tiny):
    import torch

    lca = tiny.vision().lca
    level = torch.full((1, lca.pool_1.shape[1]), 3.0)
    torch.testing.assert_close(lca.pool_1 @ level.T, torch.full((16, 1), 3.0))
