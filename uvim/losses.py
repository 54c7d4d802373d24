"""Losses on integer labels and reals, kept per element until the task averages.

Suffixes: K classes · P pixels in a patch · N patches · B batch.
"""

import jax
import jax.numpy as jnp

from uvim.typing import Array, Bool, Float, Int


def _hits(logits: Array, ids: Array) -> Array:
  """Bool mask of logits' shape, true at the label's class (fuses away).

  Out-of-range ids hit nothing: there is no wrap-around as with indexing.
  """
  iota = jax.lax.broadcasted_iota(ids.dtype, logits.shape, logits.ndim - 2)
  return iota == ids[..., None, :]


def _valid(logits: Array, ids: Array) -> Array:
  return (ids >= 0) & (ids < logits.shape[-2])


@jax.custom_vjp
def softmax_cross_entropy(logits: Float[Array, "*b K P"],
                          ids: Int[Array, "*b P"]) -> Float[Array, "*b P"]:
  """-log softmax(logits)[id] over the class axis -2, in float32.

  Ids below 0 or at least K are unlabelled: zero loss and zero gradient.
  The labels stay integers. A one-hot target would be as large as the logits
  (245 MB for one 512x512 image), and so would what autodiff keeps for it;
  here the backward pass keeps the logits and one float per pixel.
  """
  return _forward(logits, ids)[0]


def _forward(logits, ids):
  x = logits.astype(jnp.float32)
  top = jnp.max(x, axis=-2, keepdims=True)
  log_z = jnp.log(jnp.sum(jnp.exp(x - top), axis=-2)) + top[..., 0, :]
  picked = jnp.sum(jnp.where(_hits(logits, ids), x, 0.0), axis=-2)
  loss = jnp.where(_valid(logits, ids), log_z - picked, 0.0)
  return loss, (logits, ids, log_z)


def _backward(residuals, grad):
  logits, ids, log_z = residuals
  grad = jnp.where(_valid(logits, ids), grad, 0.0)[..., None, :]
  probs = jnp.exp(logits.astype(jnp.float32) - log_z[..., None, :])
  d_logits = (probs - _hits(logits, ids)) * grad
  return d_logits.astype(logits.dtype), None


softmax_cross_entropy.defvjp(_forward, _backward)


def per_example_mean(values: Float[Array, "B *rest"]) -> Float[Array, "B"]:
  """Mean over all axes but the first, in float32."""
  return jnp.mean(values.astype(jnp.float32), axis=range(1, values.ndim))


def masked_mean(values_B: Float[Array, "B"],
                mask_B: Bool[Array, "B"]) -> Float[Array, ""]:
  """Mean over the examples the mask keeps; 0 when it keeps none."""
  total = jnp.sum(jnp.where(mask_B, values_B, 0.0))
  return total / jnp.maximum(jnp.sum(mask_B), 1)
