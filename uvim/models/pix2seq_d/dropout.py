"""Dropout: what training takes away by chance, with a key for each example.

B batch · *n axes of an example
"""

import jax
import jax.numpy as jnp

from uvim.typing import Array, Float, PRNGKey

Numbers = Float[Array, "B *n"]


def drop_numbers(x: Numbers, share: float, rngs_B: PRNGKey | None) -> Numbers:
  """Zeros a share of the numbers; the others grow to make up for it.

  Args:
    x: one array for each example.
    share: in [0, 1).
    rngs_B: a key for each example, so that its numbers depend on no other;
      None: nothing is dropped.
  """
  return _drop(x, x.shape[1:], share, rngs_B)


def drop_branches(x: Numbers, share: float, rngs_B: PRNGKey | None) -> Numbers:
  """Stochastic depth: zeros all numbers of a share of the examples.

  The arguments are those of `drop_numbers`.
  """
  one_for_all = (1,) * (x.ndim - 1)
  return _drop(x, one_for_all, share, rngs_B)


def _drop(x, shape, share, rngs_B):
  """Draws one decision for each place of `shape`, an example's or wider."""
  if not share or rngs_B is None:
    return x

  def draw(rng):
    return jax.random.bernoulli(rng, 1 - share, shape)

  is_kept = jax.vmap(draw)(rngs_B)
  return jnp.where(is_kept, x / (1 - share), 0).astype(x.dtype)


def split_keys(rngs_B: PRNGKey | None, count: int) -> list[PRNGKey | None]:
  """So many new keys for each example, as `count` arrays [B] of keys."""
  if rngs_B is None:
    return [None] * count

  def split(rng):
    return jax.random.split(rng, count)

  keys_BC = jax.vmap(split)(rngs_B)
  return [keys_BC[:, index] for index in range(count)]
