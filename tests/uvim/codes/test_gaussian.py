"""A code of real numbers: what is drawn, what it costs."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import integrate, stats

from uvim.codes import gaussian


def test_numbers_are_drawn_around_the_mean_for_each_example_by_itself():
  quantizer = gaussian.Gaussian(codeword_dim=2, beta=0.0)
  mean, log_variance = np.array([1.0, -3.0]), np.log([0.25, 4.0])
  x_BLE = jnp.broadcast_to(
      jnp.float32([*mean, *log_variance]), (3, 2000, 4))
  rngs_B = jax.random.split(jax.random.key(0), 3)
  encode = jax.jit(quantizer.encode)
  coded = encode(None, x_BLE, rngs_B)
  drawn = np.asarray(coded.code)
  np.testing.assert_allclose(drawn.mean((0, 1)), mean, atol=0.1)
  np.testing.assert_allclose(drawn.std((0, 1)), [0.5, 2.0], rtol=0.05)
  assert np.abs(drawn[0] - drawn[1]).max() > 1
  np.testing.assert_array_equal(
      encode(None, x_BLE[1:], rngs_B[1:]).code, drawn[1:])
  # An evaluation does not depend on chance.
  np.testing.assert_allclose(
      quantizer.encode(None, x_BLE).code[0, 0], mean, rtol=1e-6)


def test_the_loss_is_the_divergence_from_a_standard_gaussian():
  def divergence(mean, scale):
    own = stats.norm(mean, scale)
    return integrate.quad(
        lambda x: own.pdf(x) * (own.logpdf(x) - stats.norm.logpdf(x)),
        mean - 9 * scale, mean + 9 * scale)[0]

  quantizer = gaussian.Gaussian(codeword_dim=2, beta=0.5)
  x_BLE = np.float32([[[0.7, -1.2, np.log(0.3 ** 2), np.log(1.5 ** 2)]]])
  coded = quantizer.encode(None, x_BLE)
  wanted = divergence(0.7, 0.3) + divergence(-1.2, 1.5)
  np.testing.assert_allclose(coded.loss_B, [0.5 * wanted], rtol=1e-5)
  np.testing.assert_allclose(coded.logs["code/kl"], wanted, rtol=1e-5)
  # A standard Gaussian costs nothing.
  free = quantizer.encode(None, np.zeros((1, 3, 4), np.float32))
  np.testing.assert_array_equal(free.loss_B, [0])
