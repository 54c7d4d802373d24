"""The contact sheet shows classes in the colors of predictions."""

import io
import types

import numpy as np
from PIL import Image

from tools.prepare import contact_sheet
from uvim import palette, pixels
from uvim.categories import Category


def test_segments_have_the_colors_of_predictions_and_depth_its_range(tmp_path):
  image = np.zeros((200, 300, 3), np.uint8)
  file = io.BytesIO()
  Image.fromarray(image).save(file, "PNG")
  ids = np.zeros((200, 300), np.int32)
  ids[:, :100] = 900  # Class 2 of a model: label 1.
  ids[:, 100:200] = 7  # Class 1. The rest is void.
  example = {
      "image": file.getvalue(),
      "panoptic_image": pixels.rgb_from_ids(ids),
      "panoptic_objects": {
          "id": np.array([900, 7]), "label": np.array([1, 0])},
      "depth": np.linspace(1, 4, 60000).reshape(200, 300)}
  source = types.SimpleNamespace(
      num_examples=1, example=lambda index: example,
      categories=(Category(1, "cup", True), Category(2, "sky", False)))
  contact_sheet.write(source, tmp_path / "sheet.png")
  with Image.open(tmp_path / "sheet.png") as opened:
    sheet = np.asarray(opened)
  # Three tiles 320 pixels wide and 213 high, with a margin of 6.
  assert sheet.shape == (213 + 12, 3 * 320 + 12, 3)
  segments = sheet[6:219, 326:646]
  for number, x in ((2, 20), (1, 130)):
    np.testing.assert_allclose(
        segments[5, x], 0.55 * palette.class_color(number), atol=1)
  assert (segments[5, 300] == 0).all()
  depth = sheet[6:219, 646:966]
  near, far = palette.depth_colors(np.array([1.0, 4.0]), 1, 4)
  np.testing.assert_allclose(depth[0, 0], near, atol=2)
  np.testing.assert_allclose(depth[-1, -1], far, atol=2)
