"""Attention and encoder blocks: what they compute, and in which precision."""

import jax
import jax.numpy as jnp
import numpy as np

from uvim.models import transformer


def normal(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def reference(q, k, v):
  scores = np.einsum("btah,bsah->bats", np.float64(q), k) / q.shape[-1] ** 0.5
  weights = np.exp(scores)
  return np.einsum("bats,bsah->btah",
                   weights / weights.sum(-1, keepdims=True), v)


def test_attention_is_the_softmax_weighted_mean_of_the_values():
  q, k, v = normal(0, 2, 3, 2, 8), normal(1, 2, 5, 2, 8), normal(2, 2, 5, 2, 8)
  np.testing.assert_allclose(transformer.dot_product_attention(q, k, v),
                             reference(q, k, v), atol=1e-5)


def test_masked_keys_do_not_count():
  q, k, v = normal(3, 1, 3, 2, 8), normal(4, 1, 5, 2, 8), normal(5, 1, 5, 2, 8)
  mask = jnp.array([1, 1, 0, 1, 0], bool)[None, None, None]
  kept = np.array([0, 1, 3])
  np.testing.assert_allclose(
      transformer.dot_product_attention(q, k, v, mask),
      reference(q, k[:, kept], v[:, kept]), atol=1e-5)


def test_softmax_is_float32_for_bfloat16_inputs():
  # Scores 100 and 100.25, of which bfloat16 would make 100 and 100.
  q = jnp.array([20, 1, 0, 0], jnp.bfloat16)[None, None, None]
  k = jnp.array([[10, 0, 0, 0], [10, 0.5, 0, 0]], jnp.bfloat16)[None, :, None]
  v = jnp.array([0, 1], jnp.bfloat16)[None, :, None, None]
  out = transformer.dot_product_attention(q, k, v)
  assert out.dtype == jnp.bfloat16
  np.testing.assert_allclose(out.item(), 1 / (1 + np.exp(-0.25)), atol=5e-3)


def test_encoder_is_equivariant_to_the_order_of_tokens():
  model = transformer.Encoder(depth=1, mlp_dim=8, num_heads=2)
  x = jnp.asarray(normal(6, 1, 4, 8))
  variables = model.init(jax.random.key(0), x)
  order = np.array([2, 0, 3, 1])
  np.testing.assert_allclose(model.apply(variables, x[:, order]),
                             model.apply(variables, x)[:, order], atol=1e-5)


def test_bfloat16_keeps_float32_parameters_and_stays_close():
  x = jnp.asarray(normal(7, 1, 4, 8))
  full = transformer.Encoder(depth=1, mlp_dim=8, num_heads=2)
  half = full.copy(dtype="bfloat16")
  variables = half.init(jax.random.key(0), x)
  assert {p.dtype.name for p in jax.tree.leaves(variables)} == {"float32"}
  out = half.apply(variables, x)
  assert out.dtype == jnp.bfloat16
  np.testing.assert_allclose(np.float32(out), full.apply(variables, x),
                             atol=0.1)


def test_attention_without_biases_has_none():
  model = transformer.MultiHeadDotProductAttention(2, use_bias=False)
  params = jax.eval_shape(model.init, jax.random.key(0),
                          jnp.zeros((1, 2, 8)))["params"]
  assert {name: set(p) for name, p in params.items()} == {
      name: {"kernel"} for name in ("query", "key", "value", "out")}
