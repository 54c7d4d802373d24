"""Pix2Seq-D's network: image encoder, pyramid and mask decoder.

B batch · H W image pixels · h w mask pixels · n analog bits of a pixel
k numbers of the network for a pixel · r c rows and columns of the decoder's
finest map · C channels · N tokens of the image · D width

The names of parameters are those of the original. Sizes by default are those of
the published model, which has 94,492,480 parameters.

Source: Chen et al., "A Generalist Framework for Panoptic Segmentation of Images
and Videos" (Pix2Seq-D, arXiv:2210.06366), in the form of its released code.
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from uvim import fields
from uvim.diffusion import bits, outputs, schedules
from uvim.diffusion.outputs import Output
from uvim.encoders.image_encoder import ImageEncoder, Seen, as_context
from uvim.fields import field
from uvim.models.pix2seq_d import resnet
from uvim.models.pix2seq_d.encoder import Encoded, ResNetTransformer
from uvim.models.pix2seq_d.layers import Map
from uvim.models.pix2seq_d.pyramid import FeaturePyramidMerge
from uvim.models.pix2seq_d.transunet import (
  TransUNet,
  depth_to_space,
  space_to_depth,
)
from uvim.nn import transformer
from uvim.nn.grid import Grid, grid_of
from uvim.typing import Array, Float, PerExample, PRNGKey, Tokens

Bits = Float[Array, "B h w n"]
Numbers = Float[Array, "B h w k"]

# The two maps of a mask: how many integers each has is `num_classes` and
# `num_ids`.
MAPS = ("semantics", "instances")
_PUBLISHED = "paper, as released"
_SIZE = fields.integer(1)
# A mistyped depth would build blocks for ever.
_DEPTH = fields.integer(1, 1024)


def _are_counts(value):
  if not isinstance(value, (tuple, list)) or not value:
    return False
  return len(value) <= 8 and all(map(_SIZE.fits, value))


_COUNTS = fields.Check("1 to 8 integers ≥ 1, as in (1, 1, 2, 2)", _are_counts)


class SeenImage(NamedTuple):
  """What the mask decoder sees of an image, the same at every step.

  Attributes:
    tokens: [B, N, D], for attention.
    features: [B, r, c, C], beside the noisy bits.
  """
  tokens: Tokens
  features: Map


class Network(nn.Module):
  """Image and noisy mask → what the mask is; fields of `config.model`."""
  input_size: tuple[int, int] = field(
      doc="Height and width of the image.", source="paper (1024, 1024)",
      check=fields.two_integers())
  mask_size: tuple[int, int] = field(
      doc="Height and width of the mask that is denoised.",
      source="paper (512, 512)", check=fields.two_integers())
  num_classes: int = field(
      doc="Classes, void included.", source="paper 134 (COCO)",
      check=fields.integer(2))
  num_ids: int = field(
      doc="Instance ids, void included.", source="paper 101",
      check=fields.integer(2))
  num_bits: int = field(
      16, doc="Bits of a pixel: half of them for its class, half for its "
      "instance id.", source="paper 16", check=fields.integer(2, 24))
  input_scale: float = field(
      0.1, doc="b: a bit is -b or b. Noise has the deviation 1, so a smaller b "
      "is lost earlier in it. Small masks want a larger b.",
      source="paper 0.1", check=fields.POSITIVE)
  coding: str = field(
      "binary", doc="Which bits stand for an integer: `binary`, `gray` or "
      "`random`.", source=_PUBLISHED, check=bits.CODING)
  output: str = field(
      "softmax", doc="What the network's numbers are: scores of bit patterns "
      "(`softmax`) or of bits (`sigmoid`), the bits (`x`), the noise (`eps`) "
      "or the velocity (`v`).", source="paper `softmax`", check=outputs.OUTPUT)
  schedule: str = field(
      "cosine", doc="How signal turns into noise over time.", source="paper",
      check=schedules.SCHEDULE)
  time_scaling: float = field(
      1.0, doc="The decoder is told γ, the share of the signal, times this.",
      source=_PUBLISHED, check=fields.POSITIVE)
  weight_power: float = field(
      0.2, doc="p: a pixel of an instance of c pixels counts 1 / (1 + c)^p.",
      source="paper 0.2", check=fields.number(0))
  random_ids: bool = field(
      True, doc="Training gives the instances of an image random ids.",
      source=_PUBLISHED, check=fields.BOOL)
  ema_decay: float = field(
      0.999, doc="Predictions use a running average of the parameters: this "
      "share of it stays at a step, at first less.",
      source="paper 0.999 (images), 0.99 (video)",
      check=fields.number(0, below=1))
  frames_before: int = field(
      0, doc="Of how many earlier frames of a video the decoder sees the mask.",
      source="paper 0 (images), 2 (video)", check=fields.integer(0, 8))
  frame_dropout: float = field(
      0.2, doc="Training shows void in place of the mask of an earlier frame "
      "with this probability.", source="0.2 (video), as released",
      check=fields.number(0, below=1))
  self_condition: float = field(
      0.0, doc="The decoder also sees what the step before took for the mask "
      "(self-conditioning). In training it sees a first try of its own with "
      "this probability; 0 leaves the input out.",
      source="paper 0; Bit Diffusion (arXiv:2208.04202) 0.5",
      check=fields.number(0, 1))
  image_encoder: ImageEncoder | None = field(
      None, doc="A pretrained network that sees the image in place of ResNet "
      "and transformer, see [image encoder](#image-encoder).",
      check=fields.optional(fields.MAPPING))
  stem: str = field(
      "large", doc="`large`: the ResNet has a stride of 4 before its first "
      "block; `small`: of 2, for small images.", source=_PUBLISHED,
      check=fields.one_of(resnet.STEMS))
  norm: str = field(
      "group", doc="Of the ResNet: `group` for training, or `frozen_batch` for "
      "a pretrained one, whose statistics then stay as they are.",
      check=fields.one_of(resnet.NORMS))
  resnet_width: int = field(
      64, doc="Channels behind the ResNet's stem.", source="paper 64",
      check=_SIZE)
  resnet_blocks: tuple[int, ...] = field(
      (3, 4, 6), doc="Blocks of each group of the ResNet. Each group but the "
      "first halves the resolution.", source="paper (3, 4, 6)", check=_COUNTS)
  encoder_dim: int = field(
      512, doc="Width of the transformer on the ResNet; a multiple of 4.",
      source="paper 512", check=_SIZE)
  encoder_depth: int = field(
      12, doc="Its blocks.", source="paper 12", check=_DEPTH)
  encoder_mlp_dim: int = field(
      2048, doc="Hidden size of its MLPs.", source="paper 2048", check=_SIZE)
  encoder_heads: int = field(
      16, doc="Its attention heads; divides `encoder_dim`.",
      source="paper 16", check=_SIZE)
  encoder_dropout: float = field(
      0.0, doc="In training, the share of numbers dropped behind the ResNet "
      "and in the MLPs, and of the blocks' branches (stochastic depth).",
      source="paper 0.1, as released", check=fields.number(0, below=1))
  fuse_dim: int = field(
      256, doc="Channels of the image's features where the decoder's finest "
      "map is finer than all of the encoder's.", source="paper 256",
      check=_SIZE)
  mask_patch: int = field(
      1, doc="Side of the square of mask pixels that the decoder sees as one "
      "place. 2 costs a quarter of 1.", check=_SIZE)
  decoder_dim: int = field(
      128, doc="Channels of the decoder's finest map; even.",
      source="paper 128", check=_SIZE)
  channel_multipliers: tuple[int, ...] = field(
      (1, 1, 2, 2), doc="Channels of each level over `decoder_dim`. Each level "
      "but the first halves the resolution.", source="paper (1, 1, 2, 2)",
      check=_COUNTS)
  decoder_blocks: int = field(
      1, doc="Residual blocks of a level on the way down; one more on the way "
      "up.", source="paper 1", check=_DEPTH)
  bottom_dim: int = field(
      512, doc="Width of the transformer on the decoder's coarsest map; a "
      "multiple of 4.", source="paper 512", check=_SIZE)
  bottom_depth: int = field(
      6, doc="Its blocks.", source="paper 6", check=_DEPTH)
  bottom_heads: int = field(
      8, doc="Its attention heads; divides `bottom_dim`.", source="paper 8",
      check=_SIZE)
  dtype: str = transformer.dtype_field("As in stage I.")
  attention: str = transformer.attention_field("As in stage I.")
  scan_layers: bool = transformer.scan_layers_field("As in stage I.")
  remat: str = transformer.remat_field(
      "As in stage I; the decoder's residual blocks, too.")

  @property
  def grid_size(self) -> Grid:
    """Rows and columns of the decoder's finest map."""
    return grid_of(self.mask_size, (self.mask_patch, self.mask_patch))

  @property
  def map_sizes(self) -> list[Grid]:
    """Rows and columns of the encoder's maps, from fine to coarse."""
    if self.image_encoder is not None:
      return [self.image_encoder.grid_size]
    sizes = []
    for group in range(len(self.resnet_blocks)):
      stride = resnet.STEMS[self.stem] * 2**group
      sizes.append(grid_of(self.input_size, (stride, stride)))
    return sizes

  @property
  def sizes(self) -> tuple[int, int]:
    """How many integers each of MAPS has."""
    return (self.num_classes, self.num_ids)

  @nn.nowrap
  def make_output(self) -> Output:
    """What the network's numbers mean, and their loss."""
    return outputs.make_output(self.output, self.input_scale, len(MAPS))

  @property
  def num_numbers(self) -> int:
    """k."""
    return self.make_output().num_numbers(self.num_bits)

  def setup(self):
    style = dict(
        dtype=self.dtype,
        attention=self.attention,
        scan_layers=self.scan_layers,
        remat=self.remat)
    # The attributes are called as their arrays in the original.
    if self.image_encoder is None:
      self.rest = ResNetTransformer(
          resnet_width=self.resnet_width,
          resnet_blocks=self.resnet_blocks,
          stem=self.stem,
          norm=self.norm,
          width=self.encoder_dim,
          depth=self.encoder_depth,
          mlp_dim=self.encoder_mlp_dim,
          num_heads=self.encoder_heads,
          dropout=self.encoder_dropout,
          **style)
    self.encoder_fuse = FeaturePyramidMerge(
        self.fuse_dim, self.grid_size, self.dtype)
    self.denoiser = TransUNet(
        num_outputs=self.num_numbers * self.mask_patch**2,
        dim=self.decoder_dim,
        channel_multipliers=self.channel_multipliers,
        num_blocks=(self.decoder_blocks,) * len(self.channel_multipliers),
        bottom_dim=self.bottom_dim,
        bottom_depth=self.bottom_depth,
        head_size=self.bottom_dim // self.bottom_heads,
        time_scaling=self.time_scaling,
        **style)

  def __call__(
      self,
      image: Seen,
      noisy: Bits,
      signal_B: PerExample,
      before: Float[Array, "B h w F*n"] | None = None,
      estimate: Bits | None = None,
  ) -> Numbers:
    """All parts in turn: creates all parameters."""
    features = self.features(
        self.encode(image), noisy, signal_B, before, estimate)
    return self.head(features)

  def encode(
      self,
      image: Seen,
      rngs_B: PRNGKey | None = None,
  ) -> SeenImage:
    """What the decoder sees of an image; it does not depend on the mask.

    Args:
      image: [B, H, W, 3] in [-1, 1]; with an image encoder, a Context with the
        features of it.
      rngs_B: a key for each example, for the dropout of training; None: nothing
        is dropped.
    """
    context = as_context(image)
    if self.image_encoder is None:
      # The original's images are in [0, 1].
      encoded = self.rest((context.image + 1) / 2, rngs_B)
    else:
      tokens = context.features.astype(self.dtype)
      grid = self.image_encoder.grid_size
      as_map = tokens.reshape(len(tokens), *grid, tokens.shape[-1])
      encoded = Encoded(tokens, [as_map])
    return SeenImage(encoded.tokens, self.encoder_fuse(encoded.maps))

  def features(
      self,
      seen: SeenImage,
      noisy: Bits,
      signal_B: PerExample,
      before: Float[Array, "B h w F*n"] | None = None,
      estimate: Bits | None = None,
  ) -> Map:
    """The decoder without its last layer, [B, r, c, C].

    Args:
      seen: from `encode`.
      noisy: analog bits with noise.
      signal_B: γ of each example.
      before: analog bits of the F earlier frames, the earliest first.
      estimate: analog bits that the step before took for the mask.
    """
    inputs = [space_to_depth(noisy, self.mask_patch), seen.features]
    for analog in (before, estimate):
      if analog is not None:
        inputs.append(space_to_depth(analog, self.mask_patch))
    # Before they are joined: the result is one of the largest arrays.
    inputs = [part.astype(self.dtype) for part in inputs]
    x = jnp.concatenate(inputs, axis=-1)
    return self.denoiser.features(x, signal_B, seen.tokens)

  def head(self, features: Map) -> Numbers:
    """The last layer, for all rows of the features or some."""
    numbers = self.denoiser.conv_out(features)
    return depth_to_space(numbers, self.mask_patch)
