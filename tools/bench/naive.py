"""Both models written the plain way: what tools.bench compares with.

Functions of the same parameters. Labels are one-hot vectors, attention keeps
its scores, all logits exist at once, layers are a Python loop and nothing is
recomputed. Apart from the optimizer and the quantizer, nothing of the project
is used, so that this is an oracle for the results too.

B batch · N tokens of a grid · P pixels in a patch · K classes · D width
T query tokens · S key tokens · A heads · H head size · L code length
E codeword size · R rows being decoded
"""

import jax
import jax.numpy as jnp

from uvim.codes import vq as quantizer

_EPSILON = 1e-6


def _like(bias, x):
  """`bias` with leading axes of 1, as many as `x` has more."""
  return bias.reshape((1,) * (x.ndim - bias.ndim) + bias.shape)


def dense(p, x, axes=1):
  """x · kernel + bias over the last `axes` axes of x, in its dtype."""
  y = jnp.tensordot(x, p["kernel"].astype(x.dtype), axes)
  return y + _like(p["bias"].astype(x.dtype), y) if "bias" in p else y


def norm(p, x):
  """Layer norm with float32 statistics."""
  y = x.astype(jnp.float32)
  y = y - jnp.mean(y, -1, keepdims=True)
  y = y * jax.lax.rsqrt(jnp.mean(y**2, -1, keepdims=True) + _EPSILON)
  return (y * _like(p["scale"], y) + _like(p["bias"], y)).astype(x.dtype)


def attend(q_BTAH, k_BSAH, v_BSAH, mask=None):
  """Softmax attention by its definition."""
  scores_BATS = jnp.einsum(
      "btah,bsah->bats", q_BTAH * q_BTAH.shape[-1] ** -0.5, k_BSAH,
      preferred_element_type=jnp.float32)
  if mask is not None:
    scores_BATS = jnp.where(mask, scores_BATS, jnp.finfo(jnp.float32).min)
  weights_BATS = jax.nn.softmax(scores_BATS).astype(v_BSAH.dtype)
  return jnp.einsum("bats,bsah->btah", weights_BATS, v_BSAH)


def attention(p, x_BTD, y_BSD, mask=None):
  """Multi-head attention from x to y."""
  return dense(p["out"], attend(
      dense(p["query"], x_BTD), dense(p["key"], y_BSD),
      dense(p["value"], y_BSD), mask), axes=2)


def mlp(p, x):
  return dense(p["Dense_1"], jax.nn.gelu(dense(p["Dense_0"], x)))


def _layers(p, prefix):
  """The blocks of a transformer, in order."""
  num_layers = sum(name.startswith(prefix) for name in p)
  return [p[f"{prefix}{i}"] for i in range(num_layers)]


def encoder(p, x):
  """The pre-norm transformer that both stages share."""
  for layer in _layers(p, "encoderblock_"):
    y = norm(layer["LayerNorm_0"], x)
    x = x + attention(layer["MultiHeadDotProductAttention_0"], y, y)
    x = x + mlp(layer["MlpBlock_0"], norm(layer["LayerNorm_1"], x))
  return norm(p["encoder_norm"], x)


