"""The product of dense layers against autodiff's, forwards and backwards."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uvim.nn import dense


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("axis, features", [
    ((-1,), (7,)), ((-1,), (2,)), ((-2, -1), (5,)), ((-1,), (2, 6))])
def test_product_and_gradients_equal_autodiff(axis, features, dtype):
  def layer(**kw):
    return nn.DenseGeneral(features, axis=axis, dtype=dtype, **kw)

  x = jax.random.normal(jax.random.key(0), (2, 3, 4, 3))
  params = layer().init(jax.random.key(1), x)

  def run(layer):
    y, back = jax.vjp(layer.apply, params, x)
    return y, *back(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(
        y.shape))

  ours = run(layer(dot_general=dense.dot_general))
  plain = run(layer())
  assert jax.tree.map(jnp.shape, ours) == jax.tree.map(jnp.shape, plain)
  tolerance = 1e-5 if dtype == "float32" else 0.05
  jax.tree.map(lambda a, b: np.testing.assert_allclose(
      np.float32(a), np.float32(b), rtol=tolerance, atol=tolerance),
      ours, plain)


@pytest.mark.parametrize("features, turned", [(24, 6), (2, 2)])
def test_the_narrower_factor_is_turned(features, turned):
  # What a CPU has to turn is the factor that comes first in the product.
  def loss(kernel, x):
    return jnp.sum(nn.Dense(features, use_bias=False,
                            dot_general=dense.dot_general).apply(
        {"params": {"kernel": kernel}}, x)**2)

  jaxpr = jax.make_jaxpr(jax.grad(loss))(
      jnp.ones((6, features)), jnp.ones((5, 6)))
  over_rows = [eqn for eqn in jaxpr.jaxpr.eqns
               if eqn.primitive.name == "dot_general"
               and eqn.params["dimension_numbers"][0] == ((0,), (0,))]
  assert [eqn.invars[0].aval.shape for eqn in over_rows] == [(5, turned)]
