"""How memory and time grow with tokens, codebook and segments.

B batch · L code length · E codeword size · T vectors · Q codebook size
"""

import functools
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from tools.bench import measure, naive_models, preprocessing, rows
from tools.bench.measure import Program, Run, require
from tools.bench.rows import Row
from tools.bench.sizes import LEAN_II, Size
from uvim.codes import vq
from uvim.models import make_model

_MOMENTUM = 0.995


def growth(size: Size) -> Iterator[Row]:
  """A row for each number of tokens, words and segments."""
  for num_tokens in size.growth_tokens:
    yield _encoder_memory(size, num_tokens)
  for num_words in size.growth_words:
    yield _quantizer_step(size, num_words)
  for num_segments in size.growth_segments:
    yield preprocessing.preprocess_segments(
        "growth segments", size, num_segments)


def _encoder_memory(size: Size, num_tokens: int) -> Row:
  """Scratch memory of the gradient of an image encoder, one image.

  The naive one is compiled with one layer and with two, and continued in a
  straight line to all: its memory is a sum over its layers.
  """
  # A square image of so many patches.
  rows_of_patches = math.isqrt(num_tokens)
  patch, _ = size.growth_encoder["patches"]["size"]
  side = rows_of_patches * patch
  # The decoder is not used. One layer keeps it out of the way.
  model = dict(size.growth_encoder, input_size=(side, side), decoder_layers=1)
  depth = model["num_layers"]
  name = f"growth encoder {num_tokens} tokens"

  def compile_gradient(loss_fn, model, what):
    prior = make_model("lm", model, "encoder")
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    # Shapes alone: nothing of this size is ever allocated.
    params = jax.eval_shape(prior.init, jax.random.key(0))
    gradient = jax.grad(functools.partial(loss_fn, prior.lm))
    return measure.compile_program(
        gradient, params, image, what=f"{name}, {what}", to_run=False)

  def compile_naive(num_layers):
    shallow = dict(model, num_layers=num_layers)
    return compile_gradient(_naive_encoder_loss, shallow,
                            f"{num_layers} naive layers")

  # Ours needs no shortcut: a scan over layers compiles one layer.
  ours = compile_gradient(_encoder_loss, model | LEAN_II, f"{depth} layers")
  naive = measure.extrapolate(compile_naive(1), compile_naive(2), depth - 1)
  return rows.memory_row(name, ours, naive)


def _encoder_loss(network, params, image):
  """Our encoder, with the sum of squares as a loss."""
  encoded_BND = network.apply({"params": params}, image, method="encode")
  # Any scalar will do: what counts is the memory of its gradient.
  return jnp.sum(encoded_BND**2)


def _naive_encoder_loss(network, params, image):
  """The naive encoder, with that loss."""
  encoded_BND = naive_models.image_encoder(network, params, image)
  return jnp.sum(encoded_BND**2)


def _quantizer_step(size: Size, num_words: int) -> Row:
  """Look-up and learning of the dictionary for a batch of vectors."""
  num_vectors, dim = size.growth_vectors
  codebook = vq.init_codebook(jax.random.key(0), num_words, dim)
  # One code of T vectors.
  noise_BLE = jax.random.normal(jax.random.key(1), (1, num_vectors, dim))
  arguments = (codebook, jax.nn.standardize(noise_BLE))
  name = f"growth codebook {num_words} words"
  ours = Run(_compile(_quantize, arguments, name), arguments)
  naive = Run(_compile(_naive_quantize, arguments, name), arguments)
  # Code vectors, dictionary and counts.
  our_leaves = jax.tree.leaves(ours())
  naive_leaves = jax.tree.leaves(naive())
  for array, naive_array in zip(our_leaves, naive_leaves, strict=True):
    error = measure.relative_error(array, naive_array)
    require(error < size.tolerance, f"{name} differs.")
  times = measure.alternate(ours, naive, repeats=size.repeats)
  row = rows.timed_row(name, times, items=num_vectors, unit="vectors/s")
  rows.add_programs(row, ours.program, naive.program)
  return row


def _compile(function, arguments, name) -> Program:
  return measure.compile_program(function, *arguments, what=name)


def _quantize(codebook, x_BLE):
  """(codewords, the codebook after it learned from the vectors)."""
  num_words = len(codebook.counts)
  z_BLE, code_BL = vq.quantize(codebook, x_BLE)
  counts_Q, sums_QE = vq.statistics(x_BLE, code_BL, num_words)
  return z_BLE, vq.update(codebook, counts_Q, sums_QE, momentum=_MOMENTUM)


def _naive_quantize(codebook, x_BLE):
  """Distances to all words, then one-hot codes that pick and that sum."""
  dictionary_QE = codebook.dictionary
  # The dictionary keeps sums of vectors; their directions are the words.
  norm_Q1 = jnp.linalg.norm(dictionary_QE, axis=-1, keepdims=True)
  word_QE = dictionary_QE / norm_Q1
  x_TE = x_BLE.reshape(-1, x_BLE.shape[-1])
  # |x − w|² = |x|² − 2 x·w + |w|²
  x_square_T1 = jnp.sum(x_TE**2, axis=-1)[:, None]
  word_square_1Q = jnp.sum(word_QE**2, axis=-1)[None]
  distance_TQ = x_square_T1 - 2 * x_TE @ word_QE.T + word_square_1Q
  nearest_T = jnp.argmin(distance_TQ, axis=-1)
  # This array has T × Q floats: it is what makes the plain way large.
  one_hot_TQ = jax.nn.one_hot(nearest_T, len(word_QE))
  z_BLE = (one_hot_TQ @ word_QE).reshape(x_BLE.shape)
  new_codebook = vq.Codebook(
      dictionary=dictionary_QE * _MOMENTUM + one_hot_TQ.T @ x_TE,
      counts=codebook.counts * _MOMENTUM + jnp.sum(one_hot_TQ, axis=0))
  return z_BLE, new_codebook
