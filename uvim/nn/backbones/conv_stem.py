"""A ViT whose patches come from a small stack of convolutions.

B batch · H W image pixels · N patches · D width

A single linear map of large patches makes the first steps of a ViT fragile and
its optimizer hard to choose. A few small convolutions in its place cure both.

Source: Xiao et al., "Early Convolutions Help Transformers See Better". Two
things differ from the paper. It has a batch norm after each convolution, this
code a layer norm over the channels: an image must not depend on the others of
its batch. It takes one block away to pay for the stem; here a config says how
many blocks there are.
"""

import flax.linen as nn

from uvim.nn.backbones import vit
from uvim.registry import ConfigError
from uvim.typing import Image, Tokens

# A layer norm over one or two channels leaves next to nothing of them.
_LEAST_CHANNELS = 4


class ConvStem(vit.ViT):
  """A ViT; k convolutions of stride 2 make a token of a patch of side 2^k.

  The last one has `width` channels, and each one has twice as many as the one
  before it.
  """

  def check(self, where: str) -> None:
    rows, columns = self.patch_size
    is_power_of_two = rows & (rows - 1) == 0
    if rows != columns or rows < 2 or not is_power_of_two:
      raise ConfigError(
          f"{where} and patches of {rows} × {columns} pixels; it needs squares "
          "of 2, 4, 8, 16, … pixels a side.")
    # The first convolution has width / (rows / 2) channels.
    multiple = _LEAST_CHANNELS * rows // 2
    if self.width % multiple:
      raise ConfigError(
          f"{where} and width {self.width}; for patches of {rows} × {columns} "
          f"pixels it needs a multiple of {multiple}.")

  def _make_embedding(self) -> nn.Module:
    side, _ = self.patch_size
    num_convolutions = side.bit_length() - 1
    return _Stem(
        num_convolutions,
        self.width,
        self.style.norm_epsilon,
        self.dtype,
        name="EmbedPatches")


class _Stem(nn.Module):
  """Image → tokens; each convolution halves height and width.

  Attributes:
    num_convolutions: k.
    width: D.
    norm_epsilon: of the layer norms.
    dtype: of the convolutions.
  """
  num_convolutions: int
  width: int
  norm_epsilon: float
  dtype: str

  @nn.compact
  def __call__(self, image: Image) -> Tokens:
    x = image
    for i in range(self.num_convolutions):
      num_halvings = self.num_convolutions - 1 - i
      convolve = nn.Conv(
          self.width >> num_halvings,
          kernel_size=(3, 3),
          strides=(2, 2),
          # One pixel on each side, as in the paper. "SAME" would put it all at
          # the end.
          padding=((1, 1), (1, 1)),
          # The norm has a bias.
          use_bias=False,
          dtype=self.dtype,
          name=f"conv_{i}")
      norm = nn.LayerNorm(
          epsilon=self.norm_epsilon, dtype=self.dtype, name=f"norm_{i}")
      x = nn.relu(norm(convolve(x)))
    batch_size, rows, columns, _ = x.shape
    x_BND = x.reshape(batch_size, rows * columns, self.width)
    # A 1 × 1 convolution is a dense layer of each token.
    project = nn.Dense(self.width, dtype=self.dtype, name="project")
    return project(x_BND)
