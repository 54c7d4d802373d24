"""VQ: words are the entries of a dictionary that learns by counting.

B batch (global) · L code length · E codeword size · Q dictionary size

Functions below are pure functions of global arrays. Under jit over a mesh the
counts and sums are already those of the whole batch, so there is no axis name.
The dictionary is state that the train loop carries; no optimizer sees it.

Source: paper section 2.3 (VQ-VAE dictionary, splitting of unused entries); the
discounted sums and the split follow the released models.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp

from uvim import fields
from uvim.codes import base, usage
from uvim.typing import Array, Float, Int, PRNGKey

# An unused entry is discounted down to this count and no further. One vector of
# weight 1 outweighs it beyond float32, so it changes no sum. It lies far below
# the counts that splitting replaces, and far above those whose squared norm
# float32 cannot hold.
FORGOTTEN = 1e-12


@dataclasses.dataclass(frozen=True)
class VQ(base.Quantizer):
  """A dictionary of unit vectors; each place takes the nearest one."""
  dict_size: int = fields.field(
      doc="Words in the dictionary.", source="L1 4096",
      check=fields.integer(1))
  codeword_dim: int = fields.field(
      doc="Size of a codeword vector.", source="L1 768",
      check=fields.integer(1))
  dict_momentum: float = fields.field(
      0.995, doc="Factor per step on the dictionary's counts and sums.",
      source="L1 0.995", check=fields.number(0, below=1))
  commitment_weight: float = fields.field(
      0.0, doc="Weight of the commitment loss.", source="ours, as released",
      check=fields.number(0))
  dict_learning: bool = fields.field(
      True, doc="The dictionary is updated and split.",
      source="ours, as released", check=fields.BOOL)
  dict_splitting: bool = fields.field(
      True, doc="While it learns, dead words are replaced by halves of used "
      "ones.", source="ours, as released", check=fields.BOOL)

  @property
  def num_words(self) -> int:
    return self.dict_size

  @property
  def oracle_dim(self) -> int:
    return self.codeword_dim

  @property
  def vector_dim(self) -> int:
    return self.codeword_dim

  def init(self, rng):
    codebook = init_codebook(rng, self.dict_size, self.codeword_dim)
    return base.CodeArrays({}, as_state(codebook))

  def encode(self, arrays, x_BLE, rngs_B=None, step=None):
    del rngs_B, step
    # Every vector gets mean 0 and variance 1, so that only its direction
    # decides which word is nearest.
    x_BLE = jax.nn.standardize(x_BLE, axis=-1)
    z_BLE, code_BL = quantize(from_state(arrays.state), x_BLE)
    commitment_B = commitment_loss(x_BLE, z_BLE)
    counts_Q, sums_QE = statistics(x_BLE, code_BL, self.dict_size)
    stats = {"counts": counts_Q}
    if self.dict_learning:
      stats["sums"] = sums_QE
    return base.Coded(
        z_BLE=z_BLE, code=code_BL,
        loss_B=self.commitment_weight * commitment_B, stats=stats,
        logs={"code/commitment": jnp.mean(commitment_B)})

  def embed(self, arrays, code, dropped_BL=None):
    z_BLE = embed_code(from_state(arrays.state), code)
    if dropped_BL is not None:
      z_BLE = self.drop(arrays, z_BLE, dropped_BL)
    return z_BLE

  def learn(self, state, stats, rng):
    num_splits = jnp.zeros((), jnp.int32)
    if self.dict_learning:
      codebook = update(from_state(state), stats["counts"], stats["sums"],
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
  dictionary: Float[Array, "Q E"]
  counts: Float[Array, "Q"]


def from_state(state: dict[str, jax.Array]) -> Codebook:
  """The codebook in a `CodeArrays.state`."""
  return Codebook(state["dictionary"], state["counts"])


def as_state(codebook: Codebook) -> dict[str, jax.Array]:
  """The inverse of `from_state`."""
  return {"dictionary": codebook.dictionary, "counts": codebook.counts}


def init_codebook(rng: PRNGKey, dict_size: int,
                  codeword_dim: int) -> Codebook:
  """A codebook of random directions, every count 1."""
  dictionary_QE = jax.random.normal(rng, (dict_size, codeword_dim))
  return Codebook(dictionary=dictionary_QE * dict_size ** -0.5,
                  counts=jnp.ones((dict_size,), jnp.float32))


def codewords(codebook: Codebook) -> Float[Array, "Q E"]:
  """The unit-norm codewords; counts do not matter for a direction."""
  norm_Q1 = jnp.linalg.norm(codebook.dictionary, axis=-1, keepdims=True)
  # An entry without any direction, or too small for its norm to be known,
  # gives zeros: neither NaN nor a word so long that it is everyone's nearest.
  return codebook.dictionary / jnp.where(norm_Q1 > 0, norm_Q1, jnp.inf)


def lookup(codebook: Codebook,
           x_BLE: Float[Array, "B L E"]) -> Int[Array, "B L"]:
  """Index (int32) of the nearest codeword, the lowest index among equals."""
  # For unit codewords the smallest distance is the largest dot product.
  # HIGHEST: accelerators would otherwise round the inputs and flip near ties.
  scores_BLQ = jnp.einsum(
      "ble,qe->blq", x_BLE.astype(jnp.float32), codewords(codebook),
      precision=jax.lax.Precision.HIGHEST)
  return jnp.argmax(scores_BLQ, axis=-1).astype(jnp.int32)


def embed_code(codebook: Codebook,
               code_BL: Int[Array, "B L"]) -> Float[Array, "B L E"]:
  """The codewords that a code stands for.

  An index outside 0..Q-1 gives NaN: it must not pass for some other word (a
  start token turned into code -1 would silently be the last entry).
  """
  size = codebook.counts.shape[0]
  # Negative indices would count from the end before the bounds are checked.
  code_BL = jnp.where(code_BL < 0, size, code_BL)
  return codewords(codebook).at[code_BL].get(mode="fill", fill_value=jnp.nan)


def quantize(
    codebook: Codebook, x_BLE: Float[Array, "B L E"],
) -> tuple[Float[Array, "B L E"], Int[Array, "B L"]]:
  """Replaces each vector by its nearest codeword.

  Args:
    codebook: receives no gradient.
    x_BLE: encoder output, standardised.

  Returns:
    The codewords, through which the gradient passes unchanged to `x_BLE`
    (straight-through), and their indices.
  """
  code_BL = lookup(codebook, jax.lax.stop_gradient(x_BLE))
  z_BLE = jax.lax.stop_gradient(embed_code(codebook, code_BL))
  # Not x + (z - x): rounding would move the codewords by an ulp of x.
  return _straight_through(z_BLE, x_BLE), code_BL


@jax.custom_jvp
def _straight_through(z_BLE, x_BLE):
  """The value of `z_BLE` with the tangent of `x_BLE`."""
  del x_BLE
  return z_BLE


@_straight_through.defjvp
def _straight_through_jvp(primals, tangents):
  return primals[0], tangents[1]


def commitment_loss(x_BLE: Float[Array, "B L E"],
                    z_BLE: Float[Array, "B L E"]) -> Float[Array, "B"]:
  """Mean squared distance to the codewords; its gradient reaches x only."""
  z_BLE = jax.lax.stop_gradient(z_BLE)
  return jnp.mean(jnp.square(x_BLE - z_BLE), axis=(1, 2))


def statistics(
    x_BLE: Float[Array, "B L E"], code_BL: Int[Array, "B L"], dict_size: int,
) -> tuple[Float[Array, "Q"], Float[Array, "Q E"]]:
  """What `update` learns from: per entry the number and the sum of vectors.

  Those of a batch are the sums of those of its parts.

  Args:
    x_BLE: the vectors before quantisation; they get no gradient.
    code_BL: the entry that each of them chose.
    dict_size: number of entries.

  Returns:
    Counts and sums, float32.
  """
  dim = x_BLE.shape[-1]
  x_TE = jax.lax.stop_gradient(x_BLE).astype(jnp.float32).reshape(-1, dim)
  sums_QE = jnp.zeros((dict_size, dim), jnp.float32).at[
      code_BL.reshape(-1)].add(x_TE)
  return usage.histogram(code_BL, dict_size), sums_QE


def update(codebook: Codebook, counts_Q: Float[Array, "Q"],
           sums_QE: Float[Array, "Q E"], *, momentum: float) -> Codebook:
  """Discounts the statistics and adds those of the global batch.

  Quantise with the codebook as it was *before* this update: the released
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
  return Codebook(
      dictionary=codebook.dictionary * discount_Q[:, None] + sums_QE,
      counts=codebook.counts * discount_Q + counts_Q)


