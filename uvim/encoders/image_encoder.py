"""The block `image_encoder`: a pretrained network that reads a model's images.

B batch · H W image pixels · T tokens of the encoder's grid
N tokens of the model's grid · D the encoder's width
F = D · number of the encoder's tokens in one of the model's

Stage I has at most one, which oracle and base model share. Stage II also has at
most one. Its parameters stand under "image_encoder" among those of the model.
Nothing trains a frozen one: to the rest of the model its features are data.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from uvim import fields
from uvim.encoders import ENCODERS
from uvim.encoders.base import EncoderSpec
from uvim.fields import field
from uvim.nn import backbones, transformer
from uvim.nn.backbones import Backbone
from uvim.nn.backbones.base import Style
from uvim.nn.grid import Grid, gather_cells, grid_of, resize_grid
from uvim.registry import ConfigError
from uvim.typing import Array, Float, Image, PRNGKey, PyTree

# The block in `config.model`, and its part of the parameters.
NAME = "image_encoder"

Features = Float[Array, "B T D"]


@dataclasses.dataclass(frozen=True)
class _Size:
  """The size of a standard ViT."""
  depth: int
  width: int
  mlp_dim: int
  num_heads: int


SIZES = {
    "Ti": _Size(depth=12, width=192, mlp_dim=768, num_heads=3),
    "S": _Size(depth=12, width=384, mlp_dim=1536, num_heads=6),
    "B": _Size(depth=12, width=768, mlp_dim=3072, num_heads=12),
    "L": _Size(depth=24, width=1024, mlp_dim=4096, num_heads=16),
    "H": _Size(depth=32, width=1280, mlp_dim=5120, num_heads=16),
}
_VARIANT = re.compile(rf"({'|'.join(SIZES)})/([1-9]\d{{0,3}})")


def _is_variant(value):
  return isinstance(value, str) and bool(_VARIANT.fullmatch(value))


_IS_VARIANT = fields.Check(
    f"a size of {', '.join(SIZES)}, a slash and the side of a patch, as in "
    "'S/14'", _is_variant)
_OF_VARIANT = "None: as `variant` says."


def _override(doc: str, most: int | None = None):
  """A size that takes the place of the variant's."""
  check = fields.optional(fields.integer(1, most))
  return field(None, doc=f"{doc} {_OF_VARIANT}", check=check)


@dataclasses.dataclass(frozen=True)
class ImageEncoder:
  """The fields of the block. It holds no arrays and can be hashed."""
  input_size: tuple[int, int] = field(
      doc="Height and width of the image it sees; multiples of the patch.",
      check=fields.two_integers())
  family: str = field(
      "dinov2", doc="Family of its checkpoint.", check=fields.one_of(ENCODERS))
  variant: str = field(
      "S/14", doc=f"Size ({', '.join(SIZES)}) and side of a patch.",
      check=_IS_VARIANT)
  depth: int | None = _override("Blocks.", 1024)
  width: int | None = _override("Width.")
  mlp_dim: int | None = _override("Hidden size of the MLPs.")
  num_heads: int | None = _override("Attention heads; divides the width.")
  patch_size: tuple[int, int] | None = field(
      None, doc=f"Height and width of a patch. {_OF_VARIANT}",
      check=fields.optional(fields.two_integers()))
  backbone: str = field(
      "vit", doc="The network, as in stage II.",
      check=fields.one_of(backbones.BACKBONES))
  frozen: bool = field(
      True, doc="It is not trained: no gradient, no optimizer state, no weight "
      "decay.", check=fields.BOOL)
  beside: bool = field(
      False, doc="True: its features are added to the model's own embedding "
      "of the image; False: they replace it.", check=fields.BOOL)
  dtype: str = transformer.dtype_field(
      "Type of the numbers in its matrix products.")
  attention: str = transformer.attention_field("As in the model.")
  scan_layers: bool = transformer.scan_layers_field("As in the model.")
  remat: str = transformer.remat_field("As in the model.")

  @property
  def style(self) -> Style:
    """What the network must be like for the checkpoints of its family."""
    return ENCODERS[self.family].style

  @property
  def patch(self) -> tuple[int, int]:
    """Height and width of a patch in pixels."""
    if self.patch_size is not None:
      return self.patch_size
    _, side = _VARIANT.fullmatch(self.variant).groups()
    return (int(side), int(side))

  @property
  def size(self) -> _Size:
    """The variant's size, with what the block says otherwise."""
    name, _ = _VARIANT.fullmatch(self.variant).groups()
    changes = {}
    for item in dataclasses.fields(_Size):
      value = getattr(self, item.name)
      if value is not None:
        changes[item.name] = value
    return dataclasses.replace(SIZES[name], **changes)

  @property
  def grid_size(self) -> Grid:
    """Rows and columns of its tokens."""
    return grid_of(self.input_size, self.patch)

  @property
  def features_shape(self) -> tuple[int, int]:
    """(T, D) of the features of an image."""
    return (math.prod(self.grid_size), self.size.width)

  @property
  def spec(self) -> EncoderSpec:
    """What a checkpoint is to fill."""
    return EncoderSpec(
        self.family,
        self.size.num_heads,
        self.grid_size,
        below=f"{NAME}/",
        option=f"config.model.{NAME}.family")

  def is_like(self, other: "ImageEncoder | None") -> bool:
    """Whether it sees what another does, given the same parameters."""
    if other is None:
      return False
    # How it is trained and what stands beside it do not change what it sees.
    changes = {"frozen": self.frozen, "beside": self.beside}
    return self == dataclasses.replace(other, **changes)

  def make_network(self) -> Backbone:
    """The network, whose parameters are those under "image_encoder"."""
    make_backbone = backbones.BACKBONES[self.backbone]
    return make_backbone(
        input_size=self.input_size,
        patch_size=self.patch,
        style=self.style,
        dtype=self.dtype,
        attention=self.attention,
        scan_layers=self.scan_layers,
        remat=self.remat,
        **dataclasses.asdict(self.size))

  def init(self, rng: PRNGKey) -> PyTree:
    """Fresh float32 parameters; traceable."""
    return _init(self, rng)

  def features(self, params: PyTree, image: Image) -> Features:
    """The features of images in [-1, 1], in `dtype`.

    Args:
      params: of this encoder alone. If it is frozen, they get no gradient.
      image: [B, H, W, 3] of `input_size`.
    """
    return _features(self, params, image)

  def on_grid(self, features: Features, grid: Grid) -> Float[Array, "B N F"]:
    """Features, in `dtype`, for each token of another grid.

    If `grid` divides the encoder's grid, a token gets all features in its cell,
    one behind the other. Otherwise the features are resized linearly: F = D.

    Args:
      features: of this encoder, in any float dtype.
      grid: rows and columns of the N tokens.
    """
    # Before the resize: features from a cache are in half precision.
    features = features.astype(self.dtype)
    rows, columns = self.grid_size
    if rows % grid[0] == 0 and columns % grid[1] == 0:
      return gather_cells(features, self.grid_size, grid)
    return resize_grid(features, self.grid_size, grid)


