"""Both models written the plain way: what tools.bench compares with.

Functions of the same parameters. Labels are one-hot vectors, attention keeps
its scores, all logits exist at once, layers are a Python loop and nothing is
recomputed. Apart from the quantizer, nothing of the project is used. So this
also checks our results.

B batch · N tokens of a grid · P pixels in a patch · K classes · D width
T query tokens · S key tokens · A heads · H head size · L code length
E codeword size · R rows being decoded · V vocabulary

A `network` is the `ViT` or the `LM`; only its fields are read. `params` are
those of the whole network, `p` those of one layer.
"""

import math

import jax
import jax.numpy as jnp

from uvim.codes import vq

_EPSILON = 1e-6
# Of the image, of the kernel and of the result, in XLA's letters.
_CONVOLUTION_AXES = ("NHWC", "HWIO", "NHWC")


# ── Layers ──────────────────────────────────────────────────────────────────


def _like(bias, x):
  """`bias` with leading axes of 1, as many as `x` has more."""
  # Not left to broadcasting: our tests forbid arrays of unlike ranks.
  num_missing = x.ndim - bias.ndim
  leading_ones = (1,) * num_missing
  return bias.reshape(leading_ones + bias.shape)


def dense(p, x, axes=1):
  """x · kernel + bias over the last `axes` axes of x, in its dtype."""
  # The parameters stay float32; a product takes the dtype of its input.
  kernel = p["kernel"].astype(x.dtype)
  y = jnp.tensordot(x, kernel, axes)
  if "bias" in p:
    bias = p["bias"].astype(x.dtype)
    y = y + _like(bias, y)
  return y


def norm(p, x):
  """Layer norm with float32 statistics."""
  y = x.astype(jnp.float32)
  mean = jnp.mean(y, -1, keepdims=True)
  y = y - mean
  variance = jnp.mean(y**2, -1, keepdims=True)
  y = y * jax.lax.rsqrt(variance + _EPSILON)
  scale = _like(p["scale"], y)
  bias = _like(p["bias"], y)
  y = y * scale + bias
  return y.astype(x.dtype)


def attend(q_BTAH, k_BSAH, v_BSAH, mask=None):
  """Softmax attention by its definition."""
  head_size = q_BTAH.shape[-1]
  scaled_q_BTAH = q_BTAH * head_size ** -0.5
  scores_BATS = jnp.einsum(
      "btah,bsah->bats",
      scaled_q_BTAH,
      k_BSAH,
      preferred_element_type=jnp.float32)
  if mask is not None:
    # Not −inf: a row without any key would become NaN.
    lowest = jnp.finfo(jnp.float32).min
    scores_BATS = jnp.where(mask, scores_BATS, lowest)
  weights_BATS = jax.nn.softmax(scores_BATS)
  weights_BATS = weights_BATS.astype(v_BSAH.dtype)
  return jnp.einsum("bats,bsah->btah", weights_BATS, v_BSAH)


def attention(p, x_BTD, y_BSD, mask=None):
  """Multi-head attention from x to y."""
  q_BTAH = dense(p["query"], x_BTD)
  k_BSAH = dense(p["key"], y_BSD)
  v_BSAH = dense(p["value"], y_BSD)
  attended_BTAH = attend(q_BTAH, k_BSAH, v_BSAH, mask)
  # The kernel joins the heads: its first two axes are [A, H].
  return dense(p["out"], attended_BTAH, axes=2)


def mlp(p, x):
  """Two dense layers with a GELU between them."""
  hidden = dense(p["Dense_0"], x)
  hidden = jax.nn.gelu(hidden)
  return dense(p["Dense_1"], hidden)


def _layers(p, prefix):
  """The blocks of a transformer, in order."""
  num_layers = sum(name.startswith(prefix) for name in p)
  layers = []
  # Not sorted by name: layer 10 would come before layer 2.
  for index in range(num_layers):
    name = f"{prefix}{index}"
    layers.append(p[name])
  return layers


def encoder(p, x_BND):
  """The pre-norm transformer that both stages share."""
  for layer in _layers(p, "encoderblock_"):
    # Attention and MLP both see a normed input and are added to the raw one.
    attention_p = layer["MultiHeadDotProductAttention_0"]
    y_BND = norm(layer["LayerNorm_0"], x_BND)
    attended_BND = attention(attention_p, y_BND, y_BND)
    x_BND = x_BND + attended_BND
    y_BND = norm(layer["LayerNorm_1"], x_BND)
    hidden_BND = mlp(layer["MlpBlock_0"], y_BND)
    x_BND = x_BND + hidden_BND
  return norm(p["encoder_norm"], x_BND)


