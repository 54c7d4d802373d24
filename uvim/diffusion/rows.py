"""A loss for a few rows of a mask at a time.

B batch · h w pixels of a mask · n chunks

The logits of all pixels are the largest arrays of a training step: at 512 x 512
pixels and two softmaxes of 256 classes they take 537 MB for each image. Here
those of a few rows exist at a time.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from uvim.nn import losses
from uvim.typing import PyTree, Size

# (parameters, arrays [B, some rows, …]) → a tree of means [B] over these rows.
LossOfRows = Callable[[PyTree, PyTree], PyTree]


def num_chunks(
    batch_size: int,
    mask_size: Size,
    num_numbers: int,
    max_numbers: int | None = None,
) -> int:
  """In how many chunks to take the rows: a divisor of h.

  Args:
    batch_size: B, over all devices.
    mask_size: h, w.
    num_numbers: of a pixel.
    max_numbers: see `losses.chunk_size`.
  """
  height, width = mask_size
  shapes = {"numbers": (num_numbers, height)}
  rows_each = losses.chunk_size(batch_size * width, shapes, max_numbers)
  return height // rows_each


def mean_by_rows(
    loss_of_rows: LossOfRows,
    params: PyTree,
    arrays: PyTree,
    chunks: int,
) -> PyTree:
  """A tree of means [B] over all rows, computed chunk by chunk.

  What `loss_of_rows` makes on its way is made again for the gradient, and is
  kept in neither direction.

  Args:
    loss_of_rows: see `LossOfRows`.
    params: the same for all rows.
    arrays: [B, rows, …], with the same or another number of rows.
    chunks: n, a divisor of all these numbers.
  """
  if chunks == 1:
    return loss_of_rows(params, arrays)

  # Without this, a scan would keep the logits of every chunk for the gradient.
  @jax.checkpoint
  def loss_of_chunk(params, arrays_of_chunk):
    return loss_of_rows(params, arrays_of_chunk)

  def step(carry, arrays_of_chunk):
    return carry, loss_of_chunk(params, arrays_of_chunk)

  def split(array):
    return _split_rows(array, chunks)

  _, means_nB = jax.lax.scan(step, None, jax.tree.map(split, arrays))
  # All chunks are of one size. So the mean of their means is the mean of all.
  return jax.tree.map(lambda mean_nB: jnp.mean(mean_nB, axis=0), means_nB)


def _split_rows(array, chunks: int):
  """[B, rows, …] as [n, B, rows / n, …]."""
  batch_size, rows, *rest = array.shape
  split = array.reshape(batch_size, chunks, rows // chunks, *rest)
  return jnp.moveaxis(split, 1, 0)
