"""Grids of tokens of other sizes."""

import numpy as np
import pytest

from uvim.encoders.image_encoder import ImageEncoder
from uvim.nn import grid


def test_a_cell_holds_its_tokens_row_by_row():
  # A token that says where it stands: 10 · row + column.
  rows, columns = np.mgrid[:4, :6]
  tokens_1N1 = (10 * rows + columns).reshape(1, 24, 1)

  cells = grid.gather_cells(tokens_1N1, (4, 6), (2, 2))

  assert cells[0].tolist() == [
      [0, 1, 2, 10, 11, 12], [3, 4, 5, 13, 14, 15],
      [20, 21, 22, 30, 31, 32], [23, 24, 25, 33, 34, 35]]


@pytest.mark.parametrize("size, width", [
    ((4, 6), 3), ((2, 3), 12), ((1, 1), 72),  # Cells of one or more tokens.
    ((3, 3), 3), ((8, 12), 3)])  # No whole cells: resized.
def test_features_reach_any_grid(size, width):
  encoder = ImageEncoder(input_size=(56, 84), width=3, num_heads=1)
  features = np.ones((2, 24, 3), np.float16)

  on_grid = encoder.on_grid(features, size)

  assert on_grid.shape == (2, size[0] * size[1], width)
  np.testing.assert_allclose(on_grid, 1, rtol=1e-5)
