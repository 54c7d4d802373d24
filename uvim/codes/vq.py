"""VQ: words are the entries of a codebook that learns by counting.

B batch (global) · L code length · E codeword size · Q codebook size
T vectors of a batch (B · L)

An *entry* is a row of the codebook. Its *codeword* is the unit vector of its
direction, its *word* is its index, and a *code* is L words.

Functions below are pure functions of global arrays. Under jit over a mesh the
counts and sums are already those of the whole batch, so there is no axis name.
The codebook is state that the train loop carries; no optimizer sees it.

Source: paper section 2.3 (VQ-VAE codebook, splitting of unused entries); the
discounted sums and the split follow the released models.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp

from uvim import fields
from uvim.codes import base, usage, vectors
from uvim.typing import (
  Array,
  CodeVectors,
  Float,
  Int,
  PerWord,
  PRNGKey,
  Words,
)

# One vector for each entry of the codebook.
Entries = Float[Array, "Q E"]
NumSplits = Int[Array, ""]
# "dictionary" and "counts", under the names of the published checkpoints.
State = dict[str, jax.Array]

# An unused entry is discounted down to this count and no further. What is left
# of its sum vanishes in float32 as soon as a vector of weight 1 is added. The
# count lies far below those that splitting replaces, and far above those whose
# sums have a squared norm that float32 cannot hold.
FORGOTTEN = 1e-12


@dataclasses.dataclass(frozen=True)
class VQ(base.WordQuantizer):
  """A codebook of unit vectors; each place takes the nearest one."""
  dict_size: int = fields.field(
      doc="Words in the codebook.", source="L1 4096",
      check=fields.integer(1))
  codeword_dim: int = fields.field(
      doc="Size of a codeword vector.", source="L1 768",
      check=fields.integer(1))
  dict_momentum: float = fields.field(
      0.995, doc="Factor per step on the codebook's counts and sums.",
      source="L1 0.995", check=fields.number(0, below=1))
  commitment_weight: float = fields.field(
      0.0, doc="Weight of the commitment loss.", source="ours, as released",
      check=fields.number(0))
  dict_learning: bool = fields.field(
      True, doc="The codebook is updated and split.",
      source="ours, as released", check=fields.BOOL)
  dict_splitting: bool = fields.field(
      True, doc="While it learns, dead words are replaced by halves of used "
      "ones.", source="ours, as released", check=fields.BOOL)

  if_unused = (
      "Turn on model.dict_learning and model.dict_splitting. "
      + base.Quantizer.if_unused)

  def init(self, rng):
    codebook = init_codebook(rng, self.dict_size, self.codeword_dim)
    # No optimizer trains a codebook, so none of its arrays are parameters.
    return base.CodeArrays(params={}, state=as_state(codebook))

  def encode(self, arrays, x_BLE, rngs_B=None, step=None):
    del rngs_B, step
    # Every vector gets mean 0 and variance 1, so that all of them weigh the
    # same in the sums from which the codebook learns.
    x_BLE = jax.nn.standardize(x_BLE, axis=-1)
    codebook = from_state(arrays.state)
    z_BLE, code_BL = quantize(codebook, x_BLE)
    commitment_B = vectors.commitment_loss(x_BLE, z_BLE)
    counts_Q, sums_QE = statistics(x_BLE, code_BL, self.dict_size)
    stats = {"counts": counts_Q}
    if self.dict_learning:
      stats["sums"] = sums_QE
    return base.Coded(
        z_BLE=z_BLE,
        code=code_BL,
        loss_B=self.commitment_weight * commitment_B,
        stats=stats,
        logs={"code/commitment": jnp.mean(commitment_B)})

  def embed(self, arrays, code, dropped_BL=None):
    codebook = from_state(arrays.state)
    z_BLE = embed_code(codebook, code)
    if dropped_BL is not None:
      z_BLE = self.drop(arrays, z_BLE, dropped_BL)
    return z_BLE

  def learn(self, state, stats, rng):
    # The log of a codebook that does not learn has the same names.
    num_splits = jnp.zeros((), jnp.int32)
    if self.dict_learning:
      codebook = from_state(state)
      codebook = update(
          codebook,
          stats["counts"],
          stats["sums"],
          momentum=self.dict_momentum)
      if self.dict_splitting:
        codebook, num_splits = split_dead(codebook, rng)
      state = as_state(codebook)
    return state, {"code/splits": num_splits}

  def usage(self, stats):
    return stats["counts"]

  def word_counts(self, state):
    return state["counts"]


class Codebook(flax.struct.PyTreeNode):
  """Discounted statistics from which the codewords follow.

  Field names are those of the published checkpoints (`state/dictionary`).

  Attributes:
    dictionary: float32, per entry the discounted sum of the vectors that chose
      it; its direction is the codeword.
    counts: float32, per entry the discounted number of those vectors.
  """
  dictionary: Entries
  counts: PerWord


def from_state(state: State) -> Codebook:
  """The codebook in a `CodeArrays.state`."""
  return Codebook(state["dictionary"], state["counts"])


def as_state(codebook: Codebook) -> State:
  """The inverse of `from_state`."""
  return {"dictionary": codebook.dictionary, "counts": codebook.counts}


def init_codebook(
    rng: PRNGKey,
    dict_size: int,
    codeword_dim: int,
) -> Codebook:
  """A codebook of random directions, every count 1."""
  directions_QE = jax.random.normal(rng, (dict_size, codeword_dim))
  # The shorter the first sums are, the sooner training overrules them.
  dictionary_QE = directions_QE * dict_size ** -0.5
  counts_Q = jnp.ones((dict_size,), jnp.float32)
  return Codebook(dictionary=dictionary_QE, counts=counts_Q)


def codewords(codebook: Codebook) -> Entries:
  """The unit-norm codewords; counts do not matter for a direction."""
  norm_Q1 = jnp.linalg.norm(codebook.dictionary, axis=-1, keepdims=True)
  # An entry without any direction, or too small for its norm to be known,
  # gives zeros: neither NaN nor a word so long that it is everyone's nearest.
  divisor_Q1 = jnp.where(norm_Q1 > 0, norm_Q1, jnp.inf)
  return codebook.dictionary / divisor_Q1


def lookup(codebook: Codebook, x_BLE: CodeVectors) -> Words:
  """Index (int32) of the nearest codeword, the lowest index among equals."""
  # For unit codewords the smallest distance is the largest dot product.
  # HIGHEST: accelerators would otherwise round the inputs and flip near ties.
  scores_BLQ = jnp.einsum(
      "ble,qe->blq",
      x_BLE.astype(jnp.float32),
      codewords(codebook),
      precision=jax.lax.Precision.HIGHEST)
  code_BL = jnp.argmax(scores_BLQ, axis=-1)
  return code_BL.astype(jnp.int32)


def embed_code(codebook: Codebook, code_BL: Words) -> CodeVectors:
  """The codewords that a code stands for; NaN for what is no word."""
  return vectors.rows_of(codewords(codebook), code_BL)


def quantize(
    codebook: Codebook,
    x_BLE: CodeVectors,
) -> tuple[CodeVectors, Words]:
  """Replaces each vector by its nearest codeword.

  Args:
    codebook: receives no gradient.
    x_BLE: encoder output, standardised.

  Returns:
    The codewords, through which the gradient passes unchanged to `x_BLE`
    (straight-through), and their indices.
  """
  fixed_x_BLE = jax.lax.stop_gradient(x_BLE)
  code_BL = lookup(codebook, fixed_x_BLE)
  z_BLE = embed_code(codebook, code_BL)
  z_BLE = jax.lax.stop_gradient(z_BLE)
  return vectors.straight_through(z_BLE, x_BLE), code_BL


def statistics(
    x_BLE: CodeVectors,
    code_BL: Words,
    dict_size: int,
) -> tuple[PerWord, Entries]:
  """What `update` learns from: per entry the number and the sum of vectors.

  The statistics of a batch are the sums of the statistics of its parts.

  Args:
    x_BLE: the vectors before quantization; they get no gradient.
    code_BL: the entry that each of them chose.
    dict_size: number of entries.

  Returns:
    Counts and sums, float32.
  """
  dim = x_BLE.shape[-1]
  x_BLE = jax.lax.stop_gradient(x_BLE)
  # In float32: bfloat16 would round the sum of many vectors away.
  x_TE = x_BLE.astype(jnp.float32).reshape(-1, dim)
  zeros_QE = jnp.zeros((dict_size, dim), jnp.float32)
  code_T = code_BL.reshape(-1)
  sums_QE = zeros_QE.at[code_T].add(x_TE)
  counts_Q = usage.histogram(code_BL, dict_size)
  return counts_Q, sums_QE


def update(
    codebook: Codebook,
    counts_Q: PerWord,
    sums_QE: Entries,
    *,
    momentum: float,
) -> Codebook:
  """Discounts the statistics and adds those of the global batch.

  Quantize with the codebook as it was *before* this update: the released
  implementation's training pass does.

  An entry that nobody uses keeps its codeword, however long: its discounting
  ends at `FORGOTTEN`, before its sum is lost to float32. Splitting, where it
  has something to split, replaces the entry long before.

  Args:
    codebook: statistics so far.
    counts_Q: of the batch, see `statistics`.
    sums_QE: of the batch.
    momentum: factor on the old counts and sums; the new ones have weight 1.
  """
  discount_Q = jnp.where(codebook.counts > FORGOTTEN, momentum, 1.0)
  old_sums_QE = codebook.dictionary * discount_Q[:, None]
  dictionary_QE = old_sums_QE + sums_QE
  old_counts_Q = codebook.counts * discount_Q
  return Codebook(
      dictionary=dictionary_QE,
      counts=old_counts_Q + counts_Q)


def split_dead(
    codebook: Codebook,
    rng: PRNGKey,
    *,
    perturb: float = 0.001,
    min_count: float = 0.1,
) -> tuple[Codebook, NumSplits]:
  """Replaces dead entries by halves of the most used one (Linde-Buzo-Gray).

  Applies `split_once` until no count is under `min_count`, or until no entry is
  used enough to give two halves that are not dead themselves.

  Args:
    codebook: after `update`.
    rng: the same on every device, or their codebooks would drift apart.
    perturb: half the width of the noise.
    min_count: discounted count below which an entry is dead.

  Returns:
    The codebook and the number of splits, int32.
  """
  def can_split(carry):
    _, codebook, _ = carry
    has_dead = jnp.min(codebook.counts) < min_count
    # A parent that cannot give two live halves would only make another dead
    # entry, for ever: a small batch with a large codebook would hang here.
    has_parent = jnp.max(codebook.counts) >= 2 * min_count
    return has_dead & has_parent

  def split(carry):
    rng, old, num_splits = carry
    rng, noise_rng = jax.random.split(rng)
    new, _ = split_once(old, noise_rng, perturb=perturb)
    return rng, new, num_splits + 1

  # How many entries are dead is known on the device only: a loop of Python
  # would have to wait for it in every step.
  carry = (rng, codebook, jnp.int32(0))
  carry = jax.lax.while_loop(can_split, split, carry)
  _, codebook, num_splits = carry
  return codebook, num_splits


def split_once(
    codebook: Codebook,
    rng: PRNGKey,
    *,
    perturb: float,
) -> tuple[Codebook, Int[Array, "2"]]:
  """Gives half of the most used entry to the least used one.

  The least used entry becomes the most used one's sum times uniform noise of
  1 +- `perturb` per dimension, then both sums and the count are halved, so the
  parent's codeword stays.

  Returns:
    The codebook, and the indices (most used, least used).
  """
  parent = jnp.argmax(codebook.counts)
  dead = jnp.argmin(codebook.counts)
  half_E = codebook.dictionary[parent] / 2
  noise_E = jax.random.uniform(
      rng, half_E.shape, jnp.float32, 1 - perturb, 1 + perturb)
  dictionary_QE = codebook.dictionary.at[dead].set(half_E * noise_E)
  pair = jnp.stack([parent, dead])
  # Both halves together weigh what the parent did: the sums agree with counts.
  dictionary_QE = dictionary_QE.at[parent].set(half_E)
  half_count = codebook.counts[parent] / 2
  counts_Q = codebook.counts.at[pair].set(half_count)
  return Codebook(dictionary=dictionary_QE, counts=counts_Q), pair
