"""Tells depth from its inverse by how flat surfaces look.

A camera sees a flat surface so that 1 / depth is a straight line along any row
or column; depth itself is curved. In a map of inverse depth or disparity it is
the other way round. Scenes are full of floors, walls and tables, so counting
the places that are straight in one and curved in the other tells which is
which, whatever the unit.

H W pixels of an image · K some of them
"""

import dataclasses

import numpy as np

# Three points on a line lie so many parts of the shorter side apart.
_PARTS = 16
# From the first to the third point, the values change by these shares: less is
# no slope, more is an edge.
_SMALLEST_CHANGE = 0.08
_LARGEST_CHANGE = 0.5
# The middle point is so near to the line, as a share of its value.
_TOLERANCE = 0.003
# Below so many places there is no verdict, and neither for a smaller share.
_MIN_PLACES = 1000
_MIN_SHARE = 0.75


@dataclasses.dataclass(frozen=True)
class Straight:
  """How many places of one or several maps look flat.

  Attributes:
    num_places: where the values or their reciprocals are straight.
    num_values: where the values are straighter than their reciprocals.
  """
  num_places: int = 0
  num_values: int = 0

  def __add__(self, other: "Straight") -> "Straight":
    return Straight(self.num_places + other.num_places,
                    self.num_values + other.num_values)

  @property
  def is_inverse(self) -> bool:
    """Whether these are hardly depths, but something like 1 / depth."""
    if self.num_places < _MIN_PLACES:
      return False
    return self.num_values / self.num_places > _MIN_SHARE


def measure(depth_HW: np.ndarray) -> Straight:
  """Counts along rows and along columns.

  Args:
    depth_HW: float32 [H, W]; 0 where nothing is known.
  """
  step = min(depth_HW.shape) // _PARTS
  if step < 1:
    return Straight()
  along_rows = _measure_columns(depth_HW.T, step)
  return along_rows + _measure_columns(depth_HW, step)


def _measure_columns(depth_HW: np.ndarray, step: int) -> Straight:
  """Counts triples of pixels in one column, `step` rows apart."""
  first_HW = depth_HW[:-2 * step]
  middle_HW = depth_HW[step:-step]
  third_HW = depth_HW[2 * step:]
  is_known_HW = (first_HW > 0) & (middle_HW > 0) & (third_HW > 0)
  middle_K = middle_HW[is_known_HW]
  # Marks of "not measured" may be as large as floats can be.
  with np.errstate(all="ignore"):
    # As shares of the middle, so that no unit matters.
    first_K = first_HW[is_known_HW] / middle_K
    third_K = third_HW[is_known_HW] / middle_K
    change_K = np.abs(third_K - first_K)
  is_slope_K = (change_K > _SMALLEST_CHANGE) & (change_K < _LARGEST_CHANGE)
  first_K = first_K[is_slope_K]
  third_K = third_K[is_slope_K]
  curve_K = np.abs(first_K + third_K - 2)
  curve_of_inverse_K = np.abs(1 / first_K + 1 / third_K - 2)
  is_straight_K = np.minimum(curve_K, curve_of_inverse_K) < _TOLERANCE
  is_straighter_K = curve_K < curve_of_inverse_K
  return Straight(
      num_places=int(is_straight_K.sum()),
      num_values=int((is_straight_K & is_straighter_K).sum()))
