"""Parts of the models alone: attention, label embedding, loss of the heads.

B batch · T query tokens · S key tokens · A heads · H head size · N tokens of an
image · K classes · P pixels of a patch · D width
"""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from tools.bench import measure
from tools.bench.gpu import timing
from tools.bench.gpu.setting import Ceilings, Line, Setting
from uvim.nn import attention as attention_lib
from uvim.nn import embedding, heads, losses
from uvim.tasks import make_task

# Pixel positions whose one-hot vectors exist at a time.
_POSITIONS = 16
# Logits of a chunk that are tried beside the default.
_MORE_LOGITS = (2**27, 2**28)


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
  """Every implementation at the shapes of both stages, and whether they agree.

  A time of "fused" far below that of "chunked" shows that cuDNN took it.
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
  for name in attention_lib.IMPLEMENTATIONS:
    attend = functools.partial(
        attention_lib.attention, causal=use.causal, implementation=name)
    times, results[name] = _time_with_gradient(
        attend, (q_BTAH, k_BSAH, v_BSAH), setting.repeats, num_learned=3)
    line[name] = times
  line["difference"] = _largest_difference(
      results["fused"], results["chunked"])
  return line


# ── Label embedding ─────────────────────────────────────────────────────────


def label_embedding(setting: Setting, ceilings: Ceilings) -> Iterator[Line]:
  """What the model does, against products of one-hot vectors by chunks."""
  del ceilings
  num_tokens = setting.kernel_batch * setting.num_tokens
  width = setting.stage_i["width"]
  for name, shape in setting.stage_i["inputs"].items():
    num_classes, num_pixels = shape
    kernel_KPD = _draw(0, (*shape, width), jnp.float32)
    ids_TP = _draw_ids(1, (num_tokens, num_pixels), num_classes)
    line = {"labels": name, "classes": num_classes, "tokens": num_tokens}
    results = {}
    ways = {"model": embedding.embed_ids, "products": _embed_by_products}
    for way, embed in ways.items():
      # Ids have no gradient.
      line[way], results[way] = _time_with_gradient(
          embed, (kernel_KPD, ids_TP), setting.repeats, num_learned=1)
    line["difference"] = _largest_difference(
        results["products"], results["model"])
    yield line


def _embed_by_products(kernel_KPD, ids_TP):
  """As `embedding.embed_ids`, by matrix products in half precision."""
  num_classes, num_pixels, width = kernel_KPD.shape
  step = min(_POSITIONS, num_pixels)

  def add_positions(sum_TD, start):
    ids_Tp = lax.dynamic_slice_in_dim(ids_TP, start, step, axis=1)
    kernel_KpD = lax.dynamic_slice_in_dim(kernel_KPD, start, step, axis=1)
    one_hot_TKp = jax.nn.one_hot(
        ids_Tp, num_classes, axis=1, dtype=jnp.bfloat16)
    part_TD = jnp.einsum(
        "tkp,kpd->td", one_hot_TKp, kernel_KpD.astype(jnp.bfloat16),
        preferred_element_type=jnp.float32)
    return sum_TD + part_TD, None

  zeros_TD = jnp.zeros((len(ids_TP), width))
  x_TD, _ = lax.scan(
      add_positions, zeros_TD, jnp.arange(0, num_pixels, step))
  return x_TD


# ── Loss of the heads ───────────────────────────────────────────────────────


def loss_chunks(setting: Setting, ceilings: Ceilings) -> Iterator[Line]:
  """Loss and gradient of stage I's heads, for more logits at a time."""
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
  for max_logits in (None, *_MORE_LOGITS):
    pixels = losses.chunk_size(num_tokens, model["outputs"], max_logits)
    loss = losses.ChunkedLoss(_loss_of_heads(model), pixels)
    # The labels are an argument: a constant of that size would be compiled in.
    gradient = jax.jit(jax.grad(_first(loss.mean), argnums=(0, 1)))
    seconds = timing.seconds_in_flight(
        functools.partial(gradient, params, x_BND, labels), setting.repeats)
    yield {
        "batch": batch,
        "max_logits": max_logits or losses.CHUNK,
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
