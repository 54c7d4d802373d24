"""VQ whose codebook is a parameter: the optimizer trains it.

B batch · L code length · E codeword size · Q codebook size

Each vector takes the nearest row of the codebook. Two losses bring them
together: the codebook loss moves the rows, the commitment loss the vectors.
Nothing is split; a word that no vector takes stays where it is, unless the
entropy loss moves it.

Sources: van den Oord et al. 2017, "Neural Discrete Representation Learning"
(arXiv:1711.00937); rows and vectors of length 1: Yu et al. 2021, ViT-VQGAN
(arXiv:2110.04627), and TiTok; entropy loss: the released code of MaskGIT.
"""

import dataclasses

import jax
import jax.numpy as jnp

from uvim import fields
from uvim.codes import base, usage, vectors
from uvim.typing import CodeVectors, PerExample, Scalar

# The name of the codebook below "params/quantizer".
CODEBOOK = "codebook"
# Added to the mean probabilities in a logarithm, as in MaskGIT's code.
_LEAST_PROBABILITY = 1e-5


@dataclasses.dataclass(frozen=True)
class VQGradient(base.WordQuantizer):
  """A codebook that gets a gradient; each place takes the nearest row."""
  dict_size: int = fields.field(
      doc="Words in the codebook.", source="MaskGIT 1024",
      check=fields.integer(1))
  codeword_dim: int = fields.field(
      doc="Size of a codeword vector. Few numbers, such as 8 to 32, keep more "
      "words in use.", source="MaskGIT 256, TiTok 12",
      check=fields.integer(1))
  commitment_weight: float = fields.field(
      0.25, doc="Weight of the commitment loss; the codebook loss has 1.",
      source="MaskGIT, TiTok 0.25", check=fields.number(0))
  use_l2_norm: bool = fields.field(
      False, doc="Vectors and codewords have length 1. Use it with a small "
      "`codeword_dim`.", source="TiTok True, MaskGIT False",
      check=fields.BOOL)
  entropy_loss_weight: float = fields.field(
      0.0, doc="Weight of the entropy loss, which asks for words that are "
      "certain and for a batch that uses all of them.",
      source="MaskGIT 0.1, TiTok 0", check=fields.number(0))
  entropy_temperature: float = fields.field(
      0.01, doc="In that loss, how evenly the probabilities of words are "
      "spread.", source="MaskGIT 0.01", check=fields.POSITIVE)

  if_unused = (
      "Set model.use_l2_norm with a small model.codeword_dim, or raise "
      "model.entropy_loss_weight. " + base.Quantizer.if_unused)

  def init(self, rng):
    codebook_QE = vectors.init_rows(rng, self.dict_size, self.codeword_dim)
    return base.CodeArrays(params={CODEBOOK: codebook_QE}, state={})

  def encode(self, arrays, x_BLE, rngs_B=None, step=None):
    del rngs_B, step
    codebook_QE = self._rows(arrays)
    # In float32: bfloat16 would round some vectors to another word.
    x_BLE = x_BLE.astype(jnp.float32)
    if self.use_l2_norm:
      x_BLE = vectors.to_length_1(x_BLE)
    code_BL = vectors.nearest(codebook_QE, x_BLE)
    z_BLE = vectors.rows_of(codebook_QE, code_BL)
    codebook_loss_B = vectors.codebook_loss(x_BLE, z_BLE)
    commitment_B = vectors.commitment_loss(x_BLE, z_BLE)
    loss_B = codebook_loss_B + self.commitment_weight * commitment_B
    # The two losses differ in their gradient alone.
    logs = {"code/commitment": jnp.mean(commitment_B)}
    if self.entropy_loss_weight:
      place_entropy_B, batch_entropy = self.entropies(codebook_QE, x_BLE)
      entropy_loss_B = place_entropy_B - batch_entropy
      loss_B += self.entropy_loss_weight * entropy_loss_B
      logs["code/place_entropy"] = jnp.mean(place_entropy_B)
      logs["code/batch_entropy"] = batch_entropy
    return base.Coded(
        z_BLE=vectors.straight_through(z_BLE, x_BLE),
        code=code_BL,
        loss_B=loss_B,
        stats={"counts": usage.histogram(code_BL, self.dict_size)},
        logs=logs)

  def embed(self, arrays, code, dropped_BL=None):
    z_BLE = vectors.rows_of(self._rows(arrays), code)
    if dropped_BL is not None:
      z_BLE = self.drop(arrays, z_BLE, dropped_BL)
    return z_BLE

  def usage(self, stats):
    return stats["counts"]

  def entropies(
      self,
      codebook_QE: vectors.Rows,
      x_BLE: CodeVectors,
  ) -> tuple[PerExample, Scalar]:
    """The entropies of the words that vectors may stand for, in nats.

    A word is the likelier, the nearer it is.

    Returns:
      Of each example the mean over its places, and the entropy of the mean of
      all probabilities. Both are of the examples at hand: with
      `grad_accum_steps`, of a part of the batch.
    """
    distances_BLQ = vectors.distances(codebook_QE, x_BLE)
    logits_BLQ = -distances_BLQ / self.entropy_temperature
    probabilities_BLQ = jax.nn.softmax(logits_BLQ)
    terms_BLQ = probabilities_BLQ * jax.nn.log_softmax(logits_BLQ)
    place_entropy_B = -jnp.mean(jnp.sum(terms_BLQ, axis=-1), axis=1)
    mean_Q = jnp.mean(probabilities_BLQ, axis=(0, 1))
    batch_entropy = -jnp.sum(mean_Q * jnp.log(mean_Q + _LEAST_PROBABILITY))
    return place_entropy_B, batch_entropy

  def _rows(self, arrays: base.CodeArrays) -> vectors.Rows:
    """The codewords."""
    codebook_QE = arrays.params[CODEBOOK]
    if self.use_l2_norm:
      codebook_QE = vectors.to_length_1(codebook_QE)
    return codebook_QE
