"""The language model's decoder for sampling, on parameters laid out for it.

B images · S samples per image · R rows = B · S · L code length · N patches
K places of a pass · D width · M width of the encoded image · F MLP width
A heads · H head size · V vocabulary (0 = start, or unknown)

Sampling knows a word only after it was drawn. `step` is the network of
`uvim.priors.decoder` for a single place: it takes the word before and gives the
logits of the next one. Called L times, it gives what `Decoder` gives at once,
place by place. `step_places` takes a few words at once. `read_words` is the
network for all places, of which some are unknown. Tests hold them to `Decoder`.
What is here, and its counterpart there:

  step            __call__, at one place
  step_places     __call__, at a few places
  read_words      __call__ with `masked`
  _attend_past    SelfAttn with its causal mask
  _attend_places  the same, for a few places
  _attend_words   SelfAttn without it
  _attend_image   CrossAttn
  _mlp, _norm     MLP, LayerNorm1 … LayerNorm3

**What is kept** between the passes, so that nothing is computed twice:
`Memory`, the keys and values of the image, which never change and are computed
once for all samples of an image; and, word by word, `Cache`, the keys and
values of the words so far, which grows by one place a word.

**Why parameters are packed.** A step on one word is small: it would spend its
time on launching operations and on reading parameters. `pack` therefore casts
every kernel once, outside of the loop over words, and joins the kernels of
query, key and value, so that one matmul replaces three.
"""

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax

from uvim.nn.attention import attention
from uvim.priors.decoder import NORM_EPSILON, Encoded, Places
from uvim.typing import Array, Float, Int, PyTree