def embed_patches(p, image_BHWC, dtype):
  """The patch embedding as the strided convolution that it is."""
  kernel = p["kernel"]
  patch_size = kernel.shape[:2]
  # Stride equals kernel size, so that patches do not overlap.
  y_BhwD = jax.lax.conv_general_dilated(
      image_BHWC.astype(dtype),
      kernel.astype(dtype),
      window_strides=patch_size,
      padding="VALID",
      dimension_numbers=_CONVOLUTION_AXES)
  batch_size, _, _, width = y_BhwD.shape
  y_BND = y_BhwD.reshape(batch_size, -1, width)
  bias = p["bias"].astype(dtype)
  return y_BND + _like(bias, y_BND)


# ── Stage I ─────────────────────────────────────────────────────────────────


def encode(network, params, x, ctx):
  """The oracle up to the quantizer.

  Args:
    network: the ViT.
    params: of it.
    x: one-hot labels by name, [B, N, K, P].
    ctx: the image.
  """
  dtype = network.dtype
  x_BND = 0
  # A product with one-hot labels picks rows of the kernel, the slow way.
  for key in network.inputs:
    p = params[f"embedding_{key}"]
    label_BNKP = x[key].astype(dtype)
    kernel = p["kernel"].astype(dtype)
    bias = p["bias"].astype(dtype)
    x_BND += jnp.einsum("bnkp,kpd->bnd", label_BNKP, kernel)
    x_BND += _like(bias, x_BND)
  x_BND += embed_patches(params["ctx_enc_embedding"], ctx, dtype)
  posemb_1ND = params["pos_embedding_encoder"]
  x_BND += posemb_1ND.astype(dtype)
  x_BND = encoder(params["encoder"], x_BND)
  side = math.isqrt(network.code_len)
  # The grid of tokens becomes the smaller, square grid of words.
  x_BLD = _resize(x_BND, network.grid_size, (side, side))
  # float32: rounding would decide between two close codewords.
  x_BLD = x_BLD.astype(jnp.float32)
  x_BLE = dense(params["encoder_head"], x_BLD)
  return jax.nn.standardize(x_BLE)


def _resize(x_BND, old_size, new_size):
  """Linear resize of a row-major grid of tokens."""
  batch_size, _, width = x_BND.shape
  x_BHWD = x_BND.reshape(batch_size, *old_size, width)
  new_shape = (batch_size, *new_size, width)
  x_BHWD = jax.image.resize(x_BHWD, new_shape, "linear")
  return x_BHWD.reshape(batch_size, -1, width)


def decode(network, params, z_BLE, ctx):
  """The base model: all logits, [B, N, K, P] per output."""
  dtype = network.dtype
  side = math.isqrt(network.code_len)
  z_BLE = z_BLE.astype(dtype)
  x_BLD = dense(params["decoder_stem"], z_BLE)
  # The way back: each word is spread over the tokens that it stands for.
  x_BND = _resize(x_BLD, (side, side), network.grid_size)
  x_BND += embed_patches(params["ctx_dec_embedding"], ctx, dtype)
  posemb_1ND = params["pos_embedding_decoder"]
  x_BND += posemb_1ND.astype(dtype)
  x_BND = encoder(params["decoder"], x_BND)
  logits = {}
  for key in network.outputs:
    head = params[f"head_{key}"]
    logits[key] = dense(head, x_BND)
  return logits


def cross_entropy(logits_BNKP, target_BNKP):
  """Mean over pixels of −Σ target · log softmax."""
  logits_BNKP = logits_BNKP.astype(jnp.float32)
  log_p_BNKP = jax.nn.log_softmax(logits_BNKP, axis=-2)
  # A label out of range is a row of zeros: it adds nothing, yet it counts in
  # the mean.
  log_likelihood_BNP = jnp.sum(target_BNKP * log_p_BNKP, axis=-2)
  return -jnp.mean(log_likelihood_BNP)


