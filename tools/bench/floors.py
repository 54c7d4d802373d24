"""The least that decoding can cost: what one word makes the machine read.

B images · N tokens of an image · D width
"""

import math

import jax
import jax.numpy as jnp

from uvim.priors import packed_decoder
from uvim.priors.lm import LM
from uvim.typing import PyTree


def bytes_per_word(network: LM, params: PyTree, batch_size: int) -> float:
  """Bytes of weights, and of keys and values, that a word of all images reads.

  Each is read once. A word reads the keys of those before it and its own; that
  counts as it is on average.

  Args:
    network: of the prior.
    params: of it, or their shapes.
    batch_size: images that are decoded at once.
  """

  def prepare(params):
    bound = network.bind({"params": params})
    shape_BND = (batch_size, math.prod(network.grid_size), network.emb_dim)
    encoded_BND = jnp.zeros(shape_BND, network.dtype)
    packed = bound.packed_decoder(encoded_BND)
    memories = packed_decoder.read_image(packed, encoded_BND)
    caches = packed_decoder.grow_caches(packed, None, batch_size, 1)
    return packed, memories, caches

  # Shapes suffice: nothing is computed.
  packed, memories, caches_of_one = jax.eval_shape(prepare, params)
  num_bytes = _num_bytes(packed["logits"]) + _num_bytes(memories)
  for layer in packed["layers"]:
    num_bytes += _num_bytes(layer)
    # These have made the memories; no word needs them again.
    cross = layer["cross"]
    num_bytes -= _num_bytes([cross["key"], cross["value"]])
  # The embedding is left out: only a row of it is read.
  mean_words = (network.seq_len + 1) / 2
  return num_bytes + mean_words * _num_bytes(caches_of_one)


def _num_bytes(arrays):
  num_bytes = 0
  for array in jax.tree.leaves(arrays):
    num_bytes += array.size * array.dtype.itemsize
  return num_bytes
