"""The language model's decoder, twice: whole sequences, and word by word.

B images · S samples per image · R rows = B · S · L code length · N patches
D width · M width of the encoded image · F MLP width · A heads · H head size
V vocabulary (0 = start)

`Decoder` is the linen module that training uses; it owns the parameters, named
as in the published checkpoints. Sampling feeds one word at a time and would
spend its time on launching small operations, so `pack` lays the same
parameters out for few large matmuls, and `step` is the same network written
for one word with static caches. A test holds the two together.

Source: paper, "Experimental setup for stage II", and Appendix D;
layout from the released checkpoints: pre-norm, attention without biases.
"""

import functools

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jax import lax

from uvim.nn import transformer
from uvim.typing import Array, Float, Int, PyTree

NORM_EPSILON = transformer.LAYER_NORM_EPSILON


class DecoderBlock(nn.Module):
  """Causal self-attention, attention to the image, MLP; each as x + f(norm(x)).

  Attributes:
    mlp_dim: F.
    num_heads: A.
    dtype: of the matmuls.
    attention: implementation, see `attention.attention`.
  """
  mlp_dim: int
  num_heads: int
  dtype: str = "float32"
  attention: str = "chunked"

  @nn.compact
  def __call__(
      self,
      x_BLD: Float[Array, "B L D"],
      encoded_BNM: Float[Array, "B N M"],
  ) -> Float[Array, "B L D"]:
    def norm(name, y_BLD):
      return nn.LayerNorm(epsilon=NORM_EPSILON, dtype=self.dtype,
                          name=name)(y_BLD)

    def attention(name):
      return transformer.MultiHeadDotProductAttention(
          self.num_heads, use_bias=False, dtype=self.dtype,
          attention=self.attention, name=name)

    x_BLD = x_BLD + attention("SelfAttn")(
        norm("LayerNorm1", x_BLD), causal=True)
    x_BLD = x_BLD + attention("CrossAttn")(
        norm("LayerNorm2", x_BLD), encoded_BNM)
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
      encoded_BNM: Float[Array, "B N M"],
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
    make_block = functools.partial(
        DecoderBlock, self.mlp_dim, self.num_heads, self.dtype, self.attention)
    names = [f"EncDecBlock{i}" for i in range(self.num_layers)]
    x_BLD = transformer.run_blocks(self, make_block, names, x_BLD, encoded_BNM)
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
  """Keys and values of one layer for words; those not yet fed are zeros.

  Attributes:
    key: [R, A, L, H], L as many as the cache has room for.
    value: [R, A, L, H].
  """
  key: Array
  value: Array