def split_dead(
    codebook: Codebook, rng: PRNGKey, *, perturb: float = 0.001,
    min_count: float = 0.1,
) -> tuple[Codebook, Int[Array, ""]]:
  """Replaces dead entries by halves of the most used one (Linde-Buzo-Gray).

  Applies `split_once` until no count is under `min_count`.

  Args:
    codebook: after `update`.
    rng: the same on every device, or their dictionaries would drift apart.
    perturb: half the width of the noise.
    min_count: discounted count below which an entry is dead.

  Returns:
    The codebook and the number of splits, int32.
  """
  def can_split(carry):
    counts_Q = carry[1].counts
    # A parent that cannot give two live halves would only make another dead
    # entry, for ever: a small batch with a large dictionary would hang here.
    return ((jnp.min(counts_Q) < min_count)
            & (jnp.max(counts_Q) >= 2 * min_count))

  def split(carry):
    rng, old, num_splits = carry
    rng, noise_rng = jax.random.split(rng)
    new, _ = split_once(old, noise_rng, perturb=perturb)
    return rng, new, num_splits + 1

  _, codebook, num_splits = jax.lax.while_loop(
      can_split, split, (rng, codebook, jnp.int32(0)))
  return codebook, num_splits


def split_once(codebook: Codebook, rng: PRNGKey, *,
               perturb: float) -> tuple[Codebook, Int[Array, "2"]]:
  """Gives half of the most used entry to the least used one.

  The least used entry becomes the most used one's sum times uniform noise of
  1 +- `perturb` per dimension, then both sums and the count are halved, so the
  parent's codeword stays.

  Returns:
    The codebook, and the indices (most used, least used).
  """
  parent, dead = jnp.argmax(codebook.counts), jnp.argmin(codebook.counts)
  half_E = codebook.dictionary[parent] / 2
  noise_E = jax.random.uniform(
      rng, half_E.shape, jnp.float32, 1 - perturb, 1 + perturb)
  dictionary = codebook.dictionary.at[dead].set(half_E * noise_E)
  pair = jnp.stack([parent, dead])
  return Codebook(
      dictionary=dictionary.at[parent].set(half_E),
      counts=codebook.counts.at[pair].set(codebook.counts[parent] / 2),
  ), pair
