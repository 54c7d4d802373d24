"""Attention and encoder blocks: what they compute, and in which precision."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uvim.nn import attention, transformer
from uvim.priors import decoder


def normal(seed, *shape):
  rng = np.random.default_rng(seed)
  return rng.normal(size=shape).astype(np.float32)


def test_encoder_is_equivariant_to_the_order_of_tokens():
  model = transformer.Encoder(depth=1, mlp_dim=8, num_heads=2)
  x = jnp.asarray(normal(6, 1, 4, 8))
  variables = {"params": random_params(model, [x])}
  order = np.array([2, 0, 3, 1])
  apply = jax.jit(model.apply)
  reordered_before = apply(variables, x[:, order])
  reordered_after = apply(variables, x)[:, order]
  np.testing.assert_allclose(reordered_before, reordered_after, atol=1e-5)


def test_bfloat16_keeps_float32_parameters_and_stays_close():
  x = jnp.asarray(normal(7, 1, 4, 8))
  full = transformer.Encoder(depth=1, mlp_dim=8, num_heads=2)
  half = full.copy(dtype="bfloat16")
  variables = jax.jit(half.init)(jax.random.key(0), x)
  for param in jax.tree.leaves(variables):
    assert param.dtype == jnp.float32
  out = jax.jit(half.apply)(variables, x)
  assert out.dtype == jnp.bfloat16
  expected = jax.jit(full.apply)(variables, x)
  np.testing.assert_allclose(np.float32(out), expected, atol=0.1)


def test_attention_without_biases_has_none():
  model = transformer.MultiHeadDotProductAttention(2, use_bias=False)
  x = jnp.zeros((1, 2, 8))
  params = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
  names = {projection: set(arrays) for projection, arrays in params.items()}
  projections = ("query", "key", "value", "out")
  assert names == dict.fromkeys(projections, {"kernel"})


def test_an_mlp_keeps_two_of_its_wide_arrays_for_the_backward_pass():
  """What goes into the GELU and what comes out, nothing from inside."""
  mlp = transformer.MlpBlock(mlp_dim=24)
  x = jnp.zeros((2, 3, 8))
  params = jax.eval_shape(mlp.init, jax.random.key(0), x)

  def forward_and_backward(params, x):
    return jax.vjp(mlp.apply, params, x)

  _, backward = jax.eval_shape(forward_and_backward, params, x)
  kept_shapes = [array.shape for array in jax.tree.leaves(backward)]
  assert kept_shapes.count((2, 3, 24)) == 2


ENCODER = transformer.Encoder(depth=3, mlp_dim=8, num_heads=2)
DECODER = decoder.Decoder(
    num_layers=3, num_heads=2, mlp_dim=8, emb_dim=4, vocab_size=7
)
# Models, and inputs of each.
STACKS = {
    "encoder": (ENCODER, [normal(8, 2, 5, 4)]),
    "decoder": (DECODER, [
        normal(9, 2, 3, 4),
        np.array([[1, 2, 3, 4], [5, 6, 1, 2]]),
        normal(10, 1, 4, 4),
    ]),
}


def random_params(model, inputs):
  variables = jax.eval_shape(model.init, jax.random.key(0), *inputs)
  leaves, treedef = jax.tree.flatten(variables["params"])
  arrays = [normal(seed, *leaf.shape) for seed, leaf in enumerate(leaves)]
  return treedef.unflatten(arrays)


def loss_and_gradients(model):
  def loss(params, *inputs):
    out = model.apply({"params": params}, *inputs)
    return jnp.sum(jnp.square(out))

  return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))


@functools.cache
def plain_results(stack):
  """(parameters, loss, its gradients) of a stack without options."""
  model, inputs = STACKS[stack]
  params = random_params(model, inputs)
  return params, *loss_and_gradients(model)(params, *inputs)


@pytest.mark.parametrize("options", [
    {"remat": "block"},
    {"scan_layers": True, "remat": "block"},
])
@pytest.mark.parametrize("stack", STACKS)
def test_a_scan_over_layers_and_remat_change_nothing(stack, options):
  model, inputs = STACKS[stack]
  params, value, grads = plain_results(stack)
  scale = max(np.abs(grad).max() for grad in jax.tree.leaves(grads))

  other = model.copy(**options)
  variables = jax.eval_shape(other.init, jax.random.key(0), *inputs)
  other_shapes = jax.tree.map(jnp.shape, variables["params"])
  assert other_shapes == jax.tree.map(jnp.shape, params)
  other_value, other_grads = loss_and_gradients(other)(params, *inputs)
  np.testing.assert_allclose(other_value, value, rtol=1e-5)

  def assert_close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * scale)

  jax.tree.map(assert_close, other_grads, grads)


def kept_for_the_backward_pass(model, x):
  """Number of elements that differentiation keeps beside the parameters."""
  params = random_params(model, [x])

  def apply(params, x):
    return model.apply({"params": params}, x)

  def forward_and_backward(params, x):
    return jax.vjp(apply, params, x)

  _, backward = jax.eval_shape(forward_and_backward, params, x)
  num_kept = sum(array.size for array in jax.tree.leaves(backward))
  num_params = sum(array.size for array in jax.tree.leaves(params))
  return num_kept - num_params


def test_remat_keeps_the_input_and_the_attended_values_of_a_block():
  depth = 3
  num_heads = 2
  width = 16
  x = normal(11, 2, 64, width)
  model = transformer.Encoder(
      depth=depth, mlp_dim=64, num_heads=num_heads, scan_layers=True
  )
  kept_with_remat = kept_for_the_backward_pass(model.copy(remat="block"), x)
  kept_without = kept_for_the_backward_pass(model.copy(remat="none"), x)
  # A block keeps its input, the attended values and their log sums. The last
  # norm has arrays of its own.
  num_log_sums = x.size * num_heads // width
  kept_of_a_block = 2 * x.size + num_log_sums
  assert kept_with_remat < depth * kept_of_a_block + 6 * x.size
  assert kept_without > 2 * kept_with_remat


def test_the_causal_mask_is_never_whole():
  model = DECODER.copy(scan_layers=True, remat="block")
  batch = 2
  length = 2 * attention.BLOCK_SIZE
  inputs = [
      normal(13, batch, 3, 4),
      np.ones((batch, length), int),
      normal(14, 1, length, 4),
  ]
  params = random_params(model, inputs)
  program = jax.make_jaxpr(loss_and_gradients(model))(params, *inputs)
  mask_sizes = []
  for shape in re.findall(r"bool\[([\d,]+)\]", str(program)):
    mask_sizes.append(math.prod(map(int, shape.split(","))))
  # One block of the mask, for each example and head.
  per_head = attention.BLOCK_SIZE * length
  assert max(mask_sizes) == batch * model.num_heads * per_head


def test_a_scan_compiles_one_block_however_many_there_are():
  x = normal(12, 1, 3, 4)

  def num_products(depth):
    model = transformer.Encoder(
        depth, mlp_dim=8, num_heads=2, scan_layers=True
    )
    params = random_params(model, [x])
    lowered = loss_and_gradients(model).lower(params, x)
    return lowered.as_text().count("dot_general")

  assert num_products(2) == num_products(5)
