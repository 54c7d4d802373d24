"""Colors: far apart for the eye, the same everywhere."""

import itertools

import numpy as np
import pytest

from uvim import palette

_TO_XYZ = np.array([(0.4124564, 0.3575761, 0.1804375),
                    (0.2126729, 0.7151522, 0.0721750),
                    (0.0193339, 0.1191920, 0.9503041)])


def to_lab(colors):
  """CIELAB of sRGB in bytes; a distance of 2.3 is just noticeable."""
  shares = np.asarray(colors) / 255
  linear = np.where(
      shares > 0.04045, ((shares + 0.055) / 1.055)**2.4, shares / 12.92)
  xyz = linear @ _TO_XYZ.T / _TO_XYZ.sum(1)
  x, y, z = np.moveaxis(
      np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116),
      -1, 0)
  return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def smallest_distance(colors):
  pairs = itertools.combinations(to_lab(colors), 2)
  return min(np.linalg.norm(one - other) for one, other in pairs)


@pytest.mark.parametrize("count,distance", [(12, 45), (20, 35), (134, 15)])
def test_classes_are_far_apart_for_the_eye(count, distance):
  colors = [palette.class_color(number) for number in range(count + 1)]
  assert smallest_distance(colors) > distance
  assert palette.NUM_COLORS >= count


def test_a_class_keeps_its_color_and_its_instances_differ_in_lightness():
  # Class 3, then class 1 three times.
  colors = palette.segment_colors([3, 1, 1, 1])
  np.testing.assert_array_equal(colors[0], palette.class_color(3))
  np.testing.assert_array_equal(colors[1], palette.class_color(1))
  lightness = to_lab(colors[1:])[:, 0]
  assert min(abs(np.diff(np.sort(lightness)))) > 5


def test_no_shade_looks_like_another_of_the_first_classes():
  shades = [palette.segment_colors([number] * 5) for number in range(1, 13)]
  for one, other in itertools.combinations(shades, 2):
    apart = to_lab(one)[:, None] - to_lab(other)[None]
    assert np.linalg.norm(apart, axis=-1).min() > 25


def test_void_and_what_is_unlabelled_are_black():
  for number in (0, -1, -7):
    np.testing.assert_array_equal(palette.class_color(number), palette.VOID)


def test_colors_repeat_beyond_the_last():
  beyond = palette.NUM_COLORS + 1
  np.testing.assert_array_equal(
      palette.class_color(beyond), palette.class_color(1))


def test_nearer_is_brighter():
  colors = palette.depth_colors(np.linspace(1, 9, 50), 1, 9)
  assert (np.diff(to_lab(colors)[:, 0]) < 0).all()
  np.testing.assert_array_equal(
      palette.depth_colors(np.array([0, -1, np.nan, np.inf]), 1, 9), 0)
  # Beyond the range the colors stay.
  np.testing.assert_array_equal(
      palette.depth_colors(np.array([0.5, 20]), 1, 9), colors[[0, -1]])
