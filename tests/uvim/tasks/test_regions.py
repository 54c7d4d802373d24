"""Connected regions, against scipy."""

import jax
import numpy as np
import pytest
from scipy import ndimage

from uvim.tasks import regions


def expected(classes_HW):
  """The same numbers by scipy, one class after the other."""
  parts_HW = np.zeros(classes_HW.shape, int)
  for number in np.unique(classes_HW):
    of_class_HW, _ = ndimage.label(classes_HW == number)
    is_of_class_HW = of_class_HW > 0
    parts_HW[is_of_class_HW] = of_class_HW[is_of_class_HW] + parts_HW.max()
  # Number them anew, by the first pixel of each.
  _, first, place = np.unique(
      parts_HW, return_index=True, return_inverse=True)
  rank = np.argsort(np.argsort(first)) + 1
  return rank[place.reshape(-1)].reshape(parts_HW.shape)


def spiral(side):
  """A single line that winds inwards: the longest way for a number."""
  board = np.zeros((side, side), int)
  row, column, step = 0, 0, (0, 1)
  board[0, 0] = 1
  turns = 0
  while turns < 2:
    ahead = (row + step[0], column + step[1])
    beyond = (ahead[0] + step[0], ahead[1] + step[1])
    inside = all(0 <= place < side for place in ahead)
    touches = all(0 <= place < side for place in beyond) and board[beyond]
    if inside and not board[ahead] and not touches:
      row, column = ahead
      board[ahead] = 1
      turns = 0
    else:
      step = (step[1], -step[0])
      turns += 1
  return board


@pytest.mark.parametrize("num_classes", [1, 2, 5])
def test_the_regions_are_those_of_scipy(num_classes):
  rng = np.random.default_rng(num_classes)
  classes_BHW = rng.integers(num_classes, size=(4, 13, 17))
  numbers_BHW = jax.jit(regions.number_regions)(classes_BHW)
  for classes_HW, numbers_HW in zip(classes_BHW, numbers_BHW, strict=True):
    np.testing.assert_array_equal(numbers_HW, expected(classes_HW))


def test_a_long_way_is_one_region():
  board = spiral(31)
  assert 400 < board.sum() < 600
  numbers_BHW = jax.jit(regions.number_regions)(board[None])
  np.testing.assert_array_equal(numbers_BHW[0], expected(board))
