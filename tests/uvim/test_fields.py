"""Checks of fields and options."""

import jax
import numpy as np
import pytest

from uvim import fields

LARGEST_SEED = 2**32 - 1


def key_of(seed):
  return tuple(np.asarray(jax.random.key_data(jax.random.key(seed))))


@pytest.mark.parametrize(
    "value", [-1, LARGEST_SEED + 1, 2**63, 1.0, "1", True, None, np.nan])
def test_what_is_no_seed(value):
  assert not fields.SEED.fits(value)


@pytest.mark.parametrize("value", [0, np.int64(7), LARGEST_SEED])
def test_what_is_a_seed(value):
  assert fields.SEED.fits(value)


def test_seeds_end_where_two_would_give_the_same_numbers():
  edges = [0, 1, 2**31 - 1, 2**31, LARGEST_SEED]
  assert len(set(map(key_of, edges))) == len(edges)
  assert key_of(LARGEST_SEED + 1) == key_of(0)
  assert key_of(-1) == key_of(LARGEST_SEED)


def test_a_name_may_join_a_table_later():
  table = {"a": 1}
  check = fields.one_of(table)
  assert check.fits("a")
  assert not check.fits("b")
  table["b"] = 2
  assert check.fits("b")
  # What no dict could have as a key is still no name.
  assert not check.fits([1])
