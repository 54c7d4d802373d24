"""Losses on integer labels and reals, kept per element until the task averages.

Suffixes: K classes · P pixels in a patch · N patches · B batch · D width
n chunks · p pixels in a chunk.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from uvim.learn import sharding
from uvim.typing import Array, Bool, Float, Int, PyTree

# Logits of a chunk on one device: on a CPU few enough to stay in its cache,
# elsewhere many enough to keep it busy.
CHUNK, CPU_CHUNK = 2**25, 2**21


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
  here the backward pass keeps exp(logits), taken once, and their sums.
  """
  return _forward(logits, ids)[0]


def _forward(logits, ids):
  x = logits.astype(jnp.float32)
  top = jnp.max(x, axis=-2, keepdims=True)
  exp = jnp.exp(x - top)
  total = jnp.sum(exp, axis=-2)
  picked = jnp.take_along_axis(
      x, ids[..., None, :], axis=-2, mode="clip")[..., 0, :]
  loss = jnp.log(total) + top[..., 0, :] - picked
  # The empty array carries the dtype of the logits.
  return jnp.where(_valid(logits, ids), loss, 0.0), (
      exp, total, ids, jnp.empty(0, logits.dtype))


def _backward(residuals, grad):
  exp, total, ids, like = residuals
  grad = jnp.where(_valid(exp, ids), grad, 0.0)[..., None, :]
  d_logits = (exp / total[..., None, :] - _hits(exp, ids)) * grad
  return d_logits.astype(like.dtype), None


softmax_cross_entropy.defvjp(_forward, _backward)


def per_example_mean(values: Float[Array, "B *rest"]) -> Float[Array, "B"]:
  """Mean over all axes but the first, in float32."""
  return jnp.mean(values.astype(jnp.float32), axis=range(1, values.ndim))


def masked_mean(values_B: Float[Array, "B"],
                mask_B: Bool[Array, "B"]) -> Float[Array, ""]:
  """Mean over the examples the mask keeps; 0 when it keeps none."""
  total = jnp.sum(jnp.where(mask_B, values_B, 0.0))
  return total / jnp.maximum(jnp.sum(mask_B), 1)


def chunk_size(num_tokens: int, outputs: dict[str, tuple[int, int]]) -> int:
  """Pixels of every patch whose logits may exist at a time; divides P.

  Args:
    num_tokens: of the batch, over all devices that share it.
    outputs: output name -> (K, P), P the same in all.
  """
  limit = CPU_CHUNK if jax.default_backend() == "cpu" else CHUNK
  limit *= sharding.num_data_devices()
  logits = num_tokens * sum(classes for classes, _ in outputs.values())
  pixels = next(iter(outputs.values()))[1]
  return max(p for p in range(1, pixels + 1)
             if pixels % p == 0 and (p == 1 or p * logits <= limit))


def of_each_by_chunks(
    fn: Callable, size: int, params: PyTree, x_BND: Float[Array, "B N D"],
    labels: PyTree,
) -> tuple[Float[Array, "B"], dict[str, Float[Array, "B"]]]:
  """`fn(params, x_BND, labels)` a few pixels of each patch at a time.

  Args:
    fn: → (loss [B], logs of [B]), each a mean over P.
    size: p, a divisor of P.
    params: of fn, for each pixel of a patch, arrays [… P].
    x_BND: tokens.
    labels: of each pixel, arrays [… P].
  """
  def step(_, i):
    params_p, labels_p = _take(i, size, (params, labels))
    return None, fn(params_p, x_BND, labels_p)

  _, out = jax.lax.scan(step, None, _chunks(size, params))
  return jax.tree.map(lambda v_nB: jnp.mean(v_nB, axis=0), out)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def mean_by_chunks(
    fn: Callable, size: int, params: PyTree, x_BND: Float[Array, "B N D"],
    labels: PyTree,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
  """The mean over the batch of what `of_each_by_chunks` gives.

  Differentiated with regard to `params` and `x_BND`, it computes loss and
  gradient of a chunk together, so that what `fn` makes of it (logits) is
  neither kept nor computed twice; the backward pass only scales. A pixel has
  parameters of its own, so a chunk's gradient of them is final: no sum over
  chunks of something as large as a head. The logs have no gradient. `fn` must
  not close over traced values.
  """
  return jax.tree.map(
      jnp.mean, of_each_by_chunks(fn, size, params, x_BND, labels))


def _mean_forward(fn, size, params, x_BND, labels):
  def mean(params, x_BND, labels):
    return jax.tree.map(jnp.mean, fn(params, x_BND, labels))

  gradient = jax.value_and_grad(mean, argnums=(0, 1), has_aux=True)

  def step(d_x_BND, i):
    params_p, labels_p = _take(i, size, (params, labels))
    out, (d_params, d_x) = gradient(params_p, x_BND, labels_p)
    return d_x_BND + d_x, (out, d_params)

  chunks_n = _chunks(size, params)
  d_x_BND, (out, d_params) = jax.lax.scan(
      step, jnp.zeros(x_BND.shape, jnp.float32), chunks_n)
  scale = jnp.float32(1 / len(chunks_n))
  like = jnp.empty(0, x_BND.dtype)
  return jax.tree.map(jnp.mean, out), (_join(d_params), d_x_BND, scale, like)


def _mean_backward(fn, size, residuals, grads):
  del fn, size
  d_params, d_x_BND, scale, like = residuals
  scale *= grads[0]
  d_params = jax.tree.map(lambda d: d * scale, d_params)
  return d_params, (d_x_BND * scale).astype(like.dtype), None


mean_by_chunks.defvjp(_mean_forward, _mean_backward)


def _chunks(size, params):
  return jnp.arange(jax.tree.leaves(params)[0].shape[-1] // size)


def _take(i, size, tree):
  """Chunk i of arrays [… P]: [… p]."""
  return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(
      x, i * size, size, x.ndim - 1), tree)


def _join(tree):
  """Arrays [n, … p], one per chunk, as [… P]."""
  def join(x):
    x = jnp.moveaxis(x, 0, -2)
    return x.reshape(*x.shape[:-2], -1)
  return jax.tree.map(join, tree)
