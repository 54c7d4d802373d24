"""Predictions to keep: which files they make, and what may be missing."""

import json

import numpy as np
import pytest

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
  with pytest.raises(ConfigError, match="not written by the language model"):
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


def test_a_wide_image_does_not_make_a_wide_plot():
  prediction = predict().one(0)
  wide = np.zeros((3, 20000, 3), np.uint8)
  wide = Prediction(
      prediction.task, [wide], {"depth": [np.ones((1, 3, 20000))]}, None, None,
      {})
  assert wide.plot(height=10).size == (2 * 80 + 6, 10)
