"""Stage II: the encoder-decoder language model of the guiding code.

B batch · H W image pixels · N patches · L code length · D width
V = Q + 1 vocabulary: word 0 starts a sequence, word i + 1 is codeword i

Source: paper, "Experimental setup for stage II", and Appendix D, Listing 2.
Names and shapes of the parameters are those of the released checkpoints.
Encoder and decoder have the same sizes unless `decoder_…` says otherwise: the
text speaks of a ViT-B decoder, but only 24 layers give the quoted 939M.
"""

import functools
import math
from collections.abc import Mapping, Sequence

import flax.core
import flax.linen as nn
import jax.numpy as jnp

from uvim import fields
from uvim.encoders import ENCODERS
from uvim.encoders import image_encoder as image_encoder_lib
from uvim.encoders.image_encoder import Context, ImageEncoder, Seen
from uvim.fields import field
from uvim.nn import backbones, positions, transformer
from uvim.nn.backbones import vit
from uvim.nn.grid import Grid, grid_of, resize_grid
from uvim.priors import decoder, packed_decoder
from uvim.registry import ConfigError
from uvim.typing import Array, Float, PyTree, Tokens, Words

Logits = Float[Array, "B L V"]


def _is_patch_size(value):
  if not isinstance(value, Mapping):
    return False
  return fields.two_integers().fits(value.get("size"))


# A mistyped depth would build blocks for ever.
_LAYERS = fields.integer(1, 1024)
_SIZE = fields.integer(1)
_PATCHES = fields.Check(
    '{"size": (rows, columns)} with two integers ≥ 1', _is_patch_size)
_FAMILIES = "`, `".join(ENCODERS)
_AS_ENCODER = "None: as the encoder."
_AS_IN_STAGE_I = "As in stage I, for encoder and decoder."


