"""Ops on images and on label maps that are laid out like images.

Dimensions: H W pixels · C channels. A box is a dict of `begin` and `size`,
each float32 [2] in (y, x) order, as fractions of height and width.
"""

import tensorflow as tf

from pp.builder import get, register
from pp.ops.general import has_pairs
from uvim.registry import ConfigError, lookup

_METHOD_NAMES = (
    "bilinear", "nearest", "area", "bicubic", "lanczos3", "lanczos5",
    "gaussian", "mitchellcubic")
_METHODS = dict(zip(_METHOD_NAMES, _METHOD_NAMES, strict=True))
_MAX_SIDE = 4096  # A typo must not ask for more memory than there is.


def _is_side(value) -> bool:
  """Whether `value` can be the height or the width of an image."""
  # In Python, True is an int too.
  is_integer = isinstance(value, int) and not isinstance(value, bool)
  return is_integer and 0 < value <= _MAX_SIDE


def _pair(size, name: str) -> tuple[int, int]:
  """Height and width from one integer or two."""
  if isinstance(size, (tuple, list)):
    pair = tuple(size)
  else:
    pair = (size, size)
  are_sides = all(_is_side(side) for side in pair)
  if len(pair) != 2 or not are_sides:
    raise ConfigError(
        f"{name} is an integer in 1..{_MAX_SIDE} or a pair (height, width) of "
        f"them, not {size!r}.")
  return pair


@register(on_key="image")
def decode(precise=False):
  """Encoded image (JPEG, PNG, GIF, BMP) → uint8 [H, W, 3].

  Gray images get three equal channels, transparency is dropped, 16 bits are
  cut to 8, and an animation gives its first frame. A rotation noted in EXIF
  is not applied: label maps are drawn on the stored pixels. An image that is
  decoded already stays as it is.

  Args:
    precise: decodes JPEG by the exact integer transform, as other libraries
      do, instead of the faster default.
  """
  def decode_any(encoded):
    # Otherwise an animation would have one more axis than an image.
    return tf.io.decode_image(encoded, channels=3, expand_animations=False)

  def decode_jpeg(encoded):
    return tf.io.decode_jpeg(
        encoded, channels=3, dct_method="INTEGER_ACCURATE")

  def fn(image):
    if image.dtype != tf.string:
      return image
    if precise:
      # decode_image takes no `dct_method`. The format is known only when the
      # image is there, so the graph holds both ways.
      out = tf.cond(
          tf.io.is_jpeg(image),
          lambda: decode_jpeg(image),
          lambda: decode_any(image))
    else:
      out = decode_any(image)
    # decode_image loses the rank, which later ops need.
    return tf.ensure_shape(out, [None, None, 3])

  return fn


def _resize_fn(size, method, antialias):
  """The resize of [H, W, C] that keeps the dtype."""
  size = _pair(size, "size")
  method = lookup(_METHODS, method, "resize method")

  def resize_to(image, new_size):
    return tf.image.resize(
        image, new_size, method=method, antialias=antialias)

  def fn(image):
    if image.shape.rank not in (None, 3):
      raise ConfigError(f"needs [H, W, C], got shape {image.shape}.")
    if 0 in image.shape[:2]:
      raise ConfigError(f"there is nothing to resize: {image.shape}.")
    if method == "nearest" and has_pairs(image):
      return _resize_pairs(image, size, resize_to)
    # The result is float32, except for "nearest" and where the size stays.
    out = resize_to(image, size)
    dtype = image.dtype
    if out.dtype != dtype and _may_overflow(dtype, method):
      out = tf.clip_by_value(out, dtype.min, dtype.max)
    # The cast cuts the fraction, as in the released implementation.
    return tf.cast(out, dtype)

  return fn


def _may_overflow(dtype, method: str) -> bool:
  """Whether a resized value can lie outside of the range of its dtype.

  Cubic kernels overshoot, and float32 rounds large integers. But a bilinear
  mean of bytes is always a byte, and to clip it would cost a quarter of the
  resize.
  """
  if not dtype.is_integer:
    return False
  is_mean_of_bytes = method == "bilinear" and dtype.size == 1
  return not is_mean_of_bytes


