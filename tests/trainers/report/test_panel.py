"""The panel of a run: what stands in which cell."""

import numpy as np

from trainers.report import panel
from uvim import palette
from uvim.categories import Category
from uvim.tasks import make_task

GAP = 4
TOP = 22  # Of the first row: the titles are above it.


def constant_images(count, start, shape=(4, 4)):
  values = np.arange(start, start + count, dtype=np.uint8)
  images = np.empty((count, *shape, 3), np.uint8)
  images[:] = values[:, None, None, None]
  return images


def cell(drawn, row, column, side=16):
  top = TOP + row * (side + GAP)
  left = GAP + column * (side + GAP)
  return drawn[top:top + side, left:left + side]


def test_each_example_is_a_row_and_each_title_a_column():
  columns = {"a": constant_images(3, start=10),
             "b": constant_images(2, start=50, shape=(3, 7))}
  drawn = panel.draw_panel(columns, scale_to=16)
  # The shorter column gives the number of rows.
  assert drawn.shape == (TOP + 2 * 20, GAP + 2 * 20, 3)
  assert drawn.dtype == np.uint8
  for column, start in enumerate((10, 50)):
    for row in range(2):
      assert (cell(drawn, row, column) == start + row).all()
  titles = drawn[:TOP - 2]
  assert titles.min() < 128
  gaps = drawn[TOP + 16:TOP + 20]
  assert gaps.min() == 255


def test_no_more_rows_than_asked_for():
  columns = {"a": constant_images(9, start=1)}
  drawn = panel.draw_panel(columns, rows=6, scale_to=16)
  assert drawn.shape[0] == TOP + 6 * 20


def test_pixels_are_repeated_and_not_mixed():
  image = np.zeros((1, 2, 2, 3), np.uint8)
  image[0, 0, 1] = 200
  drawn = panel.draw_panel({"a": image}, scale_to=16)
  np.testing.assert_array_equal(
      cell(drawn, 0, 0), image[0].repeat(8, 0).repeat(8, 1))


def test_names_of_rows_stand_beside_their_images():
  columns = {"a": np.zeros((2, 4, 4, 3), np.uint8)}
  plain = panel.draw_panel(columns, scale_to=16)
  named = panel.draw_panel(columns, scale_to=16, names=["", "longer name"])
  width = named.shape[1] - plain.shape[1]
  np.testing.assert_array_equal(named[18:, width:], plain[18:])
  margin = named[20:60, :width]
  first, second = np.split(margin, 2)
  assert first.min() == 255 and second.min() < 255


def make(name, spec):
  return make_task(name, dict(
      inputs=spec, outputs=spec, input_size=(8, 8), patch_size=(4, 4)))


def has_color(drawn, number):
  return (drawn == palette.class_color(number)).all(-1).any()


def test_a_legend_names_the_classes_below_the_panel():
  task = make("panoptic_segmentation",
              {"semantics": (3, 16), "instances": (4, 16)})
  names = (Category(1, "cup", True), Category(2, "sky", False))
  legend = panel.make_legend(task, {}, names)
  columns = {"a": constant_images(2, start=10), "b": constant_images(2, 20)}
  plain = panel.draw_panel(columns, scale_to=64)
  drawn = panel.draw_panel(columns, scale_to=64, legend=legend)
  np.testing.assert_array_equal(drawn[GAP:GAP + len(plain), GAP:-GAP], plain)
  below = drawn[GAP + len(plain):]
  assert has_color(below, 1) and has_color(below, 2)


def test_of_many_classes_a_legend_has_those_that_are_seen():
  task = make("panoptic_segmentation",
              {"semantics": (100, 16), "instances": (4, 16)})
  labels = np.zeros((3, 8, 8, 2), np.int32)
  labels[:, :, :4] = (77, 1)
  labels[2] = (5, 1)  # Of an example that is not drawn.
  labels[0, 0] = -1  # Unlabelled.
  legend = panel.make_legend(task, {"labels": labels}, rows=2)
  drawn = np.asarray(legend(width=200))
  assert has_color(drawn, 77) and not has_color(drawn, 5)
  assert not has_color(drawn, 1)


def test_depth_has_a_bar_and_colors_have_no_legend():
  depth = panel.make_legend(make("depth", {"depth": (4, 16)}), {})
  assert depth(width=200).width == 200
  color = panel.make_legend(make("colorization", {"color": (3, 16)}), {})
  columns = {"a": constant_images(1, start=10)}
  np.testing.assert_array_equal(
      panel.draw_panel(columns, legend=color), panel.draw_panel(columns))
  assert panel.make_legend(None, {}) is None