class Memory(flax.struct.PyTreeNode):
  """Keys and values of one layer for the image, shared by all its samples.

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
               encoded_BNM: Float[Array, "B N M"]) -> list[Memory]:
  """Cross-attention keys and values of every layer; once per image."""
  def project(kernel_MAH):
    return jnp.einsum("bnm,mah->banh", encoded_BNM.astype(kernel_MAH.dtype),
                      kernel_MAH)
  return [Memory(project(layer["cross"]["key"]),
                 project(layer["cross"]["value"]))
          for layer in packed["layers"]]


def grow_caches(packed: PyTree, caches: list[Cache] | None, num_rows: int,
                length: int) -> list[Cache]:
  """Caches of every layer with room for `length` words, the new ones zeros.

  Args:
    packed: of `pack`.
    caches: smaller ones; None: of `num_rows` sequences not yet begun.
    num_rows: R.
    length: number of places.
  """
  def grow(layer, cache):
    if cache is None:
      _, _, heads, size = layer["qkv_D3AH"].shape
      zeros = jnp.zeros((num_rows, heads, length, size),
                        layer["qkv_D3AH"].dtype)
      return Cache(zeros, zeros)
    more = length - cache.key.shape[2]
    return jax.tree.map(
        lambda x: jnp.pad(x, [(0, 0), (0, 0), (0, more), (0, 0)]), cache)

  layers = packed["layers"]
  return list(map(grow, layers, caches or [None] * len(layers)))


def step(
    packed: PyTree,
    memories: list[Memory],
    caches: list[Cache],
    word_R: Int[Array, "R"],
    position: Int[Array, ""],
) -> tuple[Float[Array, "R V"], list[Cache]]:
  """Feeds the word at `position` (0 at the start); logits of the next one.

  Equals position `position` of `Decoder` given the same words before it. Rows
  of one image lie together: R = B · S, whatever S is. The caches have room for
  this word.
  """
  posemb_1D = lax.dynamic_slice_in_dim(packed["posemb"], position, 1)
  dtype = packed["logits"]["kernel"].dtype
  x_RD = (packed["embedding"][word_R] + posemb_1D).astype(dtype)
  new_caches = []
  for layer, memory, cache in zip(packed["layers"], memories, caches,
                                  strict=True):
    norm1, norm2, norm3 = layer["norms"]
    y_RD, cache = _attend_past(layer, cache, _norm(norm1, x_RD), position)
    new_caches.append(cache)
    x_RD = x_RD + y_RD
    x_RD = x_RD + _attend_image(layer, memory, _norm(norm2, x_RD))
    x_RD = x_RD + _mlp(layer["mlp"], _norm(norm3, x_RD))
  x_RD = _norm(packed["norm"], x_RD)
  return _dense(packed["logits"], x_RD, jnp.float32), new_caches


def _attend_past(layer, cache, x_RD, position):
  """Self-attention of one word to itself and the words before it."""
  qkv_R3AH = jnp.einsum("rd,dcah->rcah", x_RD, layer["qkv_D3AH"])
  q_RAH, k_RAH, v_RAH = (qkv_R3AH[:, i] for i in range(3))
  # Cache and matmul must agree on the shape: a reshape between them makes XLA
  # copy the whole cache for every word, several times.
  cache = Cache(*(
      lax.dynamic_update_slice_in_dim(old, new[:, :, None], position, axis=2)
      for old, new in ((cache.key, k_RAH), (cache.value, v_RAH))))
  scores_RAL = jnp.einsum("rah,ralh->ral", q_RAH * _scale(q_RAH), cache.key,
                          preferred_element_type=jnp.float32)
  past_11L = lax.broadcasted_iota(
      jnp.int32, (1, 1, scores_RAL.shape[-1]), 2) <= position
  weights_RAL = jax.nn.softmax(
      jnp.where(past_11L, scores_RAL, jnp.finfo(jnp.float32).min))
  y_RAH = jnp.einsum("ral,ralh->rah", weights_RAL.astype(x_RD.dtype),
                     cache.value)
  return jnp.einsum("rah,ahd->rd", y_RAH, layer["out_AHD"]), cache


def _attend_image(layer, memory, x_RD):
  """Cross-attention; the samples of an image read one copy of its keys."""
  q_RAH = jnp.einsum("rd,dah->rah", x_RD, layer["cross"]["query"])
  q_RAH = q_RAH * _scale(q_RAH)
  q_BSAH = q_RAH.reshape(memory.key.shape[0], -1, *q_RAH.shape[1:])
  scores_BASN = jnp.einsum("bsah,banh->basn", q_BSAH, memory.key,
                           preferred_element_type=jnp.float32)
  weights_BASN = jax.nn.softmax(scores_BASN).astype(x_RD.dtype)
  y_BSAH = jnp.einsum("basn,banh->bsah", weights_BASN, memory.value)
  return jnp.einsum("rah,ahd->rd", y_BSAH.reshape(q_RAH.shape),
                    layer["cross"]["out"])


def _mlp(params, x_RD):
  x_RF = _dense(params[0], x_RD, x_RD.dtype)
  return _dense(params[1], jax.nn.gelu(x_RF, approximate=True), x_RD.dtype)


def _dense(params, x_RD, dtype):
  y_RF = jnp.dot(x_RD, params["kernel"], preferred_element_type=dtype)
  return y_RF + params["bias"][None].astype(dtype)


def _norm(params, x_RD):
  """Layer norm with float32 statistics, as flax computes it."""
  x = x_RD.astype(jnp.float32)
  mean = jnp.mean(x, axis=-1, keepdims=True)
  mean_square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
  var = jnp.maximum(mean_square - jnp.square(mean), 0.0)
  y = (x - mean) * lax.rsqrt(var + NORM_EPSILON)
  return (y * params["scale"][None] + params["bias"][None]).astype(x_RD.dtype)


def _scale(q):
  return q.shape[-1] ** -0.5
