"""How memory and time grow with tokens and codebook.

B batch · L code length · E codeword size · T vectors · Q codebook size
"""

import functools
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from tools.bench import measure, naive_models, rows
from tools.bench.measure import Program, Run, require
from tools.bench.rows import Row
from tools.bench.sizes import LEAN_II, Size
from uvim.codes import vq
from uvim.models import make_model

_MOMENTUM = 0.995


def growth(size: Size) -> Iterator[Row]:
  """A row for each number of tokens and words."""
  for num_tokens in size.growth_tokens:
    yield _encoder_memory(size, num_tokens)
  for num_words in size.growth_words:
    yield _quantizer_step(size, num_words)


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
  model = dict(size.growth_encoder)
  model["input_size"] = (side, side)
  model["decoder_layers"] = 1
  depth = model["num_layers"]
  name = f"growth encoder {num_tokens} tokens"

  def compile_gradient(loss_fn, model, what):
    prior = make_model("lm", model, "encoder")
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    # Shapes alone: nothing of this size is ever allocated.
    params = jax.eval_shape(prior.init, jax.random.key(0))
    loss_of_params = functools.partial(loss_fn, prior.lm)
    gradient = jax.grad(loss_of_params)
    label = f"{name}, {what}"
    return measure.compile_program(
        gradient, params, image, what=label, to_run=False)

  def compile_naive(num_layers):
    shallow = dict(model, num_layers=num_layers)
    what = f"{num_layers} naive layers"
    return compile_gradient(_naive_encoder_loss, shallow, what)

  # Ours needs no shortcut: a scan over layers compiles one layer.
  lean_model = model | LEAN_II
  ours = compile_gradient(_encoder_loss, lean_model, f"{depth} layers")
  one_layer = compile_naive(1)
  two_layers = compile_naive(2)
  naive = measure.extrapolate(one_layer, two_layers, depth - 1)
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
  codebook_key = jax.random.key(0)
  noise_key = jax.random.key(1)
  codebook = vq.init_codebook(codebook_key, num_words, dim)
  # One code of T vectors.
  noise_BLE = jax.random.normal(noise_key, (1, num_vectors, dim))
  x_BLE = jax.nn.standardize(noise_BLE)
  arguments = (codebook, x_BLE)
  name = f"growth codebook {num_words} words"
  our_program = _compile(_quantize, arguments, name)
  naive_program = _compile(_naive_quantize, arguments, name)
  ours = Run(our_program, arguments)
  naive = Run(naive_program, arguments)
  # Code vectors, dictionary and counts.
  our_leaves = jax.tree.leaves(ours())
  naive_leaves = jax.tree.leaves(naive())
  pairs = zip(our_leaves, naive_leaves, strict=True)
  for array, naive_array in pairs:
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
  new_codebook = vq.update(
      codebook, counts_Q, sums_QE, momentum=_MOMENTUM)
  return z_BLE, new_codebook


def _naive_quantize(codebook, x_BLE):
  """Distances to all words, then one-hot codes that pick and that sum."""
  dictionary_QE = codebook.dictionary
  # The dictionary keeps sums of vectors; their directions are the words.
  norm_Q1 = jnp.linalg.norm(dictionary_QE, axis=-1, keepdims=True)
  word_QE = dictionary_QE / norm_Q1
  dim = x_BLE.shape[-1]
  x_TE = x_BLE.reshape(-1, dim)
  # |x − w|² = |x|² − 2 x·w + |w|²
  x_square_T = jnp.sum(x_TE**2, axis=-1)
  word_square_Q = jnp.sum(word_QE**2, axis=-1)
  twice_product_TQ = 2 * x_TE @ word_QE.T
  distance_TQ = x_square_T[:, None] - twice_product_TQ
  distance_TQ = distance_TQ + word_square_Q[None]
  nearest_T = jnp.argmin(distance_TQ, axis=-1)
  # This array has T × Q floats: it is what makes the plain way large.
  one_hot_TQ = jax.nn.one_hot(nearest_T, len(word_QE))
  z_TE = one_hot_TQ @ word_QE
  z_BLE = z_TE.reshape(x_BLE.shape)
  sums_QE = one_hot_TQ.T @ x_TE
  counts_Q = jnp.sum(one_hot_TQ, axis=0)
  new_codebook = vq.Codebook(
      dictionary=dictionary_QE * _MOMENTUM + sums_QE,
      counts=codebook.counts * _MOMENTUM + counts_Q)
  return z_BLE, new_codebook
