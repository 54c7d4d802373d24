"""Gumbel-softmax: in training, every place has a mixture of all words.

B batch · L code length · E codeword size · Q codebook size

The oracle writes a score for every word. Training adds noise to the scores,
turns them into shares and gives the base model the mixture of the codewords.
The temperature falls from step to step, so that one word comes to have nearly
all of a mixture. Evaluation takes the word of the highest score. A loss keeps
the shares from settling too early: it is their divergence from even shares.

Source: Ramesh et al. 2021, DALL·E (arXiv:2102.12092), appendix A.2.
"""

import dataclasses

import jax
import jax.numpy as jnp

from uvim import fields
from uvim.codes import base, usage, vectors
from uvim.typing import Array, Float, PerExample, PRNGKey, Scalar

# The name of the codebook below "params/quantizer".
CODEBOOK = "codebook"
# Mixed into the keys of the examples, because code dropout uses them, too.
_SALT = 0x67756d62

# Numbers for each word at each place.
Scores = Float[Array, "B L Q"]


@dataclasses.dataclass(frozen=True)
class Gumbel(base.WordQuantizer):
  """A relaxed choice among the words of a codebook, trained by gradient."""
  dict_size: int = fields.field(
      doc="Words in the codebook. The oracle writes as many numbers for each "
      "place.", source="DALL·E 8192", check=fields.integer(1))
  codeword_dim: int = fields.field(
      doc="Size of a codeword vector.", check=fields.integer(1))
  tau_max: float = fields.field(
      1.0, doc="Temperature of the first step.", source="DALL·E 1",
      check=fields.POSITIVE)
  tau_min: float = fields.field(
      1 / 16, doc="Temperature after `tau_steps` steps.",
      source="DALL·E 1/16, MaskGIT 0.6", check=fields.POSITIVE)
  tau_steps: int = fields.field(
      150_000, doc="Steps in which it falls, along a cosine.",
      source="DALL·E 150000, MaskGIT 100000", check=fields.integer(1))
  kl_weight: float = fields.field(
      6.6 / 192, doc="Weight of the divergence, a mean over places in nats, "
      "after `kl_steps` steps.",
      source="DALL·E 6.6 for sums over places and pixels, of which it has 192 "
      "for each place", check=fields.number(0))
  kl_steps: int = fields.field(
      5000, doc="Steps in which it rises from 0, along a cosine.",
      source="DALL·E 5000", check=fields.integer(1))
  hard: bool = fields.field(
      False, doc="Training takes one word, too; only its gradient is that of "
      "the mixture.", source="DALL·E False", check=fields.BOOL)

  if_unused = (
      "Raise model.kl_weight, or model.tau_min and model.tau_steps. "
      + base.Quantizer.if_unused)

  @property
  def oracle_dim(self) -> int:
    return self.dict_size

  def init(self, rng):
    shape_QE = (self.dict_size, self.codeword_dim)
    codebook_QE = jax.random.normal(rng, shape_QE)
    return base.CodeArrays(params={CODEBOOK: codebook_QE}, state={})

  def encode(self, arrays, x_BLE, rngs_B=None, step=None):
    scores_BLQ = x_BLE.astype(jnp.float32)
    # What evaluation would say: it is what stage II learns, and what is
    # counted.
    code_BL = jnp.argmax(scores_BLQ, axis=-1).astype(jnp.int32)
    is_training = rngs_B is not None
    noise_BLQ = jnp.zeros(scores_BLQ.shape)
    if is_training:
      noise_BLQ = draw_noise(rngs_B, scores_BLQ.shape)
    tau = self.temperature(step)
    shares_BLQ = self.shares(scores_BLQ, noise_BLQ, tau)
    z_BLE = mix(arrays.params[CODEBOOK], shares_BLQ)
    if not is_training:
      z_BLE = vectors.straight_through(self.embed(arrays, code_BL), z_BLE)
    kl_B = divergence(scores_BLQ)
    kl_weight = self.divergence_weight(step)
    return base.Coded(
        z_BLE=z_BLE,
        code=code_BL,
        loss_B=kl_weight * kl_B,
        stats={"counts": usage.histogram(code_BL, self.dict_size)},
        logs={"code/kl": jnp.mean(kl_B), "code/tau": tau})

  def shares(
      self, scores_BLQ: Scores, noise_BLQ: Scores, tau: Scalar | float,
  ) -> Scores:
    """How much of each word a place has; the shares of a place sum to 1.

    Args:
      scores_BLQ: float32.
      noise_BLQ: added to them.
      tau: temperature.
    """
    shares_BLQ = jax.nn.softmax((scores_BLQ + noise_BLQ) / tau)
    if not self.hard:
      return shares_BLQ
    largest_BL = jnp.argmax(shares_BLQ, axis=-1)
    one_hot_BLQ = jax.nn.one_hot(largest_BL, self.dict_size)
    return vectors.straight_through(one_hot_BLQ, shares_BLQ)

  def temperature(self, step: Scalar | None) -> Scalar:
    """At a training step; None: at the end."""
    fallen = _cosine_rise(step, self.tau_steps)
    return self.tau_max + (self.tau_min - self.tau_max) * fallen

  def divergence_weight(self, step: Scalar | None) -> Scalar:
    """The weight of the loss at a training step; None: at the end."""
    return self.kl_weight * _cosine_rise(step, self.kl_steps)

  def embed(self, arrays, code, dropped_BL=None):
    z_BLE = vectors.rows_of(arrays.params[CODEBOOK], code)
    if dropped_BL is not None:
      z_BLE = self.drop(arrays, z_BLE, dropped_BL)
    return z_BLE

  def usage(self, stats):
    return stats["counts"]


def draw_noise(rngs_B: PRNGKey, shape_BLQ: tuple[int, ...]) -> Scores:
  """Gumbel noise for the scores, for each example from its own key."""
  def noise_of(rng):
    own_rng = jax.random.fold_in(rng, _SALT)
    return jax.random.gumbel(own_rng, shape_BLQ[1:])

  return jax.vmap(noise_of)(rngs_B)


def mix(codebook_QE: vectors.Rows, shares_BLQ: Scores) -> Float[Array, "B L E"]:
  """The sums of the codewords, with these shares."""
  return jnp.einsum(
      "blq,qe->ble", shares_BLQ, codebook_QE,
      precision=jax.lax.Precision.HIGHEST)


def divergence(scores_BLQ: Scores) -> PerExample:
  """From even shares to the softmax of the scores, in nats; mean over places.

  0 where all scores of a place are equal, log Q where one word has everything.
  """
  logs_BLQ = jax.nn.log_softmax(scores_BLQ)
  log_num_words = jnp.log(float(scores_BLQ.shape[-1]))
  terms_BLQ = jnp.exp(logs_BLQ) * (logs_BLQ + log_num_words)
  return jnp.mean(jnp.sum(terms_BLQ, axis=-1), axis=1)


def _cosine_rise(step: Scalar | None, num_steps: int) -> Scalar:
  """From 0 at step 0 to 1 at `num_steps`, and after it; 1 without a step."""
  if step is None:
    return jnp.ones(())
  progress = jnp.minimum(step / num_steps, 1.0)
  return (1 - jnp.cos(jnp.pi * progress)) / 2
