"""Code dropout: in training, places of the code that the base model loses.

B batch · L code length

Source: paper, section 2.3.
"""

import jax
import jax.numpy as jnp

from uvim.typing import Array, Bool, PRNGKey

MODES = ("random", "ordered", "none")


def draw_dropped(rngs_B: PRNGKey, length: int,
                 mode: str) -> Bool[Array, "B L"]:
  """Which places each example loses: k of them, k uniform on 0..L inclusive.

  Args:
    rngs_B: a key per example, so that what it loses depends on no other one.
    length: L.
    mode: one of MODES. "random" drops a random subset, "ordered" the last k,
      "none" nothing.
  """
  if mode == "none":
    return jnp.zeros((len(rngs_B), length), bool)

  def dropped_of(rng):
    number_rng, order_rng = jax.random.split(rng)
    num_kept = jax.random.randint(number_rng, (), 0, length + 1)
    rank_L = jnp.arange(length)
    if mode == "random":
      # The argsort of noise is a uniform random permutation of 0..L-1.
      rank_L = jnp.argsort(jax.random.uniform(order_rng, (length,)))
    return rank_L >= num_kept

  return jax.vmap(dropped_of)(rngs_B)
