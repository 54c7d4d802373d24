"""The network of a masked autoencoder: its encoder and its decoder.

B batch · H W image pixels · N patches · S patches that the encoder sees
R prefix tokens (the class token, if there is one) · D width of the encoder
E width of the decoder · X numbers of a patch, which are pixels · channels

The encoder reads a few patches of an image. A small decoder predicts the pixels
of all. Names and shapes of the encoder's parameters are those of stage II's
image encoder.

Source: He et al., "Masked Autoencoders Are Scalable Vision Learners", and its
released code, whose names the fields have.
"""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from uvim import fields
from uvim.encoders import ENCODERS
from uvim.encoders.base import POSITIONS
from uvim.fields import field
from uvim.nn import positions, transformer
from uvim.nn.backbones import vit
from uvim.nn.backbones.base import Style
from uvim.nn.grid import Grid, grid_of
from uvim.registry import ConfigError
from uvim.typing import Array, Float, Image, Int, PRNGKey

# A number for each patch: the encoder sees the patches with the smallest ones.
Noise = Float[Array, "B N"]
Patches = Float[Array, "B N X"]

_DECODER_POSITIONS = "decoder_pos_embed"
# Parameters that checkpoints hold but that nothing trains: fixed positions.
FIXED = (POSITIONS, f"mae_decoder/{_DECODER_POSITIONS}")
# A mistyped depth would build blocks for ever.
_DEPTH = fields.integer(1, 1024)
_SIZE = fields.integer(1)
_AS_IN_STAGE_I = "As in stage I, for encoder and decoder."


def _is_ratio(value):
  return fields.is_number(value) and 0 < value < 1


_RATIO = fields.Check("a number between 0 and 1", _is_ratio)