def _resize_pairs(labels, size, resize_to):
  """Nearest resize of int32 [H, W, 2], in a third of the library's time.

  It picks whole rows, since that is copying memory. Columns are picked as rows
  of the transposed map. The library itself tells which rows and columns: it
  resizes their numbers.
  """
  shape = tf.shape(labels)
  height, width = size
  # Two thin images whose only channel is the number of the row, and that of the
  # column.
  row_numbers = tf.range(shape[0])
  column_numbers = tf.range(shape[1])
  rows = resize_to(row_numbers[:, None, None], (height, 1))
  columns = resize_to(column_numbers[None, :, None], (1, width))
  # Both channels of a pixel move together, as one int64.
  pairs_HW = tf.bitcast(labels, tf.int64)
  pairs_WH = tf.transpose(pairs_HW)
  pairs_WH = tf.gather(pairs_WH, columns[0, :, 0])
  pairs_HW = tf.transpose(pairs_WH)
  pairs_HW = tf.gather(pairs_HW, rows[:, 0, 0])
  return tf.bitcast(pairs_HW, tf.int32)


@register(on_key="image")
def resize(size, method="bilinear", antialias=False):
  """Resizes [H, W, C] to `size`, whatever its aspect, and keeps the dtype.

  Args:
    size: one integer for a square, or (height, width).
    method: 'nearest' makes no new value and is the one for labels.
    antialias: widens the kernel when the image shrinks. Off, as in the
      released implementation.
  """
  return _resize_fn(size, method, antialias)


@register(on_key="image")
def central_crop(crop_size=None):
  """Cuts the middle out of [H, W, C].

  Args:
    crop_size: an integer or (height, width), not larger than the image; None:
      the largest square.
  """
  fixed_size = None
  if crop_size is not None:
    fixed_size = _pair(crop_size, "crop_size")

  def fn(image):
    shape = tf.shape(image)[:2]
    if fixed_size is None:
      shorter = tf.reduce_min(shape)
      size = tf.fill([2], shorter)
    else:
      size = tf.constant(fixed_size)
    begin = (shape - size) // 2
    return _slice(image, begin, size)

  return fn


def _slice(image, begin, size):
  """image[begin : begin + size] in rows and columns; keeps what is static."""
  # In tf.slice −1 means all that follow.
  all_channels = tf.constant([-1])
  begin = tf.concat([begin, [0]], 0)
  size = tf.concat([size, all_channels], 0)
  out = tf.slice(image, begin, size)
  num_channels = image.shape[-1]
  return tf.ensure_shape(out, [None, None, num_channels])


@register(on_key="image", random=True)
def flip_lr():
  """Mirrors left and right for half of the seeds."""
  def fn(image, seed):
    number = tf.random.stateless_uniform([], seed)
    return _flip_if(number > 0.5, image)

  return fn


def _flip_if(condition, image):
  """`image` mirrored left and right where `condition` holds."""
  def mirror():
    if has_pairs(image):
      # As in `_resize_pairs`: one int64 instead of two int32.
      pairs_HW = tf.bitcast(image, tf.int64)
      pairs_HW = tf.reverse(pairs_HW, [1])
      return tf.bitcast(pairs_HW, tf.int32)
    return tf.reverse(image, [1])

  out = tf.cond(condition, mirror, lambda: image)
  return tf.ensure_shape(out, image.shape)


@register()
def det_fliplr(key="image", randkey="fliplr"):
  """Mirrors `key` if the number at `randkey` exceeds 0.5 (see randu)."""
  def fn(data):
    number = get(data, randkey)
    image = get(data, key)
    flipped = _flip_if(number > 0.5, image)
    return {**data, key: flipped}

  return fn


def _sample_box(shape_3, seed, *, area, aspect):
  """A random crop (Szegedy et al. 2015): begin and size, each int32 [2]."""
  # There is no object to cover. Without boxes the op takes the whole image as
  # one, and a share of 0 lets any crop pass.
  no_boxes = tf.zeros([1, 0, 4])
  begin_3, size_3, _ = tf.image.stateless_sample_distorted_bounding_box(
      shape_3,
      no_boxes,
      seed,
      min_object_covered=0.,
      aspect_ratio_range=aspect,
      area_range=area,
      use_image_if_no_bounding_boxes=True)
  return begin_3[:2], size_3[:2]


