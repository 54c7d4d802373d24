"""The product inside dense layers, with a gradient that copies less.

`...` any leading axes · I, J the contracted and the new axes, one or more

The gradient of a kernel sums over all leading axes of x and of the output's
gradient. A CPU transposes the first of these two factors before it multiplies.
Autodiff always puts the output's gradient first. In a layer that widens, that
is the larger factor. Queries, keys and values share one x, but each has an
output gradient of its own, and so a copy of its own. Here the smaller factor
comes first.
"""

import functools
import math

import jax
from jax import lax

from uvim.typing import Array, Float

Inputs = Float[Array, "... I"]
Kernel = Float[Array, "I J"]
Outputs = Float[Array, "... J"]

NO_BATCH_AXES = ((), ())


def dot_general(
    x: Inputs,
    kernel: Kernel,
    dimension_numbers,
    precision=None,
) -> Outputs:
  """`lax.dot_general` as flax's `Dense` and `DenseGeneral` call it.

  Args:
    x: its last axes are contracted.
    kernel: its first axes are contracted.
    dimension_numbers: ((last axes of x, first axes of kernel), ((), ())).
    precision: see `lax.dot_general`.
  """
  # flax always contracts the last axes of x with the first ones of the kernel.
  # So their number says it all.
  (_, kernel_axes), _ = dimension_numbers
  num_contracted = len(kernel_axes)
  return _product(x, kernel, num_contracted, precision)


# The number of axes and the precision are plain Python values, no arrays.
@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _product(x, kernel, num_contracted, precision):
  x_axes = _last_axes(x, num_contracted)
  kernel_axes = _first_axes(num_contracted)
  return _contract(x, kernel, x_axes, kernel_axes, precision)


def _forward(x, kernel, num_contracted, precision):
  product = _product(x, kernel, num_contracted, precision)
  return product, (x, kernel)


def _backward(num_contracted, precision, residuals, grad):
  x, kernel = residuals
  # The gradient of x: contract the new axes away.
  num_new = kernel.ndim - num_contracted
  grad_axes = _last_axes(grad, num_new)
  kernel_axes = _last_axes(kernel, num_new)
  d_x = _contract(grad, kernel, grad_axes, kernel_axes, precision)

  # The gradient of the kernel: sum over every axis but the contracted and new.
  leading = _first_axes(x.ndim - num_contracted)
  contracted_shape = kernel.shape[:num_contracted]
  new_shape = kernel.shape[num_contracted:]
  # Here x is the smaller factor. The product also has the kernel's own order of
  # axes.
  if math.prod(contracted_shape) <= math.prod(new_shape):
    d_kernel = _contract(x, grad, leading, leading, precision)
    return d_x, d_kernel
  # This product has the new axes first, the kernel has them last.
  d_kernel = _contract(grad, x, leading, leading, precision)
  new_axes = _first_axes(num_new)
  contracted_axes = _last_axes(kernel, num_contracted)
  d_kernel = d_kernel.transpose(*contracted_axes, *new_axes)
  return d_x, d_kernel


_product.defvjp(_forward, _backward)


def _contract(x, y, x_axes, y_axes, precision):
  """The product of x and y, summed over their given axes."""
  dimension_numbers = ((x_axes, y_axes), NO_BATCH_AXES)
  return lax.dot_general(x, y, dimension_numbers, precision)


def _first_axes(count):
  return tuple(range(count))


def _last_axes(x, count):
  first = x.ndim - count
  return tuple(range(first, x.ndim))
