"""The language model's decoder, twice: whole sequences, and word by word.

B images · S samples per image · L code length · T words fed so far · N patches
D width · F MLP width · A heads · H head size · V vocabulary (0 = start)

`Decoder` is the linen module that training uses; it owns the parameters, named
as in the published checkpoints. Sampling feeds one word at a time and would
spend its time on launching small operations, so `pack` lays the same
parameters out for few large matmuls, and `step` is the same network written
for one word with static caches. A test holds the two together.

Source: paper, section 2.3 ("Experimental setup for stage II") and Appendix D;
layout from the released checkpoints: pre-norm, attention without biases.
"""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jax import lax

from uvim.models import transformer
from uvim.typing import Array, Float, Int, PyTree

NORM_EPSILON = transformer.LAYER_NORM_EPSILON


class DecoderBlock(nn.Module):
  """Causal self-attention, attention to the image, MLP; each as x + f(norm(x)).

  Attributes:
    mlp_dim: F.
    num_heads: A.
    dtype: of the matmuls.
  """
  mlp_dim: int
  num_heads: int
  dtype: str = "float32"

  @nn.compact
  def __call__(
      self,
      x_BLD: Float[Array, "B L D"],
      encoded_BND: Float[Array, "B N D"],
  ) -> Float[Array, "B L D"]:
    def norm(name, y_BLD):
      return nn.LayerNorm(epsilon=NORM_EPSILON, dtype=self.dtype,
                          name=name)(y_BLD)

    def attention(name):
      return transformer.MultiHeadDotProductAttention(
          self.num_heads, use_bias=False, dtype=self.dtype, name=name)

    length = x_BLD.shape[1]
    causal_11LL = jnp.tril(jnp.ones((1, 1, length, length), bool))
    x_BLD = x_BLD + attention("SelfAttn")(
        norm("LayerNorm1", x_BLD), mask=causal_11LL)
    x_BLD = x_BLD + attention("CrossAttn")(
        norm("LayerNorm2", x_BLD), encoded_BND)
    return x_BLD + transformer.MlpBlock(
        self.mlp_dim, dtype=self.dtype, name="MLP")(norm("LayerNorm3", x_BLD))


class Decoder(nn.Module):
  """Words so far and encoded image → logits of every next word.

  Attributes:
    num_layers: number of blocks.
    num_heads: A.
    mlp_dim: F.
    emb_dim: D.
    vocab_size: V.
    autoregressive: False feeds zero vectors in place of word embeddings, so
      that no logit depends on any word (Table 2, "no Autoreg.").
    dtype: of the matmuls.
  """
  num_layers: int
  num_heads: int
  mlp_dim: int
  emb_dim: int
  vocab_size: int
  autoregressive: bool = True
  dtype: str = "float32"

  @nn.compact
  def __call__(
      self,
      encoded_BND: Float[Array, "B N D"],
      text_BL: Int[Array, "B L"],
      posemb_1LD: Float[Array, "1 L D"],
  ) -> Float[Array, "B L V"]:
    """Float32 logits of `text_BL`, each from the words before it."""
    # The start word 0 enters on the left, the last word is never an input.
    inputs_BL = jnp.pad(text_BL[:, :-1], ((0, 0), (1, 0)))
    x_BLD = nn.Embed(
        self.vocab_size, self.emb_dim, name="EmbedTargets",
        embedding_init=nn.initializers.normal(1.0))(inputs_BL)
    if not self.autoregressive:
      # The released ablation zeroes the embeddings, not the words.
      x_BLD = jnp.zeros_like(x_BLD)
    x_BLD = (x_BLD + posemb_1LD).astype(self.dtype)
    for i in range(self.num_layers):
      x_BLD = DecoderBlock(self.mlp_dim, self.num_heads, self.dtype,
                           name=f"EncDecBlock{i}")(x_BLD, encoded_BND)
    x_BLD = nn.LayerNorm(epsilon=NORM_EPSILON, dtype=self.dtype,
                         name="LayerNorm")(x_BLD)
    # Logits are summed and kept in float32: rounded to bfloat16 they tie.
    return nn.Dense(
        self.vocab_size, kernel_init=nn.initializers.zeros, dtype=self.dtype,
        dot_general=_dot_general_f32, name="LogitsDense")(x_BLD)


