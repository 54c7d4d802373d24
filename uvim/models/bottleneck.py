"""How the tokens of the oracle become a code, and a code the tokens of f.

B batch · N tokens of the patch grid · L places of the code · D model width

Oracle and base model are ViTs on the N patches of a grid. The code between them
has L places. Three ways lead from N to L and back:

* `resize`: the places are a grid, too, and the grids are resized linearly.
* `linear`: learned maps of N tokens to L and of L tokens to N.
* `latent`: L tokens of their own go through the blocks beside those of the
  patches, and attention alone moves content between them.

Only the places of `resize` lie somewhere in the image.

Source: paper, section 2.3 ("optionally" a linear resize), and the released
code for `resize` and `linear`; Yu et al., "An Image is Worth 32 Tokens for
Reconstruction and Generation" (TiTok), for `latent`.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from uvim import fields
from uvim.codes import masking
from uvim.nn.grid import Grid, resize_grid
from uvim.registry import ConfigError
from uvim.typing import Array, Float, Tokens

# A token for each place of the code.
Places = Float[Array, "B L D"]
# Tokens of patches, and behind them those of places, where there are any.
Mixed = Float[Array, "B M D"]


class NewArray(NamedTuple):
  """A parameter of the network that a bottleneck needs.

  Attributes:
    name: as checkpoints have it.
    init: (key, shape) → its first values.
    shape: its shape.
  """
  name: str
  init: Callable[..., Array]
  shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Bottleneck:
  """The two ways between patches and places.

  It holds no arrays. Each way has at most one, which the network owns and
  passes: `oracle_array` and `base_model_array` say which.

  Attributes:
    patch_grid: rows and columns of the patches.
    code_len: L.
    code_grid: rows and columns of the code; None: it has none, or a square.
    width: D.
    dtype: of matrix products.
  """
  patch_grid: Grid
  code_len: int
  code_grid: Grid | None
  width: int
  dtype: str = "float32"

  # Whether the places of a code lie on a grid over the image.
  has_grid: ClassVar[bool] = False
  oracle_array: ClassVar[NewArray | None] = None
  base_model_array: ClassVar[NewArray | None] = None

  @property
  def num_patches(self) -> int:
    """N."""
    return math.prod(self.patch_grid)

  @property
  def grid(self) -> Grid | None:
    """Rows and columns of the code; None if its places lie on no grid."""
    if not self.has_grid:
      return None
    return self.code_grid or masking.grid_of(self.code_len)

  # From the oracle's patches to places.

  def before_oracle(self, array: Array | None, x_BND: Tokens) -> Mixed:
    """What the oracle's blocks read."""
    del array
    return x_BND

  def to_code_len(self, array: Array | None, x_BMD: Mixed) -> Places:
    """A token for each place, of what the oracle's blocks wrote."""
    raise NotImplementedError

  # From places to f's patches.

  def to_grid(self, array: Array | None, x_BLD: Places) -> Tokens:
    """What f's patches know of the code before its blocks."""
    raise NotImplementedError

  def before_base_model(
      self, array: Array | None, x_BND: Tokens, x_BLD: Places) -> Mixed:
    """What f's blocks read: patches that see the image, and the code."""
    del array, x_BLD
    return x_BND

  def after_base_model(self, x_BMD: Mixed) -> Tokens:
    """The tokens of the patches, of what f's blocks wrote."""
    return x_BMD


class Resize(Bottleneck):
  """Two grids over one image, resized linearly."""

  has_grid = True

  def to_code_len(self, array, x_BMD):
    return resize_grid(x_BMD, self.patch_grid, self.grid)

  def to_grid(self, array, x_BLD):
    return resize_grid(x_BLD, self.grid, self.patch_grid)


class Linear(Bottleneck):
  """Two learned matrices, [N, L] and [L, N]."""

  @property
  def oracle_array(self):
    shape = (self.num_patches, self.code_len)
    return NewArray("bottleneck_downsample", _xavier(), shape)

  @property
  def base_model_array(self):
    shape = (self.code_len, self.num_patches)
    return NewArray("bottleneck_upsample", _xavier(), shape)

  def to_code_len(self, array, x_BMD):
    kernel_NL = array.astype(self.dtype)
    return jnp.einsum("bnd,nl->bld", x_BMD, kernel_NL)

  def to_grid(self, array, x_BLD):
    kernel_LN = array.astype(self.dtype)
    return jnp.einsum("bld,ln->bnd", x_BLD, kernel_LN)


