"""The constant matrix that brings F_4's cells to a square of tokens, and the shapes behind it."""

import numpy as np
import pytest
import torch

from feallm.model.encoder import Level
from feallm.model.projector import MultiPerspectiveProjector, cell_matrix


@pytest.mark.parametrize("rows, columns, tokens", [(8, 7, 16), (7, 7, 16), (4, 3, 16), (8, 8, 4)])
def test_rows_sum_to_one_and_cells_count_alike(rows, columns, tokens):
    matrix = cell_matrix(rows, columns, tokens).numpy()
    assert matrix.shape == (tokens, rows * columns) and (matrix >= 0).all()
    np.testing.assert_allclose(matrix.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(matrix.sum(0), tokens / (rows * columns), rtol=1e-5)


def test_tokens_stand_in_raster_order():
    """Token 4 a + b looks at row a and column b of a 4 x 4 division of the map."""
    rows, columns = 8, 7
    matrix = cell_matrix(rows, columns, 16)
    y, x = np.divmod(np.arange(rows * columns), columns)
    height = (matrix @ torch.tensor((y + 0.5) / rows, dtype=torch.float32)).numpy().reshape(4, 4)
    width = (matrix @ torch.tensor((x + 0.5) / columns, dtype=torch.float32)).numpy().reshape(4, 4)
    np.testing.assert_allclose(height, np.tile(height[:, :1], (1, 4)), atol=1e-6)
    np.testing.assert_allclose(width, np.tile(width[:1], (4, 1)), atol=1e-6)
    np.testing.assert_allclose(height[:, 0], [1 / 8, 3 / 8, 5 / 8, 7 / 8], atol=1e-6)
    assert (np.diff(width[0]) > 0.2).all()


def test_only_squares_of_tokens():
    with pytest.raises(ValueError, match="found 15"):
        cell_matrix(8, 7, 15)


def test_levels_that_do_not_pool_to_each_other_are_refused():
    levels = (Level(4, 30, 28), Level(4, 16, 14), Level(4, 8, 7), Level(4, 4, 3))
    with pytest.raises(ValueError, match="does not pool"):
        MultiPerspectiveProjector(levels, 32, 4, 16, skip=True)


@pytest.mark.parametrize("skip", [True, False])
def test_every_perspective_reaches_the_tokens(skip):
    torch.manual_seed(0)
    levels = (Level(4, 16, 12), Level(5, 8, 6), Level(6, 4, 3), Level(7, 2, 3))
    mpp = MultiPerspectiveProjector(levels, 32, 4, 16, skip=skip)
    maps = [
        torch.randn(2, level.channels, level.rows, level.columns, requires_grad=True)
        for level in levels
    ]
    clues = torch.randn(2, 16, 32, requires_grad=True)
    x_3 = mpp(maps, clues)
    assert x_3.shape == (2, 16, 32)
    x_3.square().sum().backward()
    assert all(part.grad.abs().sum() > 0 for part in (*maps, clues))