def label_patches(network, labels_BHWC):
  """One-hot labels per patch: {'semantics', 'instances'}, [B, N, K, P]."""
  batch_size = len(labels_BHWC)
  rows, columns = network.grid_size
  height, width = network.patch_size
  x = labels_BHWC.reshape(batch_size, rows, height, columns, width, 2)
  # Rows and columns of patches first, then those of pixels.
  x = x.swapaxes(2, 3)
  x_BNPC = x.reshape(batch_size, rows * columns, height * width, 2)
  labels = {}
  for channel, key in enumerate(("semantics", "instances")):
    num_classes, _ = network.inputs[key]
    # An id that is out of range gives zeros.
    label_BNP = x_BNPC[..., channel]
    labels[key] = jax.nn.one_hot(
        label_BNP, num_classes, axis=-2, dtype=jnp.float32)
  return labels


def stage_i_loss(network, params, codebook, batch, drop):
  """(loss, (what the oracle said, its code)).

  Args:
    network: the ViT.
    params: of it.
    codebook: the dictionary.
    batch: 'image' and 'labels'.
    drop: code dropout, [B, L, E] → [B, L, E].
  """
  ctx = batch["image"]
  labels = label_patches(network, batch["labels"])
  x_BLE = encode(network, params, labels, ctx)
  z_BLE, code_BL = vq.quantize(codebook, x_BLE)
  logits = decode(network, params, drop(z_BLE), ctx)
  loss = 0
  for key, target_BNKP in labels.items():
    loss = loss + cross_entropy(logits[key], target_BNKP)
  return loss, (x_BLE, code_BL)


# ── Stage II ────────────────────────────────────────────────────────────────


def image_encoder(network, params, image_BHWC):
  """What the language model's decoder sees of an image."""
  dtype = network.dtype
  x_BND = embed_patches(params["EmbedPatches"], image_BHWC, dtype)
  posemb_1ND = params["pos_embedding_encoder"]
  x_BND += posemb_1ND.astype(dtype)
  return encoder(params["encoder"], x_BND)


def lm_logits(network, params, encoded_BND, text_BL):
  """float32 logits [B, L, V] of each word given the words before it."""
  p = params["decoder"]
  length = text_BL.shape[1]
  # Shifted right: the first word is predicted from the start word 0.
  without_last = text_BL[:, :-1]
  inputs_BL = jnp.pad(without_last, ((0, 0), (1, 0)))
  embedding_VD = p["EmbedTargets"]["embedding"]
  posemb_1LD = params["pos_embedding_decoder"]
  x_BLD = embedding_VD[inputs_BL]
  x_BLD = x_BLD + posemb_1LD
  x_BLD = x_BLD.astype(network.dtype)
  # A word sees its own place and those before it.
  all_11LL = jnp.ones((1, 1, length, length), bool)
  causal_11LL = jnp.tril(all_11LL)
  for layer in _layers(p, "EncDecBlock"):
    y_BLD = norm(layer["LayerNorm1"], x_BLD)
    words_BLD = attention(layer["SelfAttn"], y_BLD, y_BLD, causal_11LL)
    x_BLD = x_BLD + words_BLD
    y_BLD = norm(layer["LayerNorm2"], x_BLD)
    image_BLD = attention(layer["CrossAttn"], y_BLD, encoded_BND)
    x_BLD = x_BLD + image_BLD
    y_BLD = norm(layer["LayerNorm3"], x_BLD)
    hidden_BLD = mlp(layer["MLP"], y_BLD)
    x_BLD = x_BLD + hidden_BLD
  return _logits(p, x_BLD)


def _logits(p, x):
  """float32 logits from the decoder's last tokens."""
  x = norm(p["LayerNorm"], x)
  last_dense = p["LogitsDense"]
  kernel = last_dense["kernel"].astype(x.dtype)
  y = jnp.dot(x, kernel, preferred_element_type=jnp.float32)
  return y + _like(last_dense["bias"], y)


def stage_ii_loss(network, params, image_BHWC, text_BL):
  """Mean negative log-likelihood of a word, from one-hot targets."""
  encoded_BND = image_encoder(network, params, image_BHWC)
  logits_BLV = lm_logits(network, params, encoded_BND, text_BL)
  target_BLV = jax.nn.one_hot(text_BL, network.vocab_size)
  log_p_BLV = jax.nn.log_softmax(logits_BLV)
  log_likelihood_BL = jnp.sum(target_BLV * log_p_BLV, axis=-1)
  return -jnp.mean(log_likelihood_BL)


# ── Decoding ────────────────────────────────────────────────────────────────


