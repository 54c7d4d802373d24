"""Resizes images and prepares them for the models, with numpy alone.

The functions give the same numbers as the preprocessing ops resize,
rgb_to_grayscale_to_rgb and value_range. So an image gives the same prediction
here as in an evaluation.

H W pixels · C channels

Layer 0: no imports but numpy.
"""

import numpy as np

# Weights of red, green and blue, as tf.image.rgb_to_grayscale has them.
LUMA_WEIGHTS = np.array([0.2989, 0.5870, 0.1140], np.float32)
# Floats in numpy default to 64 bits; the ops compute in 32.
_HALF = np.float32(0.5)
_ONE = np.float32(1)


def to_model(image_HWC: np.ndarray, size: tuple[int, int], *,
             antialias: bool = False, grey: bool = False) -> np.ndarray:
  """Resizes an image to a model's size, whatever its aspect.

  Args:
    image_HWC: [H, W, 3], uint8 or float32 in [-1, 1].
    size: height and width.
    antialias: as the run's preprocessing had it.
    grey: only the luma, in all three channels.

  Returns:
    float32 [*size, 3] in [-1, 1].
  """
  resized = resize_bilinear(image_HWC, size, antialias=antialias)
  if grey:
    resized = to_luma(resized)
  if resized.dtype != np.uint8:
    return resized
  # The order of operations of the op value_range(-1, 1), to the last bit.
  share = resized.astype(np.float32) / np.float32(255)
  return np.float32(-1) + share * np.float32(2)


def to_luma(image_HWC: np.ndarray) -> np.ndarray:
  """The grey level in all three channels; keeps dtype and range."""
  if image_HWC.dtype == np.uint8:
    # A product and not a division, as TensorFlow converts.
    levels = image_HWC.astype(np.float32) * np.float32(1 / 255)
    luma_HW = levels @ LUMA_WEIGHTS
    # 255.5 and a cut: how TensorFlow comes back to 8 bits.
    grey_HW = (luma_HW * np.float32(255.5)).astype(np.uint8)
  else:
    grey_HW = image_HWC @ LUMA_WEIGHTS
  return np.repeat(grey_HW[..., None], 3, axis=-1)


def resize_nearest(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Resizes [H, W, ...]: each new pixel is the old one under its centre.

  No new values arise. The places are computed in integers, so that rounding
  cannot move a border.
  """
  if values.shape[:2] == tuple(size):
    return values
  rows = _nearest_places(values.shape[0], size[0])
  columns = _nearest_places(values.shape[1], size[1])
  return values.take(rows, axis=0).take(columns, axis=1)


def _nearest_places(old: int, new: int) -> np.ndarray:
  """floor((k + 0.5) * old / new) for k = 0 … new-1."""
  # Numerator and denominator are doubled, so that all numbers are whole.
  return (2 * np.arange(new) + 1) * old // (2 * new)


def resize_bilinear(image_HWC: np.ndarray, size: tuple[int, int], *,
                    antialias: bool = False) -> np.ndarray:
  """Resizes [H, W, C] between neighbouring pixels; keeps the dtype.

  Whole numbers are cut, not rounded, as in the released implementation.

  Args:
    image_HWC: the image.
    size: height and width.
    antialias: when it shrinks, a new pixel is a mean of all pixels that it
      covers. Otherwise it depends on the four nearest to its centre.
  """
  size = tuple(size)
  if image_HWC.shape[:2] == size:
    return image_HWC
  if antialias:
    resized = _shrink(image_HWC, size)
  else:
    resized = _interpolate(image_HWC, size)
  return resized.astype(image_HWC.dtype)


def _interpolate(image_HWC, size) -> np.ndarray:
  """Mixes the four pixels around each new centre; float32."""
  top, bottom, down = _neighbours(image_HWC.shape[0], size[0])
  left, right, across = _neighbours(image_HWC.shape[1], size[1])
  # [new width, 1]: all channels of a pixel have the same share.
  across = across[:, None]

  def mix_columns(rows):
    """The chosen rows, interpolated along the width."""
    # Only the chosen pixels become floats, never the whole image.
    left_pixels = image_HWC[rows[:, None], left].astype(np.float32)
    right_pixels = image_HWC[rows[:, None], right].astype(np.float32)
    return left_pixels + (right_pixels - left_pixels) * across

  upper = mix_columns(top)
  lower = mix_columns(bottom)
  return upper + (lower - upper) * down[:, None, None]


def _neighbours(old: int, new: int):
  """(lower index, upper index, share of the upper), each [new]."""
  # A pixel's centre lies half a pixel from its edge, hence the two halves.
  scale = np.float32(old) / np.float32(new)
  centre = (np.arange(new, dtype=np.float32) + _HALF) * scale - _HALF
  lower = np.floor(centre)
  upper = np.minimum(np.ceil(centre), old - 1)
  share = centre - lower
  # Below the first centre `lower` is -1: both neighbours are pixel 0 there.
  lower = np.maximum(lower, 0)
  return lower.astype(np.int64), upper.astype(np.int64), share


def _shrink(image_HWC, size) -> np.ndarray:
  """Uses a kernel as wide as the step between new centres; float32."""
  # The kernel is a product of one along the height and one along the width. So
  # the two passes may follow each other.
  few_rows = _average_rows(image_HWC, size[0])
  few_columns = _average_rows(few_rows.swapaxes(0, 1), size[1])
  return few_columns.swapaxes(0, 1)


def _average_rows(image_HWC, new: int) -> np.ndarray:
  """Weighted means of rows, one new row at a time.

  So a large image is never in memory as floats.
  """
  old = len(image_HWC)
  if old == new:
    return image_HWC.astype(np.float32)
  # Not old / new: this rounds twice in float32, as TensorFlow does.
  step = _ONE / (np.float32(new) / np.float32(old))
  resized = np.empty((new, *image_HWC.shape[1:]), np.float32)
  for i in range(new):
    start, weights = _triangle(i, step, old)
    covered = image_HWC[start:start + len(weights)]
    resized[i] = np.tensordot(weights, covered.astype(np.float32), 1)
  return resized


def _triangle(i: int, step: np.float32, old: int):
  """(first old row, weights of it and of those after it) of new row i.

  The weights are 1 at the centre and 0 at the ends of their reach, before
  they are divided by their sum.
  """
  # A kernel narrower than a pixel, when the image grows, would miss all.
  reach = max(step, _ONE)
  centre = np.float32(i + .5) * step
  first = np.ceil(centre - reach - _HALF)
  last = np.floor(centre + reach - _HALF)
  start = int(np.clip(first, 0, old - 1))
  end = int(np.clip(last, 0, old - 1)) + 1
  distance = np.arange(start, end, dtype=np.float32) + _HALF - centre
  weights = np.maximum(0, 1 - np.abs(distance) / reach)
  # At the edge of the image a part of the kernel is missing. The rest of its
  # weights must still sum to 1.
  weights = weights / weights.sum()
  return start, weights.astype(np.float32)


def to_bytes(image_HWC: np.ndarray) -> np.ndarray:
  """uint8 of an image that is uint8 or floats in [-1, 1]; rounds."""
  if image_HWC.dtype == np.uint8:
    return image_HWC
  # Floats may lie outside of [-1, 1]; a cast alone would wrap them around.
  levels = np.rint(image_HWC * 127.5 + 127.5)
  return np.uint8(np.clip(levels, 0, 255))
