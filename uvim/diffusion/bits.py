"""Integers as analog bits, and analog bits as integers.

n bits of all channels together · C channels · G groups of bits

A bit is 0 or 1. An analog bit is -b or b, a real number that noise can be added
to. The least significant bit comes first. A map of several channels has the
bits of its first channel, then those of the second, and so on.

A coding says which bit pattern stands for an integer:

  binary  the integer itself, base 2 ("UINT8")
  gray    patterns of neighbouring integers differ in one bit
  random  any pattern, always the same: integers that are near share nothing
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from uvim import fields
from uvim.registry import ConfigError, lookup
from uvim.typing import Array, Float, Int

Bits = Float[Array, "*b n"]
Map = Int[Array, "*b C"]
# For each integer its pattern, read as an integer again.
Patterns = Int[np.ndarray, "integers"]

# A coding is a table with a row for every integer of a channel.
_MAX_BITS = 16


def _binary(integers: Patterns) -> Patterns:
  return integers


def _gray(integers: Patterns) -> Patterns:
  return integers ^ (integers >> 1)


def _random(integers: Patterns) -> Patterns:
  # The old generator: numpy promises that its numbers never change, and a
  # trained model needs the same patterns for ever.
  generator = np.random.RandomState(0)
  return generator.permutation(len(integers))


CODINGS = {"binary": _binary, "gray": _gray, "random": _random}
CODING = fields.one_of(CODINGS)


def check_capacity(num_bits: int, sizes: Mapping[str, int], where: str) -> None:
  """Raises a ConfigError unless every channel has bits for its integers.

  Without this check larger integers would silently become smaller ones.

  Args:
    num_bits: n, of all channels together.
    sizes: channel → how many integers 0, 1, … it has.
    where: the field that holds `num_bits`.
  """
  if num_bits % len(sizes):
    raise ConfigError(
        f"{where} = {num_bits}; it must be a multiple of {len(sizes)}, the "
        f"number of channels ({', '.join(sizes)}).")
  bits_each = num_bits // len(sizes)
  capacity = 2**bits_each
  if bits_each > _MAX_BITS:
    raise ConfigError(
        f"{where} = {num_bits} gives each channel {bits_each} bits; it must "
        f"give at most {_MAX_BITS}.")
  for name, size in sizes.items():
    if size > capacity:
      needed = len(sizes) * (size - 1).bit_length()
      raise ConfigError(
          f"{where} = {num_bits} gives {name!r} {bits_each} bits, but it has "
          f"{size} integers; it must be at least {needed}.")


# ── Bits ────────────────────────────────────────────────────────────────────


def integers_to_bits(integers: Int[Array, "*b"], num_bits: int) -> Bits:
  """float32 [*b, num_bits], 0 or 1. Higher bits are lost."""
  places = np.arange(num_bits, dtype=np.int32)
  shifted = jnp.right_shift(integers[..., None], _spread(places, integers))
  return (shifted % 2).astype(jnp.float32)


def bits_to_integers(bits: Bits) -> Int[Array, "*b"]:
  """int32 [*b]; a bit is set where the number is above 0."""
  num_bits = bits.shape[-1]
  place_values = 2**np.arange(num_bits, dtype=np.int32)
  is_set = (bits > 0).astype(jnp.int32)
  return jnp.sum(is_set * _spread(place_values, bits[..., 0]), axis=-1)


def _spread(numbers, like) -> np.ndarray:
  """Numbers [n] with leading axes of 1, for arrays [*b, n]."""
  return numbers.reshape((1,) * like.ndim + (-1,))


# ── Maps ────────────────────────────────────────────────────────────────────


def encode_map(
    labels: Map,
    num_bits: int,
    scale: float,
    coding: str = "binary",
) -> Bits:
  """Analog bits of a map of integers.

  Args:
    labels: integers 0, 1, … of C channels; see `check_capacity`.
    num_bits: n, a multiple of C.
    scale: b.
    coding: a key of CODINGS.

  Returns:
    float32 [*b, n], -b or b.
  """
  num_channels = labels.shape[-1]
  bits_each = num_bits // num_channels
  patterns = _encode(labels, bits_each, coding)
  bits = integers_to_bits(patterns, bits_each)
  bits = bits.reshape(*labels.shape[:-1], num_bits)
  return to_analog(bits, scale)


def decode_map(
    analog: Bits,
    sizes: Sequence[int],
    coding: str = "binary",
) -> Map:
  """The map whose bits are set where analog bits are above 0.

  Args:
    analog: float [*b, n].
    sizes: of each channel, how many integers it has. What is beyond becomes the
      last of them.
    coding: as in `encode_map`.

  Returns:
    int32 [*b, C].
  """
  num_channels = len(sizes)
  bits = split_groups(analog, num_channels)
  bits_each = bits.shape[-1]
  integers = _decode(bits_to_integers(bits), bits_each, coding)
  largest = np.asarray(sizes, np.int32) - 1
  return jnp.minimum(integers, _spread(largest, integers[..., 0]))


def to_analog(bits: Bits, scale: float) -> Bits:
  """-b for 0 and b for 1; what lies between stays between."""
  return (bits * 2 - 1) * scale


def split_groups(bits: Bits, num_groups: int) -> Float[Array, "*b G m"]:
  """Bits [*b, n] in groups of n / G neighbours."""
  return bits.reshape(*bits.shape[:-1], num_groups, -1)


def _encode(integers, num_bits: int, coding: str):
  make_patterns = lookup(CODINGS, coding, "coding")
  # Not through a table: that would read beyond its end where an integer has
  # more bits.
  if coding == "binary":
    return integers
  return jnp.asarray(_table(make_patterns, num_bits))[integers]


def _decode(patterns, num_bits: int, coding: str):
  make_patterns = lookup(CODINGS, coding, "coding")
  if coding == "binary":
    return patterns
  inverse = np.argsort(_table(make_patterns, num_bits)).astype(np.int32)
  return jnp.asarray(inverse)[patterns]


def _table(make_patterns: Any, num_bits: int) -> Patterns:
  integers = np.arange(2**num_bits, dtype=np.int32)
  return make_patterns(integers).astype(np.int32)


# ── Bits from a softmax ─────────────────────────────────────────────────────


def expected_bits(
    logits: Float[Array, "*b G K"],
    scale: float,
) -> Bits:
  """The mean analog bits under a softmax over the patterns of each group.

  Args:
    logits: float; class k of a group is the pattern whose integer is k.
    scale: b.

  Returns:
    float32 [*b, n] in [-b, b].
  """
  num_groups, num_classes = logits.shape[-2:]
  bits_each = (num_classes - 1).bit_length()
  patterns = np.arange(num_classes, dtype=np.int32)
  bits_Km = integers_to_bits(jnp.asarray(patterns), bits_each)
  probability = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
  # Accelerators round the inputs of a product unless told not to.
  mean_bits = jnp.matmul(
      probability, bits_Km, precision=jax.lax.Precision.HIGHEST)
  num_bits = num_groups * bits_each
  mean_bits = mean_bits.reshape(*logits.shape[:-2], num_bits)
  return to_analog(mean_bits, scale)
