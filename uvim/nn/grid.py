"""Grids of tokens.

B batch · N M tokens of two grids · D width · F = D · number of tokens in a cell
"""

import jax

from uvim.typing import Array, Float

# Rows and columns.
Grid = tuple[int, int]


def grid_of(image_size: tuple[int, int], patch_size: tuple[int, int]) -> Grid:
  """The grid of an image's patches; both sizes are height and width."""
  height, width = image_size
  patch_height, patch_width = patch_size
  return (height // patch_height, width // patch_width)


def resize_grid(
    x_BND: Float[Array, "B N D"], old: Grid, new: Grid
) -> Float[Array, "B M D"]:
  """Linear resize of a row-major grid of tokens; antialiased if it shrinks."""
  if old == new:
    return x_BND
  batch_size, _, width = x_BND.shape
  x_BHWD = x_BND.reshape(batch_size, *old, width)
  new_shape = (batch_size, *new, width)
  x_BHWD = jax.image.resize(x_BHWD, new_shape, method="linear")
  return x_BHWD.reshape(batch_size, -1, width)


def gather_cells(
    x_BND: Float[Array, "B N D"], old: Grid, new: Grid
) -> Float[Array, "B M F"]:
  """For each cell of a coarser grid, all tokens in it, one behind the other.

  Unlike a resize, this loses nothing.

  Args:
    x_BND: row-major tokens.
    old: their grid.
    new: the coarser one; divides `old` in both directions.
  """
  batch_size, _, width = x_BND.shape
  rows, columns = new
  cell_rows = old[0] // rows
  cell_columns = old[1] // columns
  x = x_BND.reshape(
      batch_size, rows, cell_rows, columns, cell_columns, width)
  # Now [B, rows, rows of a cell, columns, columns of a cell, D]: bring the two
  # axes of a cell together.
  x = x.transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(batch_size, rows * columns, -1)
