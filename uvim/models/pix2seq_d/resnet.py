"""A ResNet without its last stage: an image at three resolutions.

B batch · H W image pixels · C channels

Each group of blocks but the first halves the resolution: in its first block,
the 3×3 convolution and the shortcut have stride 2. Convolutions have no biases,
as a norm follows each.

Source: He et al., "Deep Residual Learning", in the form of the released code.
"""

import functools

import flax.linen as nn

from uvim.models.pix2seq_d.layers import FrozenBatchNorm, GroupNorm, Map
from uvim.typing import Image

NORMS = {"group": GroupNorm, "frozen_batch": FrozenBatchNorm}
# Name of a stem → its stride.
STEMS = {"large": 4, "small": 2}
# A block's output has so many times the channels of its 3×3 convolution.
_EXPANSION = 4


class ResNet(nn.Module):
  """Three groups of bottleneck blocks behind a stem.

  Attributes:
    width: channels behind the stem; 64 in a ResNet-50.
    blocks: how many blocks each group has; (3, 4, 6) in a ResNet-50.
    stem: "large": 7×7 with stride 2, then a max pool with stride 2. "small":
      3×3 with stride 2 and no pool, for small images.
    norm: a key of NORMS.
    dtype: of the convolutions.
  """
  width: int = 64
  blocks: tuple[int, ...] = (3, 4, 6)
  stem: str = "large"
  norm: str = "group"
  dtype: str = "float32"

  @nn.compact
  def __call__(self, image: Image) -> list[Map]:
    """The output of each group: at a quarter of the image's size, and so on.

    With the small stem: at half of it, and so on.

    Args:
      image: float in [0, 1].
    """
    x = self._stem(image)
    outputs = []
    for group, num_blocks in enumerate(self.blocks):
      run_group = _BlockGroup(
          width=self.width << group,
          num_blocks=num_blocks,
          stride=1 if group == 0 else 2,
          norm=self.norm,
          dtype=self.dtype,
          name=f"block_group{group + 1}")
      x = run_group(x)
      outputs.append(x)
    return outputs

  def _stem(self, image):
    kernel_size = 7 if self.stem == "large" else 3
    convolve = _Conv(
        self.width, kernel_size, stride=2, dtype=self.dtype,
        name="stem_conv2d_fixed_padding")
    norm = _Norm(self.norm, dtype=self.dtype, name="stem_bn_relu")
    x = nn.relu(norm(convolve(image)))
    if self.stem == "large":
      x = nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
    return x


class _BlockGroup(nn.Module):
  """Bottleneck blocks, the first of which changes channels and resolution."""
  width: int
  num_blocks: int
  stride: int
  norm: str
  dtype: str

  @nn.compact
  def __call__(self, x):
    for index in range(self.num_blocks):
      is_first = index == 0
      run_block = _Bottleneck(
          width=self.width,
          stride=self.stride if is_first else 1,
          has_projection=is_first,
          norm=self.norm,
          dtype=self.dtype,
          name=f"block{index + 1}")
      x = run_block(x)
    return x


class _Bottleneck(nn.Module):
  """relu(shortcut + three convolutions)."""
  width: int
  stride: int
  has_projection: bool
  norm: str
  dtype: str

  @nn.compact
  def __call__(self, x):
    make_conv = functools.partial(_Conv, dtype=self.dtype)
    make_norm = functools.partial(_Norm, self.norm, dtype=self.dtype)
    out_width = self.width * _EXPANSION
    shortcut = x
    if self.has_projection:
      project = make_conv(
          out_width, 1, self.stride, name="proj_conv2d_fixed_padding")
      shortcut = make_norm(name="proj_bn_relu")(project(x))

    narrow = make_conv(self.width, 1, name="conv2d_fixed_padding")
    x = nn.relu(make_norm(name="bn_relu")(narrow(x)))
    convolve = make_conv(
        self.width, 3, self.stride, name="conv2d_fixed_padding1")
    x = nn.relu(make_norm(name="bn_relu1")(convolve(x)))
    widen = make_conv(out_width, 1, name="conv2d_fixed_padding2")
    # A fresh block is its shortcut alone.
    last_norm = make_norm(starts_at_zero=True, name="bn_relu2")
    return nn.relu(shortcut + last_norm(widen(x)))


class _Conv(nn.Module):
  """A square convolution whose padding does not depend on the image's size."""
  channels: int
  side: int
  stride: int = 1
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x):
    # "SAME" would put more of the padding at the end where the stride is 2.
    before = (self.side - 1) // 2
    after = self.side - 1 - before
    convolve = nn.Conv(
        self.channels,
        kernel_size=(self.side, self.side),
        strides=(self.stride, self.stride),
        padding=((before, after), (before, after)),
        use_bias=False,
        kernel_init=nn.initializers.variance_scaling(
            1.0, "fan_in", "truncated_normal"),
        dtype=self.dtype,
        name="conv2d")
    return convolve(x)


class _Norm(nn.Module):
  """The norm of this name, at its place in the names of the original."""
  norm: str
  starts_at_zero: bool = False
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x):
    make_norm = NORMS[self.norm]
    norm = make_norm(
        starts_at_zero=self.starts_at_zero, dtype=self.dtype, name="global_bn")
    return norm(x)
