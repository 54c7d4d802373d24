"""How much two maps of segments agree: what PQ says of one, given the other.

B batch · H W pixels · C channels (semantics, instance) · X = H · W pixels
"""

import jax
import jax.numpy as jnp

from uvim.typing import Array, Float, Int, PerExample

Maps = Int[Array, "B H W C"]


def segment_quality(first: Maps, second: Maps) -> PerExample:
  """PQ in [0, 1] of the segments of all classes together; 1 of two voids.

  As in PQ, two segments match if they have one class and an IoU above 0.5. The
  quality is the sum of the IoUs of matches over the mean number of segments.
  It does not matter which map comes first.
  """
  return jax.vmap(_quality)(first, second)


def _quality(first_HWC, second_HWC):
  num_channels = first_HWC.shape[-1]
  first_XC = first_HWC.reshape(-1, num_channels)
  second_XC = second_HWC.reshape(-1, num_channels)
  # Of the two segments of a pixel: their areas, and what they share.
  first_area_X = _count_alike(first_XC)
  second_area_X = _count_alike(second_XC)
  both_XC = jnp.concatenate([first_XC, second_XC], axis=1)
  shared_X = _count_alike(both_XC)
  union_X = first_area_X + second_area_X - shared_X
  iou_X = shared_X / union_X

  first_class_X = first_XC[:, 0]
  second_class_X = second_XC[:, 0]
  # Class 0 is void.
  is_first_X = first_class_X > 0
  is_second_X = second_class_X > 0
  has_one_class_X = is_first_X & (first_class_X == second_class_X)
  is_match_X = has_one_class_X & (iou_X > 0.5)

  sum_of_ious = _sum_over_regions(iou_X, is_match_X, shared_X)
  num_first = _sum_over_regions(1, is_first_X, first_area_X)
  num_second = _sum_over_regions(1, is_second_X, second_area_X)
  num_segments = (num_first + num_second) / 2
  # Two maps without a segment agree.
  is_void = num_segments == 0
  divisor = jnp.where(is_void, 1, num_segments)
  quality = sum_of_ious / divisor
  return jnp.where(is_void, 1, quality)


def _sum_over_regions(value, is_counted_X, area_X) -> Float[Array, ""]:
  """The sum of a value over regions; each pixel knows those of its region."""
  # A region of many pixels counts once.
  value_per_pixel_X = value / area_X
  return jnp.sum(jnp.where(is_counted_X, value_per_pixel_X, 0))


def _count_alike(rows_XC: Int[Array, "X C"]) -> Float[Array, "X"]:
  """For each row how many rows are equal to it, itself included."""
  num_rows = len(rows_XC)
  # Sorted, equal rows lie together. Sorting needs no bound on the numbers.
  order_X = jnp.lexsort(rows_XC.T)
  sorted_XC = rows_XC[order_X]
  differs_XC = sorted_XC[1:] != sorted_XC[:-1]
  is_new = jnp.any(differs_XC, axis=1)
  # The first row starts group 0; each new value starts the next group.
  is_new_X = jnp.pad(is_new, (1, 0))
  group_X = jnp.cumsum(is_new_X)
  group_sizes = jnp.bincount(group_X, length=num_rows)
  # Back from the sorted order to that of the rows.
  alike_X = jnp.zeros(num_rows, jnp.float32)
  return alike_X.at[order_X].set(group_sizes[group_X])
