"""DINO's network: an image encoder, and the head on its class token.

B batch · N patches · R prefix tokens, the class token first
D width of the encoder · K numbers that the head makes of a crop
E width of the head before its last layer

Names and shapes of the encoder's parameters are those of stage II's image
encoder.

Source: Caron et al., "Emerging Properties in Self-Supervised Vision
Transformers", and its released code, whose names the fields have.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from uvim import fields
from uvim.encoders import ENCODERS
from uvim.fields import field
from uvim.nn import transformer
from uvim.nn.backbones import vit
from uvim.nn.grid import Grid, grid_of, resize_grid
from uvim.registry import ConfigError
from uvim.typing import Array, Float, Image, Tokens

# Layers of the head before the last one.
_HEAD_LAYERS = 3

# A mistyped depth would build blocks for ever.
_DEPTH = fields.integer(1, 1024)
_SIZE = fields.integer(1)
_COUNT = fields.integer(0)
_SHARE = fields.number(0, 1)
_AS_IN_STAGE_I = "As in stage I."


def _is_range(value):
  is_pair = isinstance(value, (tuple, list)) and len(value) == 2
  if not is_pair or not all(map(fields.is_number, value)):
    return False
  low, high = value
  return 0 < low <= high <= 1


_RANGE = fields.Check("two rising numbers in (0, 1]", _is_range)


class DINO(nn.Module):
  """Encoder and head; fields of `config.model`."""
  input_size: tuple[int, int] = field(
      doc="Height and width of the global crops.", check=fields.two_integers())
  patch_size: tuple[int, int] = field(
      doc="Height and width of a patch; divides the sizes of all crops.",
      check=fields.two_integers())
  width: int = field(doc="Width of the encoder.", check=_SIZE)
  depth: int = field(doc="Blocks of the encoder.", check=_DEPTH)
  mlp_dim: int = field(
      doc="Hidden size of the encoder's MLPs.", check=_SIZE)
  num_heads: int = field(
      doc="Attention heads of the encoder; divides `width`.", check=_SIZE)
  momentum_teacher_steps: int = field(
      doc="Steps over which the teacher's momentum grows to 1, along a cosine: "
      "the length of the run.", source="DINO: all", check=_SIZE)
  encoder_style: str = field(
      "dino", doc="As in stage II; a family with a class token.",
      check=fields.one_of(ENCODERS))
  local_crops_size: tuple[int, int] = field(
      (96, 96), doc="Height and width of the local crops.",
      source="DINO (96, 96)", check=fields.two_integers())
  local_crops_number: int = field(
      8, doc="Local crops of an image, which the student alone sees.",
      source="DINO 8", check=_COUNT)
  global_crops_scale: tuple[float, float] = field(
      (0.4, 1.0), doc="Least and most share of the image in a global crop.",
      source="DINO (0.4, 1.0)", check=_RANGE)
  local_crops_scale: tuple[float, float] = field(
      (0.05, 0.4), doc="Least and most share of the image in a local crop.",
      source="DINO (0.05, 0.4)", check=_RANGE)
  out_dim: int = field(
      65_536, doc="How many numbers the head makes of a crop.",
      source="DINO 65 536", check=fields.integer(2))
  hidden_dim: int = field(
      2048, doc="Hidden size of the head.", source="DINO 2048", check=_SIZE)
  bottleneck_dim: int = field(
      256, doc="Width of the head before its last layer.", source="DINO 256",
      check=_SIZE)
  student_temp: float = field(
      0.1, doc="Temperature of the student.", source="DINO 0.1",
      check=fields.POSITIVE)
  teacher_temp: float = field(
      0.07, doc="Temperature of the teacher after its warm-up.",
      source="DINO 0.07", check=fields.POSITIVE)
  warmup_teacher_temp: float = field(
      0.04, doc="Temperature of the teacher at the start.", source="DINO 0.04",
      check=fields.POSITIVE)
  warmup_teacher_temp_steps: int = field(
      0, doc="Steps over which `warmup_teacher_temp` rises to `teacher_temp`.",
      source="DINO: 30 epochs", check=_COUNT)
  momentum_teacher: float = field(
      0.996, doc="Momentum of the teacher at the start.", source="DINO 0.996",
      check=_SHARE)
  center_momentum: float = field(
      0.9, doc="Momentum of the mean of the teacher's numbers, which is "
      "subtracted from them.", source="DINO 0.9", check=_SHARE)
  freeze_last_layer_steps: int = field(
      0, doc="Steps in which the last layer of the head does not learn.",
      source="DINO: 1 epoch", check=_COUNT)
  dtype: str = transformer.dtype_field(
      "As in stage I; the loss stays float32.")
  attention: str = transformer.attention_field(_AS_IN_STAGE_I)
  scan_layers: bool = transformer.scan_layers_field(_AS_IN_STAGE_I)
  remat: str = transformer.remat_field(_AS_IN_STAGE_I)

  @property
  def grid_size(self) -> Grid:
    """Rows and columns of patches of a global crop."""
    return grid_of(self.input_size, self.patch_size)

  def check(self, where: str) -> None:
    """Checks the sizes, before anything is built.

    Args:
      where: path of the block that gave them, for messages.

    Raises:
      ConfigError: sizes do not fit each other; an encoder without a class
        token.
    """
    names = ["input_size"]
    if self.local_crops_number:
      names.append("local_crops_size")
    for name in names:
      height, width = getattr(self, name)
      patch_height, patch_width = self.patch_size
      if height % patch_height or width % patch_width:
        raise ConfigError(
            f"{where}.{name} = {(height, width)}; it must be a multiple of "
            f"patch_size {self.patch_size} in both directions.")
    if self.width % self.num_heads:
      raise ConfigError(f"{where}.num_heads = {self.num_heads}; it must "
                        f"divide width {self.width}.")
    if not ENCODERS[self.encoder_style].style.num_prefix:
      raise ConfigError(
          f"{where}.encoder_style = {self.encoder_style!r}; its encoder has "
          "no class token, which the head reads. Take 'dino'.")

  def setup(self):
    self.image_tokens = vit.ViT(
        input_size=self.input_size,
        patch_size=self.patch_size,
        depth=self.depth,
        width=self.width,
        mlp_dim=self.mlp_dim,
        num_heads=self.num_heads,
        style=ENCODERS[self.encoder_style].style,
        dtype=self.dtype,
        attention=self.attention,
        scan_layers=self.scan_layers,
        remat=self.remat)
    # Its parameters stand at the top, as those of stage II's encoder do.
    nn.share_scope(self, self.image_tokens)
    self.image_tokens.create()
    self.dino_head = Head(
        self.hidden_dim, self.bottleneck_dim, self.out_dim, self.dtype)

  def __call__(
      self,
      image: Image,
      is_last_frozen: bool | Array = False,
  ) -> Float[Array, "B K"]:
    """What the head makes of the class token, float32.

    Args:
      image: crops of one size, in [-1, 1].
      is_last_frozen: bool []; whether the last layer of the head gets no
        gradient.
    """
    class_token_BD = self.with_prefix(image)[:, 0]
    return self.dino_head(class_token_BD, is_last_frozen)

  def with_prefix(self, image: Image) -> Float[Array, "B R+N D"]:
    """All tokens of the encoder, for images of any size of whole patches."""
    encoder = self.image_tokens
    grid = grid_of(image.shape[1:3], self.patch_size)
    positions_1ND = resize_grid(encoder.posemb, self.grid_size, grid)
    return encoder.encode(encoder.embed(image) + positions_1ND)

  def features(self, image: Image) -> Tokens:
    """The tokens of the image's patches."""
    num_prefix = ENCODERS[self.encoder_style].style.num_prefix
    return self.with_prefix(image)[:, num_prefix:]


