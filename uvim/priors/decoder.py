"""The language model's decoder, on whole sequences.

B images · L code length · N patches · D width · M width of the encoded image
F MLP width · A heads · V vocabulary (0 = start, or unknown)

Training knows a code. `Decoder` computes the logits of all L places at once. As
the paper has it, a causal mask hides the later words from each place. Without
that mask, and with 0 in place of some words, the same parameters predict these
words from all others.

Sampling runs the same network by `uvim.priors.packed_decoder`.

Source: paper, "Experimental setup for stage II", and Appendix D;
layout from the released checkpoints: pre-norm, attention without biases.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

from uvim.nn import transformer
from uvim.typing import Array, Float, Words

NORM_EPSILON = transformer.LAYER_NORM_EPSILON

# What the encoder made of the image.
Encoded = Float[Array, "B N M"]
Sequence = Float[Array, "B L D"]
# Where a word lies: the same for all images, or for each its own.
Places = Float[Array, "1 L D"] | Float[Array, "B L D"]


class DecoderBlock(nn.Module):
  """Self-attention, attention to the image, MLP; each as x + f(norm(x)).

  Attributes:
    mlp_dim: F.
    num_heads: A.
    dtype: of the matmuls.
    attention: implementation, see `attention.attention`.
    causal: whether a place reads only itself and the places before it.
    norm_bias: whether the norms have biases.
  """
  mlp_dim: int
  num_heads: int
  dtype: str = "float32"
  attention: str = "chunked"
  causal: bool = True
  norm_bias: bool = True

  @nn.compact
  def __call__(self, x_BLD: Sequence, encoded_BNM: Encoded) -> Sequence:
    def norm(name):
      return nn.LayerNorm(
          epsilon=NORM_EPSILON,
          dtype=self.dtype,
          use_bias=self.norm_bias,
          name=name)

    def attention(name):
      return transformer.MultiHeadDotProductAttention(
          self.num_heads,
          use_bias=False,
          dtype=self.dtype,
          attention=self.attention,
          name=name)

    attend_words = attention("SelfAttn")
    y_BLD = norm("LayerNorm1")(x_BLD)
    x_BLD = x_BLD + attend_words(y_BLD, causal=self.causal)

    # Every place reads the whole image.
    attend_image = attention("CrossAttn")
    y_BLD = norm("LayerNorm2")(x_BLD)
    x_BLD = x_BLD + attend_image(y_BLD, encoded_BNM)

    mlp = transformer.MlpBlock(self.mlp_dim, dtype=self.dtype, name="MLP")
    y_BLD = norm("LayerNorm3")(x_BLD)
    return x_BLD + mlp(y_BLD)


class Decoder(nn.Module):
  """Words and encoded image → logits of a word for every place.

  The logits of a place come from the words before it, or, with `masked`, from
  the words of all places that are known.

  Attributes:
    num_layers: number of blocks.
    num_heads: A.
    mlp_dim: F.
    emb_dim: D.
    vocab_size: V.
    autoregressive: False feeds zero vectors in place of word embeddings, so
      that no logit depends on any word (Table 2, "no Autoreg.").
    dtype: of the matmuls.
    attention, scan_layers, remat: as in `transformer.Encoder`.
  """
  num_layers: int
  num_heads: int
  mlp_dim: int
  emb_dim: int
  vocab_size: int
  autoregressive: bool = True
  dtype: str = "float32"
  attention: str = "chunked"
  scan_layers: bool = False
  remat: str = "none"

  @nn.compact
  def __call__(
      self,
      encoded_BNM: Encoded,
      text_BL: Words,
      places: Places,
      masked: bool = False,
  ) -> Float[Array, "B L V"]:
    """Float32 logits of the word of every place.

    Args:
      encoded_BNM: what the encoder made of the image.
      text_BL: vocabulary indices.
      places: where the words lie.
      masked: True: `text_BL` is read as it stands, 0 where a word is unknown,
        and every place reads every place. False: it is shifted to the right,
        and a place reads the words before it.
    """
    inputs_BL = text_BL
    if not masked:
      # The start word 0 enters on the left, the last word is never an input.
      before_last = text_BL[:, :-1]
      inputs_BL = jnp.pad(before_last, ((0, 0), (1, 0)))
    embed_words = nn.Embed(
        self.vocab_size,
        self.emb_dim,
        name="EmbedTargets",
        embedding_init=nn.initializers.normal(1.0))
    x_BLD = embed_words(inputs_BL)
    if not self.autoregressive:
      # The released ablation zeroes the embeddings, not the words.
      x_BLD = jnp.zeros_like(x_BLD)
    x_BLD = (x_BLD + places).astype(self.dtype)

    make_block = functools.partial(
        DecoderBlock, self.mlp_dim, self.num_heads, self.dtype, self.attention,
        causal=not masked)
    names = [f"EncDecBlock{i}" for i in range(self.num_layers)]
    x_BLD = transformer.run_blocks(self, make_block, names, x_BLD, encoded_BNM)

    last_norm = nn.LayerNorm(
        epsilon=NORM_EPSILON, dtype=self.dtype, name="LayerNorm")
    # Logits are summed and kept in float32: rounded to bfloat16 they tie.
    to_logits = nn.Dense(
        self.vocab_size,
        kernel_init=nn.initializers.zeros,
        dtype=self.dtype,
        dot_general=dot_general_f32,
        name="LogitsDense")
    return to_logits(last_norm(x_BLD))


def dot_general_f32(*args, preferred_element_type=None, **kwargs):
  """`lax.dot_general` with float32 results, whatever the layer asks for."""
  del preferred_element_type
  return lax.dot_general(*args, preferred_element_type=jnp.float32, **kwargs)
