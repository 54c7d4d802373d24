"""Panoptic maps as PNG files hold them: a segment id in each pixel's color.

Layer 0: no imports but numpy.
"""

import numpy as np

# Of red, green and blue.
_FACTORS = np.array([1, 256, 65536], np.int32)


def ids_from_rgb(rgb: np.ndarray) -> np.ndarray:
  """Segment ids of a panoptic map: R + 256 G + 65536 B.

  Args:
    rgb: integers in 0..255, [..., 3].

  Returns:
    int32 [...].
  """
  return rgb.astype(np.int32) @ _FACTORS


def rgb_from_ids(ids: np.ndarray) -> np.ndarray:
  """A panoptic map as a PNG holds it; undoes `ids_from_rgb`.

  Args:
    ids: integers in 0..2**24 - 1, [...].

  Returns:
    uint8 [..., 3].
  """
  ids = np.asarray(ids)
  rgb = np.empty((*ids.shape, 3), np.uint8)
  # A channel at a time: a large map is never there as three maps of integers.
  for channel, shift in enumerate((0, 8, 16)):
    rgb[..., channel] = (ids >> shift) & 255
  return rgb
