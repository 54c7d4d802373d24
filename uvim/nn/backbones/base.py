"""What a backbone is: a network from an image to tokens on a grid.

B batch · H W image pixels · N tokens of the grid · D width
"""

import dataclasses

import flax.linen as nn

from uvim.nn import transformer
from uvim.nn.grid import Grid, grid_of
from uvim.typing import Image, Tokens


@dataclasses.dataclass(frozen=True)
class Style:
  """What pretrained ViTs differ in and what no parameter can absorb.

  The defaults are those of UViM's own encoder.

  Attributes:
    gelu: form of the activation, a key of `transformer.GELUS`.
    norm_epsilon: of all layer norms.
    pre_norm: whether a layer norm stands before the first block.
    num_prefix: R, how many tokens stand before those of the image: the class
      token and the registers. They take part in the attention and are dropped
      after it.
  """
  gelu: str = "tanh"
  norm_epsilon: float = transformer.LAYER_NORM_EPSILON
  pre_norm: bool = False
  num_prefix: int = 0


class Backbone(nn.Module):
  """A network from images to tokens. All backbones have these fields.

  Attributes:
    input_size: height and width of the image in pixels.
    patch_size: height and width of what one token stands for; divides
      `input_size`.
    depth: number of blocks.
    width: D.
    mlp_dim: hidden size of the MLPs.
    num_heads: attention heads; divides `width`.
    posemb_type: a key of `positions.POSEMBS`.
    style: what the family of the pretrained weights needs.
    dtype, attention, scan_layers, remat: as in `transformer.Encoder`.
  """
  input_size: tuple[int, int]
  patch_size: tuple[int, int]
  depth: int
  width: int
  mlp_dim: int
  num_heads: int
  posemb_type: str = "learn"
  style: Style = Style()
  dtype: str = "float32"
  attention: str = "chunked"
  scan_layers: bool = False
  remat: str = "none"

  @property
  def grid_size(self) -> Grid:
    """Rows and columns of tokens."""
    return grid_of(self.input_size, self.patch_size)

  def check(self, where: str) -> None:
    """Checks what only this network wants of the fields, before it is built.

    Args:
      where: the field that chose it, with its value; starts a message.

    Raises:
      ConfigError: says which sizes or which style it cannot have.
    """

  def create(self) -> None:
    """Runs `setup` now, which otherwise waits for the first call of a method.

    For a module that makes more parameters in its own `setup`: their order
    decides which random numbers each gets.
    """

  def __call__(self, image: Image) -> Tokens:
    """The tokens [B, N, D] of images [B, H, W, 3] in [-1, 1], row by row."""
    raise NotImplementedError