def _dot_general_f32(*args, preferred_element_type=None, **kwargs):
  del preferred_element_type
  return lax.dot_general(*args, preferred_element_type=jnp.float32, **kwargs)


# One word at a time.


class Cache(flax.struct.PyTreeNode):
  """Keys and values of one layer; words not yet fed hold zeros.

  Attributes:
    key: [B, S, A, L, H].
    value: [B, S, A, L, H].
  """
  key: Array
  value: Array


class Memory(flax.struct.PyTreeNode):
  """Keys and values of the image for one layer, shared by all its samples.

  Attributes:
    key: [B, A, N, H].
    value: [B, A, N, H].
  """
  key: Array
  value: Array


def pack(params: PyTree, posemb_1LD: Float[Array, "1 L D"], *,
         dtype: str = "float32") -> PyTree:
  """Lays out the parameters of a `Decoder` for `step`, in `dtype`.

  Queries, keys and values of self-attention become one kernel. Call it once,
  outside the loop over words.
  """
  def cast(tree):
    return jax.tree.map(lambda w: w.astype(dtype), tree)

  num_layers = sum(name.startswith("EncDecBlock") for name in params)
  return dict(
      layers=[_pack_layer(params[f"EncDecBlock{i}"], cast)
              for i in range(num_layers)],
      norm=params["LayerNorm"],
      embedding=params["EmbedTargets"]["embedding"],
      posemb=posemb_1LD[0],
      logits=cast(params["LogitsDense"]))


def _pack_layer(params, cast):
  attention, cross = params["SelfAttn"], params["CrossAttn"]
  return dict(
      norms=[params[f"LayerNorm{i}"] for i in (1, 2, 3)],
      qkv_D3AH=cast(jnp.stack([attention[name]["kernel"] for name in
                               ("query", "key", "value")], axis=1)),
      out_AHD=cast(attention["out"]["kernel"]),
      cross={name: cast(cross[name]["kernel"]) for name in cross},
      mlp=cast([params["MLP"][f"Dense_{i}"] for i in (0, 1)]))


def read_image(packed: PyTree,
               encoded_BND: Float[Array, "B N D"]) -> list[Memory]:
  """Cross-attention keys and values of every layer; once per image."""
  def project(kernel_DAH):
    return jnp.einsum("bnd,dah->banh", encoded_BND.astype(kernel_DAH.dtype),
                      kernel_DAH)
  return [Memory(project(layer["cross"]["key"]),
                 project(layer["cross"]["value"]))
          for layer in packed["layers"]]


def empty_caches(packed: PyTree, batch_size: int,
                 num_samples: int) -> list[Cache]:
  """Caches for `batch_size` images with `num_samples` sequences each."""
  seq_len = packed["posemb"].shape[0]
  def empty(layer):
    _, _, heads, size = layer["qkv_D3AH"].shape
    zeros = jnp.zeros((batch_size, num_samples, heads, seq_len, size),
                      layer["qkv_D3AH"].dtype)
    return Cache(zeros, zeros)
  return [empty(layer) for layer in packed["layers"]]


