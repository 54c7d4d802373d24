"""The network of GIVT: the language model for codes of real numbers.

B images · L code length · N patches · D width · E numbers of a code vector
V numbers that describe the density of a vector

It is the language model of `uvim.priors.lm` with another beginning and end.
Where that one looks a word up, this one multiplies a vector with a matrix;
where that one gives logits of words, this one gives numbers that
`uvim.priors.mixtures` reads.

Names and shapes of the parameters are those of the released checkpoints: the
first vector comes from `EmbedLabels`, the positions stand inside of the
decoder, and the norms of its blocks have no biases.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp

from uvim.encoders.image_encoder import Seen
from uvim.nn import positions, transformer
from uvim.priors import decoder, lm, packed_decoder
from uvim.typing import Array, CodeVectors, Float, PyTree, Tokens

Numbers = Float[Array, "B L V"]

# Fields of `LM` that are about words.
FIELDS_OF_WORDS = ("vocab_size", "num_quantizers", "autoregressive",
                   "code_grid")


class VectorLM(lm.LM):
  """Image → numbers that describe the density of each vector of a code.

  Attributes:
    vocab_size: V, in place of the size of a vocabulary.
    vector_dim: E.
  """
  vector_dim: int = 1

  def setup(self):
    width = self.decoder_emb_dim or self.emb_dim
    self.image_tokens = self.make_backbone()
    # Its parameters stand beside the decoder's, as in the checkpoints.
    nn.share_scope(self, self.image_tokens)
    self.image_tokens.create()
    self.first_embedding = nn.Embed(
        1, width, name="EmbedLabels",
        embedding_init=nn.initializers.normal(1.0))
    self.vector_embedding = nn.Dense(width, name="EmbedTargets")
    self.decoder = VectorDecoder(
        num_layers=self.decoder_layers or self.num_layers,
        num_heads=self.decoder_heads or self.num_heads,
        mlp_dim=self.decoder_mlp_dim or self.mlp_dim,
        emb_dim=width,
        seq_len=self.seq_len,
        num_logits=self.vocab_size,
        **self._how())

  def __call__(self, image: Seen, z_BLE: CodeVectors) -> Numbers:
    """Float32 numbers for each vector of `z_BLE`, given those before it.

    Args:
      image: in [-1, 1]; with an image encoder a Context with its features.
      z_BLE: the code; it is shifted to the right inside.
    """
    encoded_BND = self.encode(image)
    return self.logits(encoded_BND, z_BLE)

  def logits(self, encoded_BND: Tokens, z_BLE: CodeVectors) -> Numbers:
    """The decoder alone, on an image already encoded."""
    first_B1D = self.first_input(len(z_BLE))[:, None]
    # The last vector is never an input.
    others_BLD = self.next_input(z_BLE[:, :-1])
    x_BLD = jnp.concatenate([first_B1D, others_BLD], axis=1)
    return self.decoder(encoded_BND, x_BLD)

  def first_input(self, num_rows: int) -> Float[Array, "R D"]:
    """What the decoder reads at the first place."""
    return self.first_embedding(jnp.zeros(num_rows, jnp.int32))

  def next_input(self, z: Float[Array, "*b E"]) -> Float[Array, "*b D"]:
    """What it reads after a vector."""
    return self.vector_embedding(z)

  def packed_decoder(self, encoded_BND: Tokens) -> PyTree:
    """As of `LM`."""
    del encoded_BND
    params = self.decoder.variables["params"]
    return packed_decoder.pack(params, params["pos_emb"], dtype=self.dtype)

  @nn.nowrap
  def example_sequence(self) -> CodeVectors:
    return jnp.zeros((1, self.seq_len, self.vector_dim))


class VectorDecoder(nn.Module):
  """Embedded vectors and encoded image → numbers for every place.

  Attributes:
    num_layers: number of blocks.
    num_heads: of the attention.
    mlp_dim: width inside of the MLPs.
    emb_dim: D.
    seq_len: L.
    num_logits: V.
    dtype: of the matmuls.
    attention, scan_layers, remat: as in `transformer.Encoder`.
  """
  num_layers: int
  num_heads: int
  mlp_dim: int
  emb_dim: int
  seq_len: int
  num_logits: int
  dtype: str = "float32"
  attention: str = "chunked"
  scan_layers: bool = False
  remat: str = "none"

  @nn.compact
  def __call__(
      self, encoded_BNM: decoder.Encoded, x_BLD: decoder.Sequence,
  ) -> Numbers:
    make_posemb = positions.POSEMBS["learn"]
    places_1LD = make_posemb(self, "pos_emb", (1, self.seq_len), self.emb_dim)
    x_BLD = (x_BLD + places_1LD).astype(self.dtype)

    make_block = functools.partial(
        decoder.DecoderBlock, self.mlp_dim, self.num_heads, self.dtype,
        self.attention, norm_bias=False)
    names = [f"EncDecBlock{i}" for i in range(self.num_layers)]
    x_BLD = transformer.run_blocks(self, make_block, names, x_BLD, encoded_BNM)

    last_norm = nn.LayerNorm(
        epsilon=decoder.NORM_EPSILON, dtype=self.dtype, name="LayerNorm")
    # Rounded to bfloat16, means and scales would lie on a grid.
    to_numbers = nn.Dense(
        self.num_logits,
        kernel_init=nn.initializers.zeros,
        dtype=self.dtype,
        dot_general=decoder.dot_general_f32,
        name="LogitsDense")
    return to_numbers(last_norm(x_BLD))
