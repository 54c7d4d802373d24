"""Tensors as images: each kind in its colors, with the names of the classes."""

import numpy as np

from tools import example_images
from uvim import palette, pixels
from uvim.categories import Category

CATEGORIES = [Category(7, "road", False), Category(9, "car", True)]


def drawn(data):
  return {image.name: image for image in example_images.images_of(data)}


def test_what_looks_like_an_image_is_drawn():
  labels = np.zeros((20, 30, 2), np.int32)
  labels[:10, :, 0] = 2
  found = drawn({
      "image": np.zeros([20, 30, 3], np.float32),
      "labels": labels,
      "image/id": np.int64(3),
      "objects": {"bbox": np.zeros([9, 4], np.float32)}})
  assert sorted(found) == ["image", "labels[0]", "labels[1]"]
  for image in found.values():
    assert image.image_HWC.shape == (20, 30, 3)
    assert image.image_HWC.dtype == np.uint8
  assert found["image"].image_HWC[0, 0, 0] == 128
  assert found["labels[0]"].classes == {2}


def test_a_panoptic_image_has_the_colors_of_its_classes():
  ids = np.zeros((10, 12), np.int32)
  ids[:, 4:8] = 70_000
  ids[:, 8:] = 2
  image = drawn({
      "panoptic_image": pixels.rgb_from_ids(ids),
      "panoptic_objects": {"id": np.array([70_000, 2]),
                           "label": np.array([1, 0])},
  })["panoptic_image"]
  assert image.image_HWC[0, 0].tolist() == [0, 0, 0]
  assert (image.image_HWC[:, 4:8] == palette.class_color(2)).all()
  assert (image.image_HWC[:, 8:] == palette.class_color(1)).all()
  assert image.classes == {1, 2}


def test_a_class_has_one_color_in_maps_and_panoptic_images():
  classes = np.array([[0, 1, 2, -1] * 3] * 9, np.int32)
  image = drawn({"semantics": classes})["semantics"]
  for column, number in enumerate((0, 1, 2, 0)):
    color = image.image_HWC[0, column]
    assert (color == palette.class_color(number)).all()
  assert image.classes == {1, 2}


def test_ids_that_follow_each_other_differ_in_color():
  ids = np.array([[0, 5, 6, 700, 70_000, 70_001, 9, 8]] * 8, np.int32)
  image = drawn({"instances": ids})["instances"].image_HWC
  assert not image[0, 0].any()
  assert len(np.unique(image[0], axis=0)) == 8


def test_the_title_of_a_depth_tells_its_range():
  depth = np.linspace(0.5, 4, 80, dtype=np.float32).reshape(8, 10)
  depth[0, 0] = 0
  [title] = drawn({"depth": depth})
  assert title == "depth, 0.544 to 4"


def test_the_legend_has_the_color_of_each_class():
  classes = np.array([[1, 2] * 5] * 9, np.int32)
  row = example_images.images_of({"semantics": classes})
  without = [image._replace(classes=frozenset()) for image in row]
  sheet = example_images.draw_sheet([row], CATEGORIES)
  bare = example_images.draw_sheet([without], CATEGORIES)
  assert sheet.height > bare.height
  below = np.asarray(sheet)[bare.height:].reshape(-1, 3)
  for number in (1, 2):
    assert (below == palette.class_color(number)).all(-1).any()