def step(
    packed: PyTree,
    memories: list[Memory],
    caches: list[Cache],
    word_BS: Int[Array, "B S"],
    position: Int[Array, ""],
) -> tuple[Float[Array, "B S V"], list[Cache]]:
  """Feeds the word at `position` (0 at the start); logits of the next one.

  Equals position `position` of `Decoder` given the same words before it.
  """
  posemb_11D = lax.dynamic_slice_in_dim(packed["posemb"], position, 1)[None]
  dtype = packed["logits"]["kernel"].dtype
  x_BSD = (packed["embedding"][word_BS] + posemb_11D).astype(dtype)
  new_caches = []
  for layer, memory, cache in zip(packed["layers"], memories, caches,
                                  strict=True):
    norm1, norm2, norm3 = layer["norms"]
    y_BSD, cache = _attend_past(layer, cache, _norm(norm1, x_BSD), position)
    new_caches.append(cache)
    x_BSD = x_BSD + y_BSD
    x_BSD = x_BSD + _attend_image(layer, memory, _norm(norm2, x_BSD))
    x_BSD = x_BSD + _mlp(layer["mlp"], _norm(norm3, x_BSD))
  x_BSD = _norm(packed["norm"], x_BSD)
  return _dense(packed["logits"], x_BSD, jnp.float32), new_caches


def _attend_past(layer, cache, x_BSD, position):
  """Self-attention of one word to itself and the words before it."""
  qkv_BS3AH = jnp.einsum("bsd,dcah->bscah", x_BSD, layer["qkv_D3AH"])
  q_BSAH, k_BSAH, v_BSAH = (qkv_BS3AH[:, :, i] for i in range(3))
  cache = Cache(*(
      lax.dynamic_update_slice_in_dim(old, new[..., None, :], position, axis=3)
      for old, new in ((cache.key, k_BSAH), (cache.value, v_BSAH))))
  scores_BSAL = jnp.einsum("bsah,bsalh->bsal", q_BSAH * _scale(q_BSAH),
                           cache.key, preferred_element_type=jnp.float32)
  past_111L = lax.broadcasted_iota(
      jnp.int32, (1, 1, 1, scores_BSAL.shape[-1]), 3) <= position
  weights_BSAL = jax.nn.softmax(
      jnp.where(past_111L, scores_BSAL, jnp.finfo(jnp.float32).min))
  y_BSAH = jnp.einsum("bsal,bsalh->bsah", weights_BSAL.astype(x_BSD.dtype),
                      cache.value)
  return jnp.einsum("bsah,ahd->bsd", y_BSAH, layer["out_AHD"]), cache


def _attend_image(layer, memory, x_BSD):
  """Cross-attention; the samples of an image read one copy of its keys."""
  q_BSAH = jnp.einsum("bsd,dah->bsah", x_BSD, layer["cross"]["query"])
  scores_BASN = jnp.einsum("bsah,banh->basn", q_BSAH * _scale(q_BSAH),
                           memory.key, preferred_element_type=jnp.float32)
  weights_BASN = jax.nn.softmax(scores_BASN).astype(x_BSD.dtype)
  y_BSAH = jnp.einsum("basn,banh->bsah", weights_BASN, memory.value)
  return jnp.einsum("bsah,ahd->bsd", y_BSAH, layer["cross"]["out"])


def _mlp(params, x_BSD):
  x_BSF = _dense(params[0], x_BSD, x_BSD.dtype)
  return _dense(params[1], jax.nn.gelu(x_BSF, approximate=True), x_BSD.dtype)


def _dense(params, x_BSD, dtype):
  y_BSF = jnp.einsum("bsd,df->bsf", x_BSD, params["kernel"],
                     preferred_element_type=dtype)
  return y_BSF + params["bias"][None, None].astype(dtype)


def _norm(params, x_BSD):
  """Layer norm with float32 statistics, as flax computes it."""
  x = x_BSD.astype(jnp.float32)
  mean = jnp.mean(x, axis=-1, keepdims=True)
  var = jnp.mean(jnp.square(x - mean), axis=-1, keepdims=True)
  y = (x - mean) * lax.rsqrt(var + NORM_EPSILON)
  y = y * params["scale"][None, None] + params["bias"][None, None]
  return y.astype(x_BSD.dtype)


def _scale(q):
  return q.shape[-1] ** -0.5
