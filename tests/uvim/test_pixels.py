"""Segment ids and the colors that stand for them."""

import numpy as np

from uvim import pixels


def test_an_id_is_its_color_read_as_a_number():
  rgb = np.array([[[1, 0, 0], [0, 1, 0], [0, 0, 1]]], np.uint8)
  ids = pixels.ids_from_rgb(rgb)
  assert ids.dtype == np.int32
  np.testing.assert_array_equal(ids, [[1, 256, 65536]])


def test_ids_survive_the_way_there_and_back():
  ids = np.random.default_rng(0).integers(0, 2**24, (7, 5))
  ids[0, 0] = 2**24 - 1
  rgb = pixels.rgb_from_ids(ids)
  assert rgb.dtype == np.uint8
  assert rgb.shape == (7, 5, 3)
  np.testing.assert_array_equal(pixels.ids_from_rgb(rgb), ids)
