"""Integers to analog bits, and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uvim.diffusion import bits
from uvim.registry import ConfigError

# No power of two, and the last integers of the range.
CLASSES, IDS = 13, 16


encode = jax.jit(bits.encode_map, static_argnums=(1, 2, 3))
decode = jax.jit(bits.decode_map, static_argnums=(1, 2))


def all_pairs():
  """A map [CLASSES, IDS, 2] with every pair of class and id."""
  classes, ids = np.meshgrid(np.arange(CLASSES), np.arange(IDS), indexing="ij")
  return np.stack([classes, ids], axis=-1).astype(np.int32)


@pytest.mark.parametrize("coding", bits.CODINGS)
def test_a_map_comes_back_whatever_the_scale(coding):
  labels = all_pairs()
  for scale in (0.1, 3.0):
    analog = encode(labels, 8, scale, coding)
    assert analog.shape == (CLASSES, IDS, 8)
    np.testing.assert_allclose(np.abs(analog), scale, rtol=1e-6)
    # Bits are read by their sign alone.
    decoded = decode(analog * 0.01, (CLASSES, IDS), coding)
    np.testing.assert_array_equal(decoded, labels)


def test_the_first_bit_is_the_least_and_channels_follow_each_other():
  analog = bits.encode_map(np.array([6, 1], np.int32), 8, 1.0)
  np.testing.assert_array_equal(analog, [-1, 1, 1, -1, 1, -1, -1, -1])


def test_integers_beyond_the_last_become_the_last():
  highest = jnp.ones((1, 8))
  decoded = decode(highest, (CLASSES, IDS))
  np.testing.assert_array_equal(decoded, [[CLASSES - 1, IDS - 1]])
  # 0 is no bit that is set.
  lowest = decode(jnp.zeros((1, 8)), (CLASSES, IDS))
  np.testing.assert_array_equal(lowest, [[0, 0]])


def test_codings_differ_as_they_promise():
  integers = np.arange(16, dtype=np.int32)[:, None]
  patterns = {}
  for coding in bits.CODINGS:
    patterns[coding] = np.asarray(encode(integers, 4, 1.0, coding))
    assert len(np.unique(patterns[coding], axis=0)) == 16
  gray = patterns["gray"]
  changes = np.abs(gray[1:] - gray[:-1]).sum(axis=1) / 2
  np.testing.assert_array_equal(changes, 1)
  # A trained model needs the same patterns for ever.
  first = bits.bits_to_integers(patterns["random"])[:6]
  np.testing.assert_array_equal(first, [1, 6, 8, 9, 13, 4])


def test_a_sure_softmax_gives_its_bits_and_an_unsure_one_none():
  labels = all_pairs()
  analog = encode(labels, 8, 0.1)
  sure = 100.0 * (labels[..., None] == np.arange(16))
  np.testing.assert_allclose(
      bits.expected_bits(jnp.asarray(sure), 0.1), analog, rtol=1e-6)
  unsure = bits.expected_bits(jnp.zeros((2, 16)), 0.1)
  np.testing.assert_allclose(unsure, np.zeros(8), atol=1e-7)


@pytest.mark.parametrize("num_bits, sizes, message", [
    (7, (13, 16), "model.num_bits = 7; it must be a multiple of 2"),
    (8, (13, 17), "gives 'ids' 4 bits.*17 integers.*at least 10"),
    (40, (13, 16), "at most 16"),
])
def test_too_few_bits_are_an_error(num_bits, sizes, message):
  named = dict(zip(("classes", "ids"), sizes, strict=True))
  with pytest.raises(ConfigError, match=message):
    bits.check_capacity(num_bits, named, "model.num_bits")
  bits.check_capacity(8, {"classes": 13, "ids": 16}, "model.num_bits")
