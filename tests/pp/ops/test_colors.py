"""Random changes of color: what each does, and how often."""

import colorsys
import functools

import numpy as np
import pytest
import tensorflow as tf

from pp import builder
from uvim.registry import ConfigError

NUM_SEEDS = 40
# A jitter that changes one thing alone.
ALONE = "color_jitter(brightness={}, contrast={}, saturation={}, hue={}, "\
    "probability=1.0)"
# Rounded to bytes, a value is off by half of one.
ROUNDED = 0.6


@pytest.fixture(scope="module")
def image():
  """Colors of middle brightness, so that little is cut off."""
  rng = np.random.default_rng(0)
  return rng.integers(60, 130, (6, 7, 3)).astype(np.uint8)


@functools.cache
def program(string):
  return tf.function(builder.build(string))


def changed(string, image, number=0):
  seed = tf.constant([number, 7], tf.int64)
  out = program(string)({"image": tf.constant(image)}, seed)["image"]
  assert out.dtype == tf.uint8 and out.shape == image.shape
  return out.numpy()


def factor_of(values, changed_values):
  """The factor that explains a change, by least squares."""
  factor = np.sum(values * changed_values) / np.sum(values * values)
  np.testing.assert_allclose(changed_values, factor * values, atol=1)
  return factor


def test_brightness_multiplies_all_values(image):
  values = image.astype(float)
  factors = []
  for number in range(8):
    out = changed(ALONE.format(0.5, 0, 0, 0), image, number)
    is_kept = out < 255
    factors.append(factor_of(values[is_kept], out[is_kept].astype(float)))
  assert 0.49 < min(factors) < 0.8 and 1.2 < max(factors) < 1.51


def test_contrast_keeps_the_mean_of_each_channel(image):
  centered = image - image.mean(axis=(0, 1))
  factors = []
  for number in range(8):
    out = changed(ALONE.format(0, 0.5, 0, 0), image, number)
    np.testing.assert_allclose(
        out.mean(axis=(0, 1)), image.mean(axis=(0, 1)), atol=ROUNDED)
    factors.append(factor_of(centered, out - out.mean(axis=(0, 1))))
  assert 0.49 < min(factors) < 0.8 and 1.2 < max(factors) < 1.51


def hue_saturation_value(image):
  pixels = image.reshape(-1, 3) / 255
  return np.array([colorsys.rgb_to_hsv(*pixel) for pixel in pixels]).T


def test_saturation_keeps_hue_and_value(image):
  _, saturation, value = hue_saturation_value(image)
  out = changed(ALONE.format(0, 0, 0.5, 0), image, 1)
  _, new_saturation, new_value = hue_saturation_value(out)
  np.testing.assert_allclose(new_value, value, atol=ROUNDED / 255)
  factor = np.median(new_saturation / saturation)
  assert 0.5 <= factor <= 1.5 and abs(factor - 1) > 0.05
  np.testing.assert_allclose(new_saturation, factor * saturation, atol=0.02)


def test_hue_turns_all_colors_alike(image):
  hue, saturation, value = hue_saturation_value(image)
  out = changed(ALONE.format(0, 0, 0, 0.2), image, 1)
  new_hue, new_saturation, new_value = hue_saturation_value(out)
  np.testing.assert_allclose(new_saturation, saturation, atol=0.02)
  np.testing.assert_allclose(new_value, value, atol=ROUNDED / 255)
  is_colored = saturation > 0.2
  # In -0.5..0.5 of the circle.
  moved = (new_hue - hue + 0.5)[is_colored] % 1 - 0.5
  assert 0.01 < abs(np.median(moved)) <= 0.2
  np.testing.assert_allclose(moved, np.median(moved), atol=0.03)


def test_the_order_of_the_changes_is_drawn():
  """More brightness does nothing to white, unless less contrast came first."""
  image = np.uint8([[[255, 255, 255], [0, 0, 0]]])
  sums = []
  for number in range(12):
    out = changed(ALONE.format(0.9, 0.9, 0, 0), image, number)
    white, black = out[0, :, 0].astype(int)
    if black > 0:
      sums.append(white + black)
  # Contrast alone leaves the sum, and brightness in front of it can only take
  # from it.
  assert min(sums) < 250 and any(abs(total - 255) <= 1 for total in sums)
  assert max(sums) > 300


def test_it_depends_on_the_seed_alone(image):
  first = changed("color_jitter(probability=1.0)", image, 3)
  np.testing.assert_array_equal(
      changed("color_jitter(probability=1.0)", image, 3), first)
  assert (changed("color_jitter(probability=1.0)", image, 4) != first).any()


@pytest.mark.parametrize("string, image_changes", [
    ("color_jitter(probability=0.0)", False),
    ("color_jitter(0, 0, 0, 0, probability=1.0)", False),
    ("random_gray(probability=0.0)", False),
    ("random_gray(probability=1.0)", True)])
def test_nothing_to_change_leaves_every_byte(image, string, image_changes):
  all_bytes = np.arange(256, dtype=np.uint8)
  channels = [all_bytes, all_bytes[::-1], np.roll(all_bytes, 9)]
  image = np.stack(channels, axis=-1)[None]
  out = changed(string, image)
  assert (out != image).any() == image_changes


@pytest.mark.parametrize("string, share", [
    ("color_jitter", 0.8), ("random_gray", 0.2)])
def test_a_share_of_the_images_changes(image, string, share):
  # As in a data set: nothing is known of the size.
  data = tf.data.Dataset.range(NUM_SEEDS)
  preprocess = builder.build(string)

  def run(number):
    seed = tf.stack([number, number])
    shapeless = tf.numpy_function(lambda: image, [], tf.uint8)
    shapeless = tf.ensure_shape(shapeless, [None, None, 3])
    return preprocess({"image": shapeless}, seed)["image"]

  count = 0
  for out in data.map(run).as_numpy_iterator():
    count += bool((out != image).any())
  deviation = np.sqrt(share * (1 - share) / NUM_SEEDS)
  assert abs(count / NUM_SEEDS - share) < 3 * deviation


def test_gray_is_luma(image):
  out = changed("random_gray(probability=1.0)", image)
  luma = image @ np.array([0.299, 0.587, 0.114])
  for channel in range(3):
    np.testing.assert_allclose(out[..., channel], luma, atol=1)


@pytest.mark.parametrize("string, message", [
    ("color_jitter(brightness=1.5)", "brightness is a number in 0..1"),
    ("color_jitter(hue=0.6)", "hue is a number in 0..0.5"),
    ("random_gray(probability='a')", "probability is a number in 0..1"),
    ("random_gray(True)", "not True")])
def test_wrong_strengths_are_named(string, message):
  with pytest.raises(ConfigError, match=message):
    builder.build(string)


@pytest.mark.parametrize("name", ["color_jitter", "random_gray"])
def test_values_that_are_no_bytes_are_refused(image, name):
  with pytest.raises(ConfigError, match="before value_range"):
    preprocess = builder.build(f"value_range(-1, 1)|{name}")
    preprocess({"image": tf.constant(image)}, tf.constant([0, 0], tf.int64))
