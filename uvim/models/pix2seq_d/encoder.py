"""The image encoder: a ResNet, and a transformer on what it sees.

B batch · H W image pixels · N places of the coarsest map · D width

`uvim.encoders.image_encoder` has the alternative: a pretrained ViT.
"""

import functools
from typing import NamedTuple

import flax.linen as nn

from uvim.models.pix2seq_d import waves
from uvim.models.pix2seq_d.layers import Attention, LayerNorm, Map, Mlp
from uvim.models.pix2seq_d.resnet import ResNet
from uvim.nn import transformer
from uvim.typing import Image, Tokens


class Encoded(NamedTuple):
  """What the mask decoder sees of an image.

  Attributes:
    tokens: [B, N, D], row by row.
    maps: from fine to coarse; the coarsest is that of the tokens.
  """
  tokens: Tokens
  maps: list[Map]


class ResNetTransformer(nn.Module):
  """Image → tokens of the ResNet's coarsest map, and its finer maps.

  Attributes:
    resnet_width, resnet_blocks, stem, norm: as in `ResNet`.
    width: D, a multiple of 4.
    depth: number of transformer blocks.
    mlp_dim: hidden size of the MLPs.
    num_heads: attention heads; divides `width`.
    dtype, attention, scan_layers, remat: as in `transformer.Encoder`.
  """
  resnet_width: int
  resnet_blocks: tuple[int, ...]
  stem: str
  norm: str
  width: int
  depth: int
  mlp_dim: int
  num_heads: int
  dtype: str = "float32"
  attention: str = "chunked"
  scan_layers: bool = False
  remat: str = "none"

  @nn.compact
  def __call__(self, image: Image) -> Encoded:
    """What is seen of images in [0, 1]."""
    resnet = ResNet(
        self.resnet_width,
        self.resnet_blocks,
        self.stem,
        self.norm,
        self.dtype,
        name="resnet")
    *finer_maps, coarsest = resnet(image)
    batch_size, rows, columns, channels = coarsest.shape
    x_BNC = coarsest.reshape(batch_size, rows * columns, channels)

    project = nn.Dense(
        self.width,
        dtype=self.dtype,
        kernel_init=nn.initializers.xavier_uniform(),
        name="stem_projection")
    x_BND = LayerNorm(self.dtype, name="stem_ln")(project(x_BNC))
    position = waves.of_grid((rows, columns), self.width)
    x_BND = x_BND + position.astype(self.dtype)
    run_blocks = _Blocks(
        self.depth,
        self.mlp_dim,
        self.num_heads,
        self.dtype,
        self.attention,
        self.scan_layers,
        self.remat,
        name="transformer_encoder")
    # The original's name, with its typing error.
    norm = LayerNorm(self.dtype, name="ouput_ln")
    tokens = norm(run_blocks(x_BND))
    coarsest = tokens.reshape(batch_size, rows, columns, self.width)
    return Encoded(tokens, [*finer_maps, coarsest])


class _Blocks(nn.Module):
  depth: int
  mlp_dim: int
  num_heads: int
  dtype: str
  attention: str
  scan_layers: bool
  remat: str

  @nn.compact
  def __call__(self, x_BND):
    make_block = functools.partial(
        _Block,
        mlp_dim=self.mlp_dim,
        num_heads=self.num_heads,
        dtype=self.dtype,
        attention=self.attention)
    names = numbered_names("transformer_encoder", self.depth)
    return transformer.run_blocks(self, make_block, names, x_BND)


class _Block(nn.Module):
  """x + attention(norm(x)), then x + MLP(norm(x))."""
  mlp_dim: int
  num_heads: int
  dtype: str
  attention: str

  @nn.compact
  def __call__(self, x_BND):
    attend = Attention(
        self.num_heads,
        with_norm=True,
        dtype=self.dtype,
        attention=self.attention,
        name="mha")
    x_BND = x_BND + attend(x_BND)
    return x_BND + Mlp(self.mlp_dim, self.dtype, name="mlp")(x_BND)


def numbered_names(name: str, count: int) -> list[str]:
  """`name`, `name_1`, `name_2`, …: how the original numbers its layers."""
  names = [name]
  for index in range(1, count):
    names.append(f"{name}_{index}")
  return names[:count]
