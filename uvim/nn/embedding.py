"""Turns image patches and label patches into tokens.

B batch · H W image pixels · C channels · N patches · P pixels in a patch
K classes · D model width · T = B*N tokens · X = pixels · channels of a patch
p pixels of a patch in a chunk · n chunks (n = P / p) · E = p*K entries of the
one-hot vectors of a chunk

Source: the image embedding is that of ViT. The label embedding is that of the
released models. There a kernel multiplies one-hot vectors. Here a CPU makes no
one-hot vector, and a GPU those of a few pixels at a time.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from uvim.nn import losses
from uvim.typing import Array, Float, Int, PatchIds, Tokens

AnyImage = Float[Array, "B H W C"]
# Classes, or real numbers in C channels.
PatchReals = Float[Array, "B N C P"]
Label = PatchIds | PatchReals
LabelKernel = Float[Array, "K P D"]
TokenIds = Int[Array, "T P"]
TokenVectors = Float[Array, "T D"]

# The most entries of one-hot vectors that exist at a time on one device. Half
# a gigabyte of them in half precision.
MAX_ONE_HOT = 2**28

# Products of half-precision arrays, with sums and results in float32.
_float32_dot = functools.partial(jnp.dot, preferred_element_type=jnp.float32)


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
  """Linear map of label patches, which are integers.

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
      x_TD = embed_ids(kernel_KPD, ids_TP, self.dtype)
      x_BND = x_TD.reshape(batch, num_patches, self.width)
    else:
      x_BND = jnp.einsum("bncp,cpd->bnd", x, kernel_KPD)
    x_BND = x_BND + bias_D[None, None]
    return x_BND.astype(self.dtype)


def embed_ids(
    kernel_KPD: LabelKernel, ids_TP: TokenIds, dtype: str = "float32"
) -> TokenVectors:
  """Sum over the pixels p of `kernel_KPD[ids_TP[:, p], p]`, in float32.

  Args:
    kernel_KPD: one row per class and pixel position.
    ids_TP: ids outside 0..K-1 contribute nothing.
    dtype: of the factors, if a GPU or TPU multiplies matrices.
  """
  # A CPU adds rows 20 times as fast as it multiplies one-hot vectors (1024
  # tokens x 256 pixels x 134 classes; at a tenth of that 5 times). A GPU has
  # units for products. There the rows of one pixel after the other would take
  # as long as the model, and their gradient would add in no fixed order.
  if jax.default_backend() == "cpu":
    return embed_by_rows(kernel_KPD, ids_TP)
  num_classes, num_pixels, _ = kernel_KPD.shape
  chunk_size = one_hot_chunk_size(len(ids_TP), num_classes, num_pixels)
  return embed_by_products(kernel_KPD, ids_TP, dtype, chunk_size)


# ── Row by row ──────────────────────────────────────────────────────────────


@jax.custom_vjp
def embed_by_rows(kernel_KPD: LabelKernel, ids_TP: TokenIds) -> TokenVectors:
  """As `embed_ids`, one pixel position at a time.

  The largest temporary is [T, D].
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


def _rows_forward(kernel_KPD, ids_TP):
  x_TD = embed_by_rows(kernel_KPD, ids_TP)
  # The gradient needs the kernel's shape and dtype, not its values. A shape is
  # no valid residual, but an empty array that carries it is.
  empty_shape = (0, *kernel_KPD.shape)
  like_kernel = jnp.empty(empty_shape, kernel_KPD.dtype)
  return x_TD, (ids_TP, like_kernel)


def _rows_backward(residuals, grad_TD):
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


embed_by_rows.defvjp(_rows_forward, _rows_backward)


# ── By products ─────────────────────────────────────────────────────────────


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def embed_by_products(
    kernel_KPD: LabelKernel, ids_TP: TokenIds, dtype: str, chunk_size: int
) -> TokenVectors:
  """As `embed_ids`, by products of one-hot vectors with the kernel.

  Args:
    kernel_KPD: one row per class and pixel position.
    ids_TP: ids outside 0..K-1 contribute nothing.
    dtype: of the factors; sums are float32.
    chunk_size: p, how many pixels have one-hot vectors at a time; divides P.
  """
  num_classes, _, width = kernel_KPD.shape
  kernel_PKD = jnp.moveaxis(kernel_KPD, 1, 0).astype(dtype)
  kernel_nED = kernel_PKD.reshape(-1, chunk_size * num_classes, width)
  ids_nTp = _chunks_of_ids(ids_TP, chunk_size)

  def add_chunk(sum_TD, kernel_and_ids):
    kernel_ED, ids_Tp = kernel_and_ids
    one_hot_TE = _one_hot(ids_Tp, num_classes, dtype)
    return sum_TD + _float32_dot(one_hot_TE, kernel_ED), None

  zeros_TD = jnp.zeros((len(ids_TP), width), jnp.float32)
  x_TD, _ = jax.lax.scan(add_chunk, zeros_TD, (kernel_nED, ids_nTp))
  return x_TD


def _products_forward(kernel_KPD, ids_TP, dtype, chunk_size):
  x_TD = embed_by_products(kernel_KPD, ids_TP, dtype, chunk_size)
  # As in `_rows_forward`: the gradient needs no more of the kernel.
  empty_shape = (0, *kernel_KPD.shape)
  like_kernel = jnp.empty(empty_shape, kernel_KPD.dtype)
  return x_TD, (ids_TP, like_kernel)


def _products_backward(dtype, chunk_size, residuals, grad_TD):
  ids_TP, like_kernel = residuals
  _, num_classes, num_pixels, width = like_kernel.shape
  grad_TD = grad_TD.astype(dtype)

  def chunk_gradient(carry, ids_Tp):
    # A chunk has its own part of the kernel: nothing is summed over chunks.
    one_hot_TE = _one_hot(ids_Tp, num_classes, dtype)
    return carry, _float32_dot(one_hot_TE.T, grad_TD)

  ids_nTp = _chunks_of_ids(ids_TP, chunk_size)
  _, d_kernel_nED = jax.lax.scan(chunk_gradient, None, ids_nTp)
  d_kernel_PKD = d_kernel_nED.reshape(num_pixels, num_classes, width)
  d_kernel_KPD = jnp.moveaxis(d_kernel_PKD, 0, 1)
  return d_kernel_KPD.astype(like_kernel.dtype), None


embed_by_products.defvjp(_products_forward, _products_backward)


def one_hot_chunk_size(
    num_tokens: int, num_classes: int, num_pixels: int
) -> int:
  """How many pixels have one-hot vectors at a time, a divisor of P.

  Args:
    num_tokens: T, over all devices that share the batch.
    num_classes: K.
    num_pixels: P.
  """
  # One-hot vectors are as many numbers as logits.
  shapes = {"labels": (num_classes, num_pixels)}
  return losses.chunk_size(num_tokens, shapes, MAX_ONE_HOT)


def _chunks_of_ids(ids_TP, chunk_size):
  """[T, P] as [n, T, p]."""
  ids_Tnp = ids_TP.reshape(len(ids_TP), -1, chunk_size)
  return jnp.moveaxis(ids_Tnp, 1, 0)


def _one_hot(ids_Tp, num_classes, dtype):
  """[T, E], row-major over pixels and classes; zeros for ids out of range."""
  one_hot_TpK = jax.nn.one_hot(ids_Tp, num_classes, dtype=dtype)
  return one_hot_TpK.reshape(len(ids_Tp), -1)
