"""LFQ and BSQ: bits, the entropy loss by brute force, groups of bits."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uvim.codes import lfq
from uvim.codes.lfq import LFQ
from uvim.registry import ConfigError


def make(bits, **fields):
  return LFQ(dict_size=2 ** bits, codeword_dim=bits, **fields)


def vectors(seed, bits, scale=1.0):
  return scale * jax.random.normal(jax.random.key(seed), (3, 5, bits))


@functools.partial(jax.jit, static_argnums=0)
def encode(quantizer, x_BLE):
  return quantizer.encode(quantizer.init(jax.random.key(0)), x_BLE)


def entropies(x_BLE, corners_QE, inv_temperature):
  """Of each example's places and of the mean, with all words, in float64."""
  scores = 2 * inv_temperature * np.float64(x_BLE) @ corners_QE.T
  exponentials = np.exp(scores - scores.max(-1, keepdims=True))
  p_BLQ = exponentials / exponentials.sum(-1, keepdims=True)

  def entropy(p):
    return -np.sum(p * np.log(np.maximum(p, 1e-5)), axis=-1)

  return entropy(p_BLQ).mean(1), entropy(p_BLQ.mean((0, 1)))


def corners(bits):
  """All code vectors in the order of their words."""
  return np.array(list(itertools.product((-1, 1), repeat=bits)), np.float64)


def test_the_first_bit_weighs_most_and_zero_is_a_minus():
  quantizer = make(3)
  x_BLE = jnp.array([[[2.0, -1, 0.1], [0, 0, 0], [-0.0, 3, 0]]])
  coded = encode(quantizer, x_BLE)
  np.testing.assert_array_equal(coded.code, [[5, 0, 2]])
  np.testing.assert_array_equal(
      coded.z_BLE, [[[1, -1, 1], [-1, -1, -1], [-1, 1, -1]]])
  words = jnp.arange(8)[None]
  np.testing.assert_array_equal(quantizer.embed(None, words)[0], corners(3))


@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize("inv_temperature", [1.0, 100.0])
def test_loss_by_brute_force(spherical, inv_temperature):
  quantizer = make(
      4, spherical=spherical, inv_temperature=inv_temperature,
      entropy_loss_weight=0.2, diversity_gamma=2.5, commitment_weight=0.5)
  x_BLE = vectors(0, 4)
  coded = encode(quantizer, x_BLE)
  words_QE = corners(4)
  x_BLE = np.float64(x_BLE)
  if spherical:
    words_QE /= 2
    x_BLE /= np.linalg.norm(x_BLE, axis=-1, keepdims=True)
  np.testing.assert_allclose(
      coded.z_BLE, words_QE[np.asarray(coded.code)], rtol=1e-6)
  places_B, batch = entropies(x_BLE, words_QE, inv_temperature)
  commitment_B = np.square(x_BLE - coded.z_BLE).mean((1, 2))
  np.testing.assert_allclose(
      coded.loss_B,
      0.2 * (places_B - 2.5 * batch) + 0.5 * commitment_B, rtol=1e-4)


def test_groups_of_bits_leave_a_place_its_entropy():
  bits = lfq.GROUP_BITS + 2
  quantizer = make(bits, inv_temperature=1.0)
  x_BLE = vectors(1, bits)
  entropies_of = jax.jit(quantizer.entropies)
  places_B, bound = entropies_of(x_BLE)
  # Of bits that do not depend on each other entropies add up. Only the least
  # probability that the logarithm knows makes a difference.
  p = 1 / (1 + np.exp(-4 * np.float64(x_BLE)))
  bits_of_places = -(p * np.log(p) + (1 - p) * np.log1p(-p))
  np.testing.assert_allclose(
      places_B, bits_of_places.sum(-1).mean(1), rtol=2e-3)
  _, batch = entropies(x_BLE, corners(bits), 1.0)
  assert batch < bound < bits * np.log(2)


def test_a_long_word_needs_no_table_of_all_words():
  coded = encode(make(20), vectors(2, 20))
  assert np.isfinite(coded.loss_B).all()
  assert coded.code.max() > 2 ** 16


def test_the_gradient_goes_through_the_length_of_a_spherical_vector():
  x_BLE = vectors(3, 5)
  weight = vectors(4, 5)

  def gradient(quantizer):
    def weighted(x_BLE):
      return jnp.sum(weight * encode(quantizer, x_BLE).z_BLE)
    return jax.jit(jax.grad(weighted))(x_BLE)

  np.testing.assert_array_equal(gradient(make(5)), weight)
  length = np.linalg.norm(x_BLE, axis=-1, keepdims=True)
  unit = x_BLE / length
  along = np.sum(unit * weight, axis=-1, keepdims=True)
  np.testing.assert_allclose(
      gradient(make(5, spherical=True)), (weight - along * unit) / length,
      rtol=1e-4, atol=1e-5)


def test_the_size_must_be_that_of_the_bits():
  with pytest.raises(
      ConfigError, match="dict_size = 256; it must be 512, 2 to the power of"):
    LFQ(dict_size=256, codeword_dim=9)
