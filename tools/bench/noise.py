"""Parameters, a codebook and batches of noise: what both sides compute on.

B batch · H W image pixels · C channels · Q codebook size · E codeword size
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from uvim import tree
from uvim.store.start_from import Arrays, Store
from uvim.typing import PyTree

Array = np.ndarray
Generator = np.random.Generator
Fields = Mapping[str, Any]  # Fields of a model, or shapes by name.
ByName = dict[str, Any]  # Arrays or their shapes.

# Side of the blocks that labels are made of, in pixels.
BLOCK = 8
# Layers whose outputs have two axes, [heads, size] or [classes, pixels].
_TWO_OUTPUT_AXES = ("query", "key", "value", "head_")


def draw_params(shapes: PyTree, seed: int = 1) -> PyTree:
  """Parameters of a model as noise, the heads too.

  Heads start from zeros. With them most gradients are zeros, and any two
  computations would agree.

  Args:
    shapes: of the parameters.
    seed: of the noise.
  """
  rng = np.random.default_rng(seed)
  arrays = {}
  # Sorted, so that the noise does not depend on the order of a dict.
  for name, spec in sorted(tree.flatten(shapes).items()):
    noise = _draw_array(rng, name, spec.shape)
    arrays[name] = noise.astype(spec.dtype)
  return tree.unflatten(arrays)


def _draw_array(rng, name, shape):
  """Noise for a kernel; zeros for a bias, ones for a scale."""
  if name.endswith("bias"):
    return np.zeros(shape)
  if name.endswith("scale"):
    return np.ones(shape)
  # Inputs of each output: all axes but those of the output.
  fan_in = math.prod(shape[:-1])
  if any(part in name for part in _TWO_OUTPUT_AXES):
    # For these the input is the first axis alone.
    fan_in = shape[0]
  # This scale keeps the outputs about as large as the inputs.
  return rng.normal(size=shape, scale=fan_in ** -0.5)


def draw_quantizer_state(shapes: Fields) -> dict[str, Array]:
  """The state of VQ: a dictionary [Q, E] of noise, and every count [Q] 1."""
  rng = np.random.default_rng(3)
  # Every word counts, so that no step begins with splitting dead ones.
  dictionary_shape = shapes["dictionary"].shape
  counts_shape = shapes["counts"].shape
  dictionary_QE = rng.normal(size=dictionary_shape)
  counts_Q = np.ones(counts_shape, np.float32)
  return {
      "dictionary": dictionary_QE.astype(np.float32),
      "counts": counts_Q,
  }


class NoiseStore(Store):
  """Every checkpoint is noise of the shapes that are wanted."""

  def read_all(self, path, wanted, where, *, kind) -> Arrays:
    del path, where, kind
    params = draw_params(wanted["params"], seed=2)
    state = draw_quantizer_state(wanted["state"])
    return tree.flatten({"params": params, "state": state})

  def read_start(self, model_init, wanted, *, kind,
                 encoder_specs=None) -> Arrays:
    del model_init, wanted, kind, encoder_specs
    return {}


class ShapeStore(NoiseStore):
  """Every checkpoint is the shapes alone, for what is only compiled."""

  def read_all(self, path, wanted, where, *, kind) -> Arrays:
    del path, where, kind
    return tree.flatten(shapes_of(wanted))


def shapes_of(arrays: PyTree) -> PyTree:
  """Shape and dtype of every leaf."""

  def shape_of(x):
    return jax.ShapeDtypeStruct(x.shape, x.dtype)

  return jax.tree.map(shape_of, arrays)


def draw_image(rng: Generator, size: tuple[int, int], batch_size: int
               ) -> Array:
  """float32 [B, H, W, 3] in [-1, 1]."""
  shape = (batch_size, *size, 3)
  image_BHWC = rng.uniform(-1, 1, shape)
  return image_BHWC.astype(np.float32)


def make_batch(model: Fields, batch_size: int) -> ByName:
  """Images of noise with blocky labels, some of them void; host arrays.

  Args:
    model: fields of a stage I model.
    batch_size: B.
  """
  rng = np.random.default_rng(0)
  height, width = model["input_size"]
  blocks_down = height // BLOCK
  blocks_across = width // BLOCK
  shape = (batch_size, blocks_down, blocks_across)
  # Class 0 is void.
  channels = []
  for key in ("semantics", "instances"):
    num_classes, _ = model["inputs"][key]
    channel = rng.integers(0, num_classes, shape)
    channels.append(channel)
  labels_BHWC = np.stack(channels, axis=-1)
  labels_BHWC = labels_BHWC.astype(np.int32)
  # Each block becomes a square of equal pixels, like a segment.
  labels_BHWC = labels_BHWC.repeat(BLOCK, axis=1)
  labels_BHWC = labels_BHWC.repeat(BLOCK, axis=2)
  image_BHWC = draw_image(rng, (height, width), batch_size)
  return {"image": image_BHWC, "labels": labels_BHWC}


def draw_code(batch_size: int, length: int, num_words: int) -> Array:
  """int32 [B, L] of words."""
  rng = np.random.default_rng(2)
  shape = (batch_size, length)
  code_BL = rng.integers(0, num_words, shape)
  return code_BL.astype(np.int32)


def batch_shapes(model: Fields, batch_size: int) -> ByName:
  """Shapes of what `make_batch` makes."""
  height, width = model["input_size"]
  image_shape = (batch_size, height, width, 3)
  labels_shape = (batch_size, height, width, 2)
  return {
      "image": jax.ShapeDtypeStruct(image_shape, jnp.float32),
      "labels": jax.ShapeDtypeStruct(labels_shape, jnp.int32),
  }