class LM(nn.Module):
  """Image → distribution over sequences of words; fields of `config.model`."""
  num_layers: int = field(
      doc="Blocks of the encoder, and of the decoder.", source="L2 24",
      check=_LAYERS)
  num_heads: int = field(
      doc="Attention heads; divides `emb_dim`.", source="L2 16", check=_SIZE)
  mlp_dim: int = field(
      doc="Hidden size of the MLPs.", source="L2 4096", check=_SIZE)
  emb_dim: int = field(doc="Width.", source="L2 1024", check=_SIZE)
  patches: Mapping[str, Sequence[int]] = field(
      doc='`{"size": (rows, columns)}` in pixels; divides `input_size`.',
      source="L2 (16, 16)", check=_PATCHES)
  vocab_size: int = field(
      doc="The oracle's `dict_size` + 1; 0 is the start word.",
      source="L2 4097", check=fields.integer(2))
  input_size: Sequence[int] = field(
      doc="Height and width of the image it sees, which may be larger than "
      "the label.", source="L2 (512, 512)", check=fields.two_integers())
  seq_len: int = field(
      doc="The oracle's `code_len`, times `num_quantizers`.",
      source="L2 256", check=_SIZE)
  num_quantizers: int = field(
      1, doc="Words of each place, which follow each other in the sequence: "
      "the oracle's `num_quantizers`.", check=_SIZE)
  posemb_type: str = field(
      "learn", doc="`learn` or `sincos2d`, for patches and for words.",
      source="L2 `learn`", check=fields.one_of(positions.POSEMBS))
  backbone: str = field(
      "vit", doc="The network that reads the image: `vit`, `conv_stem` or "
      "`mixer`.",
      check=fields.one_of(backbones.BACKBONES))
  encoder_style: str = field(
      "augreg", doc="Family of pretrained ViTs whose form the encoder has: "
      f"`{_FAMILIES}`.",
      check=fields.one_of(ENCODERS))
  image_encoder: ImageEncoder | None = field(
      None, doc="A pretrained network whose features take the place of the "
      "patch embedding, see [image encoder](#image-encoder). `input_size` and "
      "`patches` then only say how many tokens the encoder has.",
      check=fields.optional(fields.MAPPING))
  code_grid: tuple[int, int] | None = field(
      None, doc="Rows and columns of the code. The decoder then gets, with the "
      "position of each word, the image's token at that place; so it need not "
      "learn from data where a word lies. None: as in the paper.",
      check=fields.optional(fields.two_integers()))
  autoregressive: bool = field(
      True, doc="False: all words in one pass (the paper's ablation).",
      check=fields.BOOL)
  dtype: str = transformer.dtype_field(
      "As in stage I; logits stay float32.")
  decoder_layers: int | None = field(
      None, doc=f"Blocks of the decoder. {_AS_ENCODER}",
      check=fields.optional(_LAYERS))
  decoder_heads: int | None = field(
      None, doc=f"Attention heads of the decoder. {_AS_ENCODER}",
      check=fields.optional(_SIZE))
  decoder_mlp_dim: int | None = field(
      None, doc=f"Hidden size of the decoder's MLPs. {_AS_ENCODER}",
      check=fields.optional(_SIZE))
  decoder_emb_dim: int | None = field(
      None, doc=f"Width of the decoder (the paper's text: a ViT-B). "
      f"{_AS_ENCODER}", check=fields.optional(_SIZE))
  attention: str = transformer.attention_field(_AS_IN_STAGE_I)
  scan_layers: bool = transformer.scan_layers_field(_AS_IN_STAGE_I)
  remat: str = transformer.remat_field(_AS_IN_STAGE_I)

  def __post_init__(self):
    # A model is a static argument of the jitted sampler, so it must hash.
    patch_size = tuple(self.patches["size"])
    patches = flax.core.freeze({"size": patch_size})
    object.__setattr__(self, "patches", patches)
    object.__setattr__(self, "input_size", tuple(self.input_size))
    super().__post_init__()

  @property
  def grid_size(self) -> Grid:
    """Rows and columns of patches."""
    return grid_of(self.input_size, self.patches["size"])

  def setup(self):
    # None stands for the encoder's size; see the file's docstring.
    decoder_width = self.decoder_emb_dim or self.emb_dim
    self.image_tokens = self.make_backbone()
    # Its parameters stand beside the decoder's, as in the checkpoints.
    nn.share_scope(self, self.image_tokens)
    # Before the decoder's positions: the order decides which random numbers
    # fresh parameters get.
    self.image_tokens.create()
    make_posemb = positions.POSEMBS[self.posemb_type]
    self.decoder_posemb = make_posemb(
        self, "pos_embedding_decoder", (1, self.seq_len), decoder_width)
    if self.code_grid:
      self.place_projection = nn.Dense(decoder_width, dtype=self.dtype)
    self.decoder = decoder.Decoder(
        num_layers=self.decoder_layers or self.num_layers,
        num_heads=self.decoder_heads or self.num_heads,
        mlp_dim=self.decoder_mlp_dim or self.mlp_dim,
        emb_dim=decoder_width,
        vocab_size=self.vocab_size,
        autoregressive=self.autoregressive,
        **self._how())

  # Not wrapped: it also makes one that belongs to no model, to be checked.
  @nn.nowrap
  def make_backbone(self) -> backbones.Backbone:
    """The network that reads the image."""
    make = backbones.BACKBONES[self.backbone]
    if self.image_encoder:
      make = functools.partial(_FeatureViT, seen_with=self.image_encoder)
    return make(
        input_size=self.input_size,
        patch_size=self.patches["size"],
        depth=self.num_layers,
        width=self.emb_dim,
        mlp_dim=self.mlp_dim,
        num_heads=self.num_heads,
        posemb_type=self.posemb_type,
        style=ENCODERS[self.encoder_style].style,
        **self._how())

  @nn.nowrap
  def example_sequence(self) -> Words:
    """A sequence of the shape that the model reads, of one example."""
    return jnp.zeros((1, self.seq_len), jnp.int32)

  @nn.nowrap
  def _how(self):
    """How blocks are computed; it changes no parameter."""
    return dict(
        dtype=self.dtype,
        attention=self.attention,
        scan_layers=self.scan_layers,
        remat=self.remat)

  def __call__(self, image: Seen, text_BL: Words) -> Logits:
    """Float32 logits of each word of `text_BL` given the words before it.

    Args:
      image: in [-1, 1]; with an image encoder a Context with its features.
      text_BL: code + 1; shifted right with the start word 0 inside.
    """
    encoded_BND = self.encode(image)
    return self.logits(encoded_BND, text_BL)

  def encode(self, image: Seen) -> Tokens:
    """What the decoder sees of an image."""
    ctx = image_encoder_lib.as_context(image)
    if self.image_encoder:
      return self.image_tokens(ctx)
    return self.image_tokens(ctx.image)

  def logits(
      self, encoded_BND: Tokens, text_BL: Words, masked: bool = False,
  ) -> Logits:
    """The decoder alone, on an image already encoded; see `decoder.Decoder`."""
    places = self.places(encoded_BND)
    return self.decoder(encoded_BND, text_BL, places, masked)

  def masked_logits(self, image: Seen, text_BL: Words) -> Logits:
    """Float32 logits of each word given those of `text_BL` that are not 0.

    Args:
      image: as for a call.
      text_BL: code + 1, or 0 for an unknown word.
    """
    encoded_BND = self.encode(image)
    return self.logits(encoded_BND, text_BL, masked=True)

  def packed_decoder(self, encoded_BND: Tokens) -> PyTree:
    """Parameters laid out by `packed_decoder.pack`; call on a bound model."""
    params = self.decoder.variables["params"]
    places = self.places(encoded_BND)
    return packed_decoder.pack(params, places, dtype=self.dtype)

  def places(self, encoded_BND: Tokens) -> decoder.Places:
    """What tells the decoder where a word lies: [1, L, D], or [B, L, D]."""
    if not self.code_grid:
      return self.decoder_posemb
    at_places = resize_grid(encoded_BND, self.grid_size, self.code_grid)
    # In float32, as the positions are.
    at_places = self.place_projection(at_places).astype(jnp.float32)
    # All words of a place lie there.
    at_words = jnp.repeat(at_places, self.num_quantizers, axis=1)
    return self.decoder_posemb + at_words