# The next word of every row, or the vector that stands for it; its logits.
Word = Int[Array, "R"] | Float[Array, "R D"]
WordLogits = Float[Array, "R V"]


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
  """Lays out the parameters of a `Decoder` for what is below, in `dtype`.

  Queries, keys and values of self-attention become one kernel. Call it once,
  outside the loop over words or passes.
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
      # A model of vectors embeds them itself.
      embedding=params.get("EmbedTargets", {}).get("embedding"),
      places=places,
      logits=cast(params["LogitsDense"]))


def _pack_layer(params, cast):
  """One block of `Decoder` as `step` reads it."""
  own = params["SelfAttn"]
  qkv = [own[name]["kernel"] for name in ("query", "key", "value")]
  # Stacked on an axis of their own, so that the head axes stay as they are.
  qkv_D3AH = cast(jnp.stack(qkv, axis=1))
  cross = params["CrossAttn"]
  mlp = params["MLP"]
  return dict(
      norms=[params[f"LayerNorm{i}"] for i in (1, 2, 3)],
      qkv_D3AH=qkv_D3AH,
      out_AHD=cast(own["out"]["kernel"]),
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
    word: Word,
    position: Int[Array, ""],
) -> tuple[WordLogits, list[Cache]]:
  """Feeds the word at `position` (0 at the start); logits of the next one.

  Equals position `position` of `Decoder` given the same words before it. Rows
  of one image lie together: R = B · S, whatever S is. The caches have room for
  this word. In place of a word, a vector of the size of its embedding may come.
  """
  place_RD = _place(packed["places"], position, len(word))
  # The dtype that `pack` was asked for.
  dtype = packed["logits"]["kernel"].dtype
  embedded_RD = word
  if word.ndim == 1:
    embedded_RD = packed["embedding"][word]
  x_RD = (embedded_RD + place_RD).astype(dtype)

  new_caches = []
  blocks = zip(packed["layers"], memories, caches, strict=True)
  for layer, memory, cache in blocks:
    # As in DecoderBlock: each part reads a normed x and adds to x itself.
    y_RD = _norm(layer["norms"][0], x_RD)
    y_RD, cache = _attend_past(layer, cache, y_RD, position)
    new_caches.append(cache)
    x_RD = _finish_block(layer, memory, x_RD + y_RD, _attend_image)

  return _logits(packed, x_RD), new_caches


def step_places(
    packed: PyTree,
    memories: list[Memory],
    caches: list[Cache],
    word_RK: Int[Array, "R K"],
    start_R: Int[Array, "R"],
) -> tuple[Float[Array, "R K V"], list[Cache]]:
  """Feeds the words at K places of each row; logits of the word after each.

  Equals K calls of `step`, but every row has places of its own. Caches may hold
  words at these places already: the new ones replace them. Room that a row
  needs beyond the places of a code is the caller's affair; no logit there means
  anything.

  Args:
    packed: of `pack`.
    memories: of `read_image`.
    caches: with room for these words.
    word_RK: vocabulary indices.
    start_R: the first place of each row.
  """
  num_rows, num_places = word_RK.shape
  place_RKD = _places_from(packed["places"], start_R, num_places)
  dtype = packed["logits"]["kernel"].dtype
  x_RKD = (packed["embedding"][word_RK] + place_RKD).astype(dtype)
  # All but attention between words looks at one word: each word is a row then.
  x_RD = x_RKD.reshape(num_rows * num_places, -1)

  new_caches = []
  blocks = zip(packed["layers"], memories, caches, strict=True)
  for layer, memory, cache in blocks:
    y_RD = _norm(layer["norms"][0], x_RD)
    y_RD, cache = _attend_places(layer, cache, y_RD, start_R)
    new_caches.append(cache)
    x_RD = _finish_block(layer, memory, x_RD + y_RD, _attend_image)

  logits_RV = _logits(packed, x_RD)
  return logits_RV.reshape(num_rows, num_places, -1), new_caches


def read_words(
    packed: PyTree,
    memories: list[Memory],
    word_RL: Int[Array, "R L"],
) -> Float[Array, "R L V"]:
  """Float32 logits of all places, each from all words.

  Equals `Decoder` with `masked`. Rows of one image lie together, as in `step`.

  Args:
    packed: of `pack`.
    memories: of `read_image`.
    word_RL: vocabulary indices; 0 is an unknown word.
  """
  num_rows, length = word_RL.shape
  places = packed["places"]
  # One for all rows, or one for each image.
  places_RLD = jnp.repeat(places, num_rows // len(places), axis=0)
  dtype = packed["logits"]["kernel"].dtype
  x_RLD = (packed["embedding"][word_RL] + places_RLD).astype(dtype)
  # All but attention between words looks at one word: each word is a row then.
  x_RD = x_RLD.reshape(num_rows * length, -1)

  for layer, memory in zip(packed["layers"], memories, strict=True):
    y_RD = _norm(layer["norms"][0], x_RD)
    x_RD = x_RD + _attend_words(layer, y_RD, length)
    x_RD = _finish_block(layer, memory, x_RD, _attend_image_in_blocks)

  logits_RV = _logits(packed, x_RD)
  return logits_RV.reshape(num_rows, length, -1)


def _finish_block(layer, memory, x_RD, attend_image):
  """A block after its self-attention: attention to the image, and the MLP."""
  _, norm2, norm3 = layer["norms"]
  y_RD = _norm(norm2, x_RD)
  x_RD = x_RD + attend_image(layer, memory, y_RD)
  y_RD = _norm(norm3, x_RD)
  return x_RD + _mlp(layer["mlp"], y_RD)


def _logits(packed, x_RD):
  """What follows the last block."""
  x_RD = _norm(packed["norm"], x_RD)
  # In float32, as in `Decoder`: rounded logits tie.
  return _dense(packed["logits"], x_RD, jnp.float32)


def _place(places, position, num_rows):
  """Where the word at `position` lies, [R, D]."""
  place = lax.dynamic_index_in_dim(places, position, axis=1, keepdims=False)
  # One for all rows, or one for each image: samples of an image lie together.
  num_places = len(place)
  return jnp.repeat(place, num_rows // num_places, axis=0)


def _places_from(places, start_R, num_places):
  """Where the words at `num_places` places from `start_R` on lie, [R, K, D]."""
  places_RLD = jnp.repeat(places, len(start_R) // len(places), axis=0)
  offset_K = jnp.arange(num_places)
  index_RK = start_R[:, None] + offset_K[None]
  # Beyond the last place `take` gives NaN by default, which masks do not stop:
  # attention multiplies it by a weight of 0.
  return jnp.take_along_axis(
      places_RLD, index_RK[..., None], axis=1, mode="clip")


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


def _attend_places(layer, cache, x_RD, start_R):
  """As `_attend_past`, for a few words of each row, which lie together."""
  qkv_R3AH = jnp.einsum("rd,dcah->rcah", x_RD, layer["qkv_D3AH"])
  _, _, num_heads, head_size = qkv_R3AH.shape
  shape = (len(start_R), -1, 3, num_heads, head_size)
  qkv_RK3AH = qkv_R3AH.reshape(shape)
  # Heads come first, as in the cache.
  query_RAKH, key_RAKH, value_RAKH = jnp.moveaxis(qkv_RK3AH, (2, 1), (0, 3))
  write_rows = jax.vmap(_write_places)
  cache = Cache(
      key=write_rows(cache.key, key_RAKH, start_R),
      value=write_rows(cache.value, value_RAKH, start_R))

  query_RAKH = query_RAKH * _scale(query_RAKH)
  scores_RAKL = jnp.einsum(
      "rakh,ralh->rakl", query_RAKH, cache.key,
      preferred_element_type=jnp.float32)
  # Each word reads itself and those before it, not those fed beside it.
  shape_RKL = (len(start_R), *scores_RAKL.shape[2:])
  offsets_RKL = lax.broadcasted_iota(jnp.int32, shape_RKL, 1)
  places_RKL = lax.broadcasted_iota(jnp.int32, shape_RKL, 2)
  is_past_RKL = places_RKL <= start_R[:, None, None] + offsets_RKL
  lowest = jnp.finfo(jnp.float32).min
  scores_RAKL = jnp.where(is_past_RKL[:, None], scores_RAKL, lowest)
  weights_RAKL = jax.nn.softmax(scores_RAKL).astype(x_RD.dtype)
  y_RKAH = jnp.einsum("rakl,ralh->rkah", weights_RAKL, cache.value)
  y_RAH = y_RKAH.reshape(len(x_RD), num_heads, head_size)
  y_RD = jnp.einsum("rah,ahd->rd", y_RAH, layer["out_AHD"])
  return y_RD, cache


def _attend_words(layer, x_RD, length):
  """Self-attention of all words of a sequence to each other.

  Args:
    layer: its parameters.
    x_RD: a row for each word; those of a sequence lie together.
    length: how many words a sequence has.
  """
  qkv_R3AH = jnp.einsum("rd,dcah->rcah", x_RD, layer["qkv_D3AH"])
  _, _, num_heads, head_size = qkv_R3AH.shape
  shape = (-1, length, 3, num_heads, head_size)
  qkv_BL3AH = qkv_R3AH.reshape(shape)
  query_BLAH = qkv_BL3AH[:, :, 0]
  key_BLAH = qkv_BL3AH[:, :, 1]
  value_BLAH = qkv_BL3AH[:, :, 2]
  y_BLAH = attention(query_BLAH, key_BLAH, value_BLAH)
  y_RAH = y_BLAH.reshape(len(x_RD), num_heads, head_size)
  return jnp.einsum("rah,ahd->rd", y_RAH, layer["out_AHD"])


def _write_place(old_RALH, new_RAH, position):
  """The keys, or the values, of a cache with those of one more word."""
  new_RA1H = new_RAH[:, :, None]
  return lax.dynamic_update_slice_in_dim(old_RALH, new_RA1H, position, axis=2)


def _write_places(old_ALH, new_AKH, start):
  """The keys, or the values, of one row with those of a few words."""
  return lax.dynamic_update_slice_in_dim(old_ALH, new_AKH, start, axis=1)


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


def _attend_image_in_blocks(layer, memory, x_RD):
  """As `_attend_image`, for so many rows that their scores fill the memory."""
  kernels = layer["cross"]
  query_RAH = jnp.einsum("rd,dah->rah", x_RD, kernels["query"])
  num_images = memory.key.shape[0]
  _, num_heads, head_size = query_RAH.shape
  # All rows of an image are one sequence of queries.
  query_BTAH = query_RAH.reshape(num_images, -1, num_heads, head_size)
  key_BNAH = jnp.swapaxes(memory.key, 1, 2)
  value_BNAH = jnp.swapaxes(memory.value, 1, 2)
  y_BTAH = attention(query_BTAH, key_BNAH, value_BNAH)
  y_RAH = y_BTAH.reshape(query_RAH.shape)
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
  y_RD = y_RD * params["scale"][None]
  if "bias" in params:
    y_RD = y_RD + params["bias"][None]
  return y_RD.astype(dtype)


def _scale(query_RAH):
  """The factor that keeps scores of any head size at the same scale."""
  return query_RAH.shape[-1] ** -0.5
