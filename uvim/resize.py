"""Resizes images and prepares them for the models, with numpy alone.

The functions give the same numbers as the preprocessing ops resize,
rgb_to_grayscale_to_rgb and value_range. So an image gives the same prediction
here as in an evaluation.

H W pixels · C channels

Layer 0: no imports but numpy.
"""

import numpy as np

# Arrays of pixels, [H, W, …].
Pixels = np.ndarray
# Height and width.
Size = tuple[int, int]
# Floats in numpy default to 64 bits; the ops compute in 32.
f32 = np.float32

# Weights of red, green and blue, as tf.image.rgb_to_grayscale has them.
LUMA_WEIGHTS = np.array([0.2989, 0.5870, 0.1140], f32)
_STRIP_PIXELS = 2**18
_HALF = f32(0.5)
_ONE = f32(1)
_TWO = f32(2)
_HIGHEST_LEVEL = f32(255)
# A product with it, and not a division: so does TensorFlow.
_SHARE_OF_LEVEL = f32(1 / 255)
# 255.5 and a cut: how TensorFlow comes back to 8 bits.
_LEVELS_TO_CUT = f32(255.5)


def to_model(image_HWC: Pixels, size: Size, *,
             antialias: bool = False, grey: bool = False) -> Pixels:
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
  share = resized.astype(f32) / _HIGHEST_LEVEL
  return -_ONE + share * _TWO


def to_luma(image_HWC: Pixels) -> Pixels:
  """The grey level in all three channels; keeps dtype and range."""
  if image_HWC.dtype == np.uint8:
    shares_HWC = image_HWC.astype(f32) * _SHARE_OF_LEVEL
    luma_HW = shares_HWC @ LUMA_WEIGHTS
    grey_HW = luma_HW * _LEVELS_TO_CUT
    grey_HW = grey_HW.astype(np.uint8)
  else:
    grey_HW = image_HWC @ LUMA_WEIGHTS
  grey_HW1 = grey_HW[..., None]
  return np.repeat(grey_HW1, 3, axis=-1)


def resize_nearest(values: Pixels, size: Size) -> Pixels:
  """Resizes [H, W, ...]: each new pixel is the old one under its centre.

  No new values arise. The places are computed in integers, so that rounding
  cannot move a border.
  """
  old_height, old_width = values.shape[:2]
  height, width = size
  if (old_height, old_width) == (height, width):
    return values
  rows = _nearest_places(old_height, height)
  columns = _nearest_places(old_width, width)
  chosen_rows = values.take(rows, axis=0)
  return chosen_rows.take(columns, axis=1)


def _nearest_places(old: int, new: int) -> np.ndarray:
  """floor((k + 0.5) * old / new) for k = 0 … new-1."""
  # Numerator and denominator are doubled, so that all numbers are whole.
  numerator = (2 * np.arange(new) + 1) * old
  return numerator // (2 * new)


def resize_bilinear(image_HWC: Pixels, size: Size, *,
                    antialias: bool = False) -> Pixels:
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
    return resized.astype(image_HWC.dtype)
  return _interpolate(image_HWC, size)


