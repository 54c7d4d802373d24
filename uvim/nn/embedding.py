"""Turns image patches and label patches into tokens.

B batch · H W image pixels · C channels · N patches · P pixels in a patch
K classes · D model width · T = B*N tokens · X = pixels · channels of a patch

Source: the image embedding is that of ViT. The label embedding is that of the
released models. There a kernel multiplies one-hot vectors; here no one-hot
vector is ever made.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from uvim.typing import Array, Float, Int, PatchIds, Tokens

AnyImage = Float[Array, "B H W C"]
# Classes, or real numbers in C channels.
PatchReals = Float[Array, "B N C P"]
Label = PatchIds | PatchReals
LabelKernel = Float[Array, "K P D"]


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
  def __call__(self, image: AnyImage) -> Tokens:
    channels = image.shape[-1]
    kernel_shape = (*self.patch_size, channels, self.width)
    kernel_init = nn.initializers.lecun_normal()
    kernel = self.param("kernel", kernel_init, kernel_shape)
    bias_shape = (self.width,)
    bias_D = self.param("bias", nn.initializers.zeros, bias_shape)
    # A matmul, because the CPU's strided convolution and its gradient are
    # slower.
    x_BNX = image_patches(image, self.patch_size)
    kernel_XD = kernel.reshape(-1, self.width)
    x_BNX, kernel_XD, bias_D = nn.dtypes.promote_dtype(
        x_BNX, kernel_XD, bias_D, dtype=self.dtype
    )
    return x_BNX @ kernel_XD + bias_D[None, None]


def image_patches(
    image: AnyImage, patch_size: tuple[int, int]
) -> Float[Array, "B N X"]:
  """An image as vectors: row-major patches of row-major pixels."""
  batch, height, width, channels = image.shape
  patch_height, patch_width = patch_size
  num_rows = height // patch_height
  num_columns = width // patch_width
  x = image.reshape(
      batch, num_rows, patch_height, num_columns, patch_width, channels
  )
  # Now [B, rows, patch height, columns, patch width, C]: bring the two axes of
  # a patch together.
  x = x.transpose(0, 1, 3, 2, 4, 5)
  num_values = patch_height * patch_width * channels
  return x.reshape(batch, -1, num_values)


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
  def __call__(self, x: Label) -> Tokens:
    # The fan-in is K*P, as if one-hot vectors were multiplied: the released
    # models start so.
    kernel_init = nn.initializers.lecun_normal(in_axis=(0, 1))
    kernel_shape = (*self.shape, self.width)
    kernel_KPD = self.param("kernel", kernel_init, kernel_shape)
    bias_shape = (self.width,)
    bias_D = self.param("bias", nn.initializers.zeros, bias_shape)
    if jnp.issubdtype(x.dtype, jnp.integer):
      batch, num_patches, num_pixels = x.shape
      num_tokens = batch * num_patches
      ids_TP = x.reshape(num_tokens, num_pixels)
      x_TD = embed_ids(kernel_KPD, ids_TP)
      x_BND = x_TD.reshape(batch, num_patches, self.width)
    else:
      x_BND = jnp.einsum("bncp,cpd->bnd", x, kernel_KPD)
    x_BND = x_BND + bias_D[None, None]
    return x_BND.astype(self.dtype)


@jax.custom_vjp
def embed_ids(
    kernel_KPD: LabelKernel, ids_TP: Int[Array, "T P"]
) -> Float[Array, "T D"]:
  """Sum over the pixels p of `kernel_KPD[ids_TP[:, p], p]`.

  The result equals the product of one-hot labels with the kernel. The function
  takes one pixel position at a time, so the largest temporary is [T, D]. On a
  CPU this is 20 times faster than the product at 1024 tokens x 256 pixels x
  134 classes. At a tenth of the size it is still 5 times faster, so small
  labels take the same way.

  Args:
    kernel_KPD: one row per class and pixel position.
    ids_TP: ids outside 0..K-1 contribute nothing.
  """
  num_classes, num_pixels, width = kernel_KPD.shape
  # A kernel from a file may be a numpy array, which has no `.at`.
  kernel_KPD = jnp.asarray(kernel_KPD)

  def add_position(sum_TD, position_and_ids):
    position, ids_T = position_and_ids
    # An id out of range reads a row of zeros.
    chosen_TD = kernel_KPD.at[ids_T, position]
    rows_TD = chosen_TD.get(mode="fill", fill_value=0)
    return sum_TD + rows_TD, None

  ids_TP = _without_negative(ids_TP, num_classes)
  num_tokens = len(ids_TP)
  zeros_TD = jnp.zeros((num_tokens, width), kernel_KPD.dtype)
  positions_P = jnp.arange(num_pixels)
  positions_and_ids = (positions_P, ids_TP.T)
  x_TD, _ = jax.lax.scan(add_position, zeros_TD, positions_and_ids)
  return x_TD


def _without_negative(ids, num_classes):
  # JAX ignores ids that are too large, but negative ones would wrap around.
  return jnp.where(ids < 0, num_classes, ids)


def _embed_ids_forward(kernel_KPD, ids_TP):
  x_TD = embed_ids(kernel_KPD, ids_TP)
  # The gradient needs the kernel's shape and dtype, not its values. A shape is
  # no valid residual, but an empty array that carries it is.
  empty_shape = (0, *kernel_KPD.shape)
  like_kernel = jnp.empty(empty_shape, kernel_KPD.dtype)
  return x_TD, (ids_TP, like_kernel)


def _embed_ids_backward(residuals, grad_TD):
  ids_TP, like_kernel = residuals
  _, num_classes, _, width = like_kernel.shape

  def position_gradient(carry, ids_T):
    # Do not add to the full [K, P, D] in place: over a mesh each iteration
    # would then reduce all of it across devices instead of one [K, D].
    zeros_KD = jnp.zeros((num_classes, width), grad_TD.dtype)
    # Rows of ids out of range go nowhere.
    chosen_TD = zeros_KD.at[ids_T]
    d_kernel_KD = chosen_TD.add(grad_TD, mode="drop")
    return carry, d_kernel_KD

  ids_TP = _without_negative(ids_TP, num_classes)
  ids_PT = ids_TP.T
  _, d_kernel_PKD = jax.lax.scan(position_gradient, None, ids_PT)
  d_kernel_KPD = jnp.moveaxis(d_kernel_PKD, 0, 1)
  d_kernel_KPD = d_kernel_KPD.astype(like_kernel.dtype)
  return d_kernel_KPD, None


embed_ids.defvjp(_embed_ids_forward, _embed_ids_backward)
