"""Attention in blocks of queries against attention written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uvim.nn import attention
from uvim.registry import ConfigError


def normal(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def qkv(queries, keys=None, *, heads=2, size=8):
  shapes = [(2, n, heads, size) for n in (queries, keys or queries)]
  return normal(0, *shapes[0]), normal(1, *shapes[1]), normal(2, *shapes[1])


def plain(q, k, v, causal=False):
  """All scores at once."""
  scores = jnp.einsum("btah,bsah->bats", q, k) / q.shape[-1] ** 0.5
  if causal:
    visible = np.tril(np.ones(scores.shape[2:], bool))[None, None]
    scores = jnp.where(visible, scores, -jnp.inf)
  return jnp.einsum("bats,bsah->btah", jax.nn.softmax(scores), v)


def with_gradients(fn, q, k, v, **options):
  """The output, and the gradient of a random sum of it."""
  weight = normal(3, *q.shape)

  def total(q, k, v):
    out = fn(q, k, v, **options)
    return jnp.sum(out * weight), out
  # A new function each time: a compiled one would keep its size of blocks.
  compiled = jax.jit(jax.value_and_grad(total, (0, 1, 2), has_aux=True))
  (_, out), grads = compiled(q, k, v)
  return out, *grads


def assert_same(ours, theirs, atol=2e-5):
  for x, y in zip(ours, theirs, strict=True):
    np.testing.assert_allclose(x, y, atol=atol)


@pytest.mark.parametrize("queries,keys,causal", [
    (3, 5, False), (8, 3, False), (9, 9, True), (11, 4, False)])
def test_blocks_equal_the_whole(monkeypatch, queries, keys, causal):
  # One block; two full ones; three of three; three with a gap at the end.
  monkeypatch.setattr(attention, "BLOCK", 4)
  arrays = qkv(queries, keys)
  assert_same(
      with_gradients(attention.attention, *arrays, causal=causal),
      with_gradients(plain, *arrays, causal=causal))


@pytest.mark.parametrize("causal", (False, True))
def test_the_fused_implementation_is_the_same(causal):
  arrays = qkv(6)
  assert_same(
      with_gradients(attention.attention, *arrays, causal=causal,
                     implementation="fused"),
      with_gradients(plain, *arrays, causal=causal))


def test_nothing_of_queries_by_keys_is_kept():
  arrays = qkv(512)
  _, backward = jax.eval_shape(
      lambda *x: jax.vjp(attention.attention, *x), *arrays)
  largest = max(x.size for x in jax.tree.leaves(backward))
  assert largest == arrays[0].size


def temp_bytes(fn, *arrays):
  def grads(q, k, v):
    return jax.grad(lambda *x: jnp.sum(jnp.square(fn(*x))), (0, 1, 2))(q, k, v)
  shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in arrays]
  compiled = jax.jit(grads).lower(*shapes).compile()
  return compiled.memory_analysis().temp_size_in_bytes


def test_memory_grows_with_the_tokens_not_their_square():
  def growth(fn):
    return temp_bytes(fn, *qkv(2048)) / temp_bytes(fn, *qkv(512))
  assert growth(attention.attention) < 5
  assert growth(plain) > 12


def test_softmax_is_float32_for_bfloat16_inputs():
  # Scores 100 and 100.25, of which bfloat16 would make 100 and 100.
  q = jnp.array([20, 1, 0, 0], jnp.bfloat16)[None, None, None]
  k = jnp.array([[10, 0, 0, 0], [10, 0.5, 0, 0]], jnp.bfloat16)[None, :, None]
  v = jnp.array([[0] * 4, [1] * 4], jnp.bfloat16)[None, :, None]
  for implementation in attention.IMPLEMENTATIONS:
    out = attention.attention(q, k, v, implementation=implementation)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        np.float32(out)[0, 0, 0], 1 / (1 + np.exp(-0.25)), atol=5e-3)


def test_bfloat16_gradients_are_summed_over_blocks_in_float32(monkeypatch):
  # 64 blocks that each add 1 to a value's gradient of up to 64; summed in
  # bfloat16 steps below 1/256 of the sum would be lost.
  monkeypatch.setattr(attention, "BLOCK", 1)
  arrays = [jnp.asarray(x, jnp.bfloat16) for x in qkv(64)]
  ours = with_gradients(attention.attention, *arrays)
  assert all(x.dtype == jnp.bfloat16 for x in ours)
  theirs = with_gradients(plain, *map(jnp.float32, arrays))
  for x, y in zip(ours, theirs, strict=True):
    np.testing.assert_allclose(np.float32(x), y, atol=0.01 * np.abs(y).max())


def test_an_unknown_implementation_is_named():
  with pytest.raises(ConfigError, match="model.attention 'flash'.*chunked"):
    attention.attention(*qkv(2), implementation="flash")
