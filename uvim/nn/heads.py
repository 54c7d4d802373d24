"""Logits of some pixels of every patch, for the loss by chunks of pixels.

B batch · N patches · D width · K classes · p pixels of a patch · T = B*N tokens
X = K*p

The heads themselves are flax's (`vit.ViT`); this is the same linear map with a
gradient that costs little beside its three products of matrices.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from uvim.typing import Array, Float


def logits(params: dict[str, Array],
           x_BND: Float[Array, "B N D"]) -> Float[Array, "B N K p"]:
  """x · kernel + bias in the dtype of x.

  Args:
    params: float32 `kernel` [D, K, p] and `bias` [K, p].
    x_BND: tokens.
  """
  kernel_DKp, bias_Kp = params["kernel"], params["bias"]
  y_TX = _linear(x_BND.reshape(-1, x_BND.shape[-1]),
                 kernel_DKp.reshape(len(kernel_DKp), -1), bias_Kp.reshape(-1))
  return y_TX.reshape(*x_BND.shape[:2], *bias_Kp.shape)


@jax.custom_vjp
def _linear(x_TD, kernel_DX, bias_X):
  return x_TD @ kernel_DX.astype(x_TD.dtype) + bias_X[None].astype(x_TD.dtype)


def _forward(x_TD, kernel_DX, bias_X):
  return _linear(x_TD, kernel_DX, bias_X), (x_TD, kernel_DX)


def _backward(residuals, grad_TX):
  x_TD, kernel_DX = residuals
  # XLA would compute what makes it, the softmax, anew for each of its readers.
  grad_TX = lax.optimization_barrier(grad_TX)
  # Not as autodiff has it, with the gradient transposed: it is the largest.
  dot = functools.partial(jnp.dot, preferred_element_type=jnp.float32)
  ones_T = jnp.ones(len(x_TD), x_TD.dtype)
  return (grad_TX @ kernel_DX.T.astype(x_TD.dtype), dot(x_TD.T, grad_TX),
          dot(ones_T, grad_TX))


_linear.defvjp(_forward, _backward)
