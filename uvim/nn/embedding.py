"""From image patches and label patches to tokens.

B batch · H W image pixels · C channels · N patches · P pixels in a patch
K classes · D model width · T = B*N tokens

Source: ViT patch embedding; the label's as in the released models, whose
kernel multiplies one-hot vectors. Here nothing is ever one-hot.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from uvim.typing import Array, Float, Int

Label = Int[Array, "B N P"] | Float[Array, "B N C P"]


class PatchEmbedding(nn.Module):
  """Linear map of image patches; the kernel has a convolution's shape.

  Attributes:
    patch_size: height and width of a patch.
    width: D.
    dtype: of the matmul.
  """
  patch_size: tuple[int, int]
  width: int
  dtype: str = "float32"

  @nn.compact
  def __call__(self, image: Float[Array, "B H W C"]) -> Float[Array, "B N D"]:
    batch, height, width, channels = image.shape
    ph, pw = self.patch_size
    kernel = self.param("kernel", nn.initializers.lecun_normal(),
                        (ph, pw, channels, self.width))
    bias_D = self.param("bias", nn.initializers.zeros, (self.width,))
    # A matmul: the CPU's strided convolution and its gradient are slower.
    x = image.reshape(batch, height // ph, ph, width // pw, pw, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, ph * pw * channels)
    x, kernel, bias_D = nn.dtypes.promote_dtype(
        x, kernel.reshape(-1, self.width), bias_D, dtype=self.dtype)
    return x @ kernel + bias_D[None, None]


class LabelEmbedding(nn.Module):
  """Linear map of label patches, from integers without one-hot vectors.

  Attributes:
    shape: (K, P).
    width: D.
    dtype: of the result.
  """
  shape: tuple[int, int]
  width: int
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: Label) -> Float[Array, "B N D"]:
    # fan-in K*P as if one-hot vectors were multiplied: the published start.
    kernel_KPD = self.param(
        "kernel", nn.initializers.lecun_normal(in_axis=(0, 1)),
        (*self.shape, self.width))
    bias_D = self.param("bias", nn.initializers.zeros, (self.width,))
    if jnp.issubdtype(x.dtype, jnp.integer):
      batch, tokens, pixels = x.shape
      x_TD = embed_ids(kernel_KPD, x.reshape(batch * tokens, pixels))
      x_BND = x_TD.reshape(batch, tokens, self.width)
    else:
      x_BND = jnp.einsum("bncp,cpd->bnd", x, kernel_KPD)
    return (x_BND + bias_D[None, None]).astype(self.dtype)


@jax.custom_vjp
def embed_ids(kernel_KPD: Float[Array, "K P D"],
              ids_TP: Int[Array, "T P"]) -> Float[Array, "T D"]:
  """Sum over the pixels p of `kernel_KPD[ids_TP[:, p], p]`.

  Equals the product of one-hot labels with the kernel. One pixel position at a
  time, so that the largest temporary is [T, D]: at 1024 tokens x 256 pixels x
  134 classes on a CPU 20 times faster than the product, and 5 times faster
  still at a tenth of the size, so there is no second way for small labels.

  Args:
    kernel_KPD: one row per class and pixel position.
    ids_TP: ids outside 0..K-1 contribute nothing.
  """
  num_classes, pixels, width = kernel_KPD.shape
  kernel_KPD = jnp.asarray(kernel_KPD)  # From a file it may be numpy's.

  def add_position(sum_TD, position):
    p, ids_T = position
    rows_TD = kernel_KPD.at[ids_T, p].get(mode="fill", fill_value=0)
    return sum_TD + rows_TD, None

  ids_TP = _without_negative(ids_TP, num_classes)
  zeros_TD = jnp.zeros((len(ids_TP), width), kernel_KPD.dtype)
  return jax.lax.scan(
      add_position, zeros_TD, (jnp.arange(pixels), ids_TP.T))[0]


def _without_negative(ids, num_classes):
  # Out of bounds is ignored, but negative indices would wrap around.
  return jnp.where(ids < 0, num_classes, ids)


def _embed_ids_fwd(kernel_KPD, ids_TP):
  # The kernel itself is not needed backwards; a shape is no valid residual,
  # an empty array that carries it is.
  return embed_ids(kernel_KPD, ids_TP), (
      ids_TP, jnp.empty((0, *kernel_KPD.shape), kernel_KPD.dtype))


def _embed_ids_bwd(residual, grad_TD):
  ids_TP, like = residual
  _, num_classes, _, width = like.shape

  def position_grad(_, ids_T):
    # Not into the full [K, P, D] in place: over a mesh each iteration would
    # then reduce all of it across devices instead of one [K, D].
    zeros_KD = jnp.zeros((num_classes, width), grad_TD.dtype)
    return None, zeros_KD.at[ids_T].add(grad_TD, mode="drop")

  ids_TP = _without_negative(ids_TP, num_classes)
  _, grad_PKD = jax.lax.scan(position_grad, None, ids_TP.T)
  return jnp.moveaxis(grad_PKD, 0, 1).astype(like.dtype), None


embed_ids.defvjp(_embed_ids_fwd, _embed_ids_bwd)
