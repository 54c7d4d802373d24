"""The product of dense layers against autodiff's, forwards and backwards."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uvim.nn import dense


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("axis, features", [
    ((-1,), (7,)),
    ((-1,), (2,)),
    ((-2, -1), (5,)),
    ((-1,), (2, 6)),
])
def test_product_and_gradients_equal_autodiff(axis, features, dtype):
  make_layer = functools.partial(
      nn.DenseGeneral, features, axis=axis, dtype=dtype
  )
  plain_layer = make_layer()
  our_layer = make_layer(dot_general=dense.dot_general)
  x = jax.random.normal(jax.random.key(0), (2, 3, 4, 3))
  params = jax.jit(plain_layer.init)(jax.random.key(1), x)

  def product_and_gradients(layer):
    @jax.jit
    def run(params, x):
      y, backward = jax.vjp(layer.apply, params, x)
      d_y = jnp.cos(jnp.arange(y.size, dtype=y.dtype))
      return y, *backward(d_y.reshape(y.shape))

    return run(params, x)

  ours = product_and_gradients(our_layer)
  plain = product_and_gradients(plain_layer)
  assert jax.tree.map(jnp.shape, ours) == jax.tree.map(jnp.shape, plain)
  tolerance = 1e-5 if dtype == "float32" else 0.05

  def assert_close(x, y):
    np.testing.assert_allclose(
        np.float32(x), np.float32(y), rtol=tolerance, atol=tolerance
    )

  jax.tree.map(assert_close, ours, plain)


@pytest.mark.parametrize("features, narrower_width", [(24, 6), (2, 2)])
def test_the_narrower_factor_is_transposed(features, narrower_width):
  layer = nn.Dense(
      features, use_bias=False, dot_general=dense.dot_general
  )

  def loss(kernel, x):
    y = layer.apply({"params": {"kernel": kernel}}, x)
    return jnp.sum(y**2)

  x = jnp.ones((5, 6))
  kernel = jnp.ones((6, features))
  program = jax.make_jaxpr(jax.grad(loss))(kernel, x)
  # A CPU transposes the factor that comes first in a product over rows.
  first_factors = []
  for equation in program.jaxpr.eqns:
    if equation.primitive.name == "dot_general":
      contracted_axes, _ = equation.params["dimension_numbers"]
      if contracted_axes == ((0,), (0,)):
        first_factors.append(equation.invars[0].aval.shape)
  assert first_factors == [(5, narrower_width)]
