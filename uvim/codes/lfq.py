"""LFQ: a word is the signs of its vector, read as a binary number.

B batch · L code length · E numbers of a code vector = bits of a word
G bits of a group · J words of a group, 2^G

A sign is a bit; the first one weighs most. There is no codebook. A loss asks
for words that are certain (a low entropy of each place) and for a batch that
uses all of them (a high entropy of its mean). With `spherical` this is BSQ:
vectors and code vectors have length 1.

Source: Yu et al. 2023, "Language Model Beats Diffusion: Tokenizer is Key to
Visual Generation" (arXiv:2310.05737); BSQ: Zhao et al. 2024 (arXiv:2406.07548).
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from uvim import fields
from uvim.codes import base, computed, vectors
from uvim.typing import (
  Array,
  CodeVectors,
  Float,
  PerExample,
  Scalar,
  Words,
)

# The loss gives each word of a group a probability, at each place. More bits
# than that are taken as groups that do not depend on each other.
GROUP_BITS = 12
# Probabilities below count as this in a logarithm, as in published code.
_LEAST_PROBABILITY = 1e-5

Probabilities = Float[Array, "... J"]


@dataclasses.dataclass(frozen=True)
class LFQ(computed.ComputedWords):
  """The corners of a cube; each number of a vector goes to its sign."""
  dict_size: int = fields.field(
      doc="Number of words: 2 to the power of `codeword_dim`.",
      check=fields.integer(1))
  codeword_dim: int = fields.field(
      doc="Bits of a word, each the sign of a number.",
      check=fields.integer(1, int(math.log2(computed.MAX_WORDS))))
  spherical: bool = fields.field(
      False, doc="Vectors and code vectors have length 1 (BSQ).",
      source="BSQ", check=fields.BOOL)
  entropy_loss_weight: float = fields.field(
      0.1, doc="Weight of the entropy loss. Without it many bits may never "
      "change.", source="LFQ", check=fields.number(0))
  diversity_gamma: float = fields.field(
      1.0, doc="In that loss, the weight of the batch's entropy.",
      source="LFQ", check=fields.number(0))
  inv_temperature: float = fields.field(
      100.0, doc="In that loss, how sharply the probabilities of words follow "
      "the vectors.", source="LFQ", check=fields.POSITIVE)
  commitment_weight: float = fields.field(
      0.0, doc="Weight of the commitment loss.", source="LFQ",
      check=fields.number(0))

  if_unused = (
      "Raise model.entropy_loss_weight. A few images need a few words: lower "
      "model.codeword_dim.")

  def __post_init__(self):
    computed.check_size("dict_size", self.dict_size, 2 ** self.codeword_dim,
                        f"2 to the power of codeword_dim = {self.codeword_dim}")

  def encode(self, arrays, x_BLE, rngs_B=None, step=None):
    del arrays, rngs_B, step
    x_BLE = x_BLE.astype(jnp.float32)
    if self.spherical:
      x_BLE = vectors.to_length_1(x_BLE)
    # The sign of 0 is minus.
    bits_BLE = (x_BLE > 0).astype(jnp.int32)
    place_values_E = 2 ** _exponents(self.codeword_dim)
    code_BL = jnp.sum(bits_BLE * place_values_E[None, None], axis=-1)
    z_BLE = vectors.straight_through(self.vectors(code_BL), x_BLE)
    commitment_B = vectors.commitment_loss(x_BLE, z_BLE)
    place_entropy_B, batch_entropy = self.entropies(x_BLE)
    entropy_loss_B = place_entropy_B - self.diversity_gamma * batch_entropy
    return base.Coded(
        z_BLE=z_BLE,
        code=code_BL,
        loss_B=(self.entropy_loss_weight * entropy_loss_B
                + self.commitment_weight * commitment_B),
        stats=self.stats(code_BL),
        logs={
            "code/commitment": jnp.mean(commitment_B),
            "code/place_entropy": jnp.mean(place_entropy_B),
            "code/batch_entropy": batch_entropy,
        })

  def vectors(self, code_BL: Words) -> CodeVectors:
    exponents_11E = _exponents(self.codeword_dim)[None, None]
    bits_BLE = (code_BL[..., None] >> exponents_11E) & 1
    signs_BLE = 2 * bits_BLE - 1
    return self._corner * signs_BLE.astype(jnp.float32)

  def entropies(self, x_BLE: CodeVectors) -> tuple[PerExample, Scalar]:
    """The entropies of the words that vectors may stand for, in nats.

    Args:
      x_BLE: float32; of length 1 if `spherical`.

    Returns:
      Of each example the mean over its places, and the entropy of the mean of
      all probabilities. Of more than GROUP_BITS bits, both are sums over
      groups; the second is then an upper bound. Both are of the examples at
      hand: with `grad_accum_steps`, of a part of the batch.
    """
    place_entropy_B = jnp.zeros(len(x_BLE))
    batch_entropy = jnp.zeros(())
    for start in range(0, self.codeword_dim, GROUP_BITS):
      x_BLG = x_BLE[..., start:start + GROUP_BITS]
      probabilities_BLJ = self._probabilities(x_BLG)
      entropy_BL = _entropy(probabilities_BLJ)
      place_entropy_B += jnp.mean(entropy_BL, axis=1)
      mean_J = jnp.mean(probabilities_BLJ, axis=(0, 1))
      batch_entropy += _entropy(mean_J)
    return place_entropy_B, batch_entropy

  def _probabilities(self, x_BLG) -> Probabilities:
    """How likely each word of a group of bits is: softmax(2 τ x · codeword).

    The codewords are the corners of a cube. So this is the product of what its
    bits have, sigmoid(± 4 τ x) each; in float32 the products are more exact.
    """
    num_bits = x_BLG.shape[-1]
    words_J1 = np.arange(2 ** num_bits)[:, None]
    bits_JG = (words_J1 >> _exponents(num_bits)[None]) & 1
    logits_BLG = 4 * self.inv_temperature * self._corner * x_BLG
    logs_of_ones_BLJ = _add_up(jax.nn.log_sigmoid(logits_BLG), bits_JG)
    logs_of_zeros_BLJ = _add_up(jax.nn.log_sigmoid(-logits_BLG), 1 - bits_JG)
    return jnp.exp(logs_of_ones_BLJ + logs_of_zeros_BLJ)

  @property
  def _corner(self) -> float:
    """The magnitude of the numbers of a code vector."""
    return self.codeword_dim ** -0.5 if self.spherical else 1.0


def _add_up(terms_BLG, is_taken_JG) -> Float[Array, "B L J"]:
  """For each word, the sum of the terms that it takes."""
  # HIGHEST: accelerators would otherwise round the terms.
  return jnp.einsum(
      "blg,jg->blj",
      terms_BLG,
      jnp.float32(is_taken_JG),
      precision=jax.lax.Precision.HIGHEST)


def _exponents(num_bits: int) -> np.ndarray:
  """Of the powers of 2 that the bits stand for, the largest first."""
  return np.arange(num_bits, dtype=np.int32)[::-1]


def _entropy(probabilities: Probabilities) -> Float[Array, "..."]:
  """In nats, over the last axis."""
  logs = jnp.log(jnp.maximum(probabilities, _LEAST_PROBABILITY))
  return -jnp.sum(probabilities * logs, axis=-1)