class _FeatureViT(vit.ViT):
  """A ViT on the features of an image encoder in place of patches.

  Attributes:
    seen_with: the encoder, which is not part of this network.
  """
  seen_with: ImageEncoder | None = None

  def _make_embedding(self):
    encoder = self.seen_with
    project = nn.Dense(self.width, dtype=self.dtype, name="image_projection")
    if encoder.beside:
      embed_patches = super()._make_embedding()

    def embed(ctx: Context) -> Tokens:
      features = encoder.on_grid(ctx.features, self.grid_size)
      x_BND = project(features)
      if encoder.beside:
        image = image_encoder_lib.image_at(ctx.image, self.input_size)
        x_BND = x_BND + embed_patches(image)
      return x_BND

    return embed


def check_lm(lm: LM) -> None:
  """Checks that the fields of an `LM` fit each other.

  Raises:
    ConfigError: names the field, what came and what is allowed.
  """
  _check_width(lm, "num_heads", "emb_dim")
  # The decoder's sizes are the encoder's where the config does not say. The
  # message names the field that the config did give.
  heads_field = "num_heads"
  if lm.decoder_heads is not None:
    heads_field = "decoder_heads"
  width_field = "emb_dim"
  if lm.decoder_emb_dim is not None:
    width_field = "decoder_emb_dim"
  _check_width(lm, heads_field, width_field)

  size = lm.input_size
  patch = lm.patches["size"]
  if size[0] % patch[0] or size[1] % patch[1]:
    raise ConfigError(
        f"config.model.patches.size = {tuple(patch)}; it must divide "
        f"input_size {tuple(size)} in both directions.")
  if lm.image_encoder and lm.backbone != "vit":
    raise ConfigError(
        f"config.model.backbone = {lm.backbone!r}; with an image_encoder it "
        "must be 'vit'.")
  grid = lm.code_grid
  num_places, num_left = divmod(lm.seq_len, lm.num_quantizers)
  if num_left:
    raise ConfigError(
        f"config.model.num_quantizers = {lm.num_quantizers}; it must divide "
        f"seq_len = {lm.seq_len}.")
  if grid is not None and math.prod(grid) != num_places:
    raise ConfigError(
        f"config.model.code_grid = {tuple(grid)} has {math.prod(grid)} places; "
        f"seq_len = {lm.seq_len} has {num_places}.")
  lm.make_backbone().check(f"config.model.backbone = {lm.backbone!r}")


def _check_width(lm, heads_field, width_field):
  """Heads and position embeddings share a width evenly."""
  heads = getattr(lm, heads_field)
  width = getattr(lm, width_field)
  if width % heads:
    raise ConfigError(f"config.model.{heads_field} = {heads}; it must divide "
                      f"{width_field} {width}.")
  # A quarter of the width with one wave alone would span no range.
  if lm.posemb_type == "sincos2d" and (width % 4 or width < 8):
    raise ConfigError(f"config.model.{width_field} = {width}; with posemb_type "
                      "= 'sincos2d' it must be a multiple of 4, at least 8.")
