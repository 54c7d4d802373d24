"""FSQ: levels, words, the gradient through its bound, what it refuses."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uvim.codes.fsq import FSQ
from uvim.registry import ConfigError


def make(*levels):
  return FSQ(dict_size=math.prod(levels), codeword_dim=len(levels),
             levels=levels)


def vectors(seed, quantizer):
  shape = (4, 50, quantizer.oracle_dim)
  return 2 * jax.random.normal(jax.random.key(seed), shape)


@functools.partial(jax.jit, static_argnums=0)
def encode(quantizer, x_BLE):
  return quantizer.encode(quantizer.init(jax.random.key(0)), x_BLE)


def test_a_word_counts_its_levels_the_first_one_fastest():
  quantizer = make(3, 5, 4)
  triples = itertools.product(range(4), range(5), range(3))
  expected = [levels[::-1] for levels in triples]
  words = jnp.arange(60)[None]
  np.testing.assert_array_equal(quantizer.levels_of(words)[0], expected)
  # Around 0; an even number of levels has one more below it.
  numbers = np.float32(expected) - [1, 2, 2]
  np.testing.assert_allclose(
      quantizer.embed(None, words)[0], numbers / [1, 2, 2], rtol=1e-6)


@pytest.mark.parametrize("levels", [
    (8, 6, 5), (7, 5, 5, 5, 5), (15, 3), (14, 3), (8, 8, 8, 5, 5, 5)])
def test_every_word_can_be_written(levels):
  quantizer = make(*levels)
  words_BL = np.arange(quantizer.num_words)[None]
  level_11E = np.array(levels)[None, None]
  # What the bound makes of these vectors are whole numbers, but for the outer
  # ones, which lie a little nearer to 0.
  half_11E = (level_11E - 1) * 0.999 / 2
  offset_11E = (level_11E % 2 == 0) * 0.5
  whole_BLE = quantizer.levels_of(words_BL) - level_11E // 2
  share_BLE = np.clip((whole_BLE + offset_11E) / half_11E, -0.9999, 0.9999)
  x_BLE = np.arctanh(share_BLE) - np.tan(offset_11E / half_11E)
  coded = encode(quantizer, jnp.float32(x_BLE))
  np.testing.assert_array_equal(coded.code, words_BL)
  np.testing.assert_array_equal(coded.z_BLE, quantizer.vectors(words_BL))


def test_words_have_no_mistake_of_rounding():
  # (3/7) · 7 is less than 3 in float32.
  quantizer = make(15, 3)
  x_BLE = vectors(0, quantizer)
  levels_BLE = np.round(np.asarray(quantizer.bound(x_BLE))) + [7, 1]
  expected = levels_BLE[..., 0] + 15 * levels_BLE[..., 1]
  np.testing.assert_array_equal(encode(quantizer, x_BLE).code, expected)


def test_the_gradient_is_that_of_the_bound():
  quantizer = make(8, 5)
  x_BLE = vectors(1, quantizer)
  weight = vectors(2, quantizer)

  @jax.jit
  @jax.grad
  def gradient(x_BLE):
    return jnp.sum(weight * encode(quantizer, x_BLE).z_BLE)

  half = np.array([7, 4]) * 0.999 / 2
  shift = np.tan([0.5 / half[0], 0])
  slope = half * (1 - np.tanh(np.float64(x_BLE) + shift) ** 2) / [4, 2]
  np.testing.assert_allclose(
      gradient(x_BLE), weight * slope, rtol=1e-4, atol=1e-6)


def test_zeros_are_the_word_in_the_middle():
  quantizer = make(8, 6, 5)
  coded = encode(quantizer, jnp.zeros((1, 1, 3)))
  np.testing.assert_array_equal(quantizer.levels_of(coded.code), [[[4, 3, 2]]])
  assert not np.any(coded.z_BLE)


@pytest.mark.parametrize("fields, message", [
    (dict(dict_size=256, codeword_dim=3, levels=(8, 6, 5)),
     r"dict_size = 256; it must be 240, the product of levels = \(8, 6, 5\)"),
    (dict(dict_size=240, codeword_dim=32, levels=(8, 6, 5)),
     r"codeword_dim = 32; it must be 3, as many as levels = \(8, 6, 5\)")])
def test_sizes_that_do_not_follow_are_refused(fields, message):
  with pytest.raises(ConfigError, match=message):
    FSQ(**fields)
