"""C3 decoding and C5 panoptic outputs, and how cost grows.

B batch · L code length · N tokens · Q dictionary size
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from tools.bench import (
  data as bench_data,
)
from tools.bench import measure
from tools.bench import (
  naive as bench_naive,
)
from tools.bench import (
  naive_parts as bench_naive_parts,
)
from tools.bench import (
  train as bench_train,
)
from tools.bench.measure import Row, require, say
from tools.bench.sizes import LEAN_II, Size
from uvim import tree
from uvim.codes import vq as quantizer
from uvim.models import make_model
from uvim.priors import lm
from uvim.priors import sampling as decode
from uvim.tasks import make_task

_UNCACHED_WORDS = 4
# Of 4 x 512² pixels one near tie between classes moves a segment; words after
# a tie differ to the end of the sequence.
_TIES = 0.125


def _decoder(size: Size):
  """(model, parameters, images)."""
  model = make_model("lm", size.decoder, "decoder")
  params = bench_train.drawn(
      jax.eval_shape(lambda: lm.init_params(model, jax.random.key(0))))
  image = np.random.default_rng(0).uniform(
      -1, 1, (size.batch_decode, *model.input_size, 3))
  return model, jax.device_put(params), jnp.asarray(image, jnp.float32)


def decoding(size: Size) -> Iterator[Row]:
  """C3: words per second of greedy sampling, all images of a batch."""
  model, params, image = _decoder(size)
  seeds_B = jnp.zeros(len(image), jnp.uint32)

  def ours(params, image):
    return decode.sample(model, params, image, seeds_B).code[:, 0]

  def cached(params, image):
    return bench_naive.sample(model, params, image)

  programs = tuple(measure.compiled(fn, params, image, what=f"C3 {side}")
                   for side, fn in (("ours", ours), ("naive", cached)))
  codes = [np.asarray(p.call(params, image)) for p in programs]
  different = float(np.mean(codes[0] != codes[1]))
  require(different <= _TIES, f"C3: {different:.1%} of the words differ.")
  say(f"C3: {1 - different:.1%} of {codes[0].size} words agree")
  runs = [lambda p=p: jax.block_until_ready(p.call(params, image))
          for p in programs]
  details = dict(bytes_per_word=_bytes_per_word(model, params, len(image)),
                 bandwidth=measure.bandwidth(size.megabytes))
  peak = measure.ceiling(size.dtype, size.ceiling)
  times = measure.alternate(*runs, repeats=size.repeats)
  row = measure.timed_row(
      "C3", times, items=codes[0].size, unit="tokens/s", programs=programs,
      ceiling_flops=peak, **details)
  row.details["floor_seconds"] = model.seq_len * (
      details["bytes_per_word"] / details["bandwidth"])
  yield row
  yield _uncached(size, model, params, image, runs[0], codes[0])


def _bytes_per_word(model, params, batch: int) -> int:
  """What any implementation reads for one word of each image: the decoder's
  weights once, and the caches for words (half full on average) and image."""
  item = jnp.dtype(model.dtype).itemsize
  weights = sum(x.size for key, x in tree.flatten(params["decoder"]).items()
                if "Embed" not in key and not (
                    "CrossAttn/key" in key or "CrossAttn/value" in key))
  tokens = params["pos_embedding_encoder"].shape[1]
  layers = model.decoder_layers or model.num_layers
  width = model.decoder_emb_dim or model.emb_dim
  cached = 2 * layers * width * (model.seq_len // 2 + tokens) * batch
  return item * (weights + cached)


def _uncached(size, model, params, image, run, code_BL) -> Row:
  """C3 against the whole sequence computed again for every word.

  Its program has one shape, so a word costs the same anywhere: a few of them
  are timed. The image is encoded once, outside of the time.
  """
  encoded = jax.jit(lambda params, image: bench_naive.image_encoder(
      model, params, image))(params, image)
  num_words = min(_UNCACHED_WORDS, model.seq_len)
  text_BL = jnp.asarray(code_BL + 1)

  def word(params, encoded, text_BL, position):
    return bench_naive.next_word(model, params, encoded, text_BL, position)

  program = measure.compiled(word, params, encoded, text_BL, jnp.int32(0),
                             what="C3 uncached")

  def words():
    return jax.block_until_ready([
        program.call(params, encoded, text_BL, jnp.int32(i))
        for i in range(num_words)])

  first_LB = np.stack(words())
  different = np.mean(first_LB != np.asarray(text_BL).T[:num_words])
  require(different <= _TIES, f"C3 uncached: {different:.1%} differ.")
  times = measure.alternate(run, words, repeats=min(3, size.repeats))
  row = measure.timed_row("C3 uncached", times, items=code_BL.size,
                          unit="tokens/s")
  row.naive = len(image) * num_words / times[1].median
  row.ratio = row.ours / row.naive
  row.temp_bytes_naive = program.temp_bytes
  row.flops_naive = program.flops * model.seq_len
  return row


def outputs(size: Size) -> Iterator[Row]:
  """C5: panoptic maps from logits."""
  side, patch, classes, instances, batch = size.outputs
  shapes = {"semantics": (classes, patch**2), "instances": (instances,
                                                            patch**2)}
  task = make_task("panoptic_segmentation", dict(
      inputs=shapes, outputs=shapes, input_size=(side, side),
      patch_size=(patch, patch)))
  tokens = (side // patch)**2
  logits = {
      key: jax.jit(lambda key, shape: jax.random.normal(key, shape),
                   static_argnums=1)(jax.random.key(i), (batch, tokens, *shape))
      for i, (key, shape) in enumerate(shapes.items())}

  def ours(logits):
    return task.outputs(logits)["panoptic"]

  def plain(logits):
    grid = side // patch
    out = bench_naive_parts.panoptic_outputs(
        logits["semantics"], logits["instances"])
    out = out.reshape(batch, grid, grid, patch, patch, 2).swapaxes(2, 3)
    return out.reshape(batch, side, side, 2)

  programs = tuple(measure.compiled(fn, logits, what=f"C5 {side}")
                   for side, fn in (("ours", ours), ("naive", plain)))
  maps = [np.asarray(p.call(logits)) for p in programs]
  different = float(np.mean(maps[0] != maps[1]))
  require(different <= _TIES, f"C5: {different:.2%} of the pixels differ.")
  say(f"C5: {1 - different:.3%} of the values agree")
  times = measure.alternate(
      *(lambda p=p: jax.block_until_ready(p.call(logits)) for p in programs),
      repeats=size.repeats)
  read = sum(x.nbytes for x in logits.values())
  yield measure.timed_row(
      "C5", times, items=batch, unit="images/s", programs=programs,
      floor_seconds=read / measure.bandwidth(size.megabytes),
      ceiling_flops=measure.ceiling(size.dtype, size.ceiling))


def growth(size: Size) -> Iterator[Row]:
  """How memory and time grow with tokens, segments and dictionary."""
  for tokens in size.growth_tokens:
    yield _encoder_memory(size, tokens)
  for words in size.growth_words:
    yield _quantizer_step(size, words)
  yield from bench_data.preprocessing(size, size.growth_segments,
                                      name="growth segments")


def _encoder_memory(size: Size, tokens: int) -> Row:
  """Scratch memory of the gradient of an image encoder, one image.

  The naive one is compiled with two depths and drawn out in a straight line to
  the full one: its memory is a sum over its layers.
  """
  side = round(tokens**0.5) * size.growth_encoder["patches"]["size"][0]
  fields = dict(size.growth_encoder, input_size=(side, side))
  depth = fields["num_layers"]

  def program(layers, naive):
    lean = {} if naive else LEAN_II
    model = make_model("lm", dict(fields, num_layers=layers,
                                  decoder_layers=1) | lean, "encoder")
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    params = jax.eval_shape(lambda: lm.init_params(model, jax.random.key(0)))

    def loss(params, image):
      if naive:
        return jnp.sum(bench_naive.image_encoder(model, params, image)**2)
      return jnp.sum(model.apply({"params": params}, image,
                                 method="encode")**2)

    what = f"encoder, {tokens} tokens, {layers} {'naive ' * naive}layers"
    return measure.compiled(jax.grad(loss), params, image, what=what,
                            to_run=False)

  ours, (one, two) = program(depth, False), (
      program(layers, True) for layers in (1, 2))
  naive = measure.extrapolated(one, two, depth - 1)
  row = Row(f"growth encoder {tokens} tokens", "bytes", ours.temp_bytes,
            naive.temp_bytes, naive.temp_bytes / ours.temp_bytes)
  measure.add_program(row, "ours", ours)
  measure.add_program(row, "naive", naive)
  return row


def _quantizer_step(size: Size, words: int) -> Row:
  """Look-up and learning of the dictionary for a batch of vectors."""
  number, dim = size.growth_vectors
  codebook = quantizer.init_codebook(jax.random.key(0), words, dim)
  x_BLE = jax.nn.standardize(
      jax.random.normal(jax.random.key(1), (1, number, dim)))

  def ours(codebook, x_BLE):
    z_BLE, code_BL = quantizer.quantize(codebook, x_BLE)
    statistics = quantizer.statistics(x_BLE, code_BL, words)
    return z_BLE, quantizer.update(codebook, *statistics, momentum=0.995)

  def plain(codebook, x_BLE):
    # Distances to all words, then one-hot codes that pick and that sum.
    norm = jnp.linalg.norm(codebook.dictionary, axis=-1, keepdims=True)
    word_QE = codebook.dictionary / norm
    x_TE = x_BLE.reshape(-1, dim)
    distance_TQ = (jnp.sum(x_TE**2, -1)[:, None] - 2 * x_TE @ word_QE.T
                   + jnp.sum(word_QE**2, -1)[None])
    hot_TQ = jax.nn.one_hot(jnp.argmin(distance_TQ, -1), words)
    z_BLE = (hot_TQ @ word_QE).reshape(x_BLE.shape)
    return z_BLE, quantizer.Codebook(
        codebook.dictionary * 0.995 + hot_TQ.T @ x_TE,
        codebook.counts * 0.995 + jnp.sum(hot_TQ, 0))

  name = f"growth dictionary {words} words"
  programs = tuple(measure.compiled(fn, codebook, x_BLE, what=name)
                   for fn in (ours, plain))
  results = [p.call(codebook, x_BLE) for p in programs]
  for a, b in zip(*map(jax.tree.leaves, results), strict=True):
    require(measure.relative_error(a, b) < size.tolerance, f"{name} differs.")
  times = measure.alternate(
      *(lambda p=p: jax.block_until_ready(p.call(codebook, x_BLE))
        for p in programs), repeats=size.repeats)
  return measure.timed_row(name, times, items=number, unit="vectors/s",
                           programs=programs)
