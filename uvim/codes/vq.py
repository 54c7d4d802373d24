"""The discrete bottleneck: dictionary, look-up, learning, dropout, masking.

B batch (global) · L code length · E codeword size · Q dictionary size

Everything here is a pure function of global arrays: under jit over a mesh the
counts and sums are already those of the whole batch, so there is no axis name,
and the dictionary is state that the train loop carries, not a parameter that
an optimizer sees.

Source: paper section 2.3 (VQ-VAE dictionary, splitting of unused entries, code
dropout); the discounted sums and the split follow the released models.
"""

import math
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from uvim import registry
from uvim.typing import Array, Float, Int, PRNGKey

CODE_DROPOUT_MODES = ("random", "ordered", "none")

# Discounted count from which on an unused entry is discounted no further. One
# vector of weight 1 outweighs it beyond float32, so it changes no sum; it lies
# far below the counts that splitting replaces, and far above those whose
# squared norm float32 cannot hold.
FORGOTTEN = 1e-12


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
  return code_histogram(code_BL, dict_size), sums_QE


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


def drop_code(rngs_B: PRNGKey, z_BLE: Float[Array, "B L E"],
              mode: str) -> Float[Array, "B L E"]:
  """Sets k code vectors of each example to zero, k uniform on 0..L inclusive.

  For training of the base model only (paper section 2.3).

  Args:
    rngs_B: a key per example, so that what it loses depends on no other one.
    z_BLE: quantised code vectors.
    mode: "random" drops a random subset, "ordered" the last k, "none" nothing.

  Raises:
    ConfigError: unknown mode.
  """
  if mode not in CODE_DROPOUT_MODES:
    raise registry.unknown("code_dropout", mode, CODE_DROPOUT_MODES)
  if mode == "none":
    return z_BLE
  length = z_BLE.shape[1]

  def is_kept(rng):
    num_rng, order_rng = jax.random.split(rng)
    num_kept = jax.random.randint(num_rng, (), 0, length + 1)
    rank_L = jnp.arange(length)
    if mode == "random":
      # The argsort of noise is a uniform random permutation of 0..L-1.
      rank_L = jnp.argsort(jax.random.uniform(order_rng, (length,)))
    return rank_L < num_kept

  return jnp.where(jax.vmap(is_kept)(rngs_B)[..., None], z_BLE, 0)


def mask_code(
    codebook: Codebook, code_BL: Int[Array, "B L"], mask: str | int, *,
    region: Sequence[int] | None = None,
    seeds_B: Int[Array, "B"] | None = None,
) -> Float[Array, "B L E"]:
  """The code's vectors, with a region that says nothing (paper, Fig 10).

  Args:
    codebook: the dictionary.
    code_BL: the code.
    mask: what stands in the region: "zeros" for zero vectors, "random" for
      words drawn evenly, an integer for this one word everywhere.
    region: (top, left, bottom, right) on the code's square grid, in words,
      the last two exclusive; None: the whole code.
    seeds_B: one integer per example, from which its random words follow.

  Raises:
    ConfigError: an unknown mask, or a region outside of the grid.
  """
  size, length = codebook.counts.shape[0], code_BL.shape[1]
  masked_1L = _region_mask(length, region)[None]
  if mask == "zeros":
    return jnp.where(masked_1L[..., None], 0, embed_code(codebook, code_BL))
  if mask == "random":
    words_BL = jax.vmap(lambda seed: _random_words(seed, length, size))(seeds_B)
  elif type(mask) is int and 0 <= mask < size:
    words_BL = jnp.full_like(code_BL, mask)
  else:
    raise registry.ConfigError(
        f"mask = {mask!r}; it must be 'zeros', 'random' or the index of one "
        f"word, an integer in 0..{size - 1}.")
  return embed_code(codebook, jnp.where(masked_1L, words_BL, code_BL))


def _random_words(seed, length, size):
  # Folded: uvim/priors/sampling.py starts from the same seeds.
  rng = jax.random.fold_in(jax.random.key(seed), 0x6d61736b)
  return jax.random.randint(rng, (length,), 0, size)


def _region_mask(length, region):
  """bool [L], numpy: what of a row-major square grid lies in the region."""
  if region is None:
    return np.ones(length, bool)
  side, region = math.isqrt(length), tuple(region)
  if not (side**2 == length and len(region) == 4
          and 0 <= region[0] <= region[2] <= side
          and 0 <= region[1] <= region[3] <= side):
    raise registry.ConfigError(
        f"mask_region = {region}; it must be (top, left, bottom, right) on a "
        f"square grid of words, and the code has {length} of them.")
  top, left, bottom, right = region
  masked = np.zeros((side, side), bool)
  masked[top:bottom, left:right] = True
  return masked.reshape(-1)


def code_histogram(code_BL: Int[Array, "..."],
                   dict_size: int) -> Float[Array, "Q"]:
  """How often each entry occurs in the codes, float32."""
  return jnp.zeros((dict_size,), jnp.float32).at[code_BL.reshape(-1)].add(1)


def perplexity(histogram_Q: Float[Array, "Q"]) -> Float[Array, ""]:
  """exp(entropy) of the usage: 1 for a single word, Q for an even use."""
  share_Q = histogram_Q / jnp.maximum(jnp.sum(histogram_Q), 1)
  return jnp.exp(-jnp.sum(jax.scipy.special.xlogy(share_Q, share_Q)))
