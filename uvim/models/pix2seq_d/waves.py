"""Sines and cosines of a number: of a time, or of a place on a grid.

B batch · N places of a grid · D width
"""

import jax.numpy as jnp
import numpy as np

from uvim.nn.grid import Grid
from uvim.typing import Array, Float

_LONGEST = 10_000.0


def of_numbers(
    values: Float[Array, "*b"], width: int
) -> Float[Array, "*b D"]:
  """Sines of a value at width/2 wavelengths, then its cosines; float32.

  Args:
    values: in radians at the shortest wavelength.
    width: D, even.
  """
  exponents = np.arange(0, width, 2) / width
  frequencies = (_LONGEST ** -exponents).astype(np.float32)
  leading_axes = tuple(range(values.ndim))
  frequencies = jnp.expand_dims(frequencies, leading_axes)
  angles = values[..., None] * frequencies
  return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def of_grid(grid: Grid, width: int) -> Float[Array, "1 N D"]:
  """The fixed position code of a grid, row by row, float32.

  Rows and columns go from 0 to 2π, whatever the size of the grid: half of the
  numbers are waves of the row, half of the column. A grid of one row or one
  column has the code of a line, in all of the numbers.

  Args:
    grid: rows and columns, at least two places in all.
    width: D, a multiple of 4.
  """
  num_rows, num_columns = grid
  if num_rows == 1 or num_columns == 1:
    places_N = _spread(num_rows * num_columns)
    return of_numbers(places_N, width)[None]
  rows_N = jnp.repeat(_spread(num_rows), num_columns)
  columns_N = jnp.tile(_spread(num_columns), num_rows)
  code_of_row = of_numbers(rows_N, width // 2)
  code_of_column = of_numbers(columns_N, width // 2)
  return jnp.concatenate([code_of_row, code_of_column], axis=-1)[None]


def _spread(count):
  """`count` numbers from 0 to 2π."""
  steps = np.arange(count, dtype=np.float32) / np.float32(count - 1)
  return jnp.asarray(steps * np.float32(2 * np.pi))
