"""The image encoder: a ResNet, and a transformer on what it sees.

B batch · H W image pixels · N places of the coarsest map · D width

`uvim.encoders.image_encoder` has the alternative: a pretrained ViT.
"""

import functools
from typing import NamedTuple

import flax.linen as nn

from uvim.models.pix2seq_d import dropout, waves
from uvim.models.pix2seq_d.layers import Attention, LayerNorm, Map, Mlp
from uvim.models.pix2seq_d.resnet import ResNet
from uvim.nn import transformer
from uvim.typing import Image, PRNGKey, Tokens


class Encoded(NamedTuple):
  """What the mask decoder sees of an image.

  Attributes:
    tokens: [B, N, D], row by row.
    maps: from fine to coarse; the coarsest is that of the tokens.
  """
  tokens: Tokens
  maps: list[Map]


class _Carry(NamedTuple):
  """What one transformer block hands to the next.

  Attributes:
    tokens: [B, N, D].
    rngs_B: a key for each example; None: nothing is dropped.
  """
  tokens: Tokens
  rngs_B: PRNGKey | None


class ResNetTransformer(nn.Module):
  """Image → tokens of the ResNet's coarsest map, and its finer maps.

  Attributes:
    resnet_width, resnet_blocks, stem, norm: as in `ResNet`.
    width: D, a multiple of 4.
    depth: number of transformer blocks.
    mlp_dim: hidden size of the MLPs.
    num_heads: attention heads; divides `width`.
    dropout: share that training drops of the ResNet's numbers, of the MLPs'
      numbers and of the blocks' branches.
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
  dropout: float = 0.0
  dtype: str = "float32"
  attention: str = "chunked"
  scan_layers: bool = False
  remat: str = "none"

  @nn.compact
  def __call__(
      self,
      image: Image,
      rngs_B: PRNGKey | None = None,
  ) -> Encoded:
    """What is seen of images in [0, 1].

    Args:
      image: float.
      rngs_B: a key for each example, for dropout; None: nothing is dropped.
    """
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
    resnet_rngs_B, block_rngs_B = dropout.split_keys(rngs_B, 2)
    x_BNC = dropout.drop_numbers(x_BNC, self.dropout, resnet_rngs_B)

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
        self.dropout,
        self.dtype,
        self.attention,
        self.scan_layers,
        self.remat,
        name="transformer_encoder")
    # The original's name, with its typing error.
    norm = LayerNorm(self.dtype, name="ouput_ln")
    tokens = norm(run_blocks(x_BND, block_rngs_B))
    coarsest = tokens.reshape(batch_size, rows, columns, self.width)
    return Encoded(tokens, [*finer_maps, coarsest])


class _Blocks(nn.Module):
  depth: int
  mlp_dim: int
  num_heads: int
  dropout: float
  dtype: str
  attention: str
  scan_layers: bool
  remat: str

  @nn.compact
  def __call__(self, x_BND, rngs_B):
    make_block = functools.partial(
        _Block,
        mlp_dim=self.mlp_dim,
        num_heads=self.num_heads,
        dropout=self.dropout,
        dtype=self.dtype,
        attention=self.attention)
    names = numbered_names("transformer_encoder", self.depth)
    carry = transformer.run_blocks(
        self, make_block, names, _Carry(x_BND, rngs_B))
    return carry.tokens


class _Block(nn.Module):
  """x + attention(norm(x)), then x + MLP(norm(x))."""
  mlp_dim: int
  num_heads: int
  dropout: float
  dtype: str
  attention: str

  @nn.compact
  def __call__(self, carry):
    attend = Attention(
        self.num_heads,
        with_norm=True,
        dtype=self.dtype,
        attention=self.attention,
        name="mha")
    run_mlp = Mlp(self.mlp_dim, self.dtype, self.dropout, name="mlp")
    # Each place draws for itself, and the next block again.
    keys = dropout.split_keys(carry.rngs_B, 4)
    of_attention, of_numbers, of_mlp, of_next_block = keys
    x_BND = carry.tokens
    branch_BND = attend(x_BND)
    x_BND = x_BND + dropout.drop_branches(
        branch_BND, self.dropout, of_attention)
    branch_BND = run_mlp(x_BND, of_numbers)
    x_BND = x_BND + dropout.drop_branches(branch_BND, self.dropout, of_mlp)
    return _Carry(x_BND, of_next_block)


def numbered_names(name: str, count: int) -> list[str]:
  """`name`, `name_1`, `name_2`, …: how the original numbers its layers."""
  names = [name]
  for index in range(1, count):
    names.append(f"{name}_{index}")
  return names[:count]
