"""Stage II: the encoder-decoder language model of the guiding code.

B batch · H W image pixels · N patches · L code length · D width
V = Q + 1 vocabulary: word 0 starts a sequence, word i + 1 is codeword i

Source: paper, "Experimental setup for stage II", and Appendix D, Listing 2.
Names and shapes of the parameters are those of the released checkpoints.
Encoder and decoder have the same sizes unless `decoder_…` says otherwise: the
text speaks of a ViT-B decoder, but only 24 layers give the quoted 939M.
"""

import functools
from collections.abc import Mapping, Sequence

import flax.core
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from uvim.nn import embedding, transformer
from uvim.nn.attention import IMPLEMENTATIONS
from uvim.priors import decoder
from uvim.registry import ConfigError, lookup
from uvim.typing import Array, Float, Int, PRNGKey, PyTree


def sincos2d(grid: tuple[int, int], width: int) -> Float[Array, "1 N D"]:
  """Fixed embedding of a grid of (rows, columns), in row-major order.

  A quarter of the width each for sin and cos of the column, sin and cos of the
  row, at wavelengths from 2π to 20000π (Chen et al., MoCo v3, appendix).
  """
  rows, columns = np.mgrid[:grid[0], :grid[1]].reshape(2, -1, 1)
  rates = 10_000.0 ** -np.linspace(0, 1, width // 4)[None, :]
  waves = [fn(place * rates) for place in (columns, rows)
           for fn in (np.sin, np.cos)]
  return jnp.asarray(np.concatenate(waves, axis=1)[None], jnp.float32)


def _learned(module, name, grid, width):
  return module.param(name, nn.initializers.normal(width ** -0.5),
                      (1, grid[0] * grid[1], width))


def _fixed(module, name, grid, width):
  del module, name
  return sincos2d(grid, width)


POSEMBS = {"learn": _learned, "sincos2d": _fixed}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


class LM(nn.Module):
  """Image → distribution over sequences of codewords.

  Attributes:
    num_layers: blocks of the encoder; of the decoder too, as the next three,
      unless `decoder_…` says otherwise.
    num_heads: attention heads.
    mlp_dim: hidden size of the MLPs.
    emb_dim: D.
    patches: {"size": (rows, columns)} in pixels.
    vocab_size: V.
    input_size: (H, W) of the image.
    seq_len: L.
    posemb_type: "learn" or "sincos2d", for patches and for words.
    autoregressive: False for the ablation that predicts all words at once.
    dtype: of the matmuls; parameters, statistics and logits are float32.
    decoder_layers: blocks of the decoder; None: as the encoder.
    decoder_heads: its attention heads; None: as the encoder.
    decoder_mlp_dim: hidden size of its MLPs; None: as the encoder.
    decoder_emb_dim: its width; None: as the encoder.
    attention, scan_layers, remat: as in `transformer.Encoder`, for both.
  """
  num_layers: int
  num_heads: int
  mlp_dim: int
  emb_dim: int
  patches: Mapping[str, Sequence[int]]
  vocab_size: int
  input_size: Sequence[int]
  seq_len: int
  posemb_type: str = "learn"
  autoregressive: bool = True
  dtype: str = "float32"
  decoder_layers: int | None = None
  decoder_heads: int | None = None
  decoder_mlp_dim: int | None = None
  decoder_emb_dim: int | None = None
  attention: str = "chunked"
  scan_layers: bool = False
  remat: str = "none"

  def __post_init__(self):
    # A model is a static argument of the jitted sampler, so it must hash.
    object.__setattr__(self, "patches", flax.core.freeze(
        {"size": tuple(self.patches["size"])}))
    object.__setattr__(self, "input_size", tuple(self.input_size))
    super().__post_init__()

  def setup(self):
    patch = tuple(self.patches["size"])
    grid = (self.input_size[0] // patch[0], self.input_size[1] // patch[1])
    decoder_width = self.decoder_emb_dim or self.emb_dim
    make_posemb = POSEMBS[self.posemb_type]
    self.encoder_posemb = make_posemb(
        self, "pos_embedding_encoder", grid, self.emb_dim)
    self.decoder_posemb = make_posemb(
        self, "pos_embedding_decoder", (1, self.seq_len), decoder_width)
    self.embed_patches = embedding.PatchEmbedding(
        patch, self.emb_dim, self.dtype, name="EmbedPatches")
    how = dict(attention=self.attention, scan_layers=self.scan_layers,
               remat=self.remat)
    self.encoder = transformer.Encoder(
        self.num_layers, self.mlp_dim, self.num_heads, self.dtype, **how)
    self.decoder = decoder.Decoder(
        self.decoder_layers or self.num_layers,
        self.decoder_heads or self.num_heads,
        self.decoder_mlp_dim or self.mlp_dim, decoder_width,
        self.vocab_size, self.autoregressive, self.dtype, **how)

  def __call__(
      self,
      image_BHWC: Float[Array, "B H W 3"],
      text_BL: Int[Array, "B L"],
  ) -> Float[Array, "B L V"]:
    """Float32 logits of each word of `text_BL` given the words before it.

    Args:
      image_BHWC: in [-1, 1].
      text_BL: code + 1; shifted right with the start word 0 inside.
    """
    return self.logits(self.encode(image_BHWC), text_BL)

  def encode(
      self, image_BHWC: Float[Array, "B H W 3"]) -> Float[Array, "B N D"]:
    """What the decoder sees of an image."""
    x_BND = self.embed_patches(image_BHWC)
    return self.encoder((x_BND + self.encoder_posemb).astype(self.dtype))

  def logits(
      self,
      encoded_BND: Float[Array, "B N D"],
      text_BL: Int[Array, "B L"],
  ) -> Float[Array, "B L V"]:
    """The decoder alone, on an image already encoded."""
    return self.decoder(encoded_BND, text_BL, self.decoder_posemb)

  def packed_decoder(self) -> PyTree:
    """Parameters as `decoder.step` wants them; call on a bound model."""
    return decoder.pack(self.decoder.variables["params"], self.decoder_posemb,
                        dtype=self.dtype)


@functools.partial(jax.jit, static_argnums=0)  # For its cache, as in vit.
def init_params(model: LM, rng: PRNGKey) -> PyTree:
  """Fresh float32 parameters. Under `jax.eval_shape`: their shapes, free."""
  height, width = model.input_size
  return model.init(rng, jnp.zeros((1, height, width, 3)),
                    jnp.zeros((1, model.seq_len), jnp.int32))["params"]


def check_lm(*, num_layers, num_heads, mlp_dim, emb_dim, patches, vocab_size,
             input_size, seq_len, posemb_type="learn", autoregressive=True,
             dtype="float32", decoder_layers=None, decoder_heads=None,
             decoder_mlp_dim=None, decoder_emb_dim=None, attention="chunked",
             scan_layers=False, remat="none") -> None:
  """Checks the fields of an `LM` before anything is built or compiled.

  Raises:
    ConfigError: names the field, what came and what is allowed.
  """
  if not _is_size(seq_len):
    raise ConfigError(f"model.seq_len = {seq_len!r}; must be an integer ≥ 1.")
  if not _is_size(vocab_size) or vocab_size < 2:
    raise ConfigError(f"model.vocab_size = {vocab_size!r}; must be dict_size "
                      "+ 1, so an integer ≥ 2.")
  for name, value in (("autoregressive", autoregressive),
                      ("scan_layers", scan_layers)):
    if not isinstance(value, bool):
      raise ConfigError(f"model.{name} = {value!r}; must be True or False.")
  lookup(IMPLEMENTATIONS, attention, "model.attention")
  lookup(dict.fromkeys(transformer.REMAT), remat, "model.remat")
  lookup(POSEMBS, posemb_type, "model.posemb_type")
  lookup(DTYPES, dtype, "model.dtype")
  sizes = dict(num_layers=num_layers, num_heads=num_heads, mlp_dim=mlp_dim,
               emb_dim=emb_dim)
  _check_sizes(sizes, posemb_type)
  changes = dict(decoder_layers=decoder_layers, decoder_heads=decoder_heads,
                 decoder_mlp_dim=decoder_mlp_dim,
                 decoder_emb_dim=decoder_emb_dim)
  # By the name of the field that a size of the decoder comes from.
  _check_sizes(dict(
      (name, size) if changed is None else (change, changed)
      for (name, size), (change, changed)
      in zip(sizes.items(), changes.items(), strict=True)), posemb_type)
  _check_grid(input_size, patches)


def _check_sizes(sizes, posemb_type):
  """Sizes of one transformer, by field: layers, heads, mlp_dim, emb_dim."""
  for name, value in sizes.items():
    if not _is_size(value):
      raise ConfigError(f"model.{name} = {value!r}; must be an integer ≥ 1.")
  _, (heads_name, heads), _, (width_name, width) = sizes.items()
  if width % heads:
    raise ConfigError(f"model.{heads_name} = {heads} must divide "
                      f"model.{width_name} = {width}.")
  # With one wave per quarter its wavelengths would not span a range.
  if posemb_type == "sincos2d" and (width % 4 or width < 8):
    raise ConfigError(f"model.{width_name} = {width}; with posemb_type = "
                      "'sincos2d' it must be a multiple of 4, at least 8.")


def _check_grid(input_size, patches):
  patch = patches.get("size") if isinstance(patches, Mapping) else None
  for name, value in (("input_size", input_size), ("patches.size", patch)):
    if (not isinstance(value, Sequence) or isinstance(value, str)
        or len(value) != 2 or not all(map(_is_size, value))):
      raise ConfigError(f"model.{name} = {value!r}; must be two integers ≥ 1 "
                        "(rows, columns), as in (16, 16).")
  if any(pixels % p for pixels, p in zip(input_size, patch, strict=True)):
    raise ConfigError(
        f"model.patches.size = {tuple(patch)} must divide model.input_size = "
        f"{tuple(input_size)} in both directions.")


def _is_size(value) -> bool:
  return (isinstance(value, (int, np.integer)) and not isinstance(value, bool)
          and value >= 1)
