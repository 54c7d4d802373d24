"""What the command writes for tasks other than panoptic; names of classes."""

import numpy as np
import pytest
from PIL import Image

from uvim.categories import Category
from uvim.cli import predict
from uvim.inference import export
from uvim.inference.prediction import Prediction
from uvim.registry import ConfigError
from uvim.tasks import make_task


def read(path):
  with Image.open(path) as file:
    return np.asarray(file)


def one_prediction(task, key, output):
  spec = {key: ({"depth": 4, "color": 3}[key], 64)}
  task = make_task(task, dict(inputs=spec, outputs=spec, input_size=(8, 8),
                              patch_size=(8, 8)))
  image = np.zeros((*output.shape[:2], 3), np.uint8)
  codes = np.zeros((1, 1, 4), np.int32)
  return Prediction(task, [image], {key: [output[None]]}, codes, None, {})


def test_depth_in_millimetres_and_colors(tmp_path):
  depth = np.array([[0.0204, 1.5], [9.98, 80.0]], np.float32)
  one_prediction("depth", "depth", depth).save(tmp_path, names=["a"])
  with Image.open(tmp_path / "depth/a.png") as file:
    assert file.mode == "I;16"
    assert np.asarray(file).tolist() == [[20, 1500], [9980, 65535]]
  color = np.linspace(-1, 1, 48, dtype=np.float32).reshape(4, 4, 3)
  prediction = one_prediction("colorization", "color", color)
  prediction.save(tmp_path / "c", names=["a"])
  np.testing.assert_array_equal(
      read(tmp_path / "c/color/a.png"),
      np.rint(color * 127.5 + 127.5))
  writer = export.Writer(tmp_path / "c", prediction.task)
  with pytest.raises(ConfigError, match="there already"):
    writer.add("a", prediction)


class Model:
  """What `choose_categories` asks a model."""

  def __init__(self, num_classes, categories=()):
    self.task = self
    self.num_categories = num_classes
    self.categories = categories


def test_categories(tmp_path):
  choose = predict.choose_categories
  rows = (Category(7, "cup", True), Category(9, "sky", False))
  assert choose(None, Model(2, rows)) == rows
  assert choose(None, Model(12)) is None
  # A file comes first.
  path = tmp_path / "categories.json"
  path.write_text('[{"id": 9, "name": "cup", "isthing": 1}]')
  assert choose(str(path), Model(1, rows[:1]))[0].id == 9
  with pytest.raises(ConfigError, match="this model has no classes"):
    choose(str(path), Model(None))
  with pytest.raises(ConfigError, match="1 categories, the model has 2"):
    choose(str(path), Model(2))
  with pytest.raises(ConfigError, match="--categories: 'nowhere'"):
    choose("nowhere", Model(2))
