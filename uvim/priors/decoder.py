"""The language model's decoder, twice: whole sequences, and word by word.

B images · S samples per image · R rows = B · S · L code length · N patches
D width · M width of the encoded image · F MLP width · A heads · H head size
V vocabulary (0 = start)

**Training** knows all words of a code. `Decoder`, a linen module, computes the
logits of all L places at once; a causal mask hides the later words. It owns the
parameters, named as in the published checkpoints.

**Sampling** knows a word only after it was drawn. `step` is the same network
for a single place: it takes the word before and gives the logits of the next
one. Called L times, it gives what `Decoder` gives at once, place by place; a
test holds the two together. What is here, and its counterpart in `Decoder`:

  step            __call__, at one place
  _attend_past    SelfAttn with its causal mask
  _attend_image   CrossAttn
  _mlp, _norm     MLP, LayerNorm1 … LayerNorm3

**What is kept** between the words, so that no place is computed twice:
`Cache`, the keys and values of the words so far, which grows by one place a
word; `Memory`, the keys and values of the image, which never change and are
computed once for all samples of an image.

**Why parameters are packed.** A step on one word is small: it would spend its
time on launching operations and on reading parameters. `pack` therefore casts
every kernel once, outside of the loop over words, and joins the kernels of
query, key and value, so that one matmul replaces three.

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
from uvim.typing import Array, Float, Int, PyTree, Words

NORM_EPSILON = transformer.LAYER_NORM_EPSILON

# What the encoder made of the image.
Encoded = Float[Array, "B N M"]
Sequence = Float[Array, "B L D"]
# Where a word lies: the same for all images, or for each its own.
Places = Float[Array, "1 L D"] | Float[Array, "B L D"]
# The next word of every row, and its logits.
Word = Int[Array, "R"]
WordLogits = Float[Array, "R V"]


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
  def __call__(self, x_BLD: Sequence, encoded_BNM: Encoded) -> Sequence:
    def norm(name):
      return nn.LayerNorm(epsilon=NORM_EPSILON, dtype=self.dtype, name=name)

    def attention(name):
      return transformer.MultiHeadDotProductAttention(
          self.num_heads,
          use_bias=False,
          dtype=self.dtype,
          attention=self.attention,
          name=name)

    # A place reads itself and the places before it.
    attend_past = attention("SelfAttn")
    y_BLD = norm("LayerNorm1")(x_BLD)
    x_BLD = x_BLD + attend_past(y_BLD, causal=True)

    # Every place reads the whole image.
    attend_image = attention("CrossAttn")
    y_BLD = norm("LayerNorm2")(x_BLD)
    x_BLD = x_BLD + attend_image(y_BLD, encoded_BNM)

    mlp = transformer.MlpBlock(self.mlp_dim, dtype=self.dtype, name="MLP")
    y_BLD = norm("LayerNorm3")(x_BLD)
    return x_BLD + mlp(y_BLD)


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
      encoded_BNM: Encoded,
      text_BL: Words,
      places: Places,
  ) -> Float[Array, "B L V"]:
    """Float32 logits of `text_BL`, each from the words before it."""
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
        DecoderBlock, self.mlp_dim, self.num_heads, self.dtype, self.attention)
    names = [f"EncDecBlock{i}" for i in range(self.num_layers)]
    x_BLD = transformer.run_blocks(self, make_block, names, x_BLD, encoded_BNM)

    last_norm = nn.LayerNorm(
        epsilon=NORM_EPSILON, dtype=self.dtype, name="LayerNorm")
    # Logits are summed and kept in float32: rounded to bfloat16 they tie.
    to_logits = nn.Dense(
        self.vocab_size,
        kernel_init=nn.initializers.zeros,
        dtype=self.dtype,
        dot_general=_dot_general_f32,
        name="LogitsDense")
    return to_logits(last_norm(x_BLD))


def _dot_general_f32(*args, preferred_element_type=None, **kwargs):
  """`lax.dot_general` with float32 results, whatever the layer asks for."""
  del preferred_element_type
  return lax.dot_general(*args, preferred_element_type=jnp.float32, **kwargs)


# ── One word at a time ──────────────────────────────────────────────────────


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


def pack(
    params: PyTree,
    places: Places,
    *,
    dtype: str = "float32",
) -> PyTree:
  """Lays out the parameters of a `Decoder` for `step`, in `dtype`.

  Queries, keys and values of self-attention become one kernel. Call it once,
  outside the loop over words.
  """
  def cast(tree):
    return jax.tree.map(lambda w: w.astype(dtype), tree)

  # The names are those of the published checkpoints: EncDecBlock0, …1, ….
  num_layers = sum(name.startswith("EncDecBlock") for name in params)
  layers = []
  for i in range(num_layers):
    layers.append(_pack_layer(params[f"EncDecBlock{i}"], cast))
  # Norms and embeddings stay float32, as in `Decoder`.
  return dict(
      layers=layers,
      norm=params["LayerNorm"],
      embedding=params["EmbedTargets"]["embedding"],
      places=places,
      logits=cast(params["LogitsDense"]))


def _pack_layer(params, cast):
  """One block of `Decoder` as `step` reads it."""
  attention = params["SelfAttn"]
  qkv = [attention[name]["kernel"] for name in ("query", "key", "value")]
  # Stacked on an axis of their own, so that the head axes stay as they are.
  qkv_D3AH = cast(jnp.stack(qkv, axis=1))
  cross = params["CrossAttn"]
  mlp = params["MLP"]
  return dict(
      norms=[params[f"LayerNorm{i}"] for i in (1, 2, 3)],
      qkv_D3AH=qkv_D3AH,
      out_AHD=cast(attention["out"]["kernel"]),
      cross={name: cast(cross[name]["kernel"]) for name in cross},
      mlp=cast([mlp["Dense_0"], mlp["Dense_1"]]))


def read_image(packed: PyTree, encoded_BNM: Encoded) -> list[Memory]:
  """Cross-attention keys and values of every layer; once per image."""
  def project(kernel_MAH):
    x_BNM = encoded_BNM.astype(kernel_MAH.dtype)
    return jnp.einsum("bnm,mah->banh", x_BNM, kernel_MAH)

  memories = []
  for layer in packed["layers"]:
    kernels = layer["cross"]
    key_BANH = project(kernels["key"])
    value_BANH = project(kernels["value"])
    memories.append(Memory(key_BANH, value_BANH))
  return memories


def grow_caches(
    packed: PyTree,
    caches: list[Cache] | None,
    num_rows: int,
    length: int,
) -> list[Cache]:
  """Caches of every layer with room for `length` words, the new ones zeros.

  Args:
    packed: of `pack`.
    caches: smaller ones; None: of `num_rows` sequences not yet begun.
    num_rows: R.
    length: number of places.
  """
  if caches is None:
    layers = packed["layers"]
    return [_empty_cache(layer, num_rows, length) for layer in layers]

  _, _, old_length, _ = caches[0].key.shape
  num_new = length - old_length

  def pad(x_RALH):
    return jnp.pad(x_RALH, [(0, 0), (0, 0), (0, num_new), (0, 0)])

  return jax.tree.map(pad, caches)


def _empty_cache(layer, num_rows, length):
  """A cache of one layer with room for `length` words, none of them fed."""
  kernel_D3AH = layer["qkv_D3AH"]
  _, _, num_heads, head_size = kernel_D3AH.shape
  shape_RALH = (num_rows, num_heads, length, head_size)
  zeros_RALH = jnp.zeros(shape_RALH, kernel_D3AH.dtype)
  return Cache(zeros_RALH, zeros_RALH)


def step(
    packed: PyTree,
    memories: list[Memory],
    caches: list[Cache],
    word_R: Word,
    position: Int[Array, ""],
) -> tuple[WordLogits, list[Cache]]:
  """Feeds the word at `position` (0 at the start); logits of the next one.

  Equals position `position` of `Decoder` given the same words before it. Rows
  of one image lie together: R = B · S, whatever S is. The caches have room for
  this word.
  """
  place_RD = _place(packed["places"], position, len(word_R))
  # The dtype that `pack` was asked for.
  dtype = packed["logits"]["kernel"].dtype
  embedded_RD = packed["embedding"][word_R]
  x_RD = (embedded_RD + place_RD).astype(dtype)

  new_caches = []
  blocks = zip(packed["layers"], memories, caches, strict=True)
  for layer, memory, cache in blocks:
    # As in DecoderBlock: each part reads a normed x and adds to x itself.
    norm1, norm2, norm3 = layer["norms"]
    y_RD = _norm(norm1, x_RD)
    y_RD, cache = _attend_past(layer, cache, y_RD, position)
    new_caches.append(cache)
    x_RD = x_RD + y_RD
    y_RD = _norm(norm2, x_RD)
    x_RD = x_RD + _attend_image(layer, memory, y_RD)
    y_RD = _norm(norm3, x_RD)
    x_RD = x_RD + _mlp(layer["mlp"], y_RD)

  x_RD = _norm(packed["norm"], x_RD)
  # In float32, as in `Decoder`: rounded logits tie.
  logits_RV = _dense(packed["logits"], x_RD, jnp.float32)
  return logits_RV, new_caches


def _place(places, position, num_rows):
  """Where the word at `position` lies, [R, D]."""
  place = lax.dynamic_index_in_dim(places, position, axis=1, keepdims=False)
  # One for all rows, or one for each image: samples of an image lie together.
  num_places = len(place)
  return jnp.repeat(place, num_rows // num_places, axis=0)


def _attend_past(layer, cache, x_RD, position):
  """Self-attention of one word to itself and the words before it."""
  qkv_R3AH = jnp.einsum("rd,dcah->rcah", x_RD, layer["qkv_D3AH"])
  query_RAH = qkv_R3AH[:, 0]
  key_RAH = qkv_R3AH[:, 1]
  value_RAH = qkv_R3AH[:, 2]
  # Cache and matmul must agree on the shape: a reshape between them makes XLA
  # copy the whole cache for every word, several times.
  cache = Cache(
      key=_write_place(cache.key, key_RAH, position),
      value=_write_place(cache.value, value_RAH, position))

  query_RAH = query_RAH * _scale(query_RAH)
  scores_RAL = jnp.einsum(
      "rah,ralh->ral", query_RAH, cache.key,
      preferred_element_type=jnp.float32)
  # A compiled loop needs caches of a fixed size, with room for later words.
  # Places that are not fed yet are masked, as `Decoder` masks later words.
  shape_11L = (1, 1, scores_RAL.shape[-1])
  places_11L = lax.broadcasted_iota(jnp.int32, shape_11L, 2)
  is_past_11L = places_11L <= position
  lowest = jnp.finfo(jnp.float32).min
  scores_RAL = jnp.where(is_past_11L, scores_RAL, lowest)
  weights_RAL = jax.nn.softmax(scores_RAL).astype(x_RD.dtype)
  y_RAH = jnp.einsum("ral,ralh->rah", weights_RAL, cache.value)
  y_RD = jnp.einsum("rah,ahd->rd", y_RAH, layer["out_AHD"])
  return y_RD, cache


def _write_place(old_RALH, new_RAH, position):
  """The keys, or the values, of a cache with those of one more word."""
  new_RA1H = new_RAH[:, :, None]
  return lax.dynamic_update_slice_in_dim(old_RALH, new_RA1H, position, axis=2)


def _attend_image(layer, memory, x_RD):
  """Cross-attention; the samples of an image read one copy of its keys."""
  kernels = layer["cross"]
  query_RAH = jnp.einsum("rd,dah->rah", x_RD, kernels["query"])
  query_RAH = query_RAH * _scale(query_RAH)
  # Rows of one image lie together. Split into images and samples, they meet
  # the keys of their image without a copy of those for each sample.
  num_images = memory.key.shape[0]
  _, num_heads, head_size = query_RAH.shape
  query_BSAH = query_RAH.reshape(num_images, -1, num_heads, head_size)
  # Scores and softmax in float32, as in training's attention.
  scores_BASN = jnp.einsum(
      "bsah,banh->basn", query_BSAH, memory.key,
      preferred_element_type=jnp.float32)
  weights_BASN = jax.nn.softmax(scores_BASN).astype(x_RD.dtype)
  y_BSAH = jnp.einsum("basn,banh->bsah", weights_BASN, memory.value)
  y_RAH = y_BSAH.reshape(query_RAH.shape)
  return jnp.einsum("rah,ahd->rd", y_RAH, kernels["out"])


def _mlp(params, x_RD):
  to_hidden, to_width = params
  x_RF = _dense(to_hidden, x_RD, x_RD.dtype)
  x_RF = jax.nn.gelu(x_RF, approximate=True)
  return _dense(to_width, x_RF, x_RD.dtype)


def _dense(params, x_RD, dtype):
  """A linear layer with results of this dtype."""
  y_RF = jnp.dot(x_RD, params["kernel"], preferred_element_type=dtype)
  bias_1F = params["bias"][None]
  return y_RF + bias_1F.astype(dtype)


def _norm(params, x_RD):
  """Layer norm with float32 statistics, as flax computes it."""
  dtype = x_RD.dtype
  x_RD = x_RD.astype(jnp.float32)
  mean_R1 = jnp.mean(x_RD, axis=-1, keepdims=True)
  mean_square_R1 = jnp.mean(jnp.square(x_RD), axis=-1, keepdims=True)
  # Rounding can make the difference of two large numbers negative.
  variance_R1 = jnp.maximum(mean_square_R1 - jnp.square(mean_R1), 0.0)
  y_RD = (x_RD - mean_R1) * lax.rsqrt(variance_R1 + NORM_EPSILON)
  y_RD = y_RD * params["scale"][None] + params["bias"][None]
  return y_RD.astype(dtype)


def _scale(query_RAH):
  """The factor that keeps scores of any head size at the same scale."""
  return query_RAH.shape[-1] ** -0.5
