"""Ops on images and on label maps laid out like images.

Dimensions: H W pixels · C channels. A box is a dict of `begin` and
`size`, each float32 [2] in (y, x) order, as fractions of height and width.
"""

import tensorflow as tf

from pp.builder import get, register
from pp.ops.general import has_pairs
from uvim.registry import ConfigError, lookup

_METHODS = {name: name for name in (
    "bilinear", "nearest", "area", "bicubic", "lanczos3", "lanczos5",
    "gaussian", "mitchellcubic")}


_MAX_SIDE = 4096  # A typo must not ask for more memory than there is.


def _pair(size, name: str) -> tuple[int, int]:
  """Height and width from one integer or two."""
  pair = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
  if len(pair) != 2 or not all(
      isinstance(n, int) and not isinstance(n, bool) and 0 < n <= _MAX_SIDE
      for n in pair):
    raise ConfigError(
        f"{name} is an integer in 1..{_MAX_SIDE} or a pair (height, width) of "
        f"them, not {size!r}.")
  return pair


@register(on_key="image")
def decode(precise=False):
  """Encoded image (JPEG, PNG, GIF, BMP) → uint8 [H, W, 3].

  Grey images get three equal channels, transparency is dropped, 16 bits are
  cut to 8, of an animation the first frame is taken. A rotation noted in EXIF
  is not applied: label maps are drawn on the stored pixels. What is decoded
  already passes as it is.

  Args:
    precise: JPEG by the exact integer transform, as other libraries do it,
      instead of the faster default.
  """
  def fn(image):
    if image.dtype != tf.string:
      return image
    if precise:
      out = tf.cond(tf.io.is_jpeg(image),
                    lambda: tf.io.decode_jpeg(
                        image, channels=3, dct_method="INTEGER_ACCURATE"),
                    lambda: tf.io.decode_image(
                        image, channels=3, expand_animations=False))
    else:
      out = tf.io.decode_image(image, channels=3, expand_animations=False)
    # Lost inside decode_image, and later ops need to know the rank.
    return tf.ensure_shape(out, [None, None, 3])

  return fn


def _resize_fn(size, method, antialias):
  """Resize of [H, W, C] that keeps the dtype."""
  size = _pair(size, "size")
  method = lookup(_METHODS, method, "resize method")

  def resized(image, size=size):
    return tf.image.resize(image, size, method=method, antialias=antialias)

  def fn(image):
    if image.shape.rank not in (None, 3):
      raise ConfigError(f"needs [H, W, C], got shape {image.shape}.")
    if 0 in image.shape[:2]:
      raise ConfigError(f"there is nothing to resize: {image.shape}.")
    if method == "nearest" and has_pairs(image):
      return _resize_pairs(image, resized, size)
    out = resized(image)
    if (image.dtype.is_integer and out.dtype != image.dtype
        and (method != "bilinear" or image.dtype.size > 1)):
      # Saturates because cubic kernels overshoot, and cuts rather than rounds:
      # so does the released implementation. Between two bytes there is nothing
      # to saturate, and looking would cost a quarter of the resize.
      out = tf.clip_by_value(out, image.dtype.min, image.dtype.max)
    return tf.cast(out, image.dtype)

  return fn


def _resize_pairs(labels, resized, size):
  """Nearest resize of int32 [H, W, 2], in a third of the library's time.

  Picking whole rows is copying memory, so columns are picked as rows of the
  transposed map. Which ones, the library tells: it resizes their numbers.
  """
  height, width = tf.unstack(tf.shape(labels)[:2])
  rows = resized(tf.range(height)[:, None, None], (size[0], 1))[:, 0, 0]
  columns = resized(tf.range(width)[None, :, None], (1, size[1]))[0, :, 0]
  words_WH = tf.transpose(tf.bitcast(labels, tf.int64))
  words_WH = tf.gather(words_WH, columns)
  return tf.bitcast(tf.gather(tf.transpose(words_WH), rows), tf.int32)


@register(on_key="image")
def resize(size, method="bilinear", antialias=False):
  """Resizes [H, W, C] to `size`, regardless of aspect, keeping the dtype.

  Args:
    size: one integer for a square, or (height, width).
    method: 'nearest' makes no new value and is the one for labels.
    antialias: widens the kernel when shrinking. Off, as in the released
      implementation.
  """
  return _resize_fn(size, method, antialias)


@register(on_key="image")
def central_crop(crop_size=None):
  """Cuts the middle out of [H, W, C].

  Args:
    crop_size: an integer or (height, width), not larger than the image; None:
      the largest square.
  """
  size = None if crop_size is None else _pair(crop_size, "crop_size")

  def fn(image):
    shape = tf.shape(image)[:2]
    crop = tf.constant(size) if size else tf.fill([2], tf.reduce_min(shape))
    begin = (shape - crop) // 2
    return _slice(image, begin, crop)

  return fn


def _slice(image, begin, size):
  """image[begin : begin + size] in rows and columns; keeps what is static."""
  out = tf.slice(image, tf.concat([begin, [0]], 0),
                 tf.concat([size, [-1]], 0))
  return tf.ensure_shape(out, [None, None, image.shape[-1]])


