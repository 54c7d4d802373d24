"""Resized position embeddings: each method by a property of its own.

tools.parity compares all of them with PyTorch's.
"""

import numpy as np
import pytest

from uvim.encoders import positions

METHODS = list(positions.METHODS)


def resize_row(values, new, method):
  """One row of numbers on a row of another length."""
  old_1ND = np.reshape(values, (1, -1, 1)).astype(np.float64)
  new_1ND = positions.resize(old_1ND, (1, len(values)), (1, new), method)
  return new_1ND[0, :, 0]


@pytest.mark.parametrize("method", METHODS)
def test_equal_grids_come_back_untouched(method):
  old_1ND = np.random.default_rng(0).normal(size=(1, 6, 4))
  new_1ND = positions.resize(old_1ND, (2, 3), (2, 3), method)
  assert new_1ND is old_1ND


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("new", [1, 2, 3, 7, 16, 37, 53])
def test_a_constant_stays_constant(method, new):
  np.testing.assert_allclose(
      resize_row(np.ones(16), new, method), 1, rtol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_rows_and_columns_keep_their_meaning(method):
  row_HW = np.repeat(np.arange(4.0), 5).reshape(4, 5)
  old_1ND = row_HW.reshape(1, 20, 1)
  new_1ND = positions.resize(old_1ND, (4, 5), (6, 3), method)
  new_HW = new_1ND.reshape(6, 3)
  # Nothing changes along a row, and rows ascend.
  np.testing.assert_allclose(new_HW - new_HW[:, :1], 0, atol=1e-12)
  assert np.all(np.diff(new_HW[:, 0]) > 0)


def test_a_place_between_two_has_their_mean():
  old = np.random.default_rng(0).normal(size=14)
  new = resize_row(old, 27, "bilinear_corners")
  np.testing.assert_allclose(new[::2], old, atol=1e-12)
  np.testing.assert_allclose(new[1::2], (old[1:] + old[:-1]) / 2, atol=1e-12)


def test_only_antialiasing_makes_a_smaller_grid_of_all_places():
  spike = np.zeros(32)
  # Between the places that the others look at.
  spike[7] = 1
  sums = {method: resize_row(spike, 4, method).sum() for method in METHODS}
  assert sums.pop("bicubic_antialias") > 0.1
  assert set(sums.values()) == {0}


def test_the_offset_moves_places_a_little():
  old = np.arange(16.0)
  plain = resize_row(old, 32, "bicubic")
  moved = resize_row(old, 32, "bicubic_offset")
  difference = np.abs(moved - plain)
  assert 0 < difference.max() < 0.1
