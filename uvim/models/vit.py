"""Stage I's network: the restricted oracle and the base model, one module.

B batch · N tokens of the patch grid · P pixels in a patch · K classes, bins or
channels of one output · C channels · D model width · L code length
M tokens that the blocks read · E numbers of a code vector

The oracle reads the label (and the image) and writes L vectors. A quantizer,
outside of this module, turns them into a code. The base model f reads only the
vectors of that code and the image. Names and shapes of parameters are those of
the published checkpoints.

Source: paper sections 2.2 and 2.3, Appendix D for the fields.
"""

import math
from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
from flax.core import FrozenDict

from uvim import fields
from uvim.encoders import image_encoder as image_encoder_lib
from uvim.encoders.image_encoder import ImageEncoder, Seen
from uvim.fields import field
from uvim.models.bottleneck import BOTTLENECKS, Bottleneck, check_grid
from uvim.nn import embedding, transformer
from uvim.nn.embedding import Label
from uvim.nn.grid import Grid, grid_of
from uvim.registry import ConfigError
from uvim.typing import Array, CodeVectors, Float, Tokens

# By the keys of `outputs` and `inputs`.
Logits = dict[str, Float[Array, "B N K P"]]
Labels = Mapping[str, Label]
# Name → (classes, pixels of a patch).
LabelShapes = Mapping[str, tuple[int, int]]

_RELEASED = "ours, as released"
# A mistyped depth would build blocks for ever.
_DEPTH = fields.integer(0, 1024)


def _are_label_shapes(value):
  if not isinstance(value, Mapping) or not value:
    return False
  is_shape = fields.two_integers().fits
  return all(is_shape(shape) for shape in value.values())


_LABELS = fields.Check(
    "name → (classes, pixels of a patch)", _are_label_shapes)