class Head(nn.Module):
  """Three layers, a unit vector, and its cosines with K directions.

  Attributes:
    hidden_dim: hidden size.
    bottleneck_dim: length of the unit vector.
    out_dim: K.
    dtype: of the matmuls.
  """
  hidden_dim: int
  bottleneck_dim: int
  out_dim: int
  dtype: str = "float32"

  @nn.compact
  def __call__(
      self,
      x_BD: Float[Array, "B D"],
      is_last_frozen: bool | Array = False,
  ) -> Float[Array, "B K"]:
    """Cosines, float32; see `DINO.__call__`."""
    widths = [self.hidden_dim] * (_HEAD_LAYERS - 1) + [self.bottleneck_dim]
    for index, width in enumerate(widths):
      if index:
        x_BD = nn.gelu(x_BD, approximate=False)
      # At the paper's sizes the deviation is about its 0.02. In a smaller head,
      # 0.02 would leave nearly nothing to make a unit vector of.
      x_BD = nn.Dense(
          width,
          dtype=self.dtype,
          kernel_init=nn.initializers.lecun_normal())(x_BD)
    directions_EK = self.param(
        "last_layer",
        nn.initializers.normal(1.0),
        (self.bottleneck_dim, self.out_dim))
    frozen_EK = jax.lax.stop_gradient(directions_EK)
    directions_EK = jnp.where(is_last_frozen, frozen_EK, directions_EK)
    x_BE = _unit(x_BD.astype(jnp.float32), axis=1)
    return x_BE @ _unit(directions_EK, axis=0)


def _unit(x, axis):
  """Vectors of length 1 along an axis; zeros stay zeros."""
  # `maximum`, because the root of 0 has no derivative.
  square = jnp.sum(jnp.square(x), axis=axis, keepdims=True)
  return x * jax.lax.rsqrt(jnp.maximum(square, 1e-24))
