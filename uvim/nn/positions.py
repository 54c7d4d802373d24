"""Position embeddings of a grid of tokens: learned, or fixed waves.

N tokens of the grid · D width
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from uvim.typing import Array, Float

Positions = Float[Array, "1 N D"]


def sincos2d(
    grid: tuple[int, int],
    width: int,
    *,
    reaches_longest: bool = True,
) -> Positions:
  """Fixed embedding of a grid of (rows, columns), in row-major order.

  A quarter of the width each for sin and cos of the column, sin and cos of the
  row, at wavelengths from 2π to 20000π (Chen et al., MoCo v3, appendix).

  Args:
    grid: rows and columns.
    width: D, a multiple of 4.
    reaches_longest: whether the longest wave is there. False: the waves end one
      step before it, as in MAE.
  """
  num_rows, num_columns = grid
  row_N1, column_N1 = np.mgrid[:num_rows, :num_columns].reshape(2, -1, 1)
  exponents = np.linspace(0, 1, width // 4, endpoint=reaches_longest)[None, :]
  frequencies = 10_000.0 ** -exponents
  column_angles = column_N1 * frequencies
  row_angles = row_N1 * frequencies
  waves = [
      np.sin(column_angles),
      np.cos(column_angles),
      np.sin(row_angles),
      np.cos(row_angles),
  ]
  table_ND = np.concatenate(waves, axis=1)
  return jnp.asarray(table_ND[None], jnp.float32)


def _learned(module, name, grid, width):
  """A parameter of the module, [1, N, D]."""
  num_rows, num_columns = grid
  shape_1ND = (1, num_rows * num_columns, width)
  init = nn.initializers.normal(width ** -0.5)
  return module.param(name, init, shape_1ND)


def _fixed(module, name, grid, width):
  """A constant of the program; no checkpoint holds it."""
  del module, name
  return sincos2d(grid, width)


# Name → function (module that owns it, name, grid, width) → [1, N, D].
POSEMBS = {"learn": _learned, "sincos2d": _fixed}
