"""Codebooks that get a gradient: `vq_gradient`, `residual` and `gumbel`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uvim.codes import gumbel, usage
from uvim.codes.base import CodeArrays
from uvim.codes.gumbel import Gumbel
from uvim.codes.residual import Residual
from uvim.codes.vq_gradient import VQGradient


def normal(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def nearest(codebook, x):
  """By brute force, in float64."""
  difference = np.float64(x)[..., None, :] - np.float64(codebook)
  return np.sum(difference ** 2, axis=-1).argmin(-1)


@functools.partial(jax.jit, static_argnums=0)
def loss_and_gradients(quantizer, codebook_QE, x_BLE):
  """The quantizer's own loss and its gradients, and what it encodes."""
  def loss(codebook_QE, x_BLE):
    arrays = CodeArrays({"codebook": codebook_QE}, {})
    coded = quantizer.encode(arrays, x_BLE)
    return jnp.mean(coded.loss_B), coded

  return jax.value_and_grad(loss, (0, 1), has_aux=True)(codebook_QE, x_BLE)


# ── vq_gradient ─────────────────────────────────────────────────────────────


def test_the_codebook_loss_moves_the_used_rows_alone():
  codebook, x = normal(0, 9, 4), normal(1, 2, 3, 4)
  quantizer = VQGradient(dict_size=9, codeword_dim=4, commitment_weight=0.0)
  (_, coded), (of_codebook, of_x) = loss_and_gradients(quantizer, codebook, x)
  word = nearest(codebook, x)
  np.testing.assert_array_equal(coded.code, word)
  np.testing.assert_array_equal(coded.z_BLE, codebook[word])
  assert not np.any(of_x)
  wanted = np.zeros((9, 4))
  np.add.at(wanted, word, 2 * (codebook[word] - x) / x.size)
  np.testing.assert_allclose(of_codebook, wanted, rtol=1e-5, atol=1e-7)


def test_the_entropy_loss_moves_unused_rows_too():
  codebook, x = 0.1 * normal(0, 9, 4), normal(1, 2, 3, 4)
  quantizer = VQGradient(dict_size=9, codeword_dim=4, entropy_loss_weight=0.1,
                         entropy_temperature=1.0)
  (_, coded), (of_codebook, _) = loss_and_gradients(quantizer, codebook, x)
  assert len(np.unique(coded.code)) < 9
  assert np.all(np.any(np.asarray(of_codebook), axis=1))


def test_on_the_sphere_lengths_do_not_matter():
  codebook, x = normal(0, 9, 4), normal(1, 2, 3, 4)
  quantizer = VQGradient(dict_size=9, codeword_dim=4, use_l2_norm=True)
  (loss, coded), (_, of_x) = loss_and_gradients(quantizer, codebook, x)
  lengths = np.linalg.norm(coded.z_BLE, axis=-1)
  np.testing.assert_allclose(lengths, 1, rtol=1e-6)
  # A longer vector would lose as much: the gradient is at a right angle.
  np.testing.assert_allclose(np.sum(of_x * x, axis=-1), 0, atol=1e-6)
  (same_loss, same), _ = loss_and_gradients(quantizer, 3 * codebook, 5 * x)
  np.testing.assert_array_equal(same.code, coded.code)
  assert float(same_loss) == pytest.approx(float(loss), rel=1e-5)


# ── residual ────────────────────────────────────────────────────────────────


def test_each_word_is_the_nearest_to_what_is_left():
  codebooks, x = normal(0, 2, 8, 4), normal(1, 3, 5, 4)
  quantizer = Residual(dict_size=8, codeword_dim=4, num_quantizers=2)
  arrays = CodeArrays({"codebooks": codebooks}, {})
  coded = jax.jit(quantizer.encode)(arrays, x)
  first = nearest(codebooks[0], x)
  second = nearest(codebooks[1], x - codebooks[0][first])
  np.testing.assert_array_equal(coded.code, np.stack([first, second], -1))
  np.testing.assert_array_equal(
      coded.z_BLE, codebooks[0][first] + codebooks[1][second])
  # A word that only one of the codebooks uses is not in use in the other.
  counts = quantizer.usage(coded.stats).reshape(2, 8)
  np.testing.assert_array_equal(
      counts[1], usage.histogram(jnp.asarray(second), 8))


# ── gumbel ──────────────────────────────────────────────────────────────────


def test_temperature_falls_and_the_weight_rises_with_the_step():
  quantizer = Gumbel(dict_size=4, codeword_dim=2, tau_max=1.0, tau_min=0.2,
                     tau_steps=100, kl_weight=3.0, kl_steps=10)
  taus = [float(quantizer.temperature(step)) for step in (0, 50, 100, 900)]
  np.testing.assert_allclose(taus, [1.0, 0.6, 0.2, 0.2], rtol=1e-5)
  weights = [float(quantizer.divergence_weight(step)) for step in (0, 5, 10)]
  np.testing.assert_allclose(weights, [0.0, 1.5, 3.0], atol=1e-6)
  # Evaluation knows no step: it is that of the end.
  assert quantizer.temperature(None) == pytest.approx(0.2)


def test_hard_choices_are_as_frequent_as_the_scores_say():
  scores = np.log([[0.1, 0.2, 0.7]]).astype(np.float32)
  scores_BLQ = np.tile(scores, (4000, 1, 1))
  quantizer = Gumbel(dict_size=3, codeword_dim=2, hard=True)

  @jax.jit
  def frequencies(rngs_B):
    noise_BLQ = gumbel.draw_noise(rngs_B, scores_BLQ.shape)
    return jnp.mean(quantizer.shares(scores_BLQ, noise_BLQ, 0.3), (0, 1))

  found = frequencies(jax.random.split(jax.random.key(0), 4000))
  np.testing.assert_allclose(found, [0.1, 0.2, 0.7], atol=0.03)


def test_training_mixes_words_by_chance_and_evaluation_takes_one():
  quantizer = Gumbel(dict_size=6, codeword_dim=4)
  arrays = quantizer.init(jax.random.key(0))
  x = normal(1, 4, 3, 6)
  encode = jax.jit(quantizer.encode)
  rngs_B = jax.random.split(jax.random.key(2), 4)
  trained = encode(arrays, x, rngs_B, jnp.int32(7))
  evaluated = encode(arrays, x)
  np.testing.assert_array_equal(evaluated.code, x.argmax(-1))
  np.testing.assert_array_equal(
      evaluated.z_BLE, arrays.params["codebook"][evaluated.code])
  # At a high temperature no place has a single word.
  gap = np.abs(trained.z_BLE - evaluated.z_BLE).max(-1)
  assert gap.min() > 0.01
  # The noise of an example follows from its own key.
  turned = encode(arrays, x[::-1], rngs_B[::-1], jnp.int32(7))
  np.testing.assert_allclose(turned.z_BLE, trained.z_BLE[::-1], rtol=1e-5)
  other = encode(arrays, x, rngs_B[::-1], jnp.int32(7))
  assert np.abs(other.z_BLE - trained.z_BLE).max() > 0.01


def test_divergence_is_from_even_shares():
  scores = np.float32([[[0, 0, 0, 0]], [[100, 0, 0, 0]]])
  np.testing.assert_allclose(
      gumbel.divergence(scores), [0, np.log(4)], atol=1e-6)
