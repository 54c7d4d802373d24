"""C3: drawing codes from the language model, with and without caches.

B batch · L code length · N tokens of the image
"""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from tools.bench import floors, flops, measure, naive_models, noise, rows
from tools.bench.measure import Run, require, say
from tools.bench.rows import Row
from tools.bench.sizes import Size
from uvim.learn import devices, sharding
from uvim.models import make_model

# Steps of the side without caches that are timed; each costs the same.
UNCACHED_WORDS = 4
# The largest share of words that may differ. One near tie changes a word, and
# the words after it differ to the end of the code.
MAX_DIFFERENT = 0.125


def decoding(size: Size) -> Iterator[Row]:
  """Words per second of greedy sampling, all images of a batch."""
  # As the commands that decode do.
  devices.add_spare()
  prior = make_model("lm", size.decoder, "decoder")
  batch_size = size.batch_decode
  # Shapes suffice: the parameters are noise, the same for both sides.
  shapes = jax.eval_shape(prior.init, jax.random.key(0))
  params = jax.device_put(noise.draw_params(shapes))
  rng = np.random.default_rng(0)
  image = jnp.asarray(noise.draw_image(rng, prior.input_size, batch_size))
  seeds_B = jnp.zeros(batch_size, jnp.uint32)

  def sample(params, image):
    return prior.sample(params, image, seeds_B).code[:, 0]

  def naive_sample(params, image):
    return naive_models.sample(prior.lm, params, image)

  mesh, our_params = sharding.spread_predictions(
      sharding.make_mesh([("data", 1)]), params, batch_size)
  our_image = jax.device_put(image, sharding.batch_sharding(mesh))
  ours = _compile(sample, our_params, our_image, what="C3 ours")
  naive = _compile(naive_sample, params, image, what="C3 naive")
  code_BL = np.asarray(ours())
  naive_code_BL = np.asarray(naive())
  _require_same("C3", code_BL, naive_code_BL)
  peak_flops = measure.peak_flops(size.ceiling)
  times = measure.alternate(ours, naive, repeats=size.repeats)
  row = rows.timed_row("C3", times, items=code_BL.size, unit="tokens/s")
  rows.add_programs(row, ours.program, naive.program)
  rows.add_ceiling(row, peak_flops)
  least_seconds = _least_seconds(prior.lm, params, image, peak_flops)
  rows.add_floor(row, least_seconds)
  yield row
  yield _uncached(size, prior.lm, params, image, ours, code_BL)


def _compile(function, *arguments, what) -> Run:
  program = measure.compile_program(function, *arguments, what=what)
  return Run(program, arguments)


def _least_seconds(network, params, image, peak_flops):
  """The encoder at the ceiling, and every word at the rate of reading."""

  def encode(params, image):
    return network.apply({"params": params}, image, method="encode")

  traced = jax.jit(encode).trace(params, image)
  encoder_flops = flops.count(traced.jaxpr)
  encoder_seconds = encoder_flops / peak_flops
  # All that a word makes the processor read.
  word_bytes = floors.bytes_per_word(network, params, len(image))
  say(f"C3: {word_bytes / 1e6:.1f} MB a word")
  word_seconds = word_bytes / measure.read_rate(word_bytes)
  return encoder_seconds + network.seq_len * word_seconds


def _require_same(name, ours, naive):
  """Raises Disagree if too many words differ."""
  different = float(np.mean(ours != naive))
  require(different <= MAX_DIFFERENT,
          f"{name}: {different:.1%} of the words differ.")
  agreeing = 1 - different
  say(f"{name}: {agreeing:.1%} of {ours.size} words agree")


def _uncached(size: Size, network, params, image, ours: Run,
              code_BL: np.ndarray) -> Row:
  """Ours against the whole sequence computed again for every word.

  The naive program has one shape, so a word costs the same at any place, and
  a few of them are timed. The image is encoded once, outside of the time.
  `code_BL` is what our decoding returned.
  """

  def encode(params, image):
    return naive_models.image_encoder(network, params, image)

  def next_word(params, encoded_BND, text_BL, position):
    return naive_models.next_word(
        network, params, encoded_BND, text_BL, position)

  name = "C3 uncached"
  encoded_BND = jax.jit(encode)(params, image)
  # In a text the words are one higher, because 0 is the start word.
  text_BL = jnp.asarray(code_BL + 1)
  first_place = jnp.int32(0)
  program = measure.compile_program(
      next_word, params, encoded_BND, text_BL, first_place, what=name)
  num_words = min(UNCACHED_WORDS, network.seq_len)
  # Each word is drawn after our words, so one tie does not spread.
  first_words = functools.partial(
      _first_words, program, num_words, params, encoded_BND, text_BL)
  naive_text_BL = np.stack(first_words(), axis=1)
  _require_same(name, text_BL[:, :num_words], naive_text_BL)
  repeats = min(3, size.repeats)
  times = measure.alternate(ours, first_words, repeats=repeats)
  row = rows.timed_row(name, times, items=code_BL.size, unit="tokens/s")
  # The naive side made `num_words` words of each image, not all.
  naive_seconds = times[1].median
  row.naive = naive_text_BL.size / naive_seconds
  row.ratio = row.ours / row.naive
  row.temp_bytes_naive = program.temp_bytes
  # A whole code takes one call for each word.
  row.flops_naive = program.flops * network.seq_len
  return row


def _first_words(program, num_words, *arguments):
  """The words at places 0, 1, …, each [B]; waits for them."""
  words = []
  for position in range(num_words):
    word_B = program.call(*arguments, jnp.int32(position))
    words.append(word_B)
  return jax.block_until_ready(words)
