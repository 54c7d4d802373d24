"""What a family of pretrained image encoders is.

H W rows and columns of a patch's pixels · C channels · N tokens · R tokens
before those of the image · D width · A heads

This package tells two things apart. A *naming* is how a program calls the
arrays of a ViT; see `uvim.encoders.naming`. A *family* is what a training
recipe makes of a ViT: its GELU, its class token, the pixels that it saw. Most
families exist in several namings, and most namings serve several families.
"""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from uvim.nn.backbones.base import Style
from uvim.registry import ConfigError
from uvim.typing import Float

Arrays = Mapping[str, np.ndarray]
# Rows and columns of a grid of image tokens.
Grid = tuple[int, int]
# Three numbers for the three color channels.
Channels = tuple[float, ...]

# The names of all parameters begin with this; see `uvim.files`.
PREFIX = "params/"

# Our names of arrays. Before them stand PREFIX and, where the encoder is a part
# of a network, the name of that part.
KERNEL = "EmbedPatches/kernel"
BIAS = "EmbedPatches/bias"
POSITIONS = "pos_embedding_encoder"
CLASS_AND_REGISTERS = "encoder_prefix"
PRE_NORM = "encoder_pre_norm/"
BLOCKS = "encoder/"
PARTS = (
    BLOCKS, "EmbedPatches/", POSITIONS, CLASS_AND_REGISTERS, PRE_NORM)

# (mean, standard deviation) of pixels in [0, 1], as published with the models.
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073),
        (0.26862954, 0.26130258, 0.27577711))


@dataclasses.dataclass(frozen=True)
class EncoderSpec:
  """The encoder of a network, which a checkpoint is to fill.

  Attributes:
    family: a key of `encoders.ENCODERS`: whose style it has.
    num_heads: A; most files do not say it.
    grid: rows and columns of its image tokens, to which the positions of the
      file are resized; None: its positions are fixed, so those of the file are
      left out.
    below: what its names begin with, such as 'image_encoder/'; '' for stage
      II's own encoder.
    option: the config field that names the family, for messages.
  """
  family: str
  num_heads: int
  grid: Grid | None
  below: str = ""
  option: str = "config.model.encoder_style"


@dataclasses.dataclass
class Found:
  """The ViT in a file: our names and shapes, but nothing is folded yet.

  Attributes:
    arrays: patches and blocks by name, float32, without positions.
    resize: the key of `positions.METHODS` for this file.
    pixels_are_ours: whether this code has trained it, on images in [-1, 1].
    class_token: [1, 1, D]; None: there is none.
    registers: [1, R', D] with R' registers; None: there are none. Where
      `pixels_are_ours`, all R prefix tokens.
    positions: [1, N, D]; or [1, 1 + N, D], that of the class token first; None:
      the file has none.
    attention_scales, mlp_scales: number of a block → what the result of its
      attention or MLP is multiplied with, [D].
    only: the one family whose files have such names; '': the names do not tell.
    class_name, positions_name: what the file calls them.
    left_out: names of the file that are of no use here.
  """
  arrays: dict[str, np.ndarray]
  resize: str
  pixels_are_ours: bool = False
  class_token: np.ndarray | None = None
  registers: np.ndarray | None = None
  positions: np.ndarray | None = None
  attention_scales: dict[int, np.ndarray] = dataclasses.field(
      default_factory=dict)
  mlp_scales: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)
  only: str = ""
  class_name: str = ""
  positions_name: str = ""
  left_out: list[str] = dataclasses.field(default_factory=list)

  @property
  def has_layer_scale(self) -> bool:
    return bool(self.attention_scales or self.mlp_scales)

  @property
  def has_pre_norm(self) -> bool:
    return any(name.startswith(PRE_NORM) for name in self.arrays)

  @property
  def num_prefix(self) -> int:
    """R: class token and registers."""
    num_registers = 0 if self.registers is None else self.registers.shape[1]
    return num_registers + (self.class_token is not None)

  def split_positions(self) -> tuple[np.ndarray | None, np.ndarray]:
    """(position of the class token [1, 1, D] or None, the grid's [1, N, D])."""
    num_tokens = self.positions.shape[1]
    # No two square numbers follow each other: if all tokens but one make a
    # square, the first one is the class token.
    if num_tokens > 1 and is_square(num_tokens - 1):
      return self.positions[:, :1], self.positions[:, 1:]
    return None, self.positions