class Context(flax.struct.PyTreeNode):
  """An image with what the image encoder sees in it.

  Attributes:
    image: [B, H, W, 3] in [-1, 1], or None where nobody needs its pixels.
    features: of the image encoder; None: there is none, or it has not run.
  """
  image: Image | None
  features: Features | None = None

  @property
  def batch_size(self) -> int:
    """B."""
    any_array, *_ = jax.tree.leaves(self)
    return len(any_array)


# An image is a Context without features. None: nobody looks at it.
Seen = Image | Context | None


def as_context(ctx: Seen) -> Context:
  """A Context; a bare image becomes one without features."""
  if isinstance(ctx, Context):
    return ctx
  return Context(image=ctx)


def see(encoder: ImageEncoder | None, params: PyTree, ctx: Seen) -> Context:
  """The image with its features; runs the encoder unless they are there.

  Args:
    encoder: None: there is none, and nothing to run.
    params: of the model; those of the encoder stand under NAME.
    ctx: an image of `encoder.input_size`, or a Context.
  """
  ctx = as_context(ctx)
  if encoder is None or ctx.features is not None:
    return ctx
  features = encoder.features(params[NAME], ctx.image)
  return ctx.replace(features=features)


def same_params(one: PyTree, other: PyTree) -> bool:
  """Whether two encoders that are alike have the same parameters.

  Args:
    one: arrays of the one; all processes must call.
    other: of the other, with the same names and shapes.
  """
  return bool(_same_params(one, other))


# On the devices, where large encoders lie; parts of one may lie on several.
@jax.jit
def _same_params(one, other):
  same_arrays = jax.tree.map(jnp.array_equal, one, other)
  return jnp.all(jnp.stack(jax.tree.leaves(same_arrays)))


def image_at(image: Image, size: tuple[int, int]) -> Image:
  """Images [B, h, w, 3] of another size, resized linearly.

  For a model with an encoder `beside` its own embedding: the image has the
  encoder's size.

  Args:
    image: [B, H, W, 3].
    size: (h, w), that of the model.
  """
  batch_size, *old_size, channels = image.shape
  if tuple(old_size) == tuple(size):
    return image
  shape = (batch_size, *size, channels)
  return jax.image.resize(image, shape, method="linear")


# Jitted for its cache: a run asks for the shapes several times, seconds each.
@functools.partial(jax.jit, static_argnums=0)
def _init(encoder, rng):
  image = jnp.zeros((1, *encoder.input_size, 3))
  return encoder.make_network().init(rng, image)["params"]


# Jitted, because some callers are not.
@functools.partial(jax.jit, static_argnums=0)
def _features(encoder, params, image):
  if encoder.frozen:
    # Of the parameters and not of the result: no derivative is traced at all.
    params = jax.lax.stop_gradient(params)
  return encoder.make_network().apply({"params": params}, image)


def make(
    block: Mapping[str, Any] | ImageEncoder | None, where: str
) -> ImageEncoder | None:
  """Reads a block `image_encoder`; None or {}: there is none.

  Args:
    block: its fields. {} too, because no override on a command line can make
      None of a block.
    where: path of the block, for messages.

  Raises:
    ConfigError: an unknown or missing field, sizes that do not fit.
  """
  if not block:
    return None
  if isinstance(block, ImageEncoder):
    return block
  fields.check_fields(fields.fields_of(ImageEncoder), block, where)
  values = {name: fields.hashable(value) for name, value in block.items()}
  encoder = ImageEncoder(**values)
  _check_sizes(encoder, where)
  return encoder


def _check_sizes(encoder, where):
  size = encoder.size
  if size.width % size.num_heads:
    raise ConfigError(f"{where}.num_heads = {size.num_heads}; it must be a "
                      f"divisor of width {size.width}.")
  for side, patch in zip(encoder.input_size, encoder.patch, strict=True):
    if side % patch:
      raise ConfigError(
          f"{where}.input_size = {encoder.input_size}; it must be a multiple "
          f"of the patch {encoder.patch} in both directions.")
  encoder.make_network().check(f"{where}.backbone = {encoder.backbone!r}")
