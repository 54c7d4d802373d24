"""Parts of the models alone: attention, label embedding, loss, codebook.

B batch · T query tokens · S key tokens · A heads · H head size · N tokens of an
image · K classes · P pixels of a patch · D width · L code length · E codeword
size · Q codebook size
"""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tools.bench import measure, noise
from tools.bench.gpu import timing
from tools.bench.gpu.setting import Ceilings, Line, Setting
from uvim.codes import vq
from uvim.nn import attention as attention_lib
from uvim.nn import embedding, heads, losses
from uvim.tasks import make_task

# cuDNN's attention, and the way without it.
_ATTENTIONS = ("fused", "blocks")
# Logits of a chunk: the model's choice on a GPU, fewer, and more.
_MAX_LOGITS = (losses.GPU_CHUNK, losses.CHUNK, 2 * losses.GPU_CHUNK)


def _draw(seed, shape, dtype=jnp.bfloat16):
  return jax.random.normal(jax.random.key(seed), shape, dtype)


def _draw_ids(seed, shape, num_classes):
  return jax.random.randint(jax.random.key(seed), shape, 0, num_classes)


# ── Attention ───────────────────────────────────────────────────────────────


class _Attention(NamedTuple):
  """One use of attention in a model."""
  name: str
  num_queries: int
  num_keys: int
  num_heads: int
  head_size: int
  causal: bool = False


def attention(setting: Setting, ceilings: Ceilings) -> Iterator[Line]:
  """cuDNN's and our own at the shapes of both stages, and whether they agree.

  A time of "fused" far below that of "blocks" shows that cuDNN took it.
  """
  del ceilings
  for use in _uses_of_attention(setting):
    yield _compare_attention(setting, use)


def _uses_of_attention(setting):
  num_tokens = setting.num_tokens
  length = setting.stage_ii["seq_len"]
  heads_i = setting.stage_i["num_heads"]
  size_i = setting.stage_i["width"] // heads_i
  heads_ii = setting.stage_ii["num_heads"]
  size_ii = setting.stage_ii["emb_dim"] // heads_ii
  return (
      _Attention("stage I", num_tokens, num_tokens, heads_i, size_i),
      _Attention("words", length, length, heads_ii, size_ii, causal=True),
      _Attention("words to image", length, num_tokens, heads_ii, size_ii),
  )


def _compare_attention(setting, use):
  batch = setting.kernel_batch
  shape_of_heads = (use.num_heads, use.head_size)
  key_shape = (batch, use.num_keys, *shape_of_heads)
  query_shape = (batch, use.num_queries, *shape_of_heads)
  q_BTAH = _draw(0, query_shape)
  k_BSAH = _draw(1, key_shape)
  v_BSAH = _draw(2, key_shape)
  line = {"shape": use.name, "batch": batch}
  results = {}
  for name in _ATTENTIONS:
    attend = functools.partial(
        attention_lib.attention, causal=use.causal, implementation=name)
    times, results[name] = _time_with_gradient(
        attend, (q_BTAH, k_BSAH, v_BSAH), setting.repeats, num_learned=3)
    line[name] = times
  line["difference"] = _largest_difference(
      results["fused"], results["blocks"])
  return line


# ── Label embedding ─────────────────────────────────────────────────────────


def label_embedding(setting: Setting, ceilings: Ceilings) -> Iterator[Line]:
  """The model's products of one-hot vectors, against rows as on a CPU."""
  del ceilings
  num_tokens = setting.kernel_batch * setting.num_tokens
  width = setting.stage_i["width"]
  for name, shape in setting.stage_i["inputs"].items():
    num_classes, num_pixels = shape
    kernel_KPD = _draw(0, (*shape, width), jnp.float32)
    ids_TP = _draw_ids(1, (num_tokens, num_pixels), num_classes)
    pixels = embedding.one_hot_chunk_size(num_tokens, *shape)
    line = {"labels": name, "classes": num_classes, "tokens": num_tokens,
            "pixels": pixels}
    results = {}
    ways = {
        "products": _embed_by_products(pixels),
        "rows": embedding.embed_by_rows,
    }
    for way, embed in ways.items():
      # Ids have no gradient.
      line[way], results[way] = _time_with_gradient(
          embed, (kernel_KPD, ids_TP), setting.repeats, num_learned=1)
    line["difference"] = _largest_difference(
        results["products"], results["rows"])
    yield line


def _embed_by_products(pixels):
  """(kernel [K, P, D], ids [T, P]) → tokens [T, D], in half precision."""

  def embed(kernel_KPD, ids_TP):
    return embedding.embed_by_products(
        kernel_KPD, ids_TP, "bfloat16", pixels)

  return embed


