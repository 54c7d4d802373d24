"""Logits for some pixels of every patch; the chunked loss needs them.

B batch · N patches · D width · K classes · p pixels of a patch · T = B*N tokens
X = K*p

The heads themselves are flax modules (`vit.ViT`). This file has the same linear
map, with a gradient that costs little more than its three matrix products.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from uvim.typing import Array, Float, Tokens

HeadParams = dict[str, Array]
Logits = Float[Array, "B N K p"]

# Products of half-precision arrays, with sums and results in float32.
_float32_dot = functools.partial(jnp.dot, preferred_element_type=jnp.float32)


def logits(params: HeadParams, x_BND: Tokens) -> Logits:
  """x · kernel + bias in the dtype of x.

  Args:
    params: float32 `kernel` [D, K, p] and `bias` [K, p].
    x_BND: tokens.
  """
  kernel_DKp = params["kernel"]
  bias_Kp = params["bias"]
  batch, num_patches, width = x_BND.shape
  x_TD = x_BND.reshape(-1, width)
  kernel_DX = kernel_DKp.reshape(width, -1)
  bias_X = bias_Kp.reshape(-1)
  logits_TX = _linear(x_TD, kernel_DX, bias_X)
  return logits_TX.reshape(batch, num_patches, *bias_Kp.shape)


@jax.custom_vjp
def _linear(x_TD, kernel_DX, bias_X):
  kernel_DX = kernel_DX.astype(x_TD.dtype)
  logits_TX = x_TD @ kernel_DX
  bias_1X = bias_X[None].astype(x_TD.dtype)
  return logits_TX + bias_1X


def _forward(x_TD, kernel_DX, bias_X):
  logits_TX = _linear(x_TD, kernel_DX, bias_X)
  return logits_TX, (x_TD, kernel_DX)


def _backward(residuals, grad_TX):
  x_TD, kernel_DX = residuals
  # Without the barrier XLA would compute the softmax behind this gradient
  # again for each of the three products.
  grad_TX = lax.optimization_barrier(grad_TX)
  # A product with ones sums over the tokens, and it sums in float32.
  num_tokens = len(x_TD)
  ones_T = jnp.ones(num_tokens, x_TD.dtype)
  kernel_XD = kernel_DX.T.astype(x_TD.dtype)
  d_x_TD = grad_TX @ kernel_XD
  # Autodiff would transpose the gradient, the largest array here.
  d_kernel_DX = _float32_dot(x_TD.T, grad_TX)
  d_bias_X = _float32_dot(ones_T, grad_TX)
  return d_x_TD, d_kernel_DX, d_bias_X


_linear.defvjp(_forward, _backward)
