"""A sheet of images: every image whole, where it belongs, titles beside it."""

import numpy as np
from PIL import Image

from uvim.inference import sheet

DARK = (24, 26, 30)
INK = 128  # Text on white is darker than this, and the background brighter.


def constant(value, height, width):
  return np.full((height, width, 3), value, np.uint8)


def draw(rows, **options):
  return np.asarray(sheet.draw_sheet(rows, **options))


def assert_holds(drawn, image, x, y):
  """`image` stands whole in `drawn`, its left upper corner at (x, y)."""
  height, width, _ = image.shape
  part = drawn[y:y + height, x:x + width]
  np.testing.assert_array_equal(part, image)


def test_images_of_any_size_stand_in_rows():
  wide = constant(10, 5, 7)
  low = constant(20, 3, 2)
  below = constant(30, 4, 4)
  got = draw([[wide, low], [below]], gap=2, background=DARK)

  assert got.shape == (5 + 2 + 4, 7 + 2 + 2, 3)
  assert_holds(got, wide, 0, 0)
  assert_holds(got, low, 9, 0)
  assert_holds(got, below, 0, 7)
  covered = wide.size + low.size + below.size
  background = (got == DARK).all(-1)
  assert np.count_nonzero(background) * 3 == got.size - covered


def test_a_margin_may_differ_on_each_side():
  image = constant(0, 3, 5)
  assert draw([[image]], margin=2).shape == (7, 9, 3)
  margin = sheet.Margin(left=1, top=2, right=3, bottom=4)
  got = draw([[image]], margin=margin)
  assert got.shape == (2 + 3 + 4, 1 + 5 + 3, 3)
  assert_holds(got, image, 1, 2)
  assert np.count_nonzero(got == 0) == image.size


def test_gray_images_and_pil_images_are_taken():
  gray = np.full((2, 2), 9, np.uint8)
  pil = Image.fromarray(constant(9, 2, 2))
  got = draw([[gray, pil]], gap=0)
  np.testing.assert_array_equal(got, constant(9, 2, 4))


def test_only_a_row_with_titles_has_space_for_them():
  image = constant(7, 30, 60)
  titles = [["one", "two"]]
  got = draw([[image, image], [image]], titles=titles, gap=5, title_height=20)
  assert got.shape == (20 + 30 + 5 + 30, 60 + 5 + 60, 3)
  for x in (0, 65):
    title = got[:20, x:x + 60]
    assert title.min() < INK and title.max() == 255
    assert_holds(got, image, x, 20)
  assert_holds(got, image, 0, 55)
  assert got[50:55].min() == 255


def test_row_names_move_the_images_to_the_right_by_the_longest():
  rows = [[constant(7, 20, 20)], [constant(8, 20, 20)]]
  plain = draw(rows)
  named = draw(rows, row_names=["", "a long name"])
  width = named.shape[1] - plain.shape[1]
  assert_holds(named, plain, width, 0)
  margin = named[:, :width]
  assert margin[:20].min() == 255
  assert margin[24:].min() < INK
  longer = draw(rows, row_names=["a much longer name"])
  assert longer.shape[1] > named.shape[1]


def test_a_long_title_leaves_the_images_whole():
  left = constant(7, 20, 20)
  right = constant(200, 20, 20)
  titles = [["a title far longer than its image", ""]]
  got = draw([[left, right]], titles=titles, gap=4, title_height=6)
  assert_holds(got, left, 0, 6)
  assert_holds(got, right, 24, 6)
  between = got[6:, 20:24]
  assert between.min() < INK  # It does reach down to the images.


def test_columns_of_unlike_images_are_sheets_in_a_row():
  images = [constant(1, 4, 6), constant(2, 8, 6), constant(3, 5, 6)]
  left = sheet.draw_sheet([images[:1], images[1:2]], gap=3)
  right = sheet.draw_sheet([images[2:]], gap=3)
  got = draw([[left, right]], gap=3, margin=3)
  assert got.shape == (3 + 4 + 3 + 8 + 3, 3 + 6 + 3 + 6 + 3, 3)
  assert_holds(got, images[0], 3, 3)
  assert_holds(got, images[1], 3, 10)
  assert_holds(got, images[2], 12, 3)


def test_nothing_to_draw_is_an_empty_sheet():
  assert sheet.draw_sheet([], margin=3).size == (3, 3)
