"""PSNR: real photographs, the released numbers, the truth's preprocessing."""

import json
import types

import jax
import numpy as np
import pytest
from PIL import Image

import evaluators
from evaluators import base, common, psnr
from uvim.registry import ConfigError

PP = 'decode|value_range(-1, 1)|copy("image", "labels")|keep("labels")'


def _png(pixels):
  import tensorflow as tf
  return tf.io.encode_png(pixels).numpy()


def _source(images):
  return types.SimpleNamespace(
      dataset="toy", split="validation", num_examples=len(images),
      example=lambda i: {"image/id": i, "image": _png(images[i])})


def _evaluate(images, predictions, pp_truth=PP):
  evaluator = evaluators.make_evaluator(
      "proj.uvim.psnr", _source(images), {"pp_truth": pp_truth})
  numbered = [{"color": p, "image/id": i} for i, p in enumerate(predictions)]
  return base.score(evaluator, numbered)["PSNR"]


def _unit(pixels):
  return np.asarray(pixels, np.float64) / 127.5 - 1


def _gray601(x):
  return np.repeat(x @ [[0.299], [0.587], [0.114]], 3, -1)


CHANGES = {
    "gray601": _gray601,
    "quant5bit": lambda x: x // 8 * 8 + 4,
    "roll1px": lambda x: np.roll(x, 1, 1),
}


@pytest.mark.parametrize("change", CHANGES)
def test_equals_the_expected_numbers_on_real_photographs(shared, change):
  path = shared / "data/metrics/psnr_expected.json"
  expected = {key.partition("/")[0]: value
              for key, value in json.loads(path.read_text()).items()
              if key.endswith(change)}
  images = [np.asarray(Image.open(shared / "data/photos" / name))
            for name in expected]
  changed = [_unit(CHANGES[change](x.astype(np.int32))) for x in images]
  for image, color, value in zip(
      images, changed, expected.values(), strict=True):
    assert psnr.psnr_image(_unit(image), color) == pytest.approx(
        value, abs=1e-9)
  # PSNR is averaged, not the squared error; images arrive in float32.
  assert _evaluate(images, [x.astype(np.float32) for x in changed]) == (
      pytest.approx(np.mean(list(expected.values())), abs=1e-5))


def test_equals_the_released_numbers(fixtures):
  z = np.load(fixtures / "eval_metrics.npz")
  for truth, color, value in zip(
      z["psnr_label"], z["psnr_pred"], z["psnr"], strict=True):
    assert psnr.psnr_image(truth, color) == pytest.approx(value, rel=1e-5)


def test_truth_is_preprocessed_as_the_string_says():
  wide = np.zeros((4, 8, 3), np.uint8)
  wide[:, 2:6] = 255
  pp = 'decode|central_crop|value_range(-1, 1)|copy("image", "labels")'
  assert _evaluate([wide], [np.ones((4, 4, 3))], pp) == np.inf
  assert _evaluate([wide], [np.zeros((4, 4, 3))], pp) == pytest.approx(
      10 * np.log10(4))


@pytest.mark.parametrize("batch_size", [1, 7, 32])
def test_metrics_do_not_depend_on_the_batch_size(batch_size):
  rng = np.random.default_rng(0)
  images = [rng.integers(0, 256, (4, 6, 3), np.uint8) for _ in range(5)]

  def batches():
    for start in range(0, 5, batch_size):
      place = np.arange(start, start + batch_size)
      row = np.minimum(place, 4)
      yield {"x": np.stack([_unit(images[i]) for i in row]), "image/id": row,
             "_mask": place < 5}

  @jax.jit
  def predict(_, batch):
    scale = 1 - (batch["image/id"] + 1) / 10
    return {"color": batch["x"] * scale[:, None, None, None]}

  evaluator = evaluators.make_evaluator(
      "psnr", _source(images), {"pp_truth": PP})
  predictions = common.predict_all(
      predict, None, batches(), put=lambda batch: batch)
  expected = _evaluate(images, [_unit(x) * (1 - (i + 1) / 10)
                                for i, x in enumerate(images)])
  assert base.score(evaluator, predictions) == {
      "PSNR": pytest.approx(expected, abs=1e-5)}


def test_mistakes_are_named():
  image = np.zeros((4, 4, 3), np.uint8)
  with pytest.raises(ConfigError, match="needs pp_truth"):
    _evaluate([image], [image], None)
  with pytest.raises(ConfigError, match="op 1 'decoed'.*'decode'"):
    _evaluate([image], [image], "decoed")
  with pytest.raises(ConfigError, match=r"\(4, 4, 3\).*\(8, 8, 3\)"):
    _evaluate([image], [np.zeros((8, 8, 3))])
  with pytest.raises(ConfigError, match="result of pp_truth 'labels'"):
    _evaluate([image], [image], "decode")
  with pytest.raises(ValueError, match="1 predictions for the 2"):
    _evaluate([image] * 2, [image])
