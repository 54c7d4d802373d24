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
  # Of the segments to which a pixel belongs: their areas, and what they share.
  first_area_X = _count_alike(first_XC)
  second_area_X = _count_alike(second_XC)
  both_XC = jnp.concatenate([first_XC, second_XC], axis=1)
  shared_X = _count_alike(both_XC)
  union_X = first_area_X + second_area_X - shared_X
  iou_X = shared_X / union_X

  first_class_X = first_XC[:, 0]
  second_class_X = second_XC[:, 0]
  is_first_X = first_class_X > 0
  is_second_X = second_class_X > 0
  has_one_class_X = is_first_X & (first_class_X == second_class_X)
  is_match_X = has_one_class_X & (iou_X > 0.5)
  sum_of_ious = _sum_over_regions(iou_X, is_match_X, shared_X)
  num_first = _sum_over_regions(1, is_first_X, first_area_X)
  num_second = _sum_over_regions(1, is_second_X, second_area_X)
  num_segments = (num_first + num_second) / 2
  is_void = num_segments == 0
  quality = sum_of_ious / jnp.where(is_void, 1, num_segments)
  return jnp.where(is_void, 1, quality)


def _sum_over_regions(value, is_counted_X, area_X) -> Float[Array, ""]:
  """The sum of a value over regions; each pixel knows those of its region."""
  # A region of many pixels counts once.
  value_per_pixel_X = value / area_X
  return jnp.sum(jnp.where(is_counted_X, value_per_pixel_X, 0))


def _count_alike(rows_XC: Int[Array, "X C"]) -> Float[Array, "X"]:
  """For each row how many rows are equal to it, itself included."""
  # Sorted, equal rows lie together. Sorting needs no bound on the numbers.
  order_X = jnp.lexsort(rows_XC.T)
  sorted_XC = rows_XC[order_X]
  is_new_X = jnp.any(sorted_XC[1:] != sorted_XC[:-1], axis=1)
  group_X = jnp.cumsum(jnp.pad(is_new_X, (1, 0)))
  sizes_X = jnp.bincount(group_X, length=len(rows_XC))
  alike_X = jnp.zeros(len(rows_XC), jnp.float32)
  return alike_X.at[order_X].set(sizes_X[group_X])
