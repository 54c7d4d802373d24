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

NO_BATCH_AXES = ((), ())


def dot_general(
    x: Float[Array, "... I"],
    kernel: Float[Array, "I J"],
    dimension_numbers,
    precision=None,
) -> Float[Array, "... J"]:
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
  return _product(x, kernel, len(kernel_axes), precision)


# The number of axes and the precision are plain Python values, no arrays.
@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _product(x, kernel, num_contracted, precision):
  axes = (_last_axes(x, num_contracted), _first_axes(num_contracted))
  return lax.dot_general(x, kernel, (axes, NO_BATCH_AXES), precision)


def _forward(x, kernel, num_contracted, precision):
  return _product(x, kernel, num_contracted, precision), (x, kernel)


def _backward(num_contracted, precision, residuals, grad):
  x, kernel = residuals
  # The gradient of x: contract the new axes away.
  num_new = kernel.ndim - num_contracted
  axes = (_last_axes(grad, num_new), _last_axes(kernel, num_new))
  d_x = lax.dot_general(grad, kernel, (axes, NO_BATCH_AXES), precision)

  # The gradient of the kernel: sum over every axis but the contracted and new.
  leading = _first_axes(x.ndim - num_contracted)
  over_leading = ((leading, leading), NO_BATCH_AXES)
  contracted_size = math.prod(kernel.shape[:num_contracted])
  new_size = math.prod(kernel.shape[num_contracted:])
  # Here x is the smaller factor. The product also has the kernel's own order of
  # axes.
  if contracted_size <= new_size:
    d_kernel = lax.dot_general(x, grad, over_leading, precision)
    return d_x, d_kernel
  # This product has the new axes first, the kernel has them last.
  d_kernel = lax.dot_general(grad, x, over_leading, precision)
  new_axes = _first_axes(num_new)
  contracted_axes = _last_axes(kernel, num_contracted)
  return d_x, d_kernel.transpose(*contracted_axes, *new_axes)


_product.defvjp(_forward, _backward)


def _first_axes(count):
  return tuple(range(count))


def _last_axes(x, count):
  return tuple(range(x.ndim - count, x.ndim))
