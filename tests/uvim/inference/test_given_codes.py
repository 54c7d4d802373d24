"""Codes of real numbers that a user gives or masks."""

import types

import numpy as np
import pytest

from uvim.codes import masking
from uvim.codes.base import CodeSpec
from uvim.inference import given_codes
from uvim.registry import ConfigError

SPEC = CodeSpec(length=4, num_words=None, words_per_place=1, vector_dim=2)
MODEL = types.SimpleNamespace(spec=SPEC, grid=(2, 2))


def a_code():
  return np.arange(8, dtype=np.float64).reshape(1, 4, 2)


def test_numbers_are_taken_as_they_are():
  codes = given_codes.check_codes(a_code(), 1, SPEC)
  assert codes.shape == (1, 1, 4, 2) and codes.dtype == np.float32
  np.testing.assert_array_equal(codes[:, 0], a_code())
  for bad in (a_code().astype(int), np.full((1, 4, 2), np.inf)):
    with pytest.raises(ConfigError, match="allowed: finite floats, and NaN"):
      given_codes.check_codes(bad, 1, SPEC)
  with pytest.raises(ConfigError, match=r"allowed: \[1, 4, 2\], \[1, S, 4"):
    given_codes.check_codes(a_code()[..., 0], 1, SPEC)
  with pytest.raises(ConfigError, match="given: only words can be given"):
    given_codes.check_given(a_code(), 1, SPEC)


def test_a_masked_place_says_nothing():
  masked = given_codes.mask_codes(a_code(), (0, 1, 2, 2), "zeros", 0, MODEL)
  np.testing.assert_array_equal(
      masking.says_nothing(masked, SPEC), [[False, True, False, True]])
  np.testing.assert_array_equal(masked[:, ::2], a_code()[:, ::2])
  # It may be given again.
  again = given_codes.check_codes(masked, 1, SPEC)
  np.testing.assert_array_equal(again[:, 0], masked)
  for mode in ("random", 3):
    with pytest.raises(ConfigError, match="must be 'zeros'"):
      given_codes.mask_codes(a_code(), None, mode, 0, MODEL)
