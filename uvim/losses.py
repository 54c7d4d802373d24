"""Losses on integer labels and reals, kept per element until the task averages.

Suffixes: K classes · P pixels in a patch · N patches · B batch · D width
n chunks · c patches in a chunk.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from uvim import sharding
from uvim.typing import Array, Bool, Float, Int, PyTree

# Tokens of an example at a time. At a batch of 4 their matmul is large enough
# to hide that the gradient of the head is read and written once per chunk;
# at 1024 tokens a sixteenth of the logits exists.
CHUNK = 64


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


def of_each_by_chunks(
    fn: Callable, params: PyTree, x_BND: Float[Array, "B N D"],
    labels: PyTree,
) -> tuple[Float[Array, "B"], dict[str, Float[Array, "B"]]]:
  """`fn(params, x_BND, labels)` a few tokens at a time.

  Args:
    fn: → (loss [B], logs of [B]), each a mean over the tokens of an example.
    params: of fn.
    x_BND: tokens.
    labels: of each token, arrays [B, N, …].
  """
  def step(_, chunk):
    return None, fn(params, *chunk)

  _, out = jax.lax.scan(step, None, _split((x_BND, labels)))
  return jax.tree.map(lambda v_nB: jnp.mean(v_nB, axis=0), out)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def mean_by_chunks(
    fn: Callable, params: PyTree, x_BND: Float[Array, "B N D"],
    labels: PyTree,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
  """The mean over the batch of what `of_each_by_chunks` gives.

  Differentiated with regard to `params` and `x_BND`, it computes loss and
  gradient of a chunk together, so that what `fn` makes of it (logits) is
  neither kept nor computed twice; the backward pass only scales. The logs have
  no gradient. `fn` must not close over traced values.
  """
  return jax.tree.map(jnp.mean, of_each_by_chunks(fn, params, x_BND, labels))


def _mean_forward(fn, params, x_BND, labels):
  def mean(params, x_BcD, labels):
    return jax.tree.map(jnp.mean, fn(params, x_BcD, labels))

  gradient = jax.vmap(
      jax.value_and_grad(mean, argnums=(0, 1), has_aux=True), (None, 0, 0))
  shards = _num_shards(len(x_BND))
  # Each device sums gradients of its own examples. One sum for all would make
  # XLA add it up across the devices after every chunk instead of at the end;
  # and gather parameters that are split over devices for every chunk.
  params = _constrain(params, PartitionSpec())
  sums = _constrain(
      jax.tree.map(lambda w: jnp.zeros((shards, *w.shape), w.dtype), params),
      PartitionSpec(sharding.DATA_AXIS if shards > 1 else None))

  def step(sums, chunk):
    chunk = jax.tree.map(
        lambda x: x.reshape(shards, -1, *x.shape[1:]), chunk)
    out, (d_params, d_x) = gradient(params, *chunk)
    return jax.tree.map(jnp.add, sums, d_params), (
        out, d_x.reshape(-1, *d_x.shape[2:]))

  chunks = _split((x_BND, labels))
  sums, (out, d_x_nBcD) = jax.lax.scan(step, sums, chunks)
  d_params = jax.tree.map(lambda d: jnp.sum(d, axis=0), sums)
  d_x_BND = jnp.moveaxis(d_x_nBcD, 0, 1).reshape(x_BND.shape)
  scale = 1 / (len(d_x_nBcD) * shards)
  return jax.tree.map(jnp.mean, out), (d_params, d_x_BND, jnp.float32(scale))


def _mean_backward(fn, residuals, grads):
  del fn
  *sums, scale = residuals
  scale *= grads[0]
  return *jax.tree.map(lambda d: (d * scale).astype(d.dtype), sums), None


mean_by_chunks.defvjp(_mean_forward, _mean_backward)


def _split(tree):
  """Arrays [B, N, …] as [n, B, c, …], c the largest divisor of N ≤ CHUNK."""
  def split(x):
    size = max(c for c in range(1, CHUNK + 1) if x.shape[1] % c == 0)
    return jnp.moveaxis(
        x.reshape(x.shape[0], -1, size, *x.shape[2:]), 1, 0)
  return jax.tree.map(split, tree)


def _num_shards(batch: int) -> int:
  """Devices that share the batch, of the mesh in use (`jax.set_mesh`)."""
  shards = jax.sharding.get_abstract_mesh().shape.get(sharding.DATA_AXIS, 1)
  return 1 if batch % shards else shards


def _constrain(tree, spec):
  if jax.sharding.get_abstract_mesh().empty:
    return tree
  return jax.lax.with_sharding_constraint(tree, spec)
