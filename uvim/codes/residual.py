"""Residual VQ: several words for each place, each corrects those before it.

B batch · L code length · R words of a place · E codeword size
Q words of a codebook

Every place has R words, from R codebooks. The first word is that of the nearest
row. The second one stands for what is left of the vector, and so on. The code
vector is the sum of the rows. So R codebooks of Q words tell Q^R vectors apart,
and no softmax has more than Q words.

The codebooks are parameters and learn as those of `vq_gradient`.

Sources: Zeghidour et al. 2021, SoundStream (arXiv:2107.03312); Lee et al. 2022,
"Autoregressive Image Generation using Residual Quantization"
(arXiv:2203.01941).
"""

import dataclasses

import jax
import jax.numpy as jnp

from uvim import fields
from uvim.codes import base, usage, vectors

# The name of the codebooks [R, Q, E] below "params/quantizer".
CODEBOOKS = "codebooks"
# A code with more words a place would be longer than any model reads.
_MAX_QUANTIZERS = 64


@dataclasses.dataclass(frozen=True)
class Residual(base.WordQuantizer):
  """R codebooks that get a gradient; a place has a word from each."""
  dict_size: int = fields.field(
      doc="Words in each codebook.", check=fields.integer(1))
  codeword_dim: int = fields.field(
      doc="Size of a codeword vector.", check=fields.integer(1))
  num_quantizers: int = fields.field(
      doc="Codebooks, and so words of each place. Stage II predicts `code_len` "
      "times as many words; give it the same `num_quantizers`.",
      check=fields.integer(2, _MAX_QUANTIZERS))
  commitment_weight: float = fields.field(
      0.25, doc="Weight of the commitment loss; the codebook loss has 1.",
      source="as `vq_gradient`", check=fields.number(0))

  @property
  def words_per_place(self) -> int:
    return self.num_quantizers

  def init(self, rng):
    codebooks = []
    for codebook_rng in jax.random.split(rng, self.num_quantizers):
      codebook_QE = vectors.init_rows(
          codebook_rng, self.dict_size, self.codeword_dim)
      codebooks.append(codebook_QE)
    return base.CodeArrays(params={CODEBOOKS: jnp.stack(codebooks)}, state={})

  def encode(self, arrays, x_BLE, rngs_B=None, step=None):
    del rngs_B, step
    # In float32: bfloat16 would round some vectors to another word.
    x_BLE = x_BLE.astype(jnp.float32)
    words = []
    codebook_losses = []
    commitments = []
    rest_BLE = x_BLE
    for codebook_QE in arrays.params[CODEBOOKS]:
      code_BL = vectors.nearest(codebook_QE, rest_BLE)
      row_BLE = vectors.rows_of(codebook_QE, code_BL)
      words.append(code_BL)
      codebook_losses.append(vectors.codebook_loss(rest_BLE, row_BLE))
      commitments.append(vectors.commitment_loss(rest_BLE, row_BLE))
      # A codebook does not learn to suit those after it.
      rest_BLE = rest_BLE - jax.lax.stop_gradient(row_BLE)
    code_BLR = jnp.stack(words, axis=-1)
    z_BLE = self.embed(arrays, code_BLR)
    loss_B = sum(codebook_losses) + self.commitment_weight * sum(commitments)
    spec = self.spec(x_BLE.shape[1])
    # What is left of the vectors after the first word, and after the last.
    logs = {
        "code/commitment": jnp.mean(commitments[-1]),
        "code/commitment_first": jnp.mean(commitments[0]),
    }
    return base.Coded(
        z_BLE=vectors.straight_through(z_BLE, x_BLE),
        code=code_BLR,
        loss_B=loss_B,
        stats={"counts": usage.count_entries(code_BLR, spec)},
        logs=logs)

  def embed(self, arrays, code, dropped_BL=None):
    rows = []
    for depth, codebook_QE in enumerate(arrays.params[CODEBOOKS]):
      rows.append(vectors.rows_of(codebook_QE, code[..., depth]))
    z_BLE = sum(rows)
    if dropped_BL is not None:
      z_BLE = self.drop(arrays, z_BLE, dropped_BL)
    return z_BLE

  def usage(self, stats):
    return stats["counts"]
