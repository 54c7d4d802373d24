"""Decoding, prediction, and passes over several words at once.

B images · K words of an image that one pass reads · L code length
"""

import functools
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tools.bench import floors, measure, noise
from tools.bench.gpu import timing, trace_reader
from tools.bench.gpu.setting import Ceilings, Line, Setting, share
from uvim.models import make_model
from uvim.priors import packed_decoder
from uvim.tasks import make_task

# Passes that follow each other in one program.
_NUM_PASSES = 16
# Words that are decoded where each kernel is recorded.
_RECORDED_WORDS = 16


def decode(setting: Setting, ceilings: Ceilings, batch_size: int
           ) -> Iterator[Line]:
  """Greedy decoding beside its floor, and what a whole prediction takes."""
  prior, params, image = _make_prior(setting, batch_size)
  sample = _make_sampler(prior, batch_size)
  start = time.perf_counter()
  program = measure.compile_program(sample, params, image, what="decoding")
  compile_seconds = time.perf_counter() - start
  seconds = timing.seconds_each(
      lambda: program.call(params, image), setting.repeats)
  encode_seconds = _encoder_seconds(setting, prior, params, image)
  length = prior.lm.seq_len
  word_seconds = (seconds - encode_seconds) / length
  num_bytes = floors.bytes_per_word(prior.lm, params, batch_size)
  floor_seconds = share(num_bytes, ceilings.bandwidth)
  base_seconds = _base_model_seconds(setting, batch_size)
  yield {
      "batch": batch_size,
      "s": seconds,
      "encoder_ms": timing.milliseconds(encode_seconds),
      "ms_per_word": timing.milliseconds(word_seconds),
      "mb_per_word": num_bytes / 1e6,
      "times_floor": share(word_seconds, floor_seconds),
      "words_s": batch_size * length / seconds,
      "base_model_ms": timing.milliseconds(base_seconds),
      "predictions_s": batch_size / (seconds + base_seconds),
      "compile_s": compile_seconds,
  }


def _make_prior(setting, batch_size, **fields):
  """(prior, its parameters, images), drawn on the device."""
  prior = make_model("lm", setting.stage_ii | fields, "stage_ii")
  params = jax.jit(prior.init)(jax.random.key(0))
  rng = np.random.default_rng(0)
  image = noise.draw_image(rng, prior.input_size, batch_size)
  return prior, params, jax.device_put(image)


def _make_sampler(prior, batch_size):
  """(parameters, images) → words [B, L], the likeliest ones."""
  seeds_B = jnp.zeros(batch_size, jnp.uint32)

  def sample(params, image):
    return prior.sample(params, image, seeds_B).code[:, 0]

  return sample


def _encoder_seconds(setting, prior, params, image):
  def encode(params, image):
    return prior.lm.apply({"params": params}, image, method="encode")

  encode = jax.jit(encode)
  return timing.seconds_each(lambda: encode(params, image), setting.repeats)


def _base_model_seconds(setting, batch_size):
  """From words to maps that lie on the host."""
  model = make_model("vit", setting.stage_i, "stage_i")
  task = make_task("panoptic_segmentation", setting.stage_i)
  arrays = jax.jit(model.init)(jax.random.key(0))
  rng = np.random.default_rng(0)
  image = jax.device_put(
      noise.draw_image(rng, model.image_size, batch_size))
  code_BL = noise.draw_code(
      batch_size, setting.stage_i["code_len"], setting.stage_i["dict_size"])

  @jax.jit
  def predict(arrays, image, code_BL):
    z_BLE = model.embed(arrays, code_BL)
    logits = model.base_model(arrays, z_BLE, image)
    return task.outputs(logits)

  def predict_to_host():
    return jax.device_get(predict(arrays, image, code_BL))

  return timing.seconds_each(predict_to_host, setting.repeats)


# ── Several words a pass ────────────────────────────────────────────────────


def words_a_pass(setting: Setting, ceilings: Ceilings, batch_size: int
                 ) -> Iterator[Line]:
  """What a pass over K words of each image costs, against one over a word.

  A pass that checks K guesses at once pays if it confirms more words than it
  costs. The K words stand as K samples of an image, which read one copy of its
  keys, at the beginning of a code. So what is missing is attention to the words
  before, which later passes read as well.
  """
  del ceilings
  prior, params, image = _make_prior(setting, batch_size)
  prepare = jax.jit(functools.partial(_prepare_passes, prior.lm))
  packed, memories = jax.block_until_ready(prepare(params, image))
  seconds_of_one = None
  for num_words in (1, 4, 8):
    run = jax.jit(functools.partial(
        _run_passes, num_rows=batch_size * num_words))
    seconds = timing.seconds_each(
        functools.partial(run, packed, memories), setting.repeats)
    seconds = seconds / _NUM_PASSES
    seconds_of_one = seconds_of_one or seconds
    yield {
        "batch": batch_size,
        "words": num_words,
        "ms_per_pass": timing.milliseconds(seconds),
        "times_one_word": seconds / seconds_of_one,
    }


def _prepare_passes(network, params, image):
  """(packed parameters, keys and values of the image)."""
  bound = network.bind({"params": params})
  encoded_BND = bound.encode(image)
  packed = bound.packed_decoder(encoded_BND)
  return packed, packed_decoder.read_image(packed, encoded_BND)


def _run_passes(packed, memories, num_rows):
  """Some passes, each of which reads the words of the one before."""
  caches = packed_decoder.grow_caches(packed, None, num_rows, _NUM_PASSES)
  # There may be fewer places than passes, as in a tiny model.
  num_places = packed["places"].shape[1]

  def take_pass(carry, index):
    word_R, caches = carry
    logits_RV, caches = packed_decoder.step(
        packed, memories, caches, word_R, index % num_places)
    next_word_R = jnp.argmax(logits_RV, axis=-1).astype(jnp.int32)
    return (next_word_R, caches), None

  first_word_R = jnp.zeros(num_rows, jnp.int32)
  (last_word_R, _), _ = lax.scan(
      take_pass, (first_word_R, caches), jnp.arange(_NUM_PASSES))
  return last_word_R


# ── Kernels of decoding ─────────────────────────────────────────────────────


def slowest_kernels(setting: Setting, ceilings: Ceilings) -> Iterator[Line]:
  """Where the time of decoding goes, for a code of few words."""
  del ceilings
  length = min(_RECORDED_WORDS, setting.stage_ii["seq_len"])
  prior, params, image = _make_prior(
      setting, setting.decode_batch, seq_len=length)
  sample = jax.jit(_make_sampler(prior, setting.decode_batch))
  line = trace_reader.record(lambda: sample(params, image))
  yield {"batch": setting.decode_batch, "words": length, **line}