@dataclasses.dataclass(frozen=True)
class Family:
  """A training recipe, and what a network must have to use its weights.

  Attributes:
    style: what no parameter can absorb.
    pixels: (mean, standard deviation) per channel of the images that it was
      trained on, in [0, 1]; None: images in [-1, 1], as ours.
    layer_scale: whether it multiplies the results of attention and MLP with
      learned scales.
    drops_class_token: whether UViM uses it without its class token.
  """
  style: Style
  pixels: tuple[Channels, Channels] | None = None
  layer_scale: bool = False
  drops_class_token: bool = False

  def fits(self, found: Found) -> bool:
    """Whether a file may be of this family."""
    if found.has_pre_norm != self.style.pre_norm:
      return False
    if found.pixels_are_ours:
      return found.num_prefix == self.style.num_prefix
    num_prefix = found.num_prefix
    if self.drops_class_token:
      num_prefix -= found.class_token is not None
    has_its_prefix = num_prefix == self.style.num_prefix
    return has_its_prefix and found.has_layer_scale == self.layer_scale


def is_square(number: int) -> bool:
  return math.isqrt(number) ** 2 == number


# ── What parameters can absorb ──────────────────────────────────────────────


def fold_pixels(
    kernel: Float[np.ndarray, "H W C D"],
    bias: Float[np.ndarray, "D"],
    pixels: tuple[Channels, Channels],
) -> tuple[np.ndarray, np.ndarray]:
  """Patch embedding of images in [-1, 1] from that of normalised ones.

  Exact up to rounding, because patches have no padding.

  Args:
    kernel: for pixels (p − mean) / deviation with p in [0, 1].
    bias: likewise.
    pixels: (mean, deviation) per channel.

  Returns:
    (kernel, bias), float32, of the same shapes.
  """
  mean_C, deviation_C = np.asarray(pixels, np.float64)
  # p = (x + 1) / 2 for a pixel x of ours.
  factor_C = 0.5 / deviation_C
  shift_C = (0.5 - mean_C) / deviation_C
  kernel = kernel.astype(np.float64)
  shift_D = np.einsum("hwcd,c->d", kernel, shift_C)
  new_kernel = kernel * factor_C[:, None]
  return new_kernel.astype(np.float32), (bias + shift_D).astype(np.float32)


def fold_scales(found: Found) -> dict[str, np.ndarray]:
  """The arrays, the scales of each block multiplied into the layer before.

  Raises:
    ConfigError: a scale without such a layer, or of another width.
  """
  layers = (
      (found.attention_scales, "MultiHeadDotProductAttention_0/out"),
      (found.mlp_scales, "MlpBlock_0/Dense_1"),
  )
  folded = dict(found.arrays)
  for scales, layer in layers:
    for block, scale_D in scales.items():
      for part in ("kernel", "bias"):
        name = f"{BLOCKS}encoderblock_{block}/{layer}/{part}"
        if name not in folded:
          raise ConfigError(
              f"Block {block} has a layer scale but no array for {name!r}.")
        folded[name] = _scaled(folded[name], scale_D, name, block)
  return folded


def _scaled(array, scale_D, name, block):
  """The kernel or bias of a layer; the width is the last axis of both."""
  if scale_D.shape != array.shape[-1:]:
    raise ConfigError(
        f"Block {block} has a layer scale of shape {list(scale_D.shape)} for "
        f"{name!r} of shape {list(array.shape)}.")
  return array * scale_D