# ── Loss of the heads ───────────────────────────────────────────────────────


def loss_chunks(setting: Setting, ceilings: Ceilings) -> Iterator[Line]:
  """Loss and gradient of stage I's heads, by the logits of a chunk."""
  del ceilings
  model = setting.stage_i
  batch = setting.batch_sizes[0]
  x_BND = _draw(0, (batch, setting.num_tokens, model["width"]))
  params = {}
  labels = {}
  for name, shape in model["outputs"].items():
    num_classes, num_pixels = shape
    kernel_DKP = _draw(1, (model["width"], *shape), jnp.float32)
    # Small, so that no logit is far from the others.
    params[name] = {"kernel": kernel_DKP / 100, "bias": jnp.zeros(shape)}
    label_shape = (batch, setting.num_tokens, num_pixels)
    labels[name] = _draw_ids(2, label_shape, num_classes)

  num_tokens = batch * setting.num_tokens
  for max_logits in _MAX_LOGITS:
    pixels = losses.chunk_size(num_tokens, model["outputs"], max_logits)
    loss = losses.ChunkedLoss(_loss_of_heads(model), pixels)
    # The labels are an argument: a constant of that size would be compiled in.
    gradient = jax.jit(jax.grad(_first(loss.mean), argnums=(0, 1)))
    seconds = timing.seconds_in_flight(
        functools.partial(gradient, params, x_BND, labels), setting.repeats)
    yield {
        "batch": batch,
        "max_logits": max_logits,
        "pixels": pixels,
        "ms": timing.milliseconds(seconds),
    }


def _loss_of_heads(model):
  """(parameters of the heads, tokens, labels) → (loss [B], logs)."""
  task = make_task("panoptic_segmentation", model)

  def loss_of_heads(params, x_BND, labels):
    logits = {}
    for name in params:
      logits[name] = heads.logits(params[name], x_BND)
    return task.loss(logits, labels)

  return loss_of_heads


def _first(function):
  """The function with the first of its results alone."""

  def first(*args):
    return function(*args)[0]

  return first


# ── Codebook ────────────────────────────────────────────────────────────────


def codebook(setting: Setting, ceilings: Ceilings) -> Iterator[Line]:
  """What a codebook learns in a step, with its search for dead words or not.

  The search is a loop whose end the data decides, so the host waits for it once
  a step. No word is dead here.
  """
  del ceilings
  model = setting.stage_i
  batch = setting.batch_sizes[0]
  num_words = model["dict_size"]
  dim = model["codeword_dim"]
  x_BLE = _draw(0, (batch, model["code_len"], dim))
  code_BL = _draw_ids(1, x_BLE.shape[:2], num_words)
  counts_Q, sums_QE = vq.statistics(x_BLE, code_BL, num_words)
  stats = {"counts": counts_Q, "sums": sums_QE}
  shapes = {"counts": counts_Q, "dictionary": sums_QE}
  state = jax.device_put(noise.draw_quantizer_state(shapes))
  for searches in (True, False):
    quantizer = vq.VQ(num_words, dim, dict_splitting=searches)
    learn = jax.jit(quantizer.learn)
    seconds = timing.seconds_in_flight(
        functools.partial(learn, state, stats, jax.random.key(2)),
        setting.repeats)
    yield {
        "batch": batch,
        "words": num_words,
        "searches": searches,
        "ms": timing.milliseconds(seconds),
    }


# ── What all of them do ─────────────────────────────────────────────────────


def _time_with_gradient(function, arguments, repeats, num_learned):
  """(milliseconds of result and of gradient, both results).

  The gradient is that of the first `num_learned` arguments.
  """

  def square_sum(*arguments):
    # Any scalar whose gradient depends on all of the result.
    return jnp.sum(function(*arguments).astype(jnp.float32) ** 2)

  places = tuple(range(num_learned))
  forward = jax.jit(function)
  gradient = jax.jit(jax.grad(square_sum, argnums=places))
  times = {}
  for name, program in (("ms", forward), ("gradient_ms", gradient)):
    seconds = timing.seconds_in_flight(
        functools.partial(program, *arguments), repeats)
    times[name] = timing.milliseconds(seconds)
  return times, (forward(*arguments), *gradient(*arguments))


def _largest_difference(arrays, others):
  """The largest relative difference between arrays and their counterparts."""
  differences = []
  for array, other in zip(arrays, others, strict=True):
    # numpy's own functions know no bfloat16.
    array = array.astype(jnp.float32)
    other = other.astype(jnp.float32)
    differences.append(measure.relative_error(array, other))
  return max(differences)
