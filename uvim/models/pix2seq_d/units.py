"""The parts of the mask decoder: blocks with the time, and attention on maps.

B batch · H W places of a map · C channels · N tokens of the image · D width
T width of the time's embedding
"""

import functools
import math
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Initializer

from uvim.models.pix2seq_d import waves
from uvim.models.pix2seq_d.layers import (
  FAN_AVG,
  NEARLY_ZERO,
  Attention,
  GroupNorm,
  Map,
)
from uvim.models.pix2seq_d.pyramid import enlarge
from uvim.typing import Array, Float, PerExample, Tokens

TimeEmbedding = Float[Array, "B T"]

# Of all kernels but those of shortcuts.
_SIDE = 3
# The time's embedding has so many times the decoder's channels.
_TIME_WIDTH = 4
# Of the norms before attention on maps, whatever the channels.
_ATTENTION_GROUPS = 32
# The sum of two values alike has the spread of one of them again.
_SCALE_OF_SUM = 1 / math.sqrt(2)


class TimeMlp(nn.Module):
  """How noisy the mask is, as a vector for every block of the decoder.

  Attributes:
    width: T / 4, even.
  """
  width: int

  @nn.compact
  def __call__(self, time_B: PerExample) -> TimeEmbedding:
    """From one number for each example, in radians of the fastest wave."""
    x = waves.of_numbers(time_B, self.width)
    for index in range(2):
      project = nn.Dense(
          _TIME_WIDTH * self.width, kernel_init=FAN_AVG, name=f"dense{index}")
      x = nn.silu(project(x))
    return x


class ResBlock(nn.Module):
  """Two convolutions beside a shortcut; the time scales and shifts the second.

  Attributes:
    channels: of the result.
    dtype: of the convolutions.
  """
  channels: int
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: Map, time_BT: TimeEmbedding) -> Map:
    make_conv = functools.partial(
        convolution, self.channels, side=_SIDE, dtype=self.dtype)
    shortcut = x
    if x.shape[-1] != self.channels:
      project = make_conv(side=1, name="shortcut_layer")
      shortcut = project(x)
    project_time = nn.Dense(
        2 * self.channels, kernel_init=FAN_AVG, dtype=self.dtype,
        name="emb_proj")
    scale_and_shift = project_time(time_BT)[:, None, None]
    scale, shift = jnp.split(scale_and_shift, 2, axis=-1)

    norm = GroupNorm(dtype=self.dtype, name="group_norm_0")
    x = make_conv(name="conv_0")(nn.silu(norm(x)))
    norm = GroupNorm(dtype=self.dtype, name="group_norm_1")
    x = norm(x) * (1 + scale) + shift
    convolve = make_conv(kernel_init=NEARLY_ZERO, name="conv_1")
    x = convolve(nn.silu(x))
    return (x + shortcut) * _SCALE_OF_SUM


class _Unit(nn.Module):
  """The blocks of one level, with attention at some resolutions.

  Attributes:
    channels: of the maps of this level.
    num_blocks: of the way down; the way up has one more.
    is_last: whether no further level follows in the unit's direction.
    attention_rows: maps with so many rows have attention.
    head_size: of that attention; divides `channels`.
    dtype, attention, remat: as in `transformer.Encoder`.
  """
  channels: int
  num_blocks: int
  is_last: bool
  attention_rows: tuple[int, ...] = ()
  head_size: int = 64
  dtype: str = "float32"
  attention: str = "chunked"
  remat: str = "none"

  def _run_block(self, index, x, time_BT):
    make_block = ResBlock
    if self.remat == "block":
      make_block = nn.remat(ResBlock)
    run_block = make_block(
        self.channels, self.dtype, name=f"res_block_{index}")
    return run_block(x, time_BT)

  def _attend(self, index, x, tokens):
    """Attention to the image's tokens, if there are some; then to the map."""
    if x.shape[1] not in self.attention_rows:
      return x
    if tokens is not None:
      x = self._attend_to("mhca", index, x, tokens)
    return self._attend_to("mhsa", index, x, None)

  def _attend_to(self, kind, index, x, tokens):
    norm = GroupNorm(
        _ATTENTION_GROUPS, dtype=self.dtype, name=f"{kind}_norms_{index}")
    attend = Attention(
        self.channels // self.head_size,
        dtype=self.dtype,
        attention=self.attention,
        name=f"{kind}_block_{index}")
    batch_size, _, _, channels = x.shape
    x_BTC = norm(x).reshape(batch_size, -1, channels)
    attended = attend(x_BTC, tokens).reshape(x.shape)
    return (x + attended) * _SCALE_OF_SUM

  def _resample(self, x, name, stride=1):
    convolve = convolution(
        self.channels, side=_SIDE, stride=stride, dtype=self.dtype, name=name)
    return convolve(x)


class DownUnit(_Unit):
  """A level on the way to the coarsest map."""

  @nn.compact
  def __call__(
      self,
      x: Map,
      time_BT: TimeEmbedding,
      tokens: Tokens | None,
  ) -> tuple[Map, list[Map]]:
    """The map for the next level, and the maps for the way up."""
    kept = []
    for index in range(self.num_blocks):
      x = self._run_block(index, x, time_BT)
      # Before the attention, as in the original.
      kept.append(x)
      x = self._attend(index, x, tokens)
    if not self.is_last:
      x = self._resample(x, "conv_dn", stride=2)
      kept.append(x)
    return x, kept


class UpUnit(_Unit):
  """A level on the way back to the finest map."""

  @nn.compact
  def __call__(
      self,
      x: Map,
      kept: Sequence[Map],
      time_BT: TimeEmbedding,
      tokens: Tokens | None,
  ) -> Map:
    """The map for the next finer level.

    Args:
      x: the map of the coarser level.
      kept: a map from the way down for each block, in the order of the blocks.
      time_BT: how noisy the mask is.
      tokens: of the image, or None.
    """
    for index, kept_map in enumerate(kept):
      x = jnp.concatenate([x, kept_map], axis=-1)
      x = self._run_block(index, x, time_BT)
      x = self._attend(index, x, tokens)
    if not self.is_last:
      x = self._resample(enlarge(x, 2), "conv_up")
    return x


def convolution(
    channels: int,
    *,
    side: int,
    stride: int = 1,
    kernel_init: Initializer = FAN_AVG,
    dtype: str = "float32",
    name: str | None = None,
) -> nn.Conv:
  """A square convolution with a bias; `h / stride` rows remain of h."""
  return nn.Conv(
      channels,
      kernel_size=(side, side),
      strides=(stride, stride),
      kernel_init=kernel_init,
      dtype=dtype,
      name=name)