@register(on_key="image", random=True)
def flip_lr():
  """Mirrors left and right for half of the seeds."""
  def fn(image, seed):
    return _flip_if(tf.random.stateless_uniform([], seed) > 0.5, image)
  return fn


def _flip_if(condition, image):
  def flipped():
    if has_pairs(image):
      words = tf.reverse(tf.bitcast(image, tf.int64), [1])
      return tf.bitcast(words, tf.int32)
    return tf.reverse(image, [1])

  out = tf.cond(condition, flipped, lambda: image)
  return tf.ensure_shape(out, image.shape)


@register()
def det_fliplr(key="image", randkey="fliplr"):
  """Mirrors `key` if the number at `randkey` exceeds 0.5 (see randu)."""
  def fn(data):
    return {**data, key: _flip_if(get(data, randkey) > 0.5, get(data, key))}
  return fn


def _sample_box(shape_3, seed, *, area, aspect):
  """A random crop (Szegedy et al. 2015): begin, size, each int32 [2]."""
  begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
      shape_3, tf.zeros([1, 0, 4]), seed, min_object_covered=0.,
      aspect_ratio_range=aspect, area_range=area,
      use_image_if_no_bounding_boxes=True)
  return begin[:2], size[:2]


def _range(values, name: str) -> tuple[float, float]:
  """(low, high) with 0 < low <= high."""
  if not (isinstance(values, (tuple, list)) and len(values) == 2
          and 0 < values[0] <= values[1]):
    raise ConfigError(f"{name} is a pair 0 < low <= high, not {values!r}.")
  return tuple(map(float, values))


@register(random=True)
def inception_box(area=(0.05, 1.0), aspect=(0.75, 1.33), inkey="image",
                  outkey="box"):
  """Draws a crop box for crop_box, so that image and labels share it.

  Args:
    area: range of the box's share of the image.
    aspect: range of width / height in pixels.
    inkey: the decoded image that gives height and width.
    outkey: where the box goes.
  """
  area, aspect = _range(area, "area"), _range(aspect, "aspect")

  def fn(data, seed):
    shape = tf.shape(get(data, inkey))
    begin, size = _sample_box(shape, seed, area=area, aspect=aspect)
    scale = tf.cast(shape[:2], tf.float32)
    return {**data, outkey: {"begin": tf.cast(begin, tf.float32) / scale,
                             "size": tf.cast(size, tf.float32) / scale}}

  return fn


@register()
def crop_box(key="image", boxkey="box"):
  """Cuts the box at `boxkey` (see inception_box) out of `key`, [H, W, C]."""
  def fn(data):
    begin, size = tf.nest.flatten(get(data, boxkey))  # Also of a pair.
    image = get(data, key)
    scale = tf.cast(tf.shape(image)[:2], tf.float32)
    # Cut, not rounded, as in the released implementation. So a box may leave
    # nothing of a much smaller label map; resize then says so.
    begin = tf.cast(begin * scale, tf.int32)
    return {**data, key: _slice(image, begin, tf.cast(size * scale, tf.int32))}
  return fn


@register(on_key="image", random=True)
def decode_jpeg_and_inception_crop(
    size=None, area_min=5, area_max=100, ratio_min=0.75, ratio_max=1.33,
    method="bilinear", antialias=False):
  """Random crop of an encoded image, then a resize to `size` if given.

  Of a JPEG only the crop is decoded.

  Args:
    size: as in resize; None leaves the crop as it is.
    area_min: least share of the image, in percent.
    area_max: largest share, in percent.
    ratio_min: least width / height of the crop.
    ratio_max: largest width / height.
    method: as in resize.
    antialias: as in resize.
  """
  area = _range((area_min / 100, area_max / 100), "area_min, area_max")
  aspect = _range((ratio_min, ratio_max), "ratio_min, ratio_max")
  shrink = _resize_fn(size, method, antialias) if size else lambda x: x
  decode_all = decode()

  def crop(image, seed):
    shape = tf.shape(image)
    return _slice(image, *_sample_box(shape, seed, area=area, aspect=aspect))

  def crop_jpeg(encoded, seed):
    shape = tf.io.extract_jpeg_shape(encoded)
    box = tf.concat(_sample_box(shape, seed, area=area, aspect=aspect), 0)
    return tf.io.decode_and_crop_jpeg(encoded, box, channels=3)

  def fn(image, seed):
    if image.dtype != tf.string:
      return shrink(crop(image, seed))
    out = tf.cond(tf.io.is_jpeg(image), lambda: crop_jpeg(image, seed),
                  lambda: crop(decode_all(image), seed))
    return shrink(tf.ensure_shape(out, [None, None, 3]))

  return fn


@register(on_key="image")
def rgb_to_grayscale_to_rgb():
  """Luma (ITU-R 601) of [H, W, 3], in all three channels, same dtype."""
  return lambda x: tf.image.grayscale_to_rgb(tf.image.rgb_to_grayscale(x))