def embed_patches(p, image_BHWC, dtype):
  """The patch embedding as the strided convolution that it is."""
  kernel = p["kernel"]
  y_BhwD = jax.lax.conv_general_dilated(
      image_BHWC.astype(dtype), kernel.astype(dtype), kernel.shape[:2],
      "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
  y_BND = y_BhwD.reshape(len(y_BhwD), -1, y_BhwD.shape[-1])
  return y_BND + _like(p["bias"].astype(dtype), y_BND)


# Stage I.


def one_hot(ids_BNP, num_classes):
  """float32 [B, N, K, P]; ids out of range give zeros."""
  return jax.nn.one_hot(ids_BNP, num_classes, axis=-2, dtype=jnp.float32)


def encode(model, params, x, ctx):
  """The oracle up to the quantizer, from one-hot labels [B, N, K, P]."""
  x_BND = 0
  for key in model.inputs:
    p = params[f"embedding_{key}"]
    x_BND += jnp.einsum("bnkp,kpd->bnd", x[key].astype(model.dtype),
                        p["kernel"].astype(model.dtype))
    x_BND += _like(p["bias"].astype(model.dtype), x_BND)
  x_BND += embed_patches(params["ctx_enc_embedding"], ctx, model.dtype)
  x_BND = encoder(params["encoder"], x_BND + params[
      "pos_embedding_encoder"].astype(model.dtype))
  side = round(model.code_len**0.5)
  x_BLD = _resize(x_BND, model.grid_size, (side, side))
  x_BLE = dense(params["encoder_head"], x_BLD.astype(jnp.float32))
  return jax.nn.standardize(x_BLE)


def _resize(x_BND, old, new):
  x_BHWD = x_BND.reshape(len(x_BND), *old, x_BND.shape[-1])
  x_BHWD = jax.image.resize(
      x_BHWD, (len(x_BND), *new, x_BND.shape[-1]), "linear")
  return x_BHWD.reshape(len(x_BND), -1, x_BND.shape[-1])


def decode(model, params, z_BLE, ctx):
  """The base model: all logits, [B, N, K, P] per output."""
  side = round(model.code_len**0.5)
  x_BLD = dense(params["decoder_stem"], z_BLE.astype(model.dtype))
  x_BND = _resize(x_BLD, (side, side), model.grid_size)
  x_BND += embed_patches(params["ctx_dec_embedding"], ctx, model.dtype)
  x_BND = encoder(params["decoder"], x_BND + params[
      "pos_embedding_decoder"].astype(model.dtype))
  return {key: dense(params[f"head_{key}"], x_BND) for key in model.outputs}


def cross_entropy(logits_BNKP, target_BNKP):
  """Mean over pixels of −Σ target · log softmax."""
  log_p = jax.nn.log_softmax(logits_BNKP.astype(jnp.float32), axis=-2)
  return -jnp.mean(jnp.sum(target_BNKP * log_p, axis=-2))


def label_patches(model, labels_BHWC):
  """One-hot labels per patch: {'semantics', 'instances'}, [B, N, K, P]."""
  (rows, columns), (h, w) = model.grid_size, model.patch_size
  x = labels_BHWC.reshape(-1, rows, h, columns, w, 2).swapaxes(2, 3)
  x_BNPC = x.reshape(len(x), rows * columns, h * w, 2)
  return {key: one_hot(x_BNPC[..., i], model.inputs[key][0])
          for i, key in enumerate(("semantics", "instances"))}


def stage_i_loss(model, params, codebook, batch, drop):
  """(loss, (what the oracle said, its code)).

  Args:
    model: a ViT; read for its fields only.
    params: of it.
    codebook: the dictionary.
    batch: 'image' and 'labels'.
    drop: code dropout, [B, L, E] → [B, L, E].
  """
  x, ctx = label_patches(model, batch["labels"]), batch["image"]
  x_BLE = encode(model, params, x, ctx)
  z_BLE, code_BL = quantizer.quantize(codebook, x_BLE)
  logits = decode(model, params, drop(z_BLE), ctx)
  loss = sum(cross_entropy(logits[key], x[key]) for key in x)
  return loss, (x_BLE, code_BL)


# Stage II.


def image_encoder(model, params, image_BHWC):
  """What the language model's decoder sees of an image."""
  x_BND = embed_patches(params["EmbedPatches"], image_BHWC, model.dtype)
  return encoder(params["encoder"], x_BND + params[
      "pos_embedding_encoder"].astype(model.dtype))


def lm_logits(model, params, encoded_BND, text_BL):
  """float32 logits [B, L, V] of each word given the words before it."""
  p, length = params["decoder"], text_BL.shape[1]
  inputs_BL = jnp.pad(text_BL[:, :-1], ((0, 0), (1, 0)))
  x_BLD = p["EmbedTargets"]["embedding"][inputs_BL]
  x_BLD = (x_BLD + params["pos_embedding_decoder"]).astype(model.dtype)
  causal_11LL = jnp.tril(jnp.ones((1, 1, length, length), bool))
  for layer in _layers(p, "EncDecBlock"):
    y = norm(layer["LayerNorm1"], x_BLD)
    x_BLD = x_BLD + attention(layer["SelfAttn"], y, y, causal_11LL)
    y = norm(layer["LayerNorm2"], x_BLD)
    x_BLD = x_BLD + attention(layer["CrossAttn"], y, encoded_BND)
    x_BLD = x_BLD + mlp(layer["MLP"], norm(layer["LayerNorm3"], x_BLD))
  return _logits(p, x_BLD)


def _logits(p, x):
  x, p = norm(p["LayerNorm"], x), p["LogitsDense"]
  y = jnp.dot(x, p["kernel"].astype(x.dtype),
              preferred_element_type=jnp.float32)
  return y + _like(p["bias"], y)


def stage_ii_loss(model, params, image_BHWC, text_BL):
  """Mean negative log-likelihood of a word, from one-hot targets."""
  logits_BLV = lm_logits(
      model, params, image_encoder(model, params, image_BHWC), text_BL)
  target_BLV = jax.nn.one_hot(text_BL, model.vocab_size)
  log_p_BLV = jax.nn.log_softmax(logits_BLV)
  return -jnp.mean(jnp.sum(target_BLV * log_p_BLV, axis=-1))


def next_word(model, params, encoded_BND, text_BL, position):
  """Decoding without a cache: the whole sequence again for one word."""
  logits_BLV = lm_logits(model, params, encoded_BND, text_BL)
  return jnp.argmax(logits_BLV[:, position, 1:], axis=-1) + 1


def sample(model, params, image_BHWC):
  """Greedy codes [B, L] with plain caches, a word at a time."""
  encoded_BND = image_encoder(model, params, image_BHWC)
  p, num_rows = params["decoder"], len(image_BHWC)
  layers = _layers(p, "EncDecBlock")
  heads, size = layers[0]["SelfAttn"]["query"]["kernel"].shape[1:]
  empty = jnp.zeros((num_rows, model.seq_len, heads, size), model.dtype)
  # Once: the compiler takes them out of the loop where they stand inside.
  memories = [[dense(layer["CrossAttn"][name], encoded_BND)
               for name in ("key", "value")] for layer in layers]

  def step(carry, position):
    word_R, caches = carry
    posemb_1D = params["pos_embedding_decoder"][:, position]
    x_RD = p["EmbedTargets"]["embedding"][word_R] + posemb_1D
    x_R1D, new = x_RD[:, None].astype(model.dtype), []
    for layer, cache, memory in zip(layers, caches, memories, strict=True):
      x_R1D, cache = _decode_layer(layer, x_R1D, cache, memory, position)
      new.append(cache)
    word_R = jnp.argmax(_logits(p, x_R1D)[:, 0, 1:], axis=-1) + 1
    return (word_R, new), word_R - 1

  start = jnp.zeros(num_rows, jnp.int32), [(empty, empty)] * len(layers)
  return jax.lax.scan(step, start, jnp.arange(model.seq_len))[1].T


def _decode_layer(layer, x_R1D, cache, memory, position):
  y, p = norm(layer["LayerNorm1"], x_R1D), layer["SelfAttn"]
  cache = tuple(
      jax.lax.dynamic_update_slice_in_dim(old, dense(p[name], y), position, 1)
      for old, name in zip(cache, ("key", "value"), strict=True))
  past_111S = (jnp.arange(cache[0].shape[1]) <= position)[None, None, None]
  x_R1D = x_R1D + dense(
      p["out"], attend(dense(p["query"], y), *cache, past_111S), axes=2)
  y, p = norm(layer["LayerNorm2"], x_R1D), layer["CrossAttn"]
  x_R1D = x_R1D + dense(p["out"], attend(dense(p["query"], y), *memory),
                        axes=2)
  return x_R1D + mlp(layer["MLP"], norm(layer["LayerNorm3"], x_R1D)), cache