class ViT(nn.Module):
  """Oracle (`encode`) and base model (`decode`); fields of `config.model`."""
  input_size: tuple[int, int] = field(
      doc="Height and width of labels, and of the image that oracle and base "
      "model see.", source="L1 (512, 512)", check=fields.two_integers())
  patch_size: tuple[int, int] = field(
      doc="Height and width of a patch; divides `input_size`.",
      source="L1 (16, 16)", check=fields.two_integers())
  code_len: int = field(
      doc="Words of a guiding code. With bottleneck `resize` they lie on a "
      "grid, see `code_grid`.", source="L1 256", check=fields.integer(1))
  width: int = field(
      doc="Width of both transformers.", source="L1 768",
      check=fields.integer(1))
  oracle_depth: int = field(
      doc="Blocks of the oracle; 0: no oracle.", source="L1 6", check=_DEPTH)
  base_model_depth: int = field(
      doc="Blocks of the base model.", source="L1 12",
      check=fields.integer(1, 1024))
  mlp_dim: int = field(
      doc="Hidden size of the MLPs.", source="L1 3072",
      check=fields.integer(1))
  num_heads: int = field(
      doc="Attention heads; divides `width`.", source="L1 12",
      check=fields.integer(1))
  codeword_dim: int = field(
      doc="How many numbers the oracle writes for a place of the code.",
      source="L1 768", check=fields.integer(1))
  inputs: LabelShapes = field(
      doc="What the oracle reads: name → (classes, pixels of a patch).",
      source="L1 semantics (134, 256), instances (100, 256)", check=_LABELS)
  outputs: LabelShapes = field(
      doc="What the base model predicts, likewise.",
      source="L1 the same object", check=_LABELS)
  with_encoder_ctx: bool = field(
      True, doc="The oracle sees the image.", source="L1 True",
      check=fields.BOOL)
  with_decoder_ctx: bool = field(
      True, doc="The base model sees the image.", source="L1 True",
      check=fields.BOOL)
  bottleneck: str = field(
      "resize", doc="From the grid of tokens to the code and back. `resize`: "
      "the code is a grid, too, resized linearly. `linear`: by learned maps. "
      "`latent`: by learned tokens beside those of the grid, as in TiTok. The "
      "last two take any `code_len`.",
      source=_RELEASED, check=fields.one_of(BOTTLENECKS))
  code_grid: tuple[int, int] | None = field(
      None, doc="Rows and columns of the code with bottleneck `resize`; None: "
      "a square. With the grid of the patches, each patch has its own word.",
      check=fields.optional(fields.two_integers()))
  image_encoder: ImageEncoder | None = field(
      None, doc="A pretrained network through which oracle and base model see "
      "the image, see [image encoder](#image-encoder).",
      check=fields.optional(fields.MAPPING))
  head_zeroinit: bool = field(
      True, doc="Start from uniform predictions.", source=_RELEASED,
      check=fields.BOOL)
  dtype: str = transformer.dtype_field(
      "Of matrix products: `float32` or `bfloat16`; parameters and reductions "
      "stay float32.")
  attention: str = transformer.attention_field(
      "`chunked`: memory that grows with the tokens, by cuDNN's kernel for "
      "bfloat16 on a GPU and by blocks of queries elsewhere; `blocks`: by "
      "blocks everywhere; `fused`: cuDNN's kernel, and elsewhere XLA's own "
      "way, which keeps all scores.")
  scan_layers: bool = transformer.scan_layers_field(
      "Blocks run as a scan over their stacked parameters: quicker to compile. "
      "Names and files do not change.")
  remat: str = transformer.remat_field(
      "`block`: the backward pass keeps only the input and the attended values "
      "of each block and computes the rest again; `none`: it keeps everything.")

  def __post_init__(self):
    # A model is a static argument of jitted functions, so it must hash.
    for name in ("inputs", "outputs"):
      given = getattr(self, name)
      shapes = {key: tuple(shape) for key, shape in given.items()}
      object.__setattr__(self, name, FrozenDict(shapes))
    super().__post_init__()

  @property
  def grid_size(self) -> Grid:
    """Rows and columns of patches."""
    return grid_of(self.input_size, self.patch_size)

  @property
  def grid_of_code(self) -> Grid | None:
    """Rows and columns of the code; None if its places lie on no grid."""
    return self.make_bottleneck().grid

  @property
  def num_patches(self) -> int:
    """N, tokens of an image."""
    return math.prod(self.grid_size)

  @property
  def sees_pixels(self) -> bool:
    """Whether the image is embedded by patches."""
    return self.image_encoder is None or self.image_encoder.beside

  def setup(self):
    self.between = self.make_bottleneck()
    if self.oracle_depth:
      self._setup_oracle()
    self._setup_base_model()

  def _setup_oracle(self):
    # Named one by one: flax would call them embeddings_KEY.
    embeddings = {}
    for key, shape in self.inputs.items():
      embeddings[key] = embedding.LabelEmbedding(
          shape, self.width, dtype=self.dtype, name=f"embedding_{key}")
    self.embeddings = embeddings
    if self.with_encoder_ctx and self.sees_pixels:
      self.ctx_enc_embedding = self._patch_embedding()
    if self.with_encoder_ctx and self.image_encoder:
      self.ctx_enc_projection = self._projection()
    self.pos_embedding_encoder = self._pos_embedding("pos_embedding_encoder")
    self.encoder = self._transformer(self.oracle_depth)
    self.oracle_array = self._array(self.between.oracle_array)
    # In float32: rounding would decide between two close codewords.
    self.encoder_head = nn.Dense(self.codeword_dim)

  def _setup_base_model(self):
    self.decoder_stem = nn.Dense(self.width, dtype=self.dtype)
    self.base_model_array = self._array(self.between.base_model_array)
    if self.with_decoder_ctx and self.sees_pixels:
      self.ctx_dec_embedding = self._patch_embedding()
    if self.with_decoder_ctx and self.image_encoder:
      self.ctx_dec_projection = self._projection()
    self.pos_embedding_decoder = self._pos_embedding("pos_embedding_decoder")
    self.decoder = self._transformer(self.base_model_depth)
    self.heads = {key: self._head(key) for key in self.outputs}

  def _array(self, new):
    """The array that one way of the bottleneck needs; None if none."""
    if new is None:
      return None
    return self.param(new.name, new.init, new.shape)

  # Not wrapped: a model is asked for its grid outside of flax, too.
  @nn.nowrap
  def make_bottleneck(self) -> Bottleneck:
    """What lies between the tokens of patches and the places of the code."""
    make = BOTTLENECKS[self.bottleneck]
    return make(
        patch_grid=self.grid_size,
        code_len=self.code_len,
        code_grid=self.code_grid,
        width=self.width,
        dtype=self.dtype)

  def _patch_embedding(self):
    return embedding.PatchEmbedding(
        self.patch_size, self.width, dtype=self.dtype)

  def _projection(self):
    """The map from features of the image encoder to tokens."""
    return nn.Dense(self.width, dtype=self.dtype)

  def _pos_embedding(self, name):
    shape_1ND = (1, self.num_patches, self.width)
    init = nn.initializers.normal(self.width ** -0.5)
    return self.param(name, init, shape_1ND)

  def _head(self, key):
    """The linear map from a token to the logits of one output."""
    kernel_init = nn.initializers.lecun_normal()
    if self.head_zeroinit:
      kernel_init = nn.initializers.zeros
    return nn.DenseGeneral(
        self.outputs[key],
        dtype=self.dtype,
        kernel_init=kernel_init,
        name=f"head_{key}")

  def _transformer(self, depth):
    return transformer.Encoder(
        depth=depth,
        mlp_dim=self.mlp_dim,
        num_heads=self.num_heads,
        dtype=self.dtype,
        attention=self.attention,
        scan_layers=self.scan_layers,
        remat=self.remat)

  def __call__(self, x: Labels, ctx: Seen, z_BLE: CodeVectors) -> Logits:
    """Both parts, without the quantizer between them: creates all parameters.

    Args:
      x, ctx: as in `encode`.
      z_BLE: as in `decode`; a quantizer may make vectors of another size than
        the oracle writes.
    """
    if self.oracle_depth:
      self.encode(x, ctx)
    return self.decode(z_BLE, ctx)

  def encode(self, x: Labels, ctx: Seen) -> CodeVectors:
    """The oracle up to the quantizer.

    Args:
      x: per key of `inputs` the label in patches: integer ids, where an id
        outside 0..K-1 embeds to zero, or float channels.
      ctx: the image in [-1, 1], at label size or, with features, at that of
        the image encoder; unused without `with_encoder_ctx`.

    Returns:
      float32 vectors, one for each place of the code.
    """
    x_BND = sum(embed(x[key]) for key, embed in self.embeddings.items())
    if self.with_encoder_ctx:
      x_BND = x_BND + self._image_tokens(ctx, "enc")
    x_BND = x_BND + self.pos_embedding_encoder.astype(self.dtype)
    between = self.between
    x_BMD = self.encoder(between.before_oracle(self.oracle_array, x_BND))
    x_BLD = between.to_code_len(self.oracle_array, x_BMD)
    return self.encoder_head(x_BLD.astype(jnp.float32))

  def decode(self, z_BLE: CodeVectors, ctx: Seen) -> Logits:
    """The base model f.

    Args:
      z_BLE: code vectors: codewords, zeros where a word was dropped.
      ctx: as in `encode`; unused without `with_decoder_ctx`.

    Returns:
      Per key of `outputs` the logits, in `dtype`.
    """
    x_BND = self.decode_tokens(z_BLE, ctx)
    return {key: head(x_BND) for key, head in self.heads.items()}

  def decode_tokens(self, z_BLE: CodeVectors, ctx: Seen) -> Tokens:
    """`decode` without the heads.

    A loss that applies the heads itself, a few pixels at a time, never holds
    all logits.
    """
    between = self.between
    array = self.base_model_array
    x_BLD = self.decoder_stem(z_BLE)
    x_BND = between.to_grid(array, x_BLD)
    if self.with_decoder_ctx:
      x_BND = x_BND + self._image_tokens(ctx, "dec")
    x_BND = x_BND + self.pos_embedding_decoder.astype(self.dtype)
    x_BMD = self.decoder(between.before_base_model(array, x_BND, x_BLD))
    return between.after_base_model(x_BMD)

  def _image_tokens(self, ctx, part):
    """What the part `enc` or `dec` sees of the image: a token a patch."""
    ctx = image_encoder_lib.as_context(ctx)
    encoder = self.image_encoder
    if encoder is None:
      embed = getattr(self, f"ctx_{part}_embedding")
      return embed(ctx.image)
    features = encoder.on_grid(ctx.features, self.grid_size)
    project = getattr(self, f"ctx_{part}_projection")
    x_BND = project(features)
    if encoder.beside:
      embed = getattr(self, f"ctx_{part}_embedding")
      image = image_encoder_lib.image_at(ctx.image, self.input_size)
      x_BND = x_BND + embed(image)
    return x_BND


def check_vit(vit: ViT) -> None:
  """Checks that the fields of a network fit each other.

  Raises:
    ConfigError: names the field, what came and what is allowed.
  """
  size = tuple(vit.input_size)
  patch = tuple(vit.patch_size)
  if vit.width % vit.num_heads:
    raise ConfigError(
        f"config.model.num_heads = {vit.num_heads}; it must be a divisor of "
        f"width {vit.width}.")
  if size[0] % patch[0] or size[1] % patch[1]:
    raise ConfigError(f"config.model.patch_size = {patch}; it must be a "
                      f"divisor of input_size {size}.")
  if vit.image_encoder and not (vit.with_encoder_ctx or vit.with_decoder_ctx):
    raise ConfigError(
        "config.model.image_encoder: nobody sees with it, as with_encoder_ctx "
        "and with_decoder_ctx are False.")
  check_grid(vit.bottleneck, vit.code_len, vit.code_grid)
  patch_pixels = math.prod(patch)
  for group in ("inputs", "outputs"):
    for key, (_, pixels) in getattr(vit, group).items():
      if pixels != patch_pixels:
        raise ConfigError(
            f"config.model.{group}.{key} is for patches of {pixels} pixels, "
            f"but patch_size {patch} has {patch_pixels}.")
