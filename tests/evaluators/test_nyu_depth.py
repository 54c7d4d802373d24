"""Depth errors: the crop, the valid range, means over images, real pairs."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import evaluators
from evaluators import base, common, nyu_depth
from uvim.registry import ConfigError

NAMES = ("metric3d_00000", "metric3d_00050")


def _source(depths):
  return types.SimpleNamespace(
      dataset="toy", split="validation", num_examples=len(depths),
      example=lambda i: {"image/id": i + 7, "depth": depths[i]})


def _make(depths, **options):
  return evaluators.make_evaluator("nyu_depth", _source(depths), options)


def _evaluate(depths, predictions, **options):
  numbered = [{"depth": depth, "image/id": i + 7}
              for i, depth in enumerate(predictions)]
  return base.score(_make(depths, **options), numbered)


def _random(shape, seed=0):
  return np.random.default_rng(seed).uniform(1, 9, shape).astype(np.float32)


@pytest.fixture(scope="module")
def real_depths(shared):
  """Two frames of NYU, 480×640 float32 in metres, by name."""
  return {name: (np.asarray(Image.open(shared / f"data/nyu/{name}_depth.png"))
                 / 1000).astype(np.float32) for name in NAMES}


def _quantized(depth):
  bins = np.clip(np.floor(depth / 10 * 256), 0, 255)
  return (bins + 0.5) / 256 * 10


def _coarse(depth):
  rows, columns = (np.minimum(np.arange(n) // 16 * 16 + 8, n - 1)
                   for n in depth.shape)
  blocks = depth[rows][:, columns]
  return np.where(blocks > 0, blocks, 2.5)


_I, _J = np.mgrid[:512, :512]
_RAMP = 6 - 5 * _I / 511
_WAVE = 2.5 + 1.5 * np.sin(2 * np.pi * _I / 97) * np.cos(2 * np.pi * _J / 61)
# Predictions made of the true depth after the crop.
REAL = {
    "identity": lambda depth: depth,
    "const_2.5m": lambda depth: np.full_like(depth, 2.5),
    "times_1.1": lambda depth: depth.astype(np.float64) * 1.1,
    "plus_0.25m": lambda depth: depth.astype(np.float64) + 0.25,
    "quant256_0_10m": _quantized,
    "coarse16": _coarse,
    "ramp512_resized": lambda depth: _RAMP,
    "wave512_resized": lambda depth: _WAVE,
}


@pytest.mark.parametrize("name", REAL)
def test_equals_the_published_definition_on_real_frames(
    shared, real_depths, name):
  path = shared / "data/metrics/depth_expected.json"
  expected = json.loads(path.read_text())[name]
  depths = list(real_depths.values())
  predictions = [REAL[name](depth[45:471, 41:601]) for depth in depths]
  result = _evaluate(depths, predictions)
  for key, value in expected["mean_over_images"].items():
    assert result[key] == pytest.approx(value, abs=1e-6), key
  each = [expected["per_image"][n] for n in NAMES]
  pooled = np.sqrt(sum(e["RMSE"] ** 2 * e["n"] for e in each)
                   / sum(e["n"] for e in each))
  assert result["RMSE_pooled"] == pytest.approx(pooled, abs=1e-6)
  for depth, prediction, one in zip(depths, predictions, each, strict=True):
    single = _evaluate([depth], [prediction])
    assert single["RMSE"] == pytest.approx(one["RMSE"], abs=1e-6)


def test_equals_the_released_metrics_on_its_own_arrays(fixtures):
  z = np.load(fixtures / "eval_metrics.npz")
  result = _evaluate([z["depth_gt"]], [z["depth_pred"]], crop="none")
  for key in nyu_depth.METRICS:
    assert result[key] == pytest.approx(float(z[key]), abs=1e-6), key


@pytest.mark.parametrize("top", [45, 54])
def test_crop_is_that_of_the_preprocessing(top):
  from pp import builder
  depth = np.arange(480 * 640, dtype=np.float32).reshape(480, 640, 1) / 1e5 + 1
  ours = depth[top:top + 426, 41:601, 0]
  out = builder.build(f"nyu_depth|nyu_eval_crop(top={top})")(
      {"depth": depth, "image": depth})["labels"]
  np.testing.assert_array_equal(out[..., 0], ours)
  assert _evaluate([depth], [ours], crop_top=top)["RMSE"] == 0
  assert _evaluate([depth], [ours], crop_top=99 - top)["RMSE"] > 0
  # Eigen's crop is what one gets unasked.
  assert (_evaluate([depth], [ours])["RMSE"] == 0) == (top == 45)


def test_valid_depth_lies_strictly_between_the_limits():
  # As a float32 the limit of 1 mm is greater than as a float64.
  truth = np.array([[0, 0.001, 0.002, 9.99, 10, 12, np.nan]], np.float32)
  prediction = np.array([[5, 5, 0.002, 9.99, 5, 5, 5]], np.float32)
  result = _evaluate([truth], [prediction], crop="none")
  assert result["RMSE"] == 0 and result["delta1"] == 1
  wider = _evaluate([truth], [prediction], crop="none", max_depth=11.)
  assert wider["RMSE"] == pytest.approx(5 / np.sqrt(3))


def test_rmse_is_the_mean_over_images_and_the_pooled_one_over_pixels():
  truths = [np.array([[2., 2., 2., 2.]]), np.array([[2., 0, 0, 0]])]
  result = _evaluate(truths, [t + 1 + i for i, t in enumerate(truths)],
                     crop="none")
  assert result["RMSE"] == pytest.approx((1 + 2) / 2)
  assert result["RMSE_pooled"] == pytest.approx(np.sqrt((4 * 1 + 4) / 5))
  assert result["abs_RE"] == pytest.approx((0.5 + 1) / 2)


def test_an_image_without_depth_is_left_out_and_counted():
  truth, empty = _random((6, 8)), np.zeros((6, 8), np.float32)
  alone = _evaluate([truth], [truth * 1.2], crop="none")
  both = _evaluate([empty, truth], [truth, truth * 1.2], crop="none")
  assert alone["num_skipped"] == 0 and both["num_skipped"] == 1
  assert {**both, "num_skipped": 0} == alone
  with pytest.raises(ValueError, match="None of 1 images"):
    _evaluate([empty], [truth], crop="none")


def test_half_floats_and_other_sizes_of_truth():
  truth = _random((30, 44)).astype(np.float16)
  exact = truth.astype(np.float32)
  assert _evaluate([truth[..., None]], [exact], crop="none")["RMSE"] == 0
  # A prediction at twice the size: the pixel under each centre is taken.
  double = exact.repeat(2, 0).repeat(2, 1)
  assert _evaluate([truth], [double], crop="none")["RMSE"] == 0


def test_squares_are_summed_in_float64():
  truth = np.full((1000, 1000), 9.999, np.float32)
  error = float(np.float32(9.999)) - 0.001
  result = _evaluate([truth], [np.full_like(truth, 0.001, np.float64)],
                     crop="none")
  assert result["RMSE"] == pytest.approx(error, rel=1e-12)


@pytest.mark.parametrize("batch_size", [1, 7, 32])
def test_metrics_do_not_depend_on_the_batch_size(batch_size):
  depths = [_random((6, 8), i) for i in range(5)]

  @jax.jit
  def predict(_, batch):
    return {"depth": batch["x"] * (1 + batch["image/id"] % 3 / 10)[
        :, None, None].astype(jnp.float32)}

  def batches():
    for start in range(0, 5, batch_size):
      place = np.arange(start, start + batch_size)
      row = np.minimum(place, 4)
      yield {"x": np.stack([depths[i] for i in row]), "image/id": row + 7,
             "_mask": place < 5}

  predictions = common.predict_all(
      predict, None, batches(), put=lambda batch: batch)
  result = base.score(_make(depths, crop="none"), predictions)
  expected = _evaluate(
      depths, [d * np.float32(1 + (i + 7) % 3 / 10)
               for i, d in enumerate(depths)], crop="none")
  assert expected["RMSE"] > 0.1
  assert result == pytest.approx(expected, abs=1e-6)


def test_sums_merge_in_any_grouping():
  stats = [nyu_depth.depth_image(_random((5, 5), i), _random((5, 5), i + 9))
           for i in range(3)]
  a, b, c = stats
  assert ((a + b) + c).result() == pytest.approx((a + (b + c)).result())
  zeros = nyu_depth.DepthStat.zeros()
  assert (zeros + a).result() == a.result()


def test_mistakes_are_named():
  small = _random((6, 8))
  with pytest.raises(ConfigError, match="crop='none' scores the whole"):
    _evaluate([small], [small])
  with pytest.raises(ConfigError, match="crop = 'eigne'.*one of eigen, none"):
    _evaluate([small], [small], crop="eigne")
  with pytest.raises(ConfigError, match=r"crop_top = 60.*in 0\.\.54"):
    _evaluate([small], [small], crop_top=60)
  with pytest.raises(ConfigError, match="min_depth < max_depth"):
    _evaluate([small], [small], min_depth=3., max_depth=2.)
  with pytest.raises(ValueError, match="not positive and finite at 48 of 48"):
    _evaluate([small], [small * 0], crop="none")
  with pytest.raises(ValueError, match="2 predictions for|more predictions"):
    _evaluate([small], [small, small], crop="none")
  source = types.SimpleNamespace(
      num_examples=1, example=lambda i: {"image/id": 0, "image": b""})
  evaluator = evaluators.make_evaluator("nyu_depth", source)
  with pytest.raises(ConfigError, match="'depth'.*image"):
    base.score(evaluator, [{"depth": small}])


def test_predictions_out_of_order_are_noticed():
  small = _random((6, 8))
  evaluator = _make([small] * 2, crop="none")
  swapped = [{"depth": small, "image/id": i} for i in (8, 7)]
  with pytest.raises(ValueError, match="prediction 0 is of image 8"):
    base.score(evaluator, swapped)


def test_both_names_of_the_evaluator_work():
  for name in "nyu_depth", "proj.uvim.nyu_depth":
    assert isinstance(evaluators.make_evaluator(name, _source([])),
                      nyu_depth.NyuDepth)


@pytest.mark.parametrize("options", [
    {"crop": "eigne"}, {"crop_top": 1.5}, {"min_depth": float("nan")},
    {"max_depth": 0}])
def test_options_have_ranges_for_callers_from_python_too(options):
  name, = options
  with pytest.raises(ConfigError, match=rf"NyuDepth\.{name} = .*; it must be"):
    nyu_depth.NyuDepth(None, **options)
