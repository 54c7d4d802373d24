"""Stage I's network: the restricted oracle and the base model, one module.

B batch · N tokens of the patch grid · P pixels in a patch · K classes, bins or
channels of one output · C channels · D model width · L code length
E numbers of a code vector

The oracle reads the label (and the image) and writes L vectors. A quantizer,
outside of this module, turns them into a code. The base model f reads only the
vectors of that code and the image. Names and shapes of parameters are those of
the published checkpoints.

Source: paper sections 2.2 and 2.3, Appendix D for the fields.
"""

import math
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import FrozenDict

from uvim import fields
from uvim.codes import masking
from uvim.encoders import image_encoder as image_encoder_lib
from uvim.encoders.image_encoder import ImageEncoder, Seen
from uvim.fields import field
from uvim.nn import attention, embedding, transformer
from uvim.nn.embedding import Label
from uvim.nn.grid import Grid, resize_grid
from uvim.registry import ConfigError
from uvim.typing import Array, CodeVectors, Float, Tokens

# By the keys of `outputs` and `inputs`.
Logits = dict[str, Float[Array, "B N K P"]]
Labels = Mapping[str, Label]
# Name → (classes, pixels of a patch).
LabelShapes = Mapping[str, tuple[int, int]]

_RELEASED = "ours, as released"
_IN_CHUNKS = "chunked"
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
      doc="Words of a guiding code. Under `bottleneck_resize` they lie on a "
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
  bottleneck_resize: bool = field(
      True, doc="Grid of tokens ↔ code by linear resize; False: by learned "
      "maps.", source=_RELEASED, check=fields.BOOL)
  code_grid: tuple[int, int] | None = field(
      None, doc="Rows and columns of the code under `bottleneck_resize`; None: "
      "a square. With the grid of the patches, each patch has its own word.",
      check=fields.optional(fields.two_integers()))
  image_encoder: ImageEncoder | None = field(
      None, doc="A pretrained network through which oracle and base model see "
      "the image, see [image encoder](#image-encoder).",
      check=fields.optional(fields.MAPPING))
  head_zeroinit: bool = field(
      True, doc="Start from uniform predictions.", source=_RELEASED,
      check=fields.BOOL)
  dtype: str = field(
      "float32", doc="Of matrix products: `float32` or `bfloat16`; parameters "
      "and reductions stay float32.",
      check=fields.one_of(("float32", "bfloat16")))
  attention: str = field(
      _IN_CHUNKS, doc="`chunked`: memory that grows with the tokens, on any "
      "device; `fused`: cuDNN's kernel for bfloat16 on a GPU, XLA's own "
      "elsewhere.", check=fields.one_of(attention.IMPLEMENTATIONS))
  scan_layers: bool = field(
      False, doc="Blocks run as a scan over their stacked parameters: quicker "
      "to compile. Names and files do not change.", check=fields.BOOL)
  remat: str = field(
      "none", doc="`block`: the backward pass keeps only the input and the "
      "attended values of each block and computes the rest again; `none`: it "
      "keeps everything.", check=fields.one_of(transformer.REMAT))

  def __post_init__(self):
    # A model is a static argument of jitted functions, so it must hash.
    for name in ("inputs", "outputs"):
      given = getattr(self, name)
      shapes = {key: tuple(shape) for key, shape in given.items()}
      object.__setattr__(self, name, FrozenDict(shapes))
    super().__post_init__()

  @property
  def grid_size(self) -> tuple[int, int]:
    """Rows and columns of patches."""
    height, width = self.input_size
    patch_height, patch_width = self.patch_size
    return (height // patch_height, width // patch_width)

  @property
  def grid_of_code(self) -> Grid | None:
    """Rows and columns of the code; None if its places lie on no grid."""
    if not self.bottleneck_resize:
      return None
    return self.code_grid or masking.grid_of(self.code_len)

  @property
  def num_patches(self) -> int:
    """N, tokens of an image."""
    return math.prod(self.grid_size)

  @property
  def sees_pixels(self) -> bool:
    """Whether the image is embedded by patches."""
    return self.image_encoder is None or self.image_encoder.beside

  def setup(self):
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
    if not self.bottleneck_resize:
      self.bottleneck_downsample = self.param(
          "bottleneck_downsample",
          nn.initializers.xavier_uniform(),
          (self.num_patches, self.code_len))
    # In float32: rounding would decide between two close codewords.
    self.encoder_head = nn.Dense(self.codeword_dim)

  def _setup_base_model(self):
    self.decoder_stem = nn.Dense(self.width, dtype=self.dtype)
    if not self.bottleneck_resize:
      self.bottleneck_upsample = self.param(
          "bottleneck_upsample",
          nn.initializers.xavier_uniform(),
          (self.code_len, self.num_patches))
    if self.with_decoder_ctx and self.sees_pixels:
      self.ctx_dec_embedding = self._patch_embedding()
    if self.with_decoder_ctx and self.image_encoder:
      self.ctx_dec_projection = self._projection()
    self.pos_embedding_decoder = self._pos_embedding("pos_embedding_decoder")
    self.decoder = self._transformer(self.base_model_depth)
    self.heads = {key: self._head(key) for key in self.outputs}

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

  def __call__(self, x: Labels | None, ctx: Seen) -> Logits:
    """Both parts without the quantizer between them: creates all parameters."""
    z_BLE = self.encode(x, ctx)
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
    if not self.oracle_depth:
      # Only `__call__` comes here, for the base model's parameters.
      any_input, *_ = jax.tree.leaves((ctx, x))
      shape_BLE = (len(any_input), self.code_len, self.codeword_dim)
      return jnp.zeros(shape_BLE)
    x_BND = sum(embed(x[key]) for key, embed in self.embeddings.items())
    if self.with_encoder_ctx:
      x_BND = x_BND + self._image_tokens(ctx, "enc")
    x_BND = x_BND + self.pos_embedding_encoder.astype(self.dtype)
    x_BND = self.encoder(x_BND)
    x_BLD = self._to_code_len(x_BND)
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
    x_BLD = self.decoder_stem(z_BLE)
    x_BND = self._to_grid(x_BLD)
    if self.with_decoder_ctx:
      x_BND = x_BND + self._image_tokens(ctx, "dec")
    x_BND = x_BND + self.pos_embedding_decoder.astype(self.dtype)
    return self.decoder(x_BND)

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

  def _to_code_len(self, x_BND):
    """N tokens of the oracle as L, one for each place of the code."""
    if self.bottleneck_resize:
      return resize_grid(x_BND, self.grid_size, self.grid_of_code)
    kernel_NL = self.bottleneck_downsample.astype(self.dtype)
    return jnp.einsum("bnd,nl->bld", x_BND, kernel_NL)

  def _to_grid(self, x_BLD):
    """L places of the code as N tokens of the base model."""
    if self.bottleneck_resize:
      return resize_grid(x_BLD, self.grid_of_code, self.grid_size)
    kernel_LN = self.bottleneck_upsample.astype(self.dtype)
    return jnp.einsum("bld,ln->bnd", x_BLD, kernel_LN)


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
  _check_code_grid(vit)
  patch_pixels = math.prod(patch)
  for group in ("inputs", "outputs"):
    for key, (_, pixels) in getattr(vit, group).items():
      if pixels != patch_pixels:
        raise ConfigError(
            f"config.model.{group}.{key} is for patches of {pixels} pixels, "
            f"but patch_size {patch} has {patch_pixels}.")


def _check_code_grid(vit):
  """Whether the words of the code fill its grid."""
  grid = vit.code_grid
  if grid is not None and not vit.bottleneck_resize:
    raise ConfigError(
        f"config.model.code_grid = {grid}: with bottleneck_resize False the "
        "words lie on no grid.")
  if grid is not None and math.prod(grid) != vit.code_len:
    raise ConfigError(
        f"config.model.code_grid = {grid} has {math.prod(grid)} places; "
        f"code_len = {vit.code_len}.")
  if vit.bottleneck_resize and vit.grid_of_code is None:
    raise ConfigError(
        f"config.model.code_len = {vit.code_len}; it must be a square number "
        "(64, 256, …), or code_grid given, or bottleneck_resize False.")
