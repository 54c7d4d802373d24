"""What several quantizers do with vectors and with the rows of a codebook.

B batch · L code length · E numbers of a vector · Q codebook size
"""

import jax
import jax.numpy as jnp

from uvim.typing import (
  Array,
  CodeVectors,
  Float,
  PerExample,
  PRNGKey,
  Words,
)

# Of a codebook, one for each word.
Rows = Float[Array, "Q E"]

# A shorter vector is divided by this length.
_LEAST_LENGTH = 1e-12


# ── Codebooks ───────────────────────────────────────────────────────────────


def init_rows(rng: PRNGKey, num_words: int, dim: int) -> Rows:
  """A codebook to be trained: small numbers around 0, as MaskGIT draws them.

  Args:
    rng: key.
    num_words: Q.
    dim: E.
  """
  largest = (3 / num_words) ** 0.5
  return jax.random.uniform(
      rng, (num_words, dim), jnp.float32, -largest, largest)


def distances(
    codebook_QE: Rows, x_BLE: CodeVectors) -> Float[Array, "B L Q"]:
  """Squared distances to all words, less what they have in common: |x|²."""
  # HIGHEST: accelerators would otherwise round the inputs and flip near ties.
  products_BLQ = jnp.einsum(
      "ble,qe->blq", x_BLE, codebook_QE, precision=jax.lax.Precision.HIGHEST)
  squares_Q = jnp.sum(jnp.square(codebook_QE), axis=-1)
  return squares_Q[None, None] - 2 * products_BLQ


def nearest(codebook_QE: Rows, x_BLE: CodeVectors) -> Words:
  """The words (int32) of the nearest rows; of equal ones, the lowest."""
  code_BL = jnp.argmin(distances(codebook_QE, x_BLE), axis=-1)
  return code_BL.astype(jnp.int32)


def rows_of(codebook_QE: Rows, code_BL: Words) -> CodeVectors:
  """The rows that words stand for; NaN for what is no word.

  It must not pass for some other word: a start token turned into code -1 would
  silently be the last row.
  """
  num_words = len(codebook_QE)
  # Negative indices would count from the end before the bounds are checked.
  code_BL = jnp.where(code_BL < 0, num_words, code_BL)
  rows_QE = jnp.asarray(codebook_QE)
  return rows_QE.at[code_BL].get(mode="fill", fill_value=jnp.nan)


# ── Vectors ─────────────────────────────────────────────────────────────────


def to_length_1(x: Float[Array, "*b E"]) -> Float[Array, "*b E"]:
  """Vectors of the same direction. Very short ones stay shorter than 1."""
  squares = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
  # The floor comes before the root, which has no gradient at 0.
  length = jnp.sqrt(jnp.maximum(squares, _LEAST_LENGTH ** 2))
  return x / length


@jax.custom_jvp
def straight_through(z_BLE: CodeVectors, x_BLE: CodeVectors) -> CodeVectors:
  """The value of `z_BLE`, whose gradient passes unchanged to `x_BLE`."""
  # Not x + (z - x): rounding would move the code vectors by an ulp of x.
  del x_BLE
  return z_BLE


@straight_through.defjvp
def _straight_through_jvp(primals, tangents):
  z_BLE, _ = primals
  _, x_tangent_BLE = tangents
  return z_BLE, x_tangent_BLE


def commitment_loss(x_BLE: CodeVectors, z_BLE: CodeVectors) -> PerExample:
  """Mean squared distance to the code vectors; its gradient reaches x only."""
  return _mean_squares(x_BLE - jax.lax.stop_gradient(z_BLE))


def codebook_loss(x_BLE: CodeVectors, z_BLE: CodeVectors) -> PerExample:
  """The same distance; its gradient reaches the code vectors only."""
  return _mean_squares(z_BLE - jax.lax.stop_gradient(x_BLE))


def _mean_squares(x_BLE) -> PerExample:
  return jnp.mean(jnp.square(x_BLE), axis=(1, 2))
