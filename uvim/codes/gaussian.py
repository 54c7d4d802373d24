"""A continuous code: each place has a vector of real numbers.

B batch · L code length · E numbers of a code vector

The oracle writes a mean and the logarithm of a variance for each number.
Training draws the number from that Gaussian; evaluation takes the mean. The
Kullback–Leibler divergence to a standard Gaussian keeps the numbers near 0 and
makes precision cost something: this is a β-VAE.

Source: Tschannen, Eastwood, Mentzer 2023, "GIVT: Generative Infinite-Vocabulary
Transformers" (arXiv:2312.02116).
"""

import dataclasses

import jax
import jax.numpy as jnp

from uvim import fields
from uvim.codes import base
from uvim.typing import CodeVectors, PerExample, PRNGKey


@dataclasses.dataclass(frozen=True)
class Gaussian(base.Quantizer):
  """No words: a code is its vectors. "No word" is the vector of zeros."""
  codeword_dim: int = fields.field(
      doc="Numbers of a code vector; the oracle writes twice as many.",
      source="GIVT 16", check=fields.integer(1))
  beta: float = fields.field(
      doc="Weight of the divergence from a standard Gaussian, which is a sum "
      "over the code; the other loss is a mean over pixels.",
      source="GIVT 2.5e-4", check=fields.number(0))

  @property
  def num_words(self) -> None:
    return None

  @property
  def oracle_dim(self) -> int:
    return 2 * self.codeword_dim

  @property
  def vector_dim(self) -> int:
    return self.codeword_dim

  def encode(self, arrays, x_BLE, rngs_B=None, step=None):
    del arrays, step
    mean_BLE, log_variance_BLE = posterior(x_BLE)
    z_BLE = mean_BLE
    if rngs_B is not None:
      noise_BLE = _draw_noise(rngs_B, mean_BLE.shape[1:])
      z_BLE = with_noise(mean_BLE, log_variance_BLE, noise_BLE)
    kl_B = kl_divergence(mean_BLE, log_variance_BLE)
    return base.Coded(
        z_BLE=z_BLE,
        code=z_BLE,
        loss_B=self.beta * kl_B,
        stats={},
        logs={"code/kl": jnp.mean(kl_B)})

  def embed(self, arrays, code, dropped_BL=None):
    if dropped_BL is None:
      return code
    return self.drop(arrays, code, dropped_BL)


def posterior(x_BLE: CodeVectors) -> tuple[CodeVectors, CodeVectors]:
  """Means and logarithms of variances from what the oracle writes.

  Args:
    x_BLE: the means, then the logarithms: [B, L, 2 E].
  """
  # In float32: the exponential of a rounded logarithm is far off.
  mean_BLE, log_variance_BLE = jnp.split(x_BLE.astype(jnp.float32), 2, axis=-1)
  return mean_BLE, log_variance_BLE


def with_noise(
    mean_BLE: CodeVectors,
    log_variance_BLE: CodeVectors,
    noise_BLE: CodeVectors,
) -> CodeVectors:
  """Numbers drawn from the Gaussians; `noise_BLE` is of a standard one."""
  scale_BLE = jnp.exp(log_variance_BLE / 2)
  return mean_BLE + scale_BLE * noise_BLE


def kl_divergence(
    mean_BLE: CodeVectors,
    log_variance_BLE: CodeVectors,
) -> PerExample:
  """From a standard Gaussian to these, in nats, summed over each code."""
  terms_BLE = (jnp.square(mean_BLE) + jnp.exp(log_variance_BLE)
               - 1 - log_variance_BLE)
  return jnp.sum(terms_BLE, axis=(1, 2)) / 2


def _draw_noise(rngs_B: PRNGKey, shape: tuple[int, int]) -> CodeVectors:
  """Standard Gaussian numbers, for each example from its own key."""
  return jax.vmap(lambda rng: jax.random.normal(rng, shape))(rngs_B)