def _range(values, name: str) -> tuple[float, float]:
  """(low, high), checked: 0 < low <= high."""
  is_pair = isinstance(values, (tuple, list)) and len(values) == 2
  if not is_pair or not 0 < values[0] <= values[1]:
    raise ConfigError(f"{name} is a pair 0 < low <= high, not {values!r}.")
  low, high = values
  return float(low), float(high)


@register(random=True)
def inception_box(area=(0.05, 1.0), aspect=(0.75, 1.33), inkey="image",
                  outkey="box"):
  """Draws a crop box for crop_box, so that image and labels share it.

  Args:
    area: range of the box's share of the image.
    aspect: range of width / height in pixels.
    inkey: the decoded image that gives height and width.
    outkey: name of the box.
  """
  area = _range(area, "area")
  aspect = _range(aspect, "aspect")

  def fn(data, seed):
    shape = tf.shape(get(data, inkey))
    begin, size = _sample_box(shape, seed, area=area, aspect=aspect)
    # As fractions, the box also fits a label map of another size.
    scale = tf.cast(shape[:2], tf.float32)
    begin = tf.cast(begin, tf.float32)
    size = tf.cast(size, tf.float32)
    box = {
        "begin": begin / scale,
        "size": size / scale,
    }
    return {**data, outkey: box}

  return fn


@register()
def crop_box(key="image", boxkey="box"):
  """Cuts the box at `boxkey` (see inception_box) out of `key`, [H, W, C]."""
  def fn(data):
    # A box may also be a pair (begin, size).
    box = get(data, boxkey)
    begin, size = tf.nest.flatten(box)
    image = get(data, key)
    shape = tf.shape(image)[:2]
    scale = tf.cast(shape, tf.float32)
    # The casts cut and do not round, as in the released implementation. So
    # nothing may be left of a label map much smaller than its image; `resize`
    # reports that.
    first = tf.cast(begin * scale, tf.int32)
    count = tf.cast(size * scale, tf.int32)
    cut = _slice(image, first, count)
    return {**data, key: cut}

  return fn


@register(on_key="image", random=True)
def decode_jpeg_and_inception_crop(
    size=None, area_min=5, area_max=100, ratio_min=0.75, ratio_max=1.33,
    method="bilinear", antialias=False):
  """Crops an encoded image at random, and resizes it if `size` is given.

  Only the crop of a JPEG is decoded.

  Args:
    size: as in resize; None leaves the crop as it is.
    area_min: least share of the image, in percent.
    area_max: largest share, in percent.
    ratio_min: least width / height of the crop.
    ratio_max: largest width / height.
    method: as in resize.
    antialias: as in resize.
  """
  shares = (area_min / 100, area_max / 100)
  area = _range(shares, "area_min, area_max")
  aspect = _range((ratio_min, ratio_max), "ratio_min, ratio_max")
  decode_all = decode()
  shrink = _resize_fn(size, method, antialias) if size else None

  def crop_jpeg(encoded, seed):
    # The header tells the size before any pixel is decoded.
    shape = tf.io.extract_jpeg_shape(encoded)
    begin, size = _sample_box(shape, seed, area=area, aspect=aspect)
    box = tf.concat([begin, size], 0)
    return tf.io.decode_and_crop_jpeg(encoded, box, channels=3)

  def crop_any(image, seed):
    shape = tf.shape(image)
    begin, size = _sample_box(shape, seed, area=area, aspect=aspect)
    return _slice(image, begin, size)

  def fn(image, seed):
    if image.dtype == tf.string:
      out = tf.cond(
          tf.io.is_jpeg(image),
          lambda: crop_jpeg(image, seed),
          lambda: crop_any(decode_all(image), seed))
      out = tf.ensure_shape(out, [None, None, 3])
    else:
      out = crop_any(image, seed)
    return out if shrink is None else shrink(out)

  return fn


@register(on_key="image")
def rgb_to_grayscale_to_rgb():
  """Luma (ITU-R 601) of [H, W, 3], in all three channels, same dtype."""
  def fn(image):
    gray = tf.image.rgb_to_grayscale(image)
    return tf.image.grayscale_to_rgb(gray)

  return fn
