"""Maps of an image at several resolutions become one, as large as the mask.

B batch · h w places of the result · C channels
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from uvim.models.pix2seq_d.layers import FAN_AVG, GroupNorm, Map
from uvim.typing import Size


class FeaturePyramidMerge(nn.Module):
  """From coarse to fine: enlarge, add the next finer map, mix.

  Attributes:
    width: channels of a last block that only enlarges. It is there where the
      result is finer than the finest map.
    size: h and w; a multiple of the size of each map that is not finer.
    dtype: of the convolutions.
  """
  width: int
  size: Size
  dtype: str = "float32"

  @nn.compact
  def __call__(self, maps: Sequence[Map]) -> Map:
    """One map [B, h, w, C] from maps in the order from fine to coarse.

    Maps finer than the result are left out.
    """
    *finer_maps, x = maps
    for index in reversed(range(len(finer_maps))):
      finer = finer_maps[index]
      if finer.shape[1] > self.size[0]:
        continue
      merge = _UpsampleBlock(
          channels=finer.shape[-1],
          size=finer.shape[1:3],
          dtype=self.dtype,
          name=f"upsample_block_{index + 1}")
      x = merge(x, finer)
    if x.shape[1:3] == self.size:
      return x
    enlarge = _UpsampleBlock(
        self.width, self.size, self.dtype, name="upsample_block_0")
    return enlarge(x, None)


class _UpsampleBlock(nn.Module):
  """A coarse map, made as large as a finer one, which is added if given."""
  channels: int
  size: Size
  dtype: str

  @nn.compact
  def __call__(self, coarse, finer):
    x = self._convolve(coarse, side=1, index=1)
    x = enlarge(x, self.size[0] // coarse.shape[1])
    if finer is not None:
      x = x + finer
    return self._convolve(x, side=3, index=2)

  def _convolve(self, x, side, index):
    convolve = nn.Conv(
        self.channels,
        kernel_size=(side, side),
        kernel_init=FAN_AVG,
        dtype=self.dtype,
        name=f"conv{index}")
    norm = GroupNorm(dtype=self.dtype, name=f"group_norm{index}")
    return nn.silu(norm(convolve(x)))


def enlarge(x: Map, factor: int) -> Map:
  """The map with every place `factor` times as high and as wide."""
  if factor == 1:
    return x
  x = jnp.repeat(x, factor, axis=1)
  return jnp.repeat(x, factor, axis=2)
