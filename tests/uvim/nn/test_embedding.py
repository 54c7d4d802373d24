"""Patches to tokens: integer labels as if they had been one-hot."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from uvim.nn import embedding


def one_hot_product(kernel_KPD, ids_TP):
  one_hot_TKP = ids_TP[:, None] == jnp.arange(len(kernel_KPD))[None, :, None]
  return jnp.einsum("tkp,kpd->td", one_hot_TKP.astype(jnp.float32), kernel_KPD)


def embedding_case():
  rng = np.random.default_rng(2)
  ids = rng.integers(-2, 7, (16, 6))  # 5 classes: some ids below, some above.
  return (jnp.asarray(rng.normal(size=(5, 6, 4)), jnp.float32),
          jnp.asarray(ids, jnp.int32),
          jnp.asarray(rng.normal(size=(16, 4)), jnp.float32))


def embed_and_grad(embed):
  def both(kernel_KPD, ids_TP, grad_TD):
    x_TD, pull = jax.vjp(lambda kernel: embed(kernel, ids_TP), kernel_KPD)
    return x_TD, pull(grad_TD)[0]
  return both


def test_embedding_ids_equals_the_one_hot_product_and_its_gradient():
  case = embedding_case()
  ours = jax.jit(embed_and_grad(embedding.embed_ids))(*case)
  for out, expected in zip(ours, embed_and_grad(one_hot_product)(*case),
                           strict=True):
    np.testing.assert_allclose(out, expected, atol=1e-5)


def test_embedding_gradient_is_the_same_on_eight_devices():
  kernel, ids, grad = embedding_case()
  mesh = Mesh(np.array(jax.devices()[:8]), ("data",))
  rows, everywhere = (NamedSharding(mesh, spec) for spec in (P("data"), P()))
  sharded = jax.jit(embed_and_grad(embedding.embed_ids))(
      jax.device_put(kernel, everywhere), jax.device_put(ids, rows),
      jax.device_put(grad, rows))
  alone = jax.jit(embed_and_grad(embedding.embed_ids))(kernel, ids, grad)
  for ours, expected in zip(sharded, alone, strict=True):
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_nothing_of_one_hot_size_is_ever_made():
  tokens, pixels, classes, width = 64, 16, 32, 8

  def both(kernel, ids, grad):
    return embed_and_grad(embedding.embed_ids)(kernel, ids, grad)

  text = str(jax.make_jaxpr(both)(
      jnp.zeros((classes, pixels, width)),
      jnp.zeros((tokens, pixels), jnp.int32), jnp.zeros((tokens, width))))
  sizes = [math.prod(int(n) for n in dims.split(","))
           for dims in re.findall(r"\[(\d+(?:,\d+)*)\]", text)]
  assert max(sizes) <= max(tokens * pixels, classes * pixels * width)


def test_float_labels_embed_like_weighted_classes():
  module = embedding.LabelEmbedding((3, 16), 4)
  ids = jnp.asarray(np.random.default_rng(3).integers(0, 3, (1, 2, 16)))
  variables = module.init(jax.random.key(0), ids)
  one_hot = (ids[:, :, None] == jnp.arange(3)[None, None, :, None])
  np.testing.assert_allclose(
      module.apply(variables, one_hot.astype(jnp.float32)),
      module.apply(variables, ids), atol=1e-5)


def test_patch_embedding_is_a_strided_convolution():
  module = embedding.PatchEmbedding((4, 2), 5)
  image = jnp.asarray(np.random.default_rng(4).normal(size=(2, 8, 6, 3)),
                      jnp.float32)
  variables = module.init(jax.random.key(0), image)
  expected = jax.lax.conv_general_dilated(
      image, variables["params"]["kernel"], (4, 2), "VALID",
      dimension_numbers=("NHWC", "HWIO", "NHWC"))
  np.testing.assert_allclose(module.apply(variables, image),
                             expected.reshape(2, 6, 5), atol=1e-5)
