"""Connected regions of a map of classes, inside a compiled function.

Two pixels are connected if they share an edge and a class.

B batch · H W pixels of an image · X = H * W
"""

import jax
import jax.numpy as jnp

from uvim.typing import Array, Int

ClassMap = Int[Array, "B H W"]
RegionMap = Int[Array, "B H W"]


def number_regions(classes_BHW: ClassMap) -> RegionMap:
  """Numbers the regions of each image 1, 2, … by their first pixels.

  Args:
    classes_BHW: any integers.

  Returns:
    int32 numbers. The first pixel of a region is the first in raster order.
  """
  return jax.vmap(_number_regions)(classes_BHW)


def _number_regions(classes_HW):
  """`number_regions` of one image."""
  num_pixels = classes_HW.size
  places_X = jnp.arange(num_pixels, dtype=jnp.int32)

  # Every pixel points at one of its region. The place it points at only ever
  # falls, and at the end it is the first of the region.
  def is_unfinished(carry):
    _, has_changed = carry
    return has_changed

  def improve(carry):
    first_X, _ = carry
    lower_X = _lowest_around(classes_HW, first_X)
    # The place that a pixel points at may know a lower one already. So a number
    # travels twice as far in every round.
    lower_X = lower_X[lower_X]
    return lower_X, jnp.any(lower_X != first_X)

  first_X, _ = jax.lax.while_loop(is_unfinished, improve, (places_X, True))
  is_first_X = first_X == places_X
  number_X = jnp.cumsum(is_first_X, dtype=jnp.int32)
  return number_X[first_X].reshape(classes_HW.shape)


def _lowest_around(classes_HW, values_X):
  """The least value [X] of each pixel and its neighbors of the same class."""
  values_HW = values_X.reshape(classes_HW.shape)
  lowest_HW = values_HW
  for axis in (0, 1):
    # `later` are all pixels but the first row (or column), `earlier` all but
    # the last: neighbors stand at the same place.
    length = classes_HW.shape[axis]
    later = [slice(None), slice(None)]
    later[axis] = slice(1, length)
    later = tuple(later)
    earlier = [slice(None), slice(None)]
    earlier[axis] = slice(0, length - 1)
    earlier = tuple(earlier)
    is_same = classes_HW[later] == classes_HW[earlier]
    lower = jnp.minimum(values_HW[later], values_HW[earlier])
    lowest_HW = _lower(lowest_HW, later, is_same, lower)
    lowest_HW = _lower(lowest_HW, earlier, is_same, lower)
  return lowest_HW.reshape(-1)


def _lower(values_HW, part, is_same, lower):
  """`values_HW`, in one part no higher than `lower` where `is_same`."""
  old = values_HW[part]
  new = jnp.where(is_same, jnp.minimum(old, lower), old)
  return values_HW.at[part].set(new)