def strips(shape: Size) -> list[slice]:
  """Rows of [H, W, …] in parts of about 2**18 pixels, from the top.

  Floats of one strip take little memory, those of a large image do not.
  """
  height, width = shape[:2]
  rows = max(1, _STRIP_PIXELS // max(1, width))
  return [slice(top, min(top + rows, height))
          for top in range(0, height, rows)]


def _interpolate(image_HWC, size) -> Pixels:
  """Mixes the four pixels around each new centre, strip by strip."""
  old_height, old_width = image_HWC.shape[:2]
  height, width = size
  top, bottom, down = _neighbours(old_height, height)
  left, right, across = _neighbours(old_width, width)
  # All channels of a pixel have the same share.
  across_W1 = across[:, None]
  down_H11 = down[:, None, None]
  resized = np.empty((*size, image_HWC.shape[2]), image_HWC.dtype)

  def mix_columns(rows):
    """The chosen rows, interpolated along the width."""
    # Only the chosen pixels become floats, never the whole image.
    rows_H1 = rows[:, None]
    left_HWC = image_HWC[rows_H1, left].astype(f32)
    right_HWC = image_HWC[rows_H1, right].astype(f32)
    return left_HWC + (right_HWC - left_HWC) * across_W1

  for strip in strips(size):
    upper = mix_columns(top[strip])
    lower = mix_columns(bottom[strip])
    # Whole numbers are cut here.
    resized[strip] = upper + (lower - upper) * down_H11[strip]
  return resized


def _neighbours(old: int, new: int):
  """(lower index, upper index, share of the upper), each [new]."""
  # A pixel's centre lies half a pixel from its edge, hence the two halves.
  scale = f32(old) / f32(new)
  places = np.arange(new, dtype=f32)
  centre = (places + _HALF) * scale - _HALF
  lower = np.floor(centre)
  upper = np.ceil(centre)
  upper = np.minimum(upper, old - 1)
  share = centre - lower
  # Below the first centre `lower` is -1: both neighbours are pixel 0 there.
  lower = np.maximum(lower, 0)
  lower = lower.astype(np.int64)
  upper = upper.astype(np.int64)
  return lower, upper, share


def _shrink(image_HWC, size) -> Pixels:
  """Uses a kernel as wide as the step between new centres; float32."""
  # The kernel is a product of one along the height and one along the width. So
  # the two passes may follow each other.
  height, width = size
  few_rows_HWC = _average_rows(image_HWC, height)
  few_rows_WHC = few_rows_HWC.swapaxes(0, 1)
  resized_WHC = _average_rows(few_rows_WHC, width)
  return resized_WHC.swapaxes(0, 1)


def _average_rows(image_HWC, new: int) -> Pixels:
  """Weighted means of rows, one new row at a time.

  So a large image is never in memory as floats.
  """
  old = len(image_HWC)
  if old == new:
    return image_HWC.astype(f32)
  # Not old / new: this rounds twice in float32, as TensorFlow does.
  scale = f32(new) / f32(old)
  step = _ONE / scale
  row_shape = image_HWC.shape[1:]
  resized = np.empty((new, *row_shape), f32)
  for i in range(new):
    start, weights = _triangle(i, step, old)
    end = start + len(weights)
    covered = image_HWC[start:end].astype(f32)
    resized[i] = np.tensordot(weights, covered, 1)
  return resized


def _triangle(i: int, step: f32, old: int):
  """(first old row, weights of it and of those after it) of new row i.

  The weights are 1 at the centre and 0 at the ends of their reach, before
  they are divided by their sum.
  """
  # A kernel narrower than a pixel, when the image grows, would miss all.
  reach = max(step, _ONE)
  centre = f32(i + .5) * step
  first = np.ceil(centre - reach - _HALF)
  last = np.floor(centre + reach - _HALF)
  last_of_image = old - 1
  start = int(np.clip(first, 0, last_of_image))
  last_inside = int(np.clip(last, 0, last_of_image))
  places = np.arange(start, last_inside + 1, dtype=f32)
  distance = places + _HALF - centre
  weights = 1 - np.abs(distance) / reach
  weights = np.maximum(0, weights)
  # At the edge of the image a part of the kernel is missing. The rest of its
  # weights must still sum to 1.
  weights = weights / weights.sum()
  return start, weights.astype(f32)


def to_bytes(image_HWC: Pixels) -> Pixels:
  """uint8 of an image that is uint8 or floats in [-1, 1]; rounds."""
  if image_HWC.dtype == np.uint8:
    return image_HWC
  if image_HWC.ndim != 3:
    return _levels(image_HWC)
  levels = np.empty(image_HWC.shape, np.uint8)
  for strip in strips(image_HWC.shape):
    levels[strip] = _levels(image_HWC[strip])
  return levels


def _levels(values: np.ndarray) -> np.ndarray:
  """uint8 of floats in [-1, 1]."""
  levels = np.rint(values * 127.5 + 127.5)
  # Floats may lie outside of [-1, 1]; a cast alone would wrap them around.
  levels = np.clip(levels, 0, 255)
  return np.uint8(levels)
