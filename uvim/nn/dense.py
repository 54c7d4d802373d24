"""The product inside dense layers, with a gradient that copies less.

`...` any leading axes · I, J the contracted and the new axes, one or more

A kernel's gradient sums over all leading axes of x and of the gradient, so a
CPU turns one of the two before it multiplies. Autodiff always asks for the
gradient to be turned. That is the larger one where a layer widens, and where
several layers share x, as queries, keys and values do, it is one copy each.
"""

import functools
import math

import jax
from jax import lax

from uvim.typing import Array, Float


def dot_general(x: Float[Array, "... I"], kernel: Float[Array, "I J"],
                dimension_numbers, precision=None) -> Float[Array, "... J"]:
  """`lax.dot_general` as flax's `Dense` and `DenseGeneral` call it.

  Args:
    x: its last axes are contracted.
    kernel: its first axes are contracted.
    dimension_numbers: ((last axes of x, first axes of kernel), ((), ())).
    precision: as of `lax.dot_general`.
  """
  (_, contracted), _ = dimension_numbers
  return _product(x, kernel, len(contracted), precision)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _product(x, kernel, num_contracted, precision):
  axes = (_last(x, num_contracted), tuple(range(num_contracted)))
  return lax.dot_general(x, kernel, (axes, ((), ())), precision)


def _forward(x, kernel, num_contracted, precision):
  return _product(x, kernel, num_contracted, precision), (x, kernel)


def _backward(num_contracted, precision, residuals, grad):
  x, kernel = residuals
  num_new = kernel.ndim - num_contracted
  dot = functools.partial(lax.dot_general, precision=precision)
  d_x = dot(grad, kernel,
            ((_last(grad, num_new), _last(kernel, num_new)), ((), ())))
  leading = tuple(range(x.ndim - num_contracted))
  leading = ((leading, leading), ((), ()))
  if math.prod(kernel.shape[:num_contracted]) <= math.prod(
      kernel.shape[num_contracted:]):
    return d_x, dot(x, grad, leading)
  d_kernel = dot(grad, x, leading)
  new, old = tuple(range(num_new)), tuple(range(num_new, kernel.ndim))
  return d_x, d_kernel.transpose(*old, *new)


_product.defvjp(_forward, _backward)


def _last(x, count):
  return tuple(range(x.ndim - count, x.ndim))