def next_word(network, params, encoded_BND, text_BL, position):
  """Decoding without a cache: the whole sequence again for one word."""
  logits_BLV = lm_logits(network, params, encoded_BND, text_BL)
  logits_BV = logits_BLV[:, position]
  return _likeliest(logits_BV)


def _likeliest(logits_BV):
  """The likeliest word of the text; never the start word 0."""
  without_start = logits_BV[:, 1:]
  return jnp.argmax(without_start, axis=-1) + 1


def sample(network, params, image_BHWC):
  """Greedy codes [B, L] with plain caches, a word at a time."""
  encoded_BND = image_encoder(network, params, image_BHWC)
  p = params["decoder"]
  layers = _layers(p, "EncDecBlock")
  memories = _memories(layers, encoded_BND)
  posemb_1LD = params["pos_embedding_decoder"]
  embedding_VD = p["EmbedTargets"]["embedding"]

  def step(carry, position):
    word_R, caches = carry
    posemb_1D = posemb_1LD[:, position]
    x_RD = embedding_VD[word_R] + posemb_1D
    x_R1D = x_RD[:, None].astype(network.dtype)
    new_caches = []
    blocks = zip(layers, caches, memories, strict=True)
    for layer, cache, memory in blocks:
      x_R1D, cache = _decode_layer(layer, x_R1D, cache, memory, position)
      new_caches.append(cache)
    # Greedy: at each place the word with the highest logit.
    logits_R1V = _logits(p, x_R1D)
    word_R = _likeliest(logits_R1V[:, 0])
    # The text counts words from 1, the code from 0.
    return (word_R, new_caches), word_R - 1

  num_rows = len(image_BHWC)
  start_R = jnp.zeros(num_rows, jnp.int32)
  caches = _empty_caches(network, layers, num_rows)
  positions = jnp.arange(network.seq_len)
  _, code_LR = jax.lax.scan(step, (start_R, caches), positions)
  return code_LR.T


def _memories(layers, encoded_BND):
  """Keys and values of the image's tokens, for each layer.

  They are made once: the compiler would take them out of the loop anyway.
  """
  memories = []
  for layer in layers:
    p = layer["CrossAttn"]
    keys = dense(p["key"], encoded_BND)
    values = dense(p["value"], encoded_BND)
    memories.append((keys, values))
  return memories


def _empty_caches(network, layers, num_rows):
  """Keys and values of the words so far, for each layer; zeros."""
  first_attention = layers[0]["SelfAttn"]
  kernel = first_attention["query"]["kernel"]
  _, num_heads, head_size = kernel.shape
  shape = (num_rows, network.seq_len, num_heads, head_size)
  empty = jnp.zeros(shape, network.dtype)
  # One pair for all: JAX arrays never change in place.
  return [(empty, empty)] * len(layers)


def _decode_layer(layer, x_R1D, cache, memory, position):
  """One word through one layer: (its token, the layer's new cache)."""
  # The word reads itself and the words before it.
  p = layer["SelfAttn"]
  y_R1D = norm(layer["LayerNorm1"], x_R1D)
  query = dense(p["query"], y_R1D)
  new_key = dense(p["key"], y_R1D)
  new_value = dense(p["value"], y_R1D)
  old_keys, old_values = cache
  keys = _write_at(old_keys, new_key, position)
  values = _write_at(old_values, new_value, position)
  # Later places of the cache are zeros, not words.
  is_past_S = jnp.arange(keys.shape[1]) <= position
  mask_111S = is_past_S[None, None, None]
  attended_R1AH = attend(query, keys, values, mask_111S)
  words_R1D = dense(p["out"], attended_R1AH, axes=2)
  x_R1D = x_R1D + words_R1D

  # It reads all tokens of its image.
  p = layer["CrossAttn"]
  y_R1D = norm(layer["LayerNorm2"], x_R1D)
  query = dense(p["query"], y_R1D)
  attended_R1AH = attend(query, *memory)
  image_R1D = dense(p["out"], attended_R1AH, axes=2)
  x_R1D = x_R1D + image_R1D

  y_R1D = norm(layer["LayerNorm3"], x_R1D)
  hidden_R1D = mlp(layer["MLP"], y_R1D)
  x_R1D = x_R1D + hidden_R1D
  return x_R1D, (keys, values)


def _write_at(cache, new, position):
  return jax.lax.dynamic_update_slice_in_dim(cache, new, position, axis=1)