class Latent(Bottleneck):
  """A learned token for each place, which attends to the patches.

  TiTok has a class token besides, and f's patches start from one learned mask
  token. The class token has no use here; the mask token would be the same as a
  constant in f's learned positions. So neither exists.
  """

  @property
  def oracle_array(self):
    # Each asks something else of the image; it needs no position besides.
    return self._tokens("latent_tokens")

  @property
  def base_model_array(self):
    # One word at two places must not be the same.
    return self._tokens("latent_token_positional_embedding")

  def _tokens(self, name):
    init = nn.initializers.normal(self.width ** -0.5)
    return NewArray(name, init, (1, self.code_len, self.width))

  def before_oracle(self, array, x_BND):
    shape_BLD = (len(x_BND), self.code_len, self.width)
    latent_BLD = jnp.broadcast_to(array.astype(self.dtype), shape_BLD)
    return jnp.concatenate([x_BND, latent_BLD], axis=1)

  def to_code_len(self, array, x_BMD):
    return x_BMD[:, self.num_patches:]

  def to_grid(self, array, x_BLD):
    # Nothing yet: the blocks bring it to them.
    return jnp.zeros((len(x_BLD), self.num_patches, self.width), self.dtype)

  def before_base_model(self, array, x_BND, x_BLD):
    latent_BLD = x_BLD + array.astype(self.dtype)
    return jnp.concatenate([x_BND, latent_BLD], axis=1)

  def after_base_model(self, x_BMD):
    return x_BMD[:, :self.num_patches]


def _xavier():
  return nn.initializers.xavier_uniform()


BOTTLENECKS = {
    "resize": Resize,
    "linear": Linear,
    "latent": Latent,
}
_WITHOUT_GRID = [name for name, kind in BOTTLENECKS.items()
                 if not kind.has_grid]


def check_grid(
    name: str,
    code_len: int,
    code_grid: Grid | None,
) -> None:
  """Checks that the words of a code fill its grid, if it has one.

  Args:
    name: a key of BOTTLENECKS.
    code_len: L.
    code_grid: what a config says.

  Raises:
    ConfigError: names the field, what came and what is allowed.
  """
  has_grid = BOTTLENECKS[name].has_grid
  if code_grid is not None and not has_grid:
    raise ConfigError(
        f"config.model.code_grid = {code_grid}: with bottleneck {name!r} the "
        "words lie on no grid.")
  if code_grid is not None and math.prod(code_grid) != code_len:
    raise ConfigError(
        f"config.model.code_grid = {code_grid} has {math.prod(code_grid)} "
        f"places; code_len = {code_len}.")
  is_square = masking.grid_of(code_len) is not None
  if has_grid and code_grid is None and not is_square:
    raise ConfigError(
        f"config.model.code_len = {code_len}; with bottleneck {name!r} it must "
        "be a square number (64, 256, …), or code_grid given. Any length goes "
        f"with {' and '.join(map(repr, _WITHOUT_GRID))}.")


# ── The old name ────────────────────────────────────────────────────────────

NAME = "bottleneck"
OLD_NAME = "bottleneck_resize"
_NEW_VALUES = {True: "resize", False: "linear"}
OLD_FIELD = fields.Field(
    name=OLD_NAME,
    default=True,
    doc="The old name of `bottleneck`: True is `resize`, False `linear`.",
    check=fields.BOOL)


def rename(model_fields: Mapping[str, Any], where: str) -> dict[str, Any]:
  """The fields with `bottleneck` where an old config has `bottleneck_resize`.

  Args:
    model_fields: a block such as `config.model`; stays as it is.
    where: path of that block, for messages.

  Raises:
    ConfigError: the block has both, or the old one is no bool.
  """
  renamed = dict(model_fields)
  if OLD_NAME not in renamed:
    return renamed
  if NAME in renamed:
    raise ConfigError(
        f"{where}.{OLD_NAME} is the old name of {where}.{NAME}; the config has "
        f"both. Keep {NAME} = {renamed[NAME]!r}.")
  old_value = renamed.pop(OLD_NAME)
  fields.check_value(OLD_FIELD, old_value, where)
  renamed[NAME] = _NEW_VALUES[old_value]
  return renamed
