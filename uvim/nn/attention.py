"""Softmax attention whose memory grows with the tokens, not their square.

B batch · A heads · T query tokens · S key tokens · H head size · t queries of
one block

The scores [B, A, T, S] are never whole. On a GPU, in half precision, that is
the work of cuDNN's kernel. Elsewhere the forward pass takes a block of queries
at a time. It keeps for the backward pass the queries, keys, values, attended
values and one number per query; the backward pass computes the scores of a
block again. Autodiff would keep the weights of every layer: 403 MB for each at
1024 tokens, 12 heads and a batch of 8.

Source: Rabe and Staats, "Self-attention does not need O(n²) memory", 2021.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from uvim.registry import lookup
from uvim.typing import Array, Float

Queries = Float[Array, "B T A H"]
Keys = Float[Array, "B S A H"]
Values = Keys

# Queries of one block. Larger blocks would need more memory than the MLP of a
# layer does at the paper's sizes. Blocks of 128 are slower on a CPU at 256
# tokens.
BLOCK_SIZE = 256

# What a backward pass through `attention` needs beside its inputs.
_ATTENDED = "attended"
_LOG_SUMS = "attention_log_sums"
# JAX's name for cuDNN's kernel. What the kernel returns has no names.
CUDNN_KERNEL = "dot_product_attention_fwd_wrapper"

# What cuDNN's kernel takes: queries of these dtypes; heads up to this size and
# a multiple of this; GPUs from this generation on, Ampere.
_HALF_DTYPES = (jnp.bfloat16, jnp.float16)
_LARGEST_HEAD = 128
_HEAD_MULTIPLE = 8
_FIRST_GENERATION = 8
# exp makes 0 of it.
_LOWEST_SCORE = jnp.finfo(jnp.float32).min


def attention(
    q_BTAH: Queries,
    k_BSAH: Keys,
    v_BSAH: Values,
    *,
    causal: bool = False,
    implementation: str = "chunked",
    block_size: int = BLOCK_SIZE,
) -> Queries:
  """Softmax attention; scores and softmax in float32 for all input dtypes.

  Args:
    q_BTAH: queries, not yet scaled by H^-1/2.
    k_BSAH: keys.
    v_BSAH: values.
    causal: query t sees the keys 0..t only.
    implementation: "chunked": cuDNN's kernel where it can run, and blocks of
      queries elsewhere; neither keeps scores. "blocks": blocks everywhere.
      "fused": cuDNN's kernel where it can run; elsewhere XLA's own way, which
      keeps the scores.
    block_size: how many queries a block has.

  Returns:
    The attended values in the dtype of `v_BSAH`.

  Raises:
    ConfigError: an unknown implementation.
  """
  attend = lookup(IMPLEMENTATIONS, implementation, "model.attention")
  return attend(q_BTAH, k_BSAH, v_BSAH, causal, block_size)


def _chunked(q_BTAH, k_BSAH, v_BSAH, causal, block_size):
  if _runs_on_cudnn(q_BTAH):
    return _by_cudnn(q_BTAH, k_BSAH, v_BSAH, causal)
  return _by_blocks(q_BTAH, k_BSAH, v_BSAH, causal, block_size)


def _fused(q_BTAH, k_BSAH, v_BSAH, causal, block_size):
  del block_size  # The kernel has its own.
  if _runs_on_cudnn(q_BTAH):
    return _by_cudnn(q_BTAH, k_BSAH, v_BSAH, causal)
  return jax.nn.dot_product_attention(
      q_BTAH, k_BSAH, v_BSAH, is_causal=causal, implementation="xla"
  )


def _by_cudnn(q_BTAH, k_BSAH, v_BSAH, causal):
  return jax.nn.dot_product_attention(
      q_BTAH, k_BSAH, v_BSAH, is_causal=causal, implementation="cudnn"
  )


def _by_blocks(q_BTAH, k_BSAH, v_BSAH, causal, block_size):
  head_size = q_BTAH.shape[-1]
  q_BTAH = q_BTAH * (head_size ** -0.5)
  # Transpose here, once. Otherwise the matmuls of every block would.
  q_BATH = jnp.swapaxes(q_BTAH, 1, 2)
  k_BASH = jnp.swapaxes(k_BSAH, 1, 2)
  v_BASH = jnp.swapaxes(v_BSAH, 1, 2)
  out_BATH = _attend(q_BATH, k_BASH, v_BASH, causal, block_size)
  return jnp.swapaxes(out_BATH, 1, 2)


IMPLEMENTATIONS = {"chunked": _chunked, "blocks": _by_blocks, "fused": _fused}


# ── cuDNN's kernel ──────────────────────────────────────────────────────────


def _runs_on_cudnn(q_BTAH):
  """Whether cuDNN's kernel takes such queries on the devices of this process.

  Do not use `lax.platform_dependent` in its place: when differentiated, that
  keeps what the backward passes of all platforms need, and so the scores.
  """
  if jax.default_backend() != "gpu":
    return False
  capability = jax.local_devices()[0].compute_capability
  return cudnn_takes(q_BTAH.dtype, q_BTAH.shape[-1], capability)


def cudnn_takes(dtype: jnp.dtype, head_size: int, capability: str) -> bool:
  """Whether cuDNN's kernel takes queries of this kind.

  Args:
    dtype: of the queries.
    head_size: H.
    capability: of the GPU, such as "9.0"; AMD's have names such as "gfx942".
  """
  generation, _, _ = capability.partition(".")
  is_recent = generation.isdigit() and int(generation) >= _FIRST_GENERATION
  fits = head_size <= _LARGEST_HEAD and head_size % _HEAD_MULTIPLE == 0
  return is_recent and fits and dtype in _HALF_DTYPES


# ── What a backward pass keeps ──────────────────────────────────────────────

_is_named = jax.checkpoint_policies.save_only_these_names(_ATTENDED, _LOG_SUMS)


def is_kept(primitive: Any, *inputs: Any, **options: Any) -> Any:
  """A policy of `jax.checkpoint` under which no attention is computed twice.

  It keeps the attended values and one number per query, and nothing else.
  """
  if primitive.name == CUDNN_KERNEL:
    return True
  return _is_named(primitive, *inputs, **options)


# ── Blocks of queries ───────────────────────────────────────────────────────


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _attend(q_BATH, k_BASH, v_BASH, causal, block_size):
  """The attended values [B, A, T, H]."""
  out_BATH, _ = _forward(q_BATH, k_BASH, v_BASH, causal, block_size)
  return out_BATH


def _forward(q_BATH, k_BASH, v_BASH, causal, block_size):
  """The attended values, and what `_backward` needs."""

  def attend_block(carry, start, blocks):
    (q_BAtH,) = blocks
    scores_BAtS = _scores(q_BAtH, k_BASH, start, causal)
    # Subtract the largest score, so that exp does not overflow.
    largest_BAt1 = jnp.max(scores_BAtS, axis=-1, keepdims=True)
    weights_BAtS = jnp.exp(scores_BAtS - largest_BAt1)
    sum_BAt1 = jnp.sum(weights_BAtS, axis=-1, keepdims=True)
    # Divide the few attended values, not the many weights.
    weights_BAtS = weights_BAtS.astype(v_BASH.dtype)
    out_BAtH = _matmul("bats,bash->bath", weights_BAtS, v_BASH)
    out_BAtH = out_BAtH / sum_BAt1
    log_sum_BAt1 = largest_BAt1 + jnp.log(sum_BAt1)
    log_sum_BAt = log_sum_BAt1[..., 0]
    out_BAtH = out_BAtH.astype(v_BASH.dtype)
    return carry, (out_BAtH, log_sum_BAt)

  _, (out_BATH, log_sum_BAT) = _scan_blocks(
      attend_block, None, (q_BATH,), block_size
  )
  out_BATH = checkpoint_name(out_BATH, _ATTENDED)
  log_sum_BAT = checkpoint_name(log_sum_BAT, _LOG_SUMS)
  residuals = (q_BATH, k_BASH, v_BASH, out_BATH, log_sum_BAT)
  return out_BATH, residuals


def _backward(causal, block_size, residuals, d_out_BATH):
  """The gradients of queries, keys and values."""
  q_BATH, k_BASH, v_BASH, out_BATH, log_sum_BAT = residuals
  # The share of a score's gradient that comes through the sum of the softmax.
  product_BATH = d_out_BATH.astype(jnp.float32) * out_BATH
  shift_BAT = jnp.sum(product_BATH, axis=-1)

  def differentiate_block(carry, start, blocks):
    d_k_BASH, d_v_BASH = carry
    q_BAtH, d_out_BAtH, log_sum_BAt, shift_BAt = blocks
    scores_BAtS = _scores(q_BAtH, k_BASH, start, causal)
    # The log of the sum is all it takes to get the weights of the forward pass
    # back.
    log_sum_BAt1 = log_sum_BAt[..., None]
    weights_BAtS = jnp.exp(scores_BAtS - log_sum_BAt1)
    d_weights_BAtS = _matmul("bath,bash->bats", d_out_BAtH, v_BASH)
    shift_BAt1 = shift_BAt[..., None]
    d_scores_BAtS = weights_BAtS * (d_weights_BAtS - shift_BAt1)
    d_scores_BAtS = d_scores_BAtS.astype(q_BAtH.dtype)
    d_k_BASH += _matmul("bats,bath->bash", d_scores_BAtS, q_BAtH)
    weights_BAtS = weights_BAtS.astype(v_BASH.dtype)
    d_v_BASH += _matmul("bats,bath->bash", weights_BAtS, d_out_BAtH)
    d_q_BAtH = _matmul("bats,bash->bath", d_scores_BAtS, k_BASH)
    d_q_BAtH = d_q_BAtH.astype(q_BATH.dtype)
    return (d_k_BASH, d_v_BASH), d_q_BAtH

  # Every block adds to the gradients of all keys and values. Sum in float32:
  # in bfloat16 small additions to a large sum would be lost.
  zeros_k_BASH = jnp.zeros(k_BASH.shape, jnp.float32)
  zeros_v_BASH = jnp.zeros(v_BASH.shape, jnp.float32)
  (d_k_BASH, d_v_BASH), d_q_BATH = _scan_blocks(
      differentiate_block,
      (zeros_k_BASH, zeros_v_BASH),
      (q_BATH, d_out_BATH, log_sum_BAT, shift_BAT),
      block_size,
  )
  d_k_BASH = d_k_BASH.astype(k_BASH.dtype)
  d_v_BASH = d_v_BASH.astype(v_BASH.dtype)
  return d_q_BATH, d_k_BASH, d_v_BASH


_attend.defvjp(_forward, _backward)


def _matmul(axes, x, y):
  return jnp.einsum(axes, x, y, preferred_element_type=jnp.float32)


def _scores(q_BAtH, k_BASH, start, causal):
  """float32 [B, A, t, S]; `start` is the position of the first query."""
  scores_BAtS = _matmul("bath,bash->bats", q_BAtH, k_BASH)
  if not causal:
    return scores_BAtS
  num_queries, num_keys = scores_BAtS.shape[2:]
  shape_11tS = (1, 1, num_queries, num_keys)
  query_position_11tS = lax.broadcasted_iota(jnp.int32, shape_11tS, 2)
  key_position_11tS = lax.broadcasted_iota(jnp.int32, shape_11tS, 3)
  is_visible_11tS = start + query_position_11tS >= key_position_11tS
  return jnp.where(is_visible_11tS, scores_BAtS, _LOWEST_SCORE)


def _scan_blocks(block_fn, carry, arrays, block_size):
  """Scans `block_fn` over blocks of queries.

  Args:
    block_fn: (carry, position of the first query, blocks of the arrays) →
      (carry, arrays [B, A, t, …]).
    carry: the first carry.
    arrays: each [B, A, T, …].
    block_size: the most queries of a block. The blocks share the queries
      evenly, so they may be smaller.

  Returns:
    The last carry, and the arrays joined to [B, A, T, …].
  """
  q_BATH, *others = arrays
  length = q_BATH.shape[2]
  num_blocks = _divide_up(length, block_size)
  num_blocks = max(1, num_blocks)
  size = _divide_up(length, num_blocks)

  starts = size * jnp.arange(num_blocks)
  # A causal mask depends on positions only. XLA would move it out of a scan
  # over layers and keep it for all blocks: a square again. The barrier ties
  # the positions to the data.
  starts, q_BATH = lax.optimization_barrier((starts, q_BATH))
  blocks = []
  for array in (q_BATH, *others):
    blocks.append(_split(array, num_blocks, size))

  def step(carry, start_and_blocks):
    start, blocks = start_and_blocks
    return block_fn(carry, start, blocks)

  def join(x):
    return _join(x, length)

  carry, out = lax.scan(step, carry, (starts, blocks))
  return carry, jax.tree.map(join, out)


def _divide_up(number, divisor):
  """number / divisor, rounded up to a whole number."""
  return -(-number // divisor)


def _split(x, num_blocks, size):
  """[B, A, T, …] as [blocks, B, A, t, …]."""
  # Fill up with queries of zeros: their gradients are zeros as well.
  batch, num_heads, length, *rest = x.shape
  num_missing = num_blocks * size - length
  padding = [(0, 0)] * x.ndim
  padding[2] = (0, num_missing)
  x = jnp.pad(x, padding)
  x = x.reshape(batch, num_heads, num_blocks, size, *rest)
  return jnp.moveaxis(x, 2, 0)


def _join(x, length):
  """The inverse of `_split`."""
  x = jnp.moveaxis(x, 0, 2)
  batch, num_heads, _, _, *rest = x.shape
  x = x.reshape(batch, num_heads, -1, *rest)
  return x[:, :, :length]
