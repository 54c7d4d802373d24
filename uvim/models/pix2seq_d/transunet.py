"""The mask decoder: a U-Net with a transformer at its coarsest map.

B batch · h w places of the mask · C channels · N tokens of the image · D width
T width of the time's embedding · n analog bits · G groups of bits
K = 2^(n / G) classes of a group

Source: Chen et al., "A Generalist Framework for Panoptic Segmentation of Images
and Videos" (Pix2Seq-D), in the form of its released code.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp

from uvim.models.pix2seq_d import waves
from uvim.models.pix2seq_d.encoder import numbered_names
from uvim.models.pix2seq_d.layers import (
  FAN_AVG,
  NEARLY_ZERO,
  Attention,
  GroupNorm,
  Map,
  Mlp,
)
from uvim.models.pix2seq_d.units import (
  DownUnit,
  TimeEmbedding,
  TimeMlp,
  UpUnit,
  convolution,
)
from uvim.nn import transformer
from uvim.typing import Array, Float, PerExample, Tokens

Logits = Float[Array, "B h w G K"]
RawBits = Float[Array, "B h w n"]

_MLP_WIDTH = 4


class TransUNet(nn.Module):
  """Noisy mask beside maps of the image → what the mask without noise is.

  Attributes:
    num_outputs: numbers of a place of the result.
    dim: channels of the finest level, even.
    channel_multipliers: channels of each level over `dim`; as many levels.
    num_blocks: blocks of each level on the way down.
    bottom_dim: D of the transformer, a multiple of 4 and of
      `bottom_stride` squared.
    bottom_depth: its blocks.
    head_size: of all attention; divides `bottom_dim`.
    bottom_stride: side of the square of places that one of its tokens is.
    time_scaling: radians of the fastest wave of the time where γ is 1.
    in_side, out_side: of the first and the last kernel.
    attention_rows: see `units.DownUnit`.
    dtype, attention, scan_layers, remat: as in `transformer.Encoder`.
  """
  num_outputs: int
  dim: int
  channel_multipliers: tuple[int, ...]
  num_blocks: tuple[int, ...]
  bottom_dim: int
  bottom_depth: int
  head_size: int
  bottom_stride: int = 1
  time_scaling: float = 1.0
  in_side: int = 1
  out_side: int = 1
  attention_rows: tuple[int, ...] = ()
  dtype: str = "float32"
  attention: str = "chunked"
  scan_layers: bool = False
  remat: str = "none"

  def setup(self):
    self.time_emb = TimeMlp(self.dim)
    self.conv_in = convolution(self.dim, side=self.in_side, dtype=self.dtype)
    self.group_norm_in = GroupNorm(dtype=self.dtype)
    num_levels = len(self.channel_multipliers)
    down_units = []
    up_units = []
    for level in range(num_levels):
      down_units.append(self._make_unit(
          DownUnit, level, is_last=level == num_levels - 1))
      up_units.append(self._make_unit(UpUnit, level, is_last=level == 0))
    self.dn_unit = down_units
    self.up_unit = up_units
    self.transformer = _Bottom(
        self.bottom_dim,
        self.bottom_depth,
        self.head_size,
        self.bottom_stride,
        dtype=self.dtype,
        attention=self.attention,
        scan_layers=self.scan_layers,
        remat=self.remat)
    self.group_norm_out = GroupNorm(dtype=self.dtype)
    # So the first predictions say nothing: all classes alike, or zero.
    self.conv_out = convolution(
        self.num_outputs,
        side=self.out_side,
        kernel_init=NEARLY_ZERO,
        dtype=self.dtype)

  def _make_unit(self, unit_class, level, is_last):
    return unit_class(
        channels=self.dim * self.channel_multipliers[level],
        num_blocks=self.num_blocks[level],
        is_last=is_last,
        attention_rows=self.attention_rows,
        head_size=self.head_size,
        dtype=self.dtype,
        attention=self.attention,
        remat=self.remat)

  def __call__(
      self,
      x: Map,
      signal_B: PerExample,
      tokens: Tokens | None,
  ) -> Map:
    """The numbers [B, h, w, num_outputs] of each place.

    Args:
      x: noisy bits, then maps of the image and what else there is to see.
      signal_B: γ of each example.
      tokens: of the image, for attention to it; None: there is none.
    """
    return self.conv_out(self.features(x, signal_B, tokens))

  def features(
      self,
      x: Map,
      signal_B: PerExample,
      tokens: Tokens | None,
  ) -> Map:
    """`__call__` without its last convolution: [B, h, w, C]."""
    time_BT = self.embed_time(signal_B)
    x = self.group_norm_in(self.conv_in(x.astype(self.dtype)))
    kept = [x]
    for unit in self.dn_unit:
      x, kept_of_unit = unit(x, time_BT, tokens)
      kept.extend(kept_of_unit)
    x = self.transformer(x, time_BT, tokens)
    for unit in reversed(self.up_unit):
      # The latest first.
      kept_of_unit = []
      for _ in range(unit.num_blocks + 1):
        kept_of_unit.append(kept.pop())
      x = unit(x, kept_of_unit, time_BT, tokens)
    return nn.silu(self.group_norm_out(x))

  def embed_time(self, signal_B: PerExample) -> TimeEmbedding:
    """How noisy the mask is, as the blocks are told; float32."""
    return self.time_emb(signal_B * self.time_scaling)


class _Bottom(nn.Module):
  """A transformer on the places of the coarsest map."""
  width: int
  depth: int
  head_size: int
  stride: int
  dtype: str
  attention: str
  scan_layers: bool
  remat: str

  @nn.compact
  def __call__(self, x, time_BT, tokens):
    norm = GroupNorm(dtype=self.dtype, name="trans_conv_in_norm")
    convolve = convolution(
        self.width, side=self.stride, stride=self.stride, dtype=self.dtype,
        name="trans_conv_in")
    x = convolve(norm(x))
    batch_size, rows, columns, _ = x.shape
    x_BND = x.reshape(batch_size, rows * columns, self.width)
    position = waves.of_grid((rows, columns), self.width)
    x_BND = x_BND + position.astype(self.dtype)

    x_BND = self._run_blocks(x_BND, time_BT, tokens)
    x = x_BND.reshape(batch_size, rows, columns, self.width)
    norm = GroupNorm(dtype=self.dtype, name="trans_conv_out_norm")
    convolve = convolution(
        self.width, side=1, dtype=self.dtype, name="trans_conv_out")
    return depth_to_space(convolve(norm(x)), self.stride)

  def _run_blocks(self, x_BND, time_BT, tokens):
    """The transformer, which sees the time as one more token."""
    project_time = nn.Dense(
        self.width, kernel_init=FAN_AVG, dtype=self.dtype, name="emb_proj")
    time_B1D = project_time(time_BT)[:, None]
    num_places = x_BND.shape[1]
    x_BMD = jnp.concatenate([x_BND, time_B1D], axis=1)
    run_blocks = _Blocks(
        self.depth,
        self.width // self.head_size,
        self.dtype,
        self.attention,
        self.scan_layers,
        self.remat,
        name="transformer_decoder")
    return run_blocks(x_BMD, tokens)[:, :num_places]


class _Blocks(nn.Module):
  depth: int
  num_heads: int
  dtype: str
  attention: str
  scan_layers: bool
  remat: str

  @nn.compact
  def __call__(self, x_BMD, tokens):
    make_block = functools.partial(
        _Block,
        num_heads=self.num_heads,
        dtype=self.dtype,
        attention=self.attention)
    names = numbered_names("transformer_decoder_layer", self.depth)
    return transformer.run_blocks(self, make_block, names, x_BMD, tokens)


class _Block(nn.Module):
  """Attention to all places, attention to the image, and an MLP."""
  num_heads: int
  dtype: str
  attention: str

  @nn.compact
  def __call__(self, x_BMD, tokens):
    make_attention = functools.partial(
        Attention,
        self.num_heads,
        with_norm=True,
        dtype=self.dtype,
        attention=self.attention)
    x_BMD = x_BMD + make_attention(name="self_mha")(x_BMD)
    if tokens is not None:
      x_BMD = x_BMD + make_attention(name="cross_mha")(x_BMD, tokens)
    mlp = Mlp(_MLP_WIDTH * x_BMD.shape[-1], self.dtype, name="mlp")
    return x_BMD + mlp(x_BMD)


# ── Patches of places ───────────────────────────────────────────────────────


def space_to_depth(x: Map, side: int) -> Map:
  """One place for each square of places, with all of their numbers.

  The numbers are in the order row, column, channel.
  """
  if side == 1:
    return x
  batch_size, rows, columns, channels = x.shape
  x = x.reshape(
      batch_size, rows // side, side, columns // side, side, channels)
  x = x.transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(
      batch_size, rows // side, columns // side, side * side * channels)


def depth_to_space(x: Map, side: int) -> Map:
  """The inverse of `space_to_depth`."""
  if side == 1:
    return x
  batch_size, rows, columns, channels = x.shape
  channels = channels // (side * side)
  x = x.reshape(batch_size, rows, columns, side, side, channels)
  x = x.transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(batch_size, rows * side, columns * side, channels)