class MAE(nn.Module):
  """Encoder and decoder; fields of `config.model`."""
  input_size: tuple[int, int] = field(
      doc="Height and width of the images.", check=fields.two_integers())
  patch_size: tuple[int, int] = field(
      doc="Height and width of a patch; divides `input_size`.",
      check=fields.two_integers())
  width: int = field(doc="Width of the encoder.", check=_SIZE)
  depth: int = field(doc="Blocks of the encoder.", check=_DEPTH)
  mlp_dim: int = field(
      doc="Hidden size of the encoder's MLPs.", check=_SIZE)
  num_heads: int = field(
      doc="Attention heads of the encoder; divides `width`.", check=_SIZE)
  encoder_style: str = field(
      "augreg", doc="As in stage II. `mae`: as the published MAEs, with a "
      "class token and the exact GELU.", check=fields.one_of(ENCODERS))
  mask_ratio: float = field(
      0.75, doc="Share of the patches that the encoder does not see.",
      source="MAE 0.75", check=_RATIO)
  norm_pix_loss: bool = field(
      True, doc="Predict the pixels of each patch normalised to the mean 0 and "
      "the deviation 1.", source="MAE", check=fields.BOOL)
  decoder_embed_dim: int = field(
      512, doc="Width of the decoder.", source="MAE 512", check=_SIZE)
  decoder_depth: int = field(
      8, doc="Blocks of the decoder.", source="MAE 8", check=_DEPTH)
  decoder_num_heads: int = field(
      16, doc="Attention heads of the decoder; divides `decoder_embed_dim`.",
      source="MAE 16", check=_SIZE)
  decoder_mlp_dim: int | None = field(
      None, doc="Hidden size of the decoder's MLPs. None: four times its "
      "width.", source="MAE None", check=fields.optional(_SIZE))
  dtype: str = transformer.dtype_field(
      "As in stage I; the loss stays float32.")
  attention: str = transformer.attention_field(_AS_IN_STAGE_I)
  scan_layers: bool = transformer.scan_layers_field(_AS_IN_STAGE_I)
  remat: str = transformer.remat_field(_AS_IN_STAGE_I)

  @property
  def grid_size(self) -> Grid:
    """Rows and columns of patches."""
    return grid_of(self.input_size, self.patch_size)

  @property
  def num_patches(self) -> int:
    """N."""
    num_rows, num_columns = self.grid_size
    return num_rows * num_columns

  @property
  def num_seen(self) -> int:
    """S, rounded down as in the released code."""
    return int(self.num_patches * (1 - self.mask_ratio))

  @property
  def style(self) -> Style:
    """What no parameter of the encoder can absorb."""
    return ENCODERS[self.encoder_style].style

  def check(self, where: str) -> None:
    """Checks the sizes, before anything is built.

    Args:
      where: path of the block that gave them, for messages.

    Raises:
      ConfigError: sizes do not fit each other.
    """
    for size, patch in zip(self.input_size, self.patch_size, strict=True):
      if size % patch:
        raise ConfigError(
            f"{where}.patch_size = {self.patch_size}; it must divide "
            f"input_size {self.input_size} in both directions.")
    _check_width(self, where, "num_heads", "width")
    _check_width(self, where, "decoder_num_heads", "decoder_embed_dim")
    if not 0 < self.num_seen < self.num_patches:
      raise ConfigError(
          f"{where}.mask_ratio = {self.mask_ratio}; of {self.num_patches} "
          "patches at least one must be seen and one masked.")

  def setup(self):
    # How blocks are computed; it changes no parameter.
    how = dict(
        dtype=self.dtype,
        attention=self.attention,
        scan_layers=self.scan_layers,
        remat=self.remat)
    self.image_tokens = vit.ViT(
        input_size=self.input_size,
        patch_size=self.patch_size,
        depth=self.depth,
        width=self.width,
        mlp_dim=self.mlp_dim,
        num_heads=self.num_heads,
        # This choice makes no parameter. `encode_seen` adds the positions below
        # in place of the network's own.
        posemb_type="sincos2d",
        style=self.style,
        **how)
    # Its parameters stand at the top, as those of stage II's encoder do.
    nn.share_scope(self, self.image_tokens)
    self.image_tokens.create()
    self.positions = _fixed_waves(self, POSITIONS, self.grid_size, self.width)
    pixels_of_patch = self.patch_size[0] * self.patch_size[1]
    self.mae_decoder = Decoder(
        grid_size=self.grid_size,
        width=self.decoder_embed_dim,
        depth=self.decoder_depth,
        mlp_dim=self.decoder_mlp_dim or 4 * self.decoder_embed_dim,
        num_heads=self.decoder_num_heads,
        num_outputs=3 * pixels_of_patch,
        style=self.style,
        **how)

  def __call__(self, image: Image, noise_BN: Noise) -> Patches:
    """The pixels of all patches, float32, predicted from those that are seen.

    Args:
      image: in [-1, 1].
      noise_BN: decides which patches are seen, see `order_patches`.
    """
    order = order_patches(noise_BN)
    encoded_BSD = self.encode_seen(image, order)
    return self.mae_decoder(encoded_BSD, order.places_BN)

  def encode_seen(
      self,
      image: Image,
      order: "Order",
  ) -> Float[Array, "B R+S D"]:
    """The tokens of the prefix and of the patches that the encoder sees.

    Args:
      image: in [-1, 1].
      order: its first S patches are seen.
    """
    x_BND = self.image_tokens.embed(image) + self.positions
    seen_BS = order.patches_BN[:, :self.num_seen]
    x_BSD = _take(x_BND, seen_BS)
    return self.image_tokens.encode(x_BSD)


def _check_width(network, where, heads_field, width_field):
  """Raises a ConfigError unless heads and waves share a width evenly."""
  heads = getattr(network, heads_field)
  width = getattr(network, width_field)
  if width % heads:
    raise ConfigError(f"{where}.{heads_field} = {heads}; it must divide "
                      f"{width_field} {width}.")
  if width % 4:
    raise ConfigError(f"{where}.{width_field} = {width}; it must be a multiple "
                      "of 4, for the waves of the positions.")


