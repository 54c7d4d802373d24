"""Resizing: the same numbers as preprocessing."""

import fractions
import math

import numpy as np
import pytest

from pp import builder
from uvim import resize


def noise(height, width, seed=0):
  return np.random.default_rng(seed).integers(
      0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("old,new", [
    ((37, 53), (48, 48)), ((101, 64), (33, 48)), ((1, 1), (8, 8)),
    ((97, 1200), (48, 48)), ((48, 48), (48, 48)), ((64, 64), (48, 64))])
@pytest.mark.parametrize("antialias", [False, True])
def test_a_photo_becomes_what_the_evaluation_string_makes_of_it(
    old, new, antialias):
  photo = noise(*old)
  op = builder.build(f"decode|resize({new}, antialias={antialias})|"
                     "value_range(-1, 1)")
  expected = op({"image": builder.tf.constant(photo)})["image"].numpy()
  got = resize.to_model(photo, new, antialias=antialias)
  if not antialias:
    np.testing.assert_array_equal(got, expected)
  # Where a sum of weights times levels is a whole number but for rounding,
  # the cut may fall on either side of it.
  assert np.abs(got - expected).max() < 1.01 * 2 / 255
  assert (got != expected).mean() < 0.01


def test_the_luma_is_that_of_the_op():
  photo = noise(40, 50, 1)
  op = builder.build("resize(24)|rgb_to_grayscale_to_rgb|value_range(-1, 1)")
  expected = op({"image": builder.tf.constant(photo)})["image"].numpy()
  got = resize.to_model(photo, (24, 24), grey=True)
  assert (got != expected).mean() < 0.01
  assert np.abs(got - expected).max() < 1.01 * 2 / 255


@pytest.mark.parametrize("old,new", [
    ((512, 512), (427, 640)), ((48, 48), (1, 999)), ((5, 7), (5, 7))])
def test_nearest_takes_the_pixel_under_each_new_centre(old, new):
  values = np.arange(old[0] * old[1]).reshape(old)
  places = []
  for size, new_size in zip(old, new, strict=True):
    # Exact fractions: floats are one pixel off where a centre meets a border.
    scale = fractions.Fraction(size, new_size)
    half = fractions.Fraction(1, 2)
    places.append([math.floor((k + half) * scale) for k in range(new_size)])
  np.testing.assert_array_equal(
      resize.resize_nearest(values, new), values[np.ix_(*places)])


def test_floats_in_range_are_left_alone():
  image = np.linspace(-1, 1, 27, dtype=np.float32).reshape(3, 3, 3)
  np.testing.assert_array_equal(resize.to_model(image, (3, 3)), image)


def test_bytes_come_back_from_the_range_of_models():
  levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, -1)
  image = resize.to_model(levels, (16, 16))
  np.testing.assert_array_equal(resize.to_bytes(image), levels)
  np.testing.assert_array_equal(resize.to_bytes(levels), levels)
  # Beyond the range nothing wraps around.
  np.testing.assert_array_equal(
      resize.to_bytes(np.float32([-1.5, 1.5])), [0, 255])


def test_an_image_of_many_strips_is_that_of_its_parts():
  """Rows far apart, resized alone, are those of the whole."""
  photo = np.float32(noise(40, 30)) / 127.5 - 1
  size = (1500, 900)
  assert len(resize.strips(size)) > 3
  whole = resize.resize_bilinear(photo, size)
  # 1500 rows of 40: each 75 new rows come from 2 old ones and a neighbor.
  part = resize.resize_bilinear(photo[10:30], (750, 900))
  np.testing.assert_allclose(whole[400:1100], part[25:725], atol=1e-5)
  np.testing.assert_array_equal(
      resize.to_bytes(whole)[1400:], resize.to_bytes(whole[1400:]))
