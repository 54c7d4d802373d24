"""Code dropout: in training, places of the code that the base model loses.

B batch · L code length

Source: paper, section 2.3.
"""

import jax
import jax.numpy as jnp

from uvim.typing import Dropped, PRNGKey

MODES = ("random", "ordered", "none")


def draw_dropped(rngs_B: PRNGKey, length: int, mode: str) -> Dropped:
  """Which places each example loses: k of them, k uniform on 0..L inclusive.

  Args:
    rngs_B: a key per example, so that what it loses depends on no other one.
    length: L.
    mode: one of MODES. "random" drops a random subset, "ordered" the last k,
      "none" nothing.
  """
  if mode == "none":
    shape_BL = (len(rngs_B), length)
    return jnp.zeros(shape_BL, bool)

  def dropped_of(rng):
    """Which places one example loses, bool [L]."""
    number_rng, order_rng = jax.random.split(rng)
    # randint excludes its upper end, and all L places may be kept.
    num_kept = jax.random.randint(number_rng, (), 0, length + 1)
    # Places are lost from the highest rank down.
    rank_L = jnp.arange(length)
    if mode == "random":
      # The argsort of noise is a uniform random permutation of 0..L-1.
      noise_L = jax.random.uniform(order_rng, (length,))
      rank_L = jnp.argsort(noise_L)
    return rank_L >= num_kept

  return jax.vmap(dropped_of)(rngs_B)