class Decoder(nn.Module):
  """Predicts all patches of an image from some of them.

  Attributes:
    grid_size: rows and columns of patches.
    width: E, a multiple of 4.
    depth: number of blocks.
    mlp_dim: hidden size of the MLPs.
    num_heads: attention heads; divides `width`.
    num_outputs: X.
    style: that of the encoder.
    dtype, attention, scan_layers, remat: as in `transformer.Encoder`.
  """
  grid_size: Grid
  width: int
  depth: int
  mlp_dim: int
  num_heads: int
  num_outputs: int
  style: Style
  dtype: str = "float32"
  attention: str = "chunked"
  scan_layers: bool = False
  remat: str = "none"

  @nn.compact
  def __call__(
      self,
      encoded_BSD: Float[Array, "B R+S D"],
      places_BN: Int[Array, "B N"],
  ) -> Patches:
    """The pixels of all patches, float32.

    Args:
      encoded_BSD: tokens of the encoder: prefix, then patches in the order of
        `Order.patches_BN`.
      places_BN: where in that order each patch stands.
    """
    make_dense = functools.partial(
        nn.Dense,
        dtype=self.dtype,
        kernel_init=nn.initializers.xavier_uniform())
    embedded_BSE = make_dense(self.width, name="decoder_embed")(encoded_BSD)
    prefix_BRE, seen_BSE = jnp.split(
        embedded_BSE, [self.style.num_prefix], axis=1)
    x_BNE = self._with_masked(seen_BSE, places_BN)
    x_BNE = x_BNE + _fixed_waves(
        self, _DECODER_POSITIONS, self.grid_size, self.width)
    # The prefix has the position zero.
    x_BNE = jnp.concatenate([prefix_BRE, x_BNE.astype(self.dtype)], axis=1)

    blocks = transformer.Encoder(
        self.depth,
        self.mlp_dim,
        self.num_heads,
        dtype=self.dtype,
        attention=self.attention,
        scan_layers=self.scan_layers,
        remat=self.remat,
        gelu=self.style.gelu,
        norm_epsilon=self.style.norm_epsilon,
        name="blocks")
    x_BNE = blocks(x_BNE)[:, self.style.num_prefix:]
    predicted_BNX = make_dense(self.num_outputs, name="decoder_pred")(x_BNE)
    return predicted_BNX.astype(jnp.float32)

  def _with_masked(self, seen_BSE, places_BN):
    """[B, N, E]: all patches in the order of the image.

    The mask token stands for each one that the encoder has not seen.
    """
    mask_token_11E = self.param(
        "mask_token", nn.initializers.normal(0.02), (1, 1, self.width))
    batch, num_seen, _ = seen_BSE.shape
    num_masked = places_BN.shape[1] - num_seen
    masked_BME = jnp.broadcast_to(
        mask_token_11E, (batch, num_masked, self.width))
    ordered_BNE = jnp.concatenate(
        [seen_BSE, masked_BME.astype(seen_BSE.dtype)], axis=1)
    return _take(ordered_BNE, places_BN)


def waves(grid_size: Grid, width: int) -> positions.Positions:
  """The fixed position embedding of encoder or decoder, [1, N, width]."""
  return positions.sincos2d(grid_size, width, reaches_longest=False)


def _fixed_waves(module, name, grid_size, width):
  """The position embedding of a module, [1, N, width].

  It is never trained. It is a parameter so that a checkpoint holds it, and so
  that a pretrained encoder may bring its own.
  """
  def init(rng):
    del rng
    return waves(grid_size, width)

  return jax.lax.stop_gradient(module.param(name, init))


def _take(x_BND, indices_BS):
  """The tokens [B, S, D] at these indices of each example."""
  return jnp.take_along_axis(x_BND, indices_BS[..., None], axis=1)


# ── Which patches are masked ────────────────────────────────────────────────


class Order(NamedTuple):
  """The patches of each example, those that are seen first.

  Attributes:
    patches_BN: int32; which patch stands at each place of this order.
    places_BN: int32; the place of each patch in it.
  """
  patches_BN: Int[Array, "B N"]
  places_BN: Int[Array, "B N"]


def draw_noise(rngs_B: PRNGKey, num_patches: int) -> Noise:
  """Uniform noise in [0, 1), float32; an example's depends on its key alone."""
  def draw(rng):
    return jax.random.uniform(rng, (num_patches,))

  return jax.vmap(draw)(rngs_B)


def order_patches(noise_BN: Noise) -> Order:
  """The patches from the smallest noise to the largest."""
  patches_BN = jnp.argsort(noise_BN, axis=1, stable=True)
  places_BN = jnp.argsort(patches_BN, axis=1, stable=True)
  return Order(patches_BN, places_BN)
