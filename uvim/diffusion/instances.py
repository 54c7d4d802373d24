"""Instances in training: how much a pixel of each counts, and random ids.

B batch · H W pixels of the mask · I instance ids, 0 (void) included
"""

import functools

import jax
import jax.numpy as jnp

from uvim.typing import Array, Float, Int

Ids = Int[Array, "B H W"]
Weights = Float[Array, "B H W"]


def pixel_weights(ids_BHW: Ids, num_ids: int, power: float) -> Weights:
  """Pixels of small instances count more: (1 / (1 + area))^power.

  Void, id 0, is an instance like any other.

  Args:
    ids_BHW: instance ids. A pixel of another id than 0..I-1 counts nothing.
    num_ids: I.
    power: p ≥ 0; with 0 every pixel has the weight 1.

  Returns:
    float32. The mean of each example is 1, unless no pixel counts.
  """
  if power == 0:
    return jnp.ones(ids_BHW.shape, jnp.float32)
  ids_BX = ids_BHW.reshape(len(ids_BHW), -1)
  is_known_BX = (ids_BX >= 0) & (ids_BX < num_ids)
  # Unknown ids are counted at the end, so that they add to no other.
  counted_BX = jnp.where(is_known_BX, ids_BX, num_ids)
  count = functools.partial(jnp.bincount, length=num_ids + 1)
  area_BI = jax.vmap(count)(counted_BX)
  area_BX = jnp.take_along_axis(area_BI, counted_BX, axis=1)
  weight_BX = (1 / (area_BX.astype(jnp.float32) + 1))**power
  weight_BX = jnp.where(is_known_BX, weight_BX, 0)
  mean_B1 = jnp.mean(weight_BX, axis=1, keepdims=True)
  # Where no pixel counts, the mean is 0.
  some_B1 = jnp.where(mean_B1 > 0, mean_B1, 1)
  return (weight_BX / some_B1).reshape(ids_BHW.shape)


def shuffle_ids(ids_BHW: Ids, rngs_B: jax.Array, num_ids: int) -> Ids:
  """Gives each instance of an example one of the ids 1..I-1 by chance.

  So an id says nothing about an instance, and no id is rare.

  Args:
    ids_BHW: instance ids. 0 and what is not in 0..I-1 stay as they are.
    rngs_B: a key for each example.
    num_ids: I.
  """

  def shuffle(ids_HW, rng):
    new_ids = 1 + jax.random.permutation(rng, num_ids - 1)
    new_ids_I = jnp.concatenate([jnp.zeros(1, new_ids.dtype), new_ids])
    is_known_HW = (ids_HW >= 0) & (ids_HW < num_ids)
    known_HW = jnp.where(is_known_HW, ids_HW, 0)
    return jnp.where(is_known_HW, new_ids_I[known_HW], ids_HW)

  return jax.vmap(shuffle)(ids_BHW, rngs_B)
