"""Grids of tokens.

B batch · N M tokens of two grids · D width
"""

import jax

from uvim.typing import Array, Float

# Rows and columns.
Grid = tuple[int, int]


def resize_grid(
    x_BND: Float[Array, "B N D"], old: Grid, new: Grid
) -> Float[Array, "B M D"]:
  """Linear resize of a row-major grid of tokens, antialiased downwards."""
  if old == new:
    return x_BND
  batch_size, _, width = x_BND.shape
  x_BHWD = x_BND.reshape(batch_size, *old, width)
  new_shape = (batch_size, *new, width)
  x_BHWD = jax.image.resize(x_BHWD, new_shape, method="linear")
  return x_BHWD.reshape(batch_size, -1, width)
