"""Predictions to keep: which files they make, and what may be missing."""

import json

import numpy as np
import pytest

from uvim.categories import Category
from uvim.inference import export
from uvim.inference.prediction import Prediction
from uvim.registry import ConfigError
from uvim.tasks import make_task

SIZE = (8, 12)
LENGTH = 4


def make_depth():
  spec = {"depth": (4, 16)}
  return make_task("depth", dict(
      inputs=spec, outputs=spec, input_size=SIZE, patch_size=(4, 4)))


def predict(samples=1, codes=True):
  """Depths of two images, as a model might have made them."""
  rng = np.random.default_rng(0)
  photos = [rng.integers(0, 256, (h, w, 3), np.uint8)
            for h, w in ((5, 7), (6, 3))]
  depths = [np.float32(rng.uniform(1, 9, (samples, *photo.shape[:2])))
            for photo in photos]
  shape = (len(photos), samples, LENGTH)
  return Prediction(
      make_depth(), photos, {"depth": depths},
      rng.integers(0, 9, shape) if codes else None,
      rng.normal(size=shape) if codes else None, {"seed": 3})


CATEGORIES = (Category(7, "cup", True), Category(90, "sky", False))


def predict_classes(categories=()):
  """Both classes in two images, as a panoptic model might have seen them."""
  spec = {"semantics": (3, 16), "instances": (4, 16)}
  task = make_task("panoptic_segmentation", dict(
      inputs=spec, outputs=spec, input_size=SIZE, patch_size=(4, 4)))
  image = np.zeros((1, 2, 3), np.uint8)
  panoptic = np.array([[[[1, 1], [2, 2]]]])
  return Prediction(
      task, [image] * 2, {"panoptic": [panoptic] * 2}, None, None, {},
      categories)


def panoptic_list(folder):
  """(category ids of the segments, ids of the categories) in the JSON."""
  content = json.loads((folder / "panoptic.json").read_text())
  segments = content["annotations"][1]["segments_info"]
  return ([segment["category_id"] for segment in segments],
          [category["id"] for category in content["categories"]])


def files_of(folder):
  return sorted(str(path.relative_to(folder)) for path in folder.rglob("*")
                if path.is_file())


@pytest.mark.parametrize("samples", [1, 2])
def test_the_files_that_are_planned_are_those_that_are_written(
    samples, tmp_path):
  prediction = predict(samples)
  prediction.save(tmp_path, names=["a", "b"])
  writer = export.Writer(tmp_path, prediction.task, num_samples=samples)
  planned = sorted(str(path.relative_to(tmp_path))
                   for path in [*writer._lists(),
                                *writer._files_of_all(["a", "b"])])
  assert files_of(tmp_path) == planned
  with pytest.raises(ConfigError, match="predictions.json and .* more: there"):
    writer.check(["a", "b"])
  with pytest.raises(ConfigError, match="there already"):
    writer.check(["c"])  # The lists would be replaced.
  export.Writer(tmp_path, prediction.task, num_samples=samples,
                overwrite=True).check(["a"])


def test_a_model_without_codes(tmp_path):
  prediction = predict(samples=2, codes=False)
  assert prediction.num_samples == 2
  assert prediction.one(1).codes is None
  assert prediction.one(1).photos[0].shape == (6, 3, 3)
  with pytest.raises(ConfigError, match="This model has no code"):
    prediction.best()
  prediction.save(tmp_path)
  summary = json.loads((tmp_path / "predictions.json").read_text())
  assert summary["settings"] == {"seed": 3}
  assert summary["images"][1] == {
      "name": "1", "file": "1", "height": 6, "width": 3}
  assert (tmp_path / "sample1/depth/1.png").exists()


def test_the_best_sample_of_each_image():
  prediction = predict(samples=3)
  best = prediction.best()
  assert best.num_samples == 1 and best.settings["rerank"]
  likely = prediction.logprob.sum(-1).argmax(-1)
  for i, s in enumerate(likely):
    np.testing.assert_array_equal(best.codes[i, 0], prediction.codes[i, s])
    np.testing.assert_array_equal(best.logprob[i, 0], prediction.logprob[i, s])
    np.testing.assert_array_equal(
        best.outputs["depth"][i][0], prediction.outputs["depth"][i][s])


def test_a_code_is_one_line_of_the_summary(tmp_path):
  predict().save(tmp_path, names=["7", "b"])
  text = (tmp_path / "predictions.json").read_text()
  rows = [line for line in text.splitlines() if '"codes"' in line]
  assert len(rows) == 2 and '"name": "7"' in rows[0]


def test_the_files_name_the_classes(tmp_path):
  prediction = predict_classes(CATEGORIES)
  prediction.save(tmp_path / "known")
  assert panoptic_list(tmp_path / "known") == ([7, 90], [7, 90])
  others = (CATEGORIES[1], CATEGORIES[0])
  prediction.one(1).save(tmp_path / "a", names=["a"], categories=others)
  content = json.loads((tmp_path / "a" / "panoptic.json").read_text())
  assert content["categories"][0] == {"id": 90, "name": "sky", "isthing": 0}
  with pytest.raises(ConfigError, match="lists 1 categories, the model has 2"):
    prediction.save(tmp_path / "b", categories=others[:1])
  assert not (tmp_path / "b").exists()


def test_classes_that_nobody_knows_are_told(tmp_path):
  with pytest.warns(UserWarning, match="2 classes, but nobody knows") as caught:
    predict_classes().save(tmp_path)
  # One for all images, at the line of the user.
  assert len(caught) == 1 and caught[0].filename == __file__
  assert panoptic_list(tmp_path) == ([1, 2], [])


@pytest.mark.parametrize("names, words", [
    (["a"], "1 names for 2 images"), (["a", "b", "c"], "3 names for 2"),
    ([], "0 names"), (["a", "a"], "'a' stands there twice"),
    (["a", "../b"], "'../b'; allowed: a file name"), (["a", ""], "''; allowed"),
    (["a", "b\\c"], "names: "), (["a", ".."], "names: '..'"),
    (["a", "b\0"], "names: "), (["a", 3], "names: 3")])
def test_names_that_lose_or_misplace_an_image_are_refused(
    names, words, tmp_path):
  with pytest.raises(ConfigError, match=words) as caught:
    predict().save(tmp_path / "out", names=names)
  assert "\n" not in str(caught.value)
  assert not list(tmp_path.rglob("*"))


def test_a_wide_image_does_not_make_a_wide_plot():
  prediction = predict().one(0)
  wide = np.zeros((3, 20000, 3), np.uint8)
  wide = Prediction(
      prediction.task, [wide], {"depth": [np.ones((1, 3, 20000))]}, None, None,
      {})
  assert wide.plot(height=10, plain=True).size == (2 * 80 + 6, 10)
  # A bar of metres stands below.
  named = wide.plot(height=10)
  assert named.width == 2 * 80 + 6 and named.height > 2 * 10
