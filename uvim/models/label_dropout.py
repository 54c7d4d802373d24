"""Label dropout: in training, patches of the label that the oracle loses.

B batch · N patches · C channels · P pixels of a patch

f must still predict the whole label. So the oracle learns to write codes of
labels with holes, as depth cameras give them.

Source: the mask augmentation of Ning et al., "All in Tokens" (AiT), which hides
half of a depth map in squares of 16 pixels.
"""

import math

import jax
import jax.numpy as jnp

from uvim.typing import Array, Bool, PRNGKey

# Code dropout and quantizers draw from the same keys.
_SALT = 0x6c61626c


def drop_labels(
    x: dict[str, Array],
    rngs_B: PRNGKey,
    share: float,
) -> dict[str, Array]:
  """The labels without some patches, the same ones of every quantity.

  Args:
    x: key → int [B, N, P] or float [B, N, C, P].
    rngs_B: a key for each example; it loses patches by its own.
    share: of the patches that is lost, rounded up to whole patches.

  Returns:
    The labels. In a lost patch integers are -1, which the oracle does not
    embed, and floats are 0.
  """
  dropped = {}
  for key, labels in x.items():
    _, num_patches, *rest = labels.shape
    dropped_BN = draw_patches(rngs_B, num_patches, share)
    is_integer = jnp.issubdtype(labels.dtype, jnp.integer)
    nothing = jnp.asarray(-1 if is_integer else 0, labels.dtype)
    is_dropped = dropped_BN.reshape(*dropped_BN.shape, *(1 for _ in rest))
    dropped[key] = jnp.where(is_dropped, nothing, labels)
  return dropped


def draw_patches(
    rngs_B: PRNGKey, num_patches: int, share: float,
) -> Bool[Array, "B N"]:
  """Which patches each example loses: always as many, anywhere."""
  num_dropped = math.ceil(share * num_patches)

  def draw(rng):
    order_N = jax.random.permutation(
        jax.random.fold_in(rng, _SALT), num_patches)
    return order_N < num_dropped

  return jax.vmap(draw)(rngs_B)
