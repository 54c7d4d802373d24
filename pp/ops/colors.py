"""Random changes of color, for training.

Dimensions: H W pixels

They map uint8 [H, W, 3] to the same. So they stand before `value_range`, and
best behind `resize`, where fewer pixels are left.
"""

import functools

import tensorflow as tf

from pp.builder import register
from uvim.registry import ConfigError

_NUM_CHANGES = 4


def _check_strength(name: str, value, most: float) -> None:
  """Raises a ConfigError unless 0 <= value <= most."""
  is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
  if not is_number or not 0 <= value <= most:
    raise ConfigError(f"{name} is a number in 0..{most:g}, not {value!r}.")


def _check_image(image) -> None:
  if image.dtype != tf.uint8:
    raise ConfigError(f"needs uint8, got {image.dtype.name}; it must stand "
                      "behind decode and before value_range.")


def _with_probability(probability, seed, change, image):
  """`change(image)` for this share of the seeds, else `image`."""
  number = tf.random.stateless_uniform([], seed)
  out = tf.cond(number < probability, lambda: change(image), lambda: image)
  return tf.ensure_shape(out, image.shape)


@register(on_key="image", random=True)
def color_jitter(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2,
                 probability=0.8):
  """Changes brightness, contrast, saturation and hue, in an order by chance.

  As in SimCLR, whose strengths are the defaults. After each of the four changes
  the values are cut to the range of an image.

  Args:
    brightness: all values are multiplied by a factor within 1 ± this.
    contrast: so are their distances to the mean of their channel.
    saturation: so is the saturation.
    hue: the hue moves around the circle by at most this share of it.
    probability: the share of images that change at all.
  """
  strengths = {"brightness": brightness, "contrast": contrast,
               "saturation": saturation, "probability": probability}
  for name, strength in strengths.items():
    _check_strength(name, strength, 1)
  _check_strength("hue", hue, 0.5)

  def jitter(image, seed):
    number_seed, order_seed = tf.unstack(
        tf.random.experimental.stateless_split(seed, 2))
    numbers = tf.random.stateless_uniform(
        [_NUM_CHANGES], number_seed, minval=-1)
    changes = (
        (_scale, 1 + brightness * numbers[0]),
        (tf.image.adjust_contrast, 1 + contrast * numbers[1]),
        (tf.image.adjust_saturation, 1 + saturation * numbers[2]),
        (tf.image.adjust_hue, hue * numbers[3]),
    )
    order = tf.argsort(
        tf.random.stateless_uniform([_NUM_CHANGES], order_seed))
    values = tf.image.convert_image_dtype(image, tf.float32)
    for place in range(_NUM_CHANGES):
      # Which change comes at this place is known only when the seed is there.
      branches = []
      for change, amount in changes:
        branches.append(functools.partial(change, values, amount))
      values = tf.switch_case(order[place], branches)
      values = tf.clip_by_value(values, 0, 1)
    return tf.image.convert_image_dtype(values, tf.uint8, saturate=True)

  def fn(image, seed):
    _check_image(image)
    jitter_seed, chance_seed = tf.unstack(
        tf.random.experimental.stateless_split(seed, 2))
    change = functools.partial(jitter, seed=jitter_seed)
    return _with_probability(probability, chance_seed, change, image)

  return fn


def _scale(values, factor):
  return values * factor


@register(on_key="image", random=True)
def random_gray(probability=0.2):
  """Luma (ITU-R 601) in all three channels, for this share of the images."""
  _check_strength("probability", probability, 1)

  def to_gray(image):
    return tf.image.grayscale_to_rgb(tf.image.rgb_to_grayscale(image))

  def fn(image, seed):
    _check_image(image)
    return _with_probability(probability, seed, to_gray, image)

  return fn
