"""Dropout with a key for each example."""

import jax
import numpy as np

from uvim.models.pix2seq_d import dropout

X = np.ones((4, 50, 40), np.float32)


def rngs(seed=0):
  return jax.random.split(jax.random.key(seed), len(X))


def test_what_stays_makes_up_for_what_is_dropped():
  dropped = np.asarray(dropout.drop_numbers(X, 0.2, rngs()))
  np.testing.assert_allclose(np.unique(dropped), [0, 1.25])
  np.testing.assert_allclose(dropped.mean((1, 2)), 1, atol=0.05)


def test_a_branch_goes_as_a_whole():
  many = np.ones((2000, 3), np.float32)
  keys = jax.random.split(jax.random.key(0), len(many))
  dropped = np.asarray(dropout.drop_branches(many, 0.2, keys))
  np.testing.assert_array_equal(dropped, dropped[:, :1].repeat(3, axis=1))
  np.testing.assert_allclose((dropped[:, 0] == 0).mean(), 0.2, atol=0.03)
  np.testing.assert_allclose(dropped.max(), 1.25)


def test_nothing_is_dropped_without_keys_or_without_a_share():
  assert dropout.drop_numbers(X, 0.5, None) is X
  assert dropout.drop_branches(X, 0.0, rngs()) is X
  assert dropout.split_keys(None, 3) == [None] * 3


def test_keys_of_an_example_come_from_its_own():
  first, second = dropout.split_keys(rngs(), 2)
  alone, _ = dropout.split_keys(rngs()[2:3], 2)
  np.testing.assert_array_equal(
      jax.random.key_data(alone), jax.random.key_data(first[2:3]))
  assert (jax.random.key_data(first) != jax.random.key_data(second)).any()
