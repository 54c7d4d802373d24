"""The run lengths in which Label Studio stores what a brush painted.

They are a stream of bits that holds the bytes of an RGBA image, row by row:

  32 bits   how many values there are: 4 for each pixel
  5 bits    how many bits a value has, less 1
  4 x 4     how many bits the length of a run of kind 0, 1, 2, 3 has, less 1
  runs      1 bit: whether the run repeats one value; 2 bits: its kind; its
            length less 1; then the value, or as many values as it is long

Painted is where the fourth channel is not 0.

H W pixels of an image
"""

from collections.abc import Sequence

import numpy as np

from uvim.registry import ConfigError

_NUM_CHANNELS = 4
_NUM_KINDS = 4


class _Bits:
  """Reads whole numbers from a stream of bits."""

  def __init__(self, content: bytes):
    self._content = content
    self._position = 0

  def read(self, num_bits: int) -> int:
    """The number in the next bits, the highest bit first."""
    end = self._position + num_bits
    if end > 8 * len(self._content):
      raise ConfigError(f"its {len(self._content):,} bytes end too early.")
    last_byte = -(-end // 8)
    window = self._content[self._position // 8:last_byte]
    number = int.from_bytes(window, "big") >> (8 * last_byte - end)
    self._position = end
    return number & ((1 << num_bits) - 1)


def decode(values: Sequence[int], size_HW: tuple[int, int]) -> np.ndarray:
  """The painted pixels, bool [H, W].

  Args:
    values: the bytes, 0 to 255.
    size_HW: height and width of the image.

  Raises:
    ConfigError: they are no such stream, or one of another size.
  """
  height, width = size_HW
  bits = _Bits(bytes(values))
  num_values = bits.read(32)
  expected = _NUM_CHANNELS * height * width
  if num_values != expected:
    raise ConfigError(f"it holds {num_values:,} values; {_NUM_CHANNELS} for "
                      f"each of {height}x{width} pixels are {expected:,}.")
  value_bits = bits.read(5) + 1
  length_bits = [bits.read(4) + 1 for _ in range(_NUM_KINDS)]
  is_painted = np.zeros(num_values, bool)
  start = 0
  while start < num_values:
    repeats = bits.read(1)
    kind = bits.read(2)
    stop = start + bits.read(length_bits[kind]) + 1
    if stop > num_values:
      raise ConfigError(f"a run ends behind the last of {num_values:,} values.")
    if repeats:
      is_painted[start:stop] = bits.read(value_bits) > 0
    else:
      for position in range(start, stop):
        is_painted[position] = bits.read(value_bits) > 0
    start = stop
  channels_HW4 = is_painted.reshape(height, width, _NUM_CHANNELS)
  return channels_HW4[..., -1]
