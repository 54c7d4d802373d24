"""Softmax attention whose memory grows with the tokens, not their square.

B batch · A heads · T query tokens · S key tokens · H head size · t queries of
one block

Kept for the backward pass are queries, keys, values, the attended values and
one number per query; the scores are computed again, a block of queries at a
time. At 1024 tokens, 12 heads and a batch of 8 one layer's weights alone are
403 MB, and autodiff keeps them for every layer.

Source: Rabe and Staats, "Self-attention does not need O(n²) memory", 2021.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from uvim.registry import lookup
from uvim.typing import Array, Float

# Queries at a time. More would need more memory than a layer's MLP does at the
# paper's sizes; blocks of 128 are slower on a CPU at 256 tokens.
BLOCK = 256

# What a backward pass through `attention` needs beside its inputs; a remat
# policy that keeps these by name computes no attention twice.
SAVED = ("attended", "attention_log_sums")


def attention(
    q_BTAH: Float[Array, "B T A H"],
    k_BSAH: Float[Array, "B S A H"],
    v_BSAH: Float[Array, "B S A H"],
    *,
    causal: bool = False,
    implementation: str = "chunked",
) -> Float[Array, "B T A H"]:
  """Softmax attention; scores and softmax in float32 whatever the inputs are.

  Args:
    q_BTAH: queries, not yet scaled by H^-1/2.
    k_BSAH: keys.
    v_BSAH: values.
    causal: query t sees the keys 0..t only.
    implementation: "chunked", or "fused": cuDNN's kernel for half precision
      on a GPU. Elsewhere that is XLA's own, which keeps the scores.

  Returns:
    The attended values in the dtype of `v_BSAH`.

  Raises:
    ConfigError: an unknown implementation.
  """
  attend = lookup(IMPLEMENTATIONS, implementation, "model.attention")
  return attend(q_BTAH, k_BSAH, v_BSAH, causal)


def _fused(q_BTAH, k_BSAH, v_BSAH, causal):
  # cuDNN takes no float32. Not `lax.platform_dependent`: differentiated, it
  # keeps what the backward passes of all platforms need, scores too.
  half = q_BTAH.dtype in (jnp.bfloat16, jnp.float16)
  cudnn = half and jax.default_backend() == "gpu"
  return jax.nn.dot_product_attention(
      q_BTAH, k_BSAH, v_BSAH, is_causal=causal,
      implementation="cudnn" if cudnn else "xla")


def _chunked(q_BTAH, k_BSAH, v_BSAH, causal):
  q_BTAH = q_BTAH * (q_BTAH.shape[-1] ** -0.5)
  # Heads before tokens here, once, and not in the matmuls of every block.
  q_BATH, k_BASH, v_BASH = (
      jnp.swapaxes(x, 1, 2) for x in (q_BTAH, k_BSAH, v_BSAH))
  return jnp.swapaxes(_attend(q_BATH, k_BASH, v_BASH, causal), 1, 2)


IMPLEMENTATIONS = {"chunked": _chunked, "fused": _fused}


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _attend(q_BATH, k_BASH, v_BASH, causal):
  return _forward(q_BATH, k_BASH, v_BASH, causal)[0]


def _forward(q_BATH, k_BASH, v_BASH, causal):
  """The attended values, and what `_backward` needs."""
  def attend(_, start, blocks):
    scores_BAtS = _scores(*blocks, k_BASH, start, causal)
    top_BAt1 = jnp.max(scores_BAtS, axis=-1, keepdims=True)
    weights_BAtS = jnp.exp(scores_BAtS - top_BAt1)
    sum_BAt1 = jnp.sum(weights_BAtS, axis=-1, keepdims=True)
    out_BAtH = _matmul("bats,bash->bath", weights_BAtS.astype(v_BASH.dtype),
                       v_BASH) / sum_BAt1
    log_sum_BAt = (top_BAt1 + jnp.log(sum_BAt1))[..., 0]
    return None, (out_BAtH.astype(v_BASH.dtype), log_sum_BAt)

  _, out = _scan_blocks(attend, None, [q_BATH])
  out_BATH, log_sum_BAT = map(checkpoint_name, out, SAVED)
  return out_BATH, (q_BATH, k_BASH, v_BASH, out_BATH, log_sum_BAT)


def _backward(causal, residuals, d_out_BATH):
  q_BATH, k_BASH, v_BASH, out_BATH, log_sum_BAT = residuals
  # The part of a score's gradient that comes from the softmax's sum.
  shift_BAT = jnp.sum(d_out_BATH.astype(jnp.float32) * out_BATH, axis=-1)

  def attend(carry, start, blocks):
    d_k_BASH, d_v_BASH = carry
    q_BAtH, d_out_BAtH, log_sum_BAt, shift_BAt = blocks
    scores_BAtS = _scores(q_BAtH, k_BASH, start, causal)
    weights_BAtS = jnp.exp(scores_BAtS - log_sum_BAt[..., None])
    d_weights_BAtS = _matmul("bath,bash->bats", d_out_BAtH, v_BASH)
    d_scores_BAtS = weights_BAtS * (d_weights_BAtS - shift_BAt[..., None])
    d_scores_BAtS = d_scores_BAtS.astype(q_BAtH.dtype)
    d_k_BASH += _matmul("bats,bath->bash", d_scores_BAtS, q_BAtH)
    d_v_BASH += _matmul("bats,bath->bash", weights_BAtS.astype(v_BASH.dtype),
                        d_out_BAtH)
    d_q_BAtH = _matmul("bats,bash->bath", d_scores_BAtS, k_BASH)
    return (d_k_BASH, d_v_BASH), d_q_BAtH.astype(q_BATH.dtype)

  # Summed over the blocks in float32.
  zeros = [jnp.zeros(x.shape, jnp.float32) for x in (k_BASH, v_BASH)]
  (d_k_BASH, d_v_BASH), d_q_BATH = _scan_blocks(
      attend, tuple(zeros), [q_BATH, d_out_BATH, log_sum_BAT, shift_BAT])
  return (d_q_BATH, d_k_BASH.astype(k_BASH.dtype),
          d_v_BASH.astype(v_BASH.dtype))


_attend.defvjp(_forward, _backward)


def _matmul(axes, x, y):
  return jnp.einsum(axes, x, y, preferred_element_type=jnp.float32)


def _scores(q_BAtH, k_BASH, start, causal):
  """float32 [B, A, t, S], of the queries from place `start` on."""
  scores_BAtS = _matmul("bath,bash->bats", q_BAtH, k_BASH)
  if not causal:
    return scores_BAtS
  place_11tS = [lax.broadcasted_iota(
      jnp.int32, (1, 1, *scores_BAtS.shape[2:]), axis) for axis in (2, 3)]
  visible_11tS = start + place_11tS[0] >= place_11tS[1]
  return jnp.where(visible_11tS, scores_BAtS, jnp.finfo(jnp.float32).min)


def _scan_blocks(fn, carry, arrays):
  """Scans `fn` over blocks of queries.

  Args:
    fn: (carry, place of the block's first query, blocks of the arrays) →
      (carry, arrays [B, A, t, …]).
    carry: its start.
    arrays: each [B, A, T, …].

  Returns:
    The last carry, and the arrays joined to [B, A, T, …].
  """
  length = arrays[0].shape[2]
  num_blocks = max(1, -(-length // BLOCK))
  size = -(-length // num_blocks)

  def split(x):
    # Queries of zeros at the end: their gradients are zeros as well.
    fill = num_blocks * size - length
    x = jnp.pad(x, [(0, fill if axis == 2 else 0) for axis in range(x.ndim)])
    x = x.reshape(*x.shape[:2], num_blocks, size, *x.shape[3:])
    return jnp.moveaxis(x, 2, 0)

  def join(x):
    x = jnp.moveaxis(x, 0, 2)
    return x.reshape(*x.shape[:2], -1, *x.shape[4:])[:, :, :length]

  def step(carry, block):
    return fn(carry, *block)

  # Tied to the data: a causal mask that depends on nothing but places would be
  # taken out of a scan over layers and kept for all blocks, a square again.
  starts, arrays[0] = lax.optimization_barrier(
      (size * jnp.arange(num_blocks), arrays[0]))
  carry, out = lax.scan(step, carry, (starts, [split(x) for x in arrays]))
  return carry, jax.tree.map(join, out)
