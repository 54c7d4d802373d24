"""Patches to tokens: integer labels as if they had been one-hot.

T tokens · P pixels in a patch · K classes · D width
"""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from uvim.nn import embedding


def one_hot_product(kernel_KPD, ids_TP):
  classes_K = jnp.arange(len(kernel_KPD))
  one_hot_TKP = ids_TP[:, None] == classes_K[None, :, None]
  one_hot_TKP = one_hot_TKP.astype(jnp.float32)
  return jnp.einsum("tkp,kpd->td", one_hot_TKP, kernel_KPD)


def embedding_case():
  """(kernel [K, P, D], ids [T, P], gradient of the tokens [T, D])."""
  rng = np.random.default_rng(2)
  # There are 5 classes: some ids lie below, some above.
  ids_TP = rng.integers(-2, 7, (16, 6))
  kernel_KPD = rng.normal(size=(5, 6, 4))
  grad_TD = rng.normal(size=(16, 4))
  return (
      jnp.asarray(kernel_KPD, jnp.float32),
      jnp.asarray(ids_TP, jnp.int32),
      jnp.asarray(grad_TD, jnp.float32),
  )


def with_gradient(embed):
  """A function of kernel, ids and gradient → tokens, kernel's gradient."""

  def embed_and_differentiate(kernel_KPD, ids_TP, grad_TD):
    x_TD, backward = jax.vjp(lambda kernel: embed(kernel, ids_TP), kernel_KPD)
    (d_kernel_KPD,) = backward(grad_TD)
    return x_TD, d_kernel_KPD

  return embed_and_differentiate


def assert_close(ours, expected):
  for x, y in zip(ours, expected, strict=True):
    np.testing.assert_allclose(x, y, atol=1e-5)


def by_products(kernel_KPD, ids_TP):
  """As on a GPU: three chunks of two pixels."""
  return embedding.embed_by_products(kernel_KPD, ids_TP, "float32", 2)


WAYS = {"rows": embedding.embed_by_rows, "products": by_products}


@pytest.mark.parametrize("way", WAYS)
def test_embedding_ids_equals_the_one_hot_product_and_its_gradient(way):
  case = embedding_case()
  ours = jax.jit(with_gradient(WAYS[way]))(*case)
  expected = jax.jit(with_gradient(one_hot_product))(*case)
  assert_close(ours, expected)


def test_a_cpu_embeds_by_rows():
  kernel_KPD, ids_TP, _ = embedding_case()
  program = jax.make_jaxpr(embedding.embed_ids)(kernel_KPD, ids_TP)
  expected = jax.make_jaxpr(embedding.embed_by_rows)(kernel_KPD, ids_TP)
  assert str(program) == str(expected)


def test_products_of_half_precision_are_summed_in_float32():
  # Rounded before, so that factors in bfloat16 lose nothing.
  kernel_KPD, ids_TP, grad_TD = embedding_case()
  kernel_KPD = kernel_KPD.astype(jnp.bfloat16).astype(jnp.float32)
  grad_TD = grad_TD.astype(jnp.bfloat16).astype(jnp.float32)

  def in_half_precision(kernel_KPD, ids_TP):
    return embedding.embed_by_products(kernel_KPD, ids_TP, "bfloat16", 3)

  case = (kernel_KPD, ids_TP, grad_TD)
  ours = jax.jit(with_gradient(in_half_precision))(*case)
  expected = jax.jit(with_gradient(embedding.embed_by_rows))(*case)
  assert_close(ours, expected)
  assert all(array.dtype == jnp.float32 for array in ours)


@pytest.mark.parametrize("way", WAYS)
def test_embedding_gradient_is_the_same_on_eight_devices(way):
  kernel_KPD, ids_TP, grad_TD = embedding_case()
  mesh = Mesh(np.array(jax.devices()[:8]), ("data",))
  by_tokens = NamedSharding(mesh, PartitionSpec("data"))
  everywhere = NamedSharding(mesh, PartitionSpec())
  embed = jax.jit(with_gradient(WAYS[way]))
  on_eight = embed(
      jax.device_put(kernel_KPD, everywhere),
      jax.device_put(ids_TP, by_tokens),
      jax.device_put(grad_TD, by_tokens),
  )
  on_one = embed(kernel_KPD, ids_TP, grad_TD)
  assert_close(on_eight, on_one)


def test_nothing_of_one_hot_size_is_ever_made():
  tokens = 64
  pixels = 16
  classes = 32
  width = 8
  program = jax.make_jaxpr(with_gradient(embedding.embed_by_rows))(
      jnp.zeros((classes, pixels, width)),
      jnp.zeros((tokens, pixels), jnp.int32),
      jnp.zeros((tokens, width)),
  )
  sizes = []
  for dimensions in re.findall(r"\[(\d+(?:,\d+)*)\]", str(program)):
    sizes.append(math.prod(map(int, dimensions.split(","))))
  assert max(sizes) <= max(tokens * pixels, classes * pixels * width)


def test_float_labels_embed_like_weighted_classes():
  module = embedding.LabelEmbedding((3, 16), 4)
  rng = np.random.default_rng(3)
  ids_BNP = jnp.asarray(rng.integers(0, 3, (1, 2, 16)))
  variables = jax.jit(module.init)(jax.random.key(0), ids_BNP)
  classes_K = jnp.arange(3)
  one_hot_BNKP = ids_BNP[:, :, None] == classes_K[None, None, :, None]
  apply = jax.jit(module.apply)
  from_floats = apply(variables, one_hot_BNKP.astype(jnp.float32))
  from_ids = apply(variables, ids_BNP)
  np.testing.assert_allclose(from_floats, from_ids, atol=1e-5)


def test_patch_embedding_is_a_strided_convolution():
  module = embedding.PatchEmbedding((4, 2), 5)
  rng = np.random.default_rng(4)
  image = jnp.asarray(rng.normal(size=(2, 8, 6, 3)), jnp.float32)
  variables = jax.jit(module.init)(jax.random.key(0), image)
  expected = jax.lax.conv_general_dilated(
      image,
      variables["params"]["kernel"],
      window_strides=(4, 2),
      padding="VALID",
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )
  x_BND = jax.jit(module.apply)(variables, image)
  np.testing.assert_allclose(x_BND, expected.reshape(2, 6, 5), atol=1e-5)
