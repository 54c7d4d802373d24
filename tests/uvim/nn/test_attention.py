"""Attention in blocks of queries against attention written out.

B batch · A heads · T query tokens · S key tokens · H head size
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo as cudnn

from uvim.nn import attention
from uvim.registry import ConfigError


def normal(seed, *shape):
  rng = np.random.default_rng(seed)
  return rng.normal(size=shape).astype(np.float32)


def make_qkv(num_queries, num_keys=None, *, heads=2, size=8):
  num_keys = num_keys or num_queries
  q_BTAH = normal(0, 2, num_queries, heads, size)
  k_BSAH = normal(1, 2, num_keys, heads, size)
  v_BSAH = normal(2, 2, num_keys, heads, size)
  return q_BTAH, k_BSAH, v_BSAH


def plain(q_BTAH, k_BSAH, v_BSAH, causal=False):
  """All scores at once."""
  head_size = q_BTAH.shape[-1]
  scores_BATS = jnp.einsum("btah,bsah->bats", q_BTAH, k_BSAH)
  scores_BATS = scores_BATS / head_size**0.5
  if causal:
    visible_TS = np.tril(np.ones(scores_BATS.shape[2:], bool))
    scores_BATS = jnp.where(visible_TS[None, None], scores_BATS, -jnp.inf)
  weights_BATS = jax.nn.softmax(scores_BATS)
  return jnp.einsum("bats,bsah->btah", weights_BATS, v_BSAH)


def with_gradients(attend, q, k, v):
  """The output, and the gradient of a random sum of it."""
  weight = normal(3, *q.shape)

  def total(q, k, v):
    out = attend(q, k, v)
    return jnp.sum(out * weight), out

  value_and_grad = jax.value_and_grad(total, (0, 1, 2), has_aux=True)
  (_, out), grads = jax.jit(value_and_grad)(q, k, v)
  return out, *grads


def assert_same(ours, theirs, atol=2e-5):
  for x, y in zip(ours, theirs, strict=True):
    np.testing.assert_allclose(x, y, atol=atol)


@pytest.mark.parametrize("num_queries, num_keys, causal", [
    (3, 5, False),  # One block.
    (8, 3, False),  # Two full blocks.
    (9, 9, True),  # Three blocks of three.
    (11, 4, False),  # Three blocks with a gap at the end.
])
def test_blocks_equal_the_whole(num_queries, num_keys, causal):
  attend = functools.partial(attention.attention, causal=causal, block_size=4)
  attend_plainly = functools.partial(plain, causal=causal)
  qkv = make_qkv(num_queries, num_keys)
  ours = with_gradients(attend, *qkv)
  theirs = with_gradients(attend_plainly, *qkv)
  assert_same(ours, theirs)


def test_blocks_share_the_queries_evenly():
  attend = functools.partial(attention.attention, block_size=4)
  program = str(jax.make_jaxpr(attend)(*make_qkv(9)))
  assert "length=3" in program  # Blocks of the scan.
  assert "f32[2,2,3,9]" in program  # Scores of one block.


@pytest.mark.parametrize("causal", (False, True))
def test_the_fused_implementation_is_the_same(causal):
  attend = functools.partial(
      attention.attention, causal=causal, implementation="fused"
  )
  attend_plainly = functools.partial(plain, causal=causal)
  qkv = make_qkv(6)
  ours = with_gradients(attend, *qkv)
  theirs = with_gradients(attend_plainly, *qkv)
  assert_same(ours, theirs)


def test_nothing_of_queries_by_keys_is_kept():
  qkv = make_qkv(512)

  def forward_and_backward(*qkv):
    return jax.vjp(attention.attention, *qkv)

  _, backward = jax.eval_shape(forward_and_backward, *qkv)
  largest = max(kept.size for kept in jax.tree.leaves(backward))
  assert largest == qkv[0].size


def temp_bytes(attend, qkv):
  """Scratch memory of the compiled gradient."""

  def loss(*qkv):
    return jnp.sum(jnp.square(attend(*qkv)))

  def gradients(*qkv):
    return jax.grad(loss, (0, 1, 2))(*qkv)

  shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in qkv]
  compiled = jax.jit(gradients).lower(*shapes).compile()
  return compiled.memory_analysis().temp_size_in_bytes


def test_memory_grows_with_the_tokens_not_their_square():
  def growth(attend):
    bytes_of_many = temp_bytes(attend, make_qkv(2048))
    bytes_of_few = temp_bytes(attend, make_qkv(512))
    return bytes_of_many / bytes_of_few

  assert growth(attention.attention) < 5
  assert growth(plain) > 12


@pytest.mark.parametrize("implementation", attention.IMPLEMENTATIONS)
def test_softmax_is_float32_for_bfloat16_inputs(implementation):
  # The scores are 100 and 100.25. bfloat16 would round both to 100.
  q_H = jnp.array([20, 1, 0, 0], jnp.bfloat16)
  k_SH = jnp.array([[10, 0, 0, 0], [10, 0.5, 0, 0]], jnp.bfloat16)
  v_SH = jnp.array([[0] * 4, [1] * 4], jnp.bfloat16)
  out_BTAH = attention.attention(
      q_H[None, None, None],
      k_SH[None, :, None],
      v_SH[None, :, None],
      implementation=implementation,
  )
  assert out_BTAH.dtype == jnp.bfloat16
  expected = 1 / (1 + np.exp(-0.25))
  out_H = np.float32(out_BTAH)[0, 0, 0]
  np.testing.assert_allclose(out_H, expected, atol=5e-3)


def test_bfloat16_gradients_are_summed_over_blocks_in_float32():
  # 64 blocks each add 1 to a value's gradient of up to 64. A sum in bfloat16
  # would lose steps below 1/256 of it.
  attend = functools.partial(attention.attention, block_size=1)
  qkv_f32 = make_qkv(64)
  qkv_bf16 = [jnp.asarray(x, jnp.bfloat16) for x in qkv_f32]
  qkv_rounded = [jnp.float32(x) for x in qkv_bf16]
  ours = with_gradients(attend, *qkv_bf16)
  theirs = with_gradients(plain, *qkv_rounded)
  for x, y in zip(ours, theirs, strict=True):
    assert x.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(x), y, atol=0.01 * np.abs(y).max())


def test_an_unknown_implementation_is_named():
  with pytest.raises(ConfigError, match="model.attention 'flash'.*chunked"):
    attention.attention(*make_qkv(2), implementation="flash")


# cuDNN's kernel, which runs on a GPU alone.


@pytest.mark.parametrize("dtype, head_size, capability, takes", [
    ("bfloat16", 64, "9.0", True),
    ("float16", 128, "8.0", True),
    ("float32", 64, "9.0", False),
    ("bfloat16", 256, "9.0", False),
    ("bfloat16", 12, "9.0", False),
    ("bfloat16", 64, "7.5", False),
    ("bfloat16", 64, "gfx942", False),  # No GPU of Nvidia.
])
def test_queries_that_cudnn_takes(dtype, head_size, capability, takes):
  dtype = jnp.dtype(dtype)
  assert attention.cudnn_takes(dtype, head_size, capability) is takes


def attend_by_cudnn(q_BTAH, k_BSAH, v_BSAH):
  """JAX's call of the kernel, without its search for cuDNN."""
  unused = [jnp.zeros(0, q_BTAH.dtype)] * 7
  layout = cudnn.AttentionLayout.BTNH.value
  return cudnn._dot_product_attention(
      q_BTAH, k_BSAH, v_BSAH, *unused, 1.0, 42, 0.0, (False, False),
      cudnn.MaskType.NO_MASK, layout, None, 91000, False
  )


@pytest.mark.parametrize("policy, num_passes", [
    (attention.is_kept, 1),
    # As it was without the kernel's name.
    (jax.checkpoint_policies.nothing_saveable, 2),
])
def test_remat_keeps_what_cudnn_attended(policy, num_passes):

  @functools.partial(jax.checkpoint, policy=policy)
  def block(x_BTAH):
    return jnp.sin(attend_by_cudnn(jnp.sin(x_BTAH), x_BTAH, x_BTAH))

  def total(x_BTAH):
    return jnp.sum(block(x_BTAH).astype(jnp.float32))

  x_BTAH = jnp.zeros((2, 8, 2, 8), jnp.bfloat16)
  program = str(jax.make_jaxpr(jax.grad(total))(x_BTAH))
  assert program.count(attention.CUDNN_KERNEL) == num_passes
