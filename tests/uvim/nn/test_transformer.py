"""Attention and encoder blocks: what they compute, and in which precision."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uvim.nn import attention, transformer
from uvim.priors import decoder


def normal(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


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


def test_an_mlp_keeps_two_of_its_wide_arrays_for_the_backward_pass():
  """What goes into the GELU and what comes out, nothing from inside."""
  mlp = transformer.MlpBlock(mlp_dim=24)
  x = jnp.zeros((2, 3, 8))
  params = jax.eval_shape(mlp.init, jax.random.key(0), x)
  _, kept = jax.eval_shape(lambda p, x: jax.vjp(mlp.apply, p, x), params, x)
  shapes = [array.shape for array in jax.tree.leaves(kept)]
  assert shapes.count((2, 3, 24)) == 2


STACKS = {
    "encoder": (transformer.Encoder(depth=3, mlp_dim=8, num_heads=2),
                [normal(8, 2, 5, 4)]),
    "decoder": (decoder.Decoder(
        num_layers=3, num_heads=2, mlp_dim=8, emb_dim=4, vocab_size=7),
                [normal(9, 2, 3, 4), np.array([[1, 2, 3, 4], [5, 6, 1, 2]]),
                 normal(10, 1, 4, 4)])}


def random_params(model, inputs):
  shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]
  leaves, tree = jax.tree.flatten(shapes)
  return tree.unflatten(
      [normal(i, *leaf.shape) for i, leaf in enumerate(leaves)])


def loss_and_gradients(model):
  def loss(params, *inputs):
    return jnp.sum(jnp.square(model.apply({"params": params}, *inputs)))
  return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))


@pytest.mark.parametrize("stack", STACKS)
def test_a_scan_over_layers_and_remat_change_nothing(stack):
  model, inputs = STACKS[stack]
  params = random_params(model, inputs)
  value, grads = loss_and_gradients(model)(params, *inputs)
  scale = max(np.abs(x).max() for x in jax.tree.leaves(grads))

  def check(ours, theirs):
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * scale)

  for options in (dict(remat="block"), dict(scan_layers=True, remat="block")):
    other = model.copy(**options)
    fresh = jax.eval_shape(other.init, jax.random.key(0), *inputs)["params"]
    assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, params)
    other_value, other_grads = loss_and_gradients(other)(params, *inputs)
    np.testing.assert_allclose(other_value, value, rtol=1e-5)
    jax.tree.map(check, other_grads, grads)


def kept_for_the_backward_pass(model, inputs):
  """Number of elements that differentiation keeps beside the parameters."""
  params = random_params(model, inputs)
  _, backward = jax.eval_shape(
      lambda p, x: jax.vjp(
          lambda p, x: model.apply({"params": p}, x, *inputs[1:]), p, x),
      params, inputs[0])
  count = sum(x.size for x in jax.tree.leaves(backward))
  return count - sum(x.size for x in jax.tree.leaves(params))


def test_remat_keeps_the_input_and_the_attended_values_of_a_block():
  x = normal(11, 2, 64, 16)
  model = transformer.Encoder(depth=3, mlp_dim=64, num_heads=2)
  kept = {remat: kept_for_the_backward_pass(
      model.copy(scan_layers=True, remat=remat), [x])
      for remat in transformer.REMAT}
  # Input, attended values and their log sums; the last norm has its own.
  log_sums = x.size * 2 // 16
  assert kept["block"] < 3 * (2 * x.size + log_sums) + 6 * x.size
  assert kept["none"] > 2 * kept["block"]


def test_the_causal_mask_is_never_whole(monkeypatch):
  monkeypatch.setattr(attention, "BLOCK", 8)
  model, _ = STACKS["decoder"]
  inputs = [normal(13, 2, 3, 4), np.ones((2, 32), int), normal(14, 1, 32, 4)]
  model = model.copy(scan_layers=True, remat="block")
  program = str(jax.make_jaxpr(loss_and_gradients(model))(
      random_params(model, inputs), *inputs))
  masks = re.findall(r"bool\[([\d,]+)\]", program)
  largest = max(math.prod(map(int, shape.split(","))) for shape in masks)
  assert largest == 2 * 2 * 8 * 32  # Of one block, for each example and head.


def test_a_scan_compiles_one_block_however_many_there_are():
  def length(depth):
    model = transformer.Encoder(depth, mlp_dim=8, num_heads=2,
                                scan_layers=True)
    inputs = [normal(12, 1, 3, 4)]
    text = loss_and_gradients(model).lower(
        random_params(model, inputs), *inputs).as_text()
    return text.count("dot_general")
  assert length(2) == length(5)
