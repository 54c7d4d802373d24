"""Losses on integer labels and reals, kept per element until the task averages.

Suffixes: K classes · P pixels in a patch · N patches · B batch · D width
p pixels in a chunk · n chunks (n = P / p)
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from uvim.learn import sharding
from uvim.typing import (
    Array,
    Float,
    Int,
    Logs,
    PerExample,
    PyTree,
    Scalar,
    Tokens,
)

# The most logits of a chunk on one device. On a CPU they stay in its cache;
# elsewhere they are enough to keep the device busy. Every chunk reads and
# writes the gradient of all tokens. So a GPU, which has the memory, takes
# larger ones: they and what is computed from them fill about 1.5 GB.
CPU_CHUNK = 2**21
GPU_CHUNK = 2**27
CHUNK = 2**25
_CHUNK_OF_BACKEND = {"cpu": CPU_CHUNK, "gpu": GPU_CHUNK}


# A loss and the logs beside it: of each example, or their means.
LossOfEach = tuple[PerExample, Logs]
MeanLoss = tuple[Scalar, Logs]
Logits = Float[Array, "*b K P"]
Ids = Int[Array, "*b P"]
LossOfPixels = Float[Array, "*b P"]
# Output name → (K, P).
OutputShapes = dict[str, tuple[int, int]]


@jax.custom_vjp
def softmax_cross_entropy(logits: Logits, ids: Ids) -> LossOfPixels:
  """-log softmax(logits)[id] over the class axis -2, in float32.

  Ids below 0 or at least K are unlabelled: zero loss and zero gradient.
  The labels stay integers: a one-hot target would be as large as the logits
  (245 MB for one 512x512 image), and so would what autodiff keeps for it.
  Here the backward pass keeps exp(logits), computed once, and their sums.
  """
  loss, _ = _cross_entropy_forward(logits, ids)
  return loss


def _cross_entropy_forward(logits, ids):
  logits_f32 = logits.astype(jnp.float32)
  # Subtract the largest logit, so that exp does not overflow.
  largest = jnp.max(logits_f32, axis=-2, keepdims=True)
  exp = jnp.exp(logits_f32 - largest)
  sum_exp = jnp.sum(exp, axis=-2)
  # With "clip", an unlabelled id reads some other logit. Its loss becomes 0
  # below.
  logit_of_id = jnp.take_along_axis(
      logits_f32, _with_class_axis(ids), axis=-2, mode="clip"
  )
  logit_of_id = _without_class_axis(logit_of_id)
  log_sum = jnp.log(sum_exp) + _without_class_axis(largest)
  loss = log_sum - logit_of_id
  is_labelled = _is_labelled(logits, ids)
  loss = jnp.where(is_labelled, loss, 0.0)
  # The empty array carries the dtype of the logits.
  like_logits = jnp.empty(0, logits.dtype)
  return loss, (exp, sum_exp, ids, like_logits)


def _cross_entropy_backward(residuals, grad):
  exp, sum_exp, ids, like_logits = residuals
  is_labelled = _is_labelled(exp, ids)
  grad = jnp.where(is_labelled, grad, 0.0)
  grad = _with_class_axis(grad)
  probability = exp / _with_class_axis(sum_exp)
  # The gradient of a cross-entropy: the probability, less 1 at the label.
  difference = probability - _is_class(exp, ids)
  d_logits = difference * grad
  return d_logits.astype(like_logits.dtype), None


softmax_cross_entropy.defvjp(_cross_entropy_forward, _cross_entropy_backward)


def _is_class(logits: Array, ids: Array) -> Array:
  """Bool mask of the logits' shape, true at the label's class.

  XLA fuses the mask with what reads it. Indexing would let negative ids wrap
  around; here they are no class.
  """
  class_axis = logits.ndim - 2
  classes = jax.lax.broadcasted_iota(ids.dtype, logits.shape, class_axis)
  return classes == _with_class_axis(ids)


def _with_class_axis(values: Array) -> Array:
  """[… P] as [… 1 P]."""
  return values[..., None, :]


def _without_class_axis(values: Array) -> Array:
  """[… 1 P] as [… P]."""
  return values[..., 0, :]


def _is_labelled(logits: Array, ids: Array) -> Array:
  num_classes = logits.shape[-2]
  return (ids >= 0) & (ids < num_classes)


def per_example_mean(values: Float[Array, "B *rest"]) -> PerExample:
  """Mean over all axes but the first, in float32."""
  values_f32 = values.astype(jnp.float32)
  other_axes = range(1, values.ndim)
  return jnp.mean(values_f32, axis=other_axes)


def chunk_size(
    num_tokens: int,
    outputs: OutputShapes,
    max_logits: int | None = None,
) -> int:
  """How many pixels of every patch have logits at a time: a divisor of P.

  Args:
    num_tokens: of the batch, over all devices that share it.
    outputs: output name -> (K, P), P the same in all.
    max_logits: the most logits of a chunk on one device; None: CPU_CHUNK on a
      CPU, GPU_CHUNK on a GPU and CHUNK elsewhere. A chunk has at least one
      pixel of every patch.
  """
  if max_logits is None:
    max_logits = _CHUNK_OF_BACKEND.get(jax.default_backend(), CHUNK)
  # The devices split the batch, so together they may have more logits.
  max_logits_of_all_devices = max_logits * sharding.num_data_devices()
  num_classes = 0
  for classes_of_output, _ in outputs.values():
    num_classes += classes_of_output
  any_shape = next(iter(outputs.values()))
  _, num_pixels = any_shape
  # The largest divisor of P that stays within the limit.
  largest_size = 1
  for size in range(2, num_pixels + 1):
    num_logits = num_tokens * num_classes * size
    divides = num_pixels % size == 0
    if divides and num_logits <= max_logits_of_all_devices:
      largest_size = size
  return largest_size


@dataclasses.dataclass(frozen=True)
class ChunkedLoss:
  """A loss of logits, computed for a few pixels of every patch at a time.

  The logits of all pixels are the largest arrays of stage I. Every pixel of a
  patch has its own slice of the head's parameters, and the loss is a mean over
  pixels. So a loop can take one chunk of pixels after the other, and the
  logits of only one chunk exist at a time.

  Attributes:
    loss_fn: (params, x_BND, labels) → (loss [B], logs of [B]), each a mean
      over the pixels, for any number of pixels. It must not close over traced
      values, because `mean` differentiates it outside of their trace.
    chunk_size: p, a divisor of P.
  """
  loss_fn: Callable[..., LossOfEach]
  chunk_size: int

  def of_each(
      self, params: PyTree, x_BND: Tokens, labels: PyTree
  ) -> LossOfEach:
    """The loss and the logs of each example.

    Args:
      params: parameters of the heads, arrays [… P].
      x_BND: tokens.
      labels: arrays [… P].
    """

    def loss_of_chunk(carry, index):
      params_p = self.chunk_of(params, index)
      labels_p = self.chunk_of(labels, index)
      losses_B = self.loss_fn(params_p, x_BND, labels_p)
      return carry, losses_B

    def mean_over_chunks(loss_nB):
      return jnp.mean(loss_nB, axis=0)

    # All chunks are of one size. So the mean of their means is the mean over
    # all pixels.
    indices_n = self.indices(params)
    _, losses_nB = jax.lax.scan(loss_of_chunk, None, indices_n)
    return jax.tree.map(mean_over_chunks, losses_nB)

  def mean(self, params: PyTree, x_BND: Tokens, labels: PyTree) -> MeanLoss:
    """The mean of `of_each` over the batch, with a gradient that saves memory.

    Only `params` and `x_BND` have a gradient, and only from the loss: the logs
    have none.

    Args:
      params: parameters of the heads, arrays [… P].
      x_BND: tokens.
      labels: arrays [… P].
    """
    return _mean(self, params, x_BND, labels)

  def indices(self, params: PyTree) -> Int[Array, "n"]:
    """0, 1, … for each chunk of the pixels of `params`."""
    any_array = jax.tree.leaves(params)[0]
    num_pixels = any_array.shape[-1]
    return jnp.arange(num_pixels // self.chunk_size)

  def chunk_of(self, arrays: PyTree, index: Int[Array, ""]) -> PyTree:
    """One chunk of arrays [… P]: [… p]."""

    def slice_pixels(x):
      start = index * self.chunk_size
      last_axis = x.ndim - 1
      return jax.lax.dynamic_slice_in_dim(x, start, self.chunk_size, last_axis)

    return jax.tree.map(slice_pixels, arrays)


# `ChunkedLoss.mean`, with a gradient of our own. Autodiff would run the loop
# twice: forwards for the loss, and backwards for the gradient, where it needs
# the logits of every chunk again. We compute loss and gradient of a chunk
# together, while its logits exist. So the forward pass already holds the
# gradient of the mean loss; the backward pass only scales it.


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _mean(chunked, params, x_BND, labels):
  """The value without a gradient, for a call that is not differentiated."""
  losses_B = chunked.of_each(params, x_BND, labels)
  return jax.tree.map(jnp.mean, losses_B)


def _mean_forward(chunked, params, x_BND, labels):
  """The value, and its gradients as residuals."""

  def mean_of_chunk(params_p, x_BND, labels_p):
    losses_B = chunked.loss_fn(params_p, x_BND, labels_p)
    return jax.tree.map(jnp.mean, losses_B)

  value_and_gradients = jax.value_and_grad(
      mean_of_chunk, argnums=(0, 1), has_aux=True
  )

  def step(d_x_BND, index):
    params_p = chunked.chunk_of(params, index)
    labels_p = chunked.chunk_of(labels, index)
    value, (d_params_p, d_x_of_chunk_BND) = value_and_gradients(
        params_p, x_BND, labels_p
    )
    # All chunks read the same tokens, so their gradients add up. The
    # parameters of a chunk belong to it alone: their gradient is final. No
    # array as large as a head is ever summed over chunks.
    d_x_BND = d_x_BND + d_x_of_chunk_BND
    return d_x_BND, (value, d_params_p)

  indices_n = chunked.indices(params)
  # Sums over many chunks need float32, whatever the tokens are.
  zeros_BND = jnp.zeros(x_BND.shape, jnp.float32)
  d_x_BND, (values_n, d_params_np) = jax.lax.scan(step, zeros_BND, indices_n)
  # Each chunk has the gradient of its own mean; the loss is the mean of these.
  num_chunks = len(indices_n)
  scale = jnp.float32(1 / num_chunks)
  # The empty array carries the dtype of the tokens.
  like_x = jnp.empty(0, x_BND.dtype)
  mean_value = jax.tree.map(jnp.mean, values_n)
  d_params = jax.tree.map(_join_chunks, d_params_np)
  return mean_value, (d_params, d_x_BND, scale, like_x)


def _mean_backward(chunked, residuals, grads):
  """Scales the gradients by the gradient of the loss."""
  del chunked
  d_params, d_x_BND, scale, like_x = residuals
  d_loss, _ = grads  # The logs have no gradient.
  scale *= d_loss

  def scaled(gradient):
    return gradient * scale

  d_params = jax.tree.map(scaled, d_params)
  d_x_BND = scaled(d_x_BND).astype(like_x.dtype)
  return d_params, d_x_BND, None


_mean.defvjp(_mean_forward, _mean_backward)


def _join_chunks(x):
  """[n, … p], one for each chunk, as [… P]."""
  x = jnp.moveaxis(x, 0, -2)
  leading_shape = x.shape[:-2]
  return x.reshape(*leading_shape, -1)
