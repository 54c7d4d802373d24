"""The depth task: what it feeds, charges and returns."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from uvim import tasks
from uvim.models.guided import make_guided_model
from uvim.nn import embedding
from uvim.registry import ConfigError

HALF_BIN = (10 - 0.001) / 256 / 2
HOLES = [0.0, -0.0, -1.0, np.nan, np.inf, -np.inf]


def _fields(size=(8, 8), patch=(4, 4), bins=256):
  spec = {"depth": (bins, patch[0] * patch[1])}
  return dict(inputs=spec, outputs=spec, input_size=size, patch_size=patch)


def _task(size=(8, 8), patch=(4, 4), bins=256, **options):
  return tasks.make_task("depth", _fields(size, patch, bins), **options)


def _bins(values, **options):
  """The bins of single depths, in their order."""
  task = _task(size=(1, len(values)), patch=(1, 1), **options)
  labels = np.asarray(values)[None, None, :, None]
  return task.inputs({"labels": labels})["x"]["depth"][0, :, 0]


def _spikes(ids_BNP, bins=256):
  return {"depth": 9.0 * jax.nn.one_hot(ids_BNP, bins, axis=-2)}


# Parity with the released implementation, which ignores the first bin.


@pytest.fixture(scope="module")
def released(fixtures):
  """The released model's fields, its arrays, and our task for them."""
  meta = json.loads((fixtures / "stage1_depth.json").read_text())
  files = {name: np.load(fixtures / f"stage1_depth_{name}.npz")
           for name in ("params", "out", "grad")}
  task = tasks.make_task(
      f"proj.uvim.{meta['task']}", meta["model"], ignore_first_bin=True,
      min_depth=meta["min_depth"], max_depth=meta["max_depth"])
  return meta["model"], files, task


def test_loss_and_its_gradient_equal_the_released_ones(released):
  _, files, task = released
  x = task.inputs({"labels": files["params"]["batch/labels"]})["x"]

  def loss(logits):
    loss_B, logs = task.loss(logits, x)
    return loss_B.mean(), (loss_B, logs)

  logits = {"depth": jnp.asarray(files["out"]["logits/depth"])}
  (mean, (loss_B, logs)), grads = jax.value_and_grad(loss, has_aux=True)(
      logits)
  np.testing.assert_allclose(
      loss_B, files["out"]["loss/loss_depth"].mean((1, 2)), rtol=1e-5)
  np.testing.assert_array_equal(loss_B, logs["loss_depth"])
  np.testing.assert_allclose(
      mean, files["out"]["loss_mean/loss_depth"], rtol=1e-5)
  bias = files["grad"]["grad/head_depth/bias"]
  np.testing.assert_allclose(
      grads["depth"].sum((0, 1)), bias, rtol=0, atol=1e-5 * abs(bias).max())


def test_predictions_equal_the_released_ones(released):
  _, files, task = released
  out = task.outputs({"depth": jnp.asarray(files["out"]["logits/depth"])})
  assert out["depth"].dtype == jnp.float32
  np.testing.assert_allclose(
      out["depth"], files["out"]["pred/depth"], rtol=1e-5)


def test_the_oracle_says_the_released_words(released):
  fields, files, task = released
  changes = {"enc_depth": "oracle_depth", "dec_depth": "base_model_depth"}
  fields = {changes.get(k, k): v for k, v in fields.items()
            if k != "statistics_axis_name"}
  file = files["params"]
  arrays = traverse_util.unflatten_dict(
      {tuple(name.split("/")): file[name] for name in file.files
       if name.startswith(("params/", "state/"))})
  model = make_guided_model(fields, "config.model")
  data = task.inputs({"labels": file["batch/labels"],
                      "image": file["batch/image"]})
  coded = jax.jit(model.oracle)(arrays, data["x"], data["ctx"])
  np.testing.assert_array_equal(coded.code, files["out"]["code"])


# Behaviour.


def test_labels_come_back_within_half_a_bin():
  """BEHAVIOURS 12, edges of the bins and ends of the range included."""
  assert HALF_BIN < 0.01953
  task = _task(size=(32, 32), patch=(8, 8))
  edges = np.linspace(0.001, 10, 257)
  depth = np.concatenate(
      [edges, np.random.default_rng(0).uniform(0.001, 10, 32 * 32 - 257)])
  labels = np.float32(depth).reshape(1, 32, 32, 1)
  x = task.inputs({"labels": labels})["x"]
  out = jax.jit(task.outputs)(_spikes(x["depth"]))["depth"]
  assert out.shape == (1, 32, 32)
  # Half a bin more a rounding: an edge in float32 may lie on either side.
  np.testing.assert_allclose(
      out, labels[..., 0], rtol=0, atol=HALF_BIN + 2e-6)
  np.testing.assert_allclose(
      np.unique(out), (edges[1:] + edges[:-1]) / 2, rtol=1e-6)


def test_bins_are_cut_at_the_ends_of_the_range():
  width = 2 * HALF_BIN
  depths = np.float32([
      1e-6, 0.001, 0.001 + 0.99 * width, 0.001 + 1.01 * width,
      10 - 1.01 * width, 10 - 0.99 * width, 10, np.nextafter(10, 11), 12])
  ids = _bins(depths)
  assert ids.dtype == jnp.int32
  np.testing.assert_array_equal(ids, [0, 0, 0, 1, 254, 255, 255, 255, 255])
  np.testing.assert_array_equal(
      _bins(np.float32([1.9, 2, 2.4, 4]), bins=4, min_depth=2, max_depth=4),
      [0, 0, 0, 3])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_pixels_without_depth_are_nothing_to_anyone(dtype):
  ids = _bins(np.array([*HOLES, 5.0], dtype))
  np.testing.assert_array_equal(ids, [-1] * len(HOLES) + [127])
  kernel = jnp.ones((256, 1, 2))
  embedded = embedding.embed_ids(kernel, ids[:, None])
  np.testing.assert_array_equal(embedded[:-1], 0)
  assert (embedded[-1] == 1).all()


def test_holes_cost_nothing_and_count_in_the_average():
  """The first loss is ln 256 per pixel with a depth (NUMBERS)."""
  task = _task()
  labels = np.full((2, 8, 8, 1), 3, np.float32)
  labels[0, :4, :4, 0] = np.nan
  x = task.inputs({"labels": labels})["x"]
  logits = {"depth": jnp.zeros((2, 4, 256, 16))}
  loss, grads = jax.value_and_grad(
      lambda logits: task.loss(logits, x)[0].sum())(logits)
  np.testing.assert_allclose(np.log(256), 5.5452, atol=1e-4)
  np.testing.assert_allclose(
      task.loss(logits, x)[0], [np.log(256) * 3 / 4, np.log(256)], rtol=1e-6)
  np.testing.assert_allclose(loss, np.log(256) * 7 / 4, rtol=1e-6)
  has_grad = np.any(grads["depth"], axis=2)
  assert not has_grad[0, 0].any() and has_grad[0, 1:].all()


def test_the_released_way_confuses_holes_with_the_first_bin():
  depths = np.float32([*HOLES, 0.01, 5])
  np.testing.assert_array_equal(_bins(depths)[-2:], [0, 127])
  np.testing.assert_array_equal(
      _bins(depths, ignore_first_bin=True), [0] * (len(HOLES) + 1) + [127])

  def loss(depth, **options):
    task = _task(**options)
    x = task.inputs({"labels": np.full((1, 8, 8, 1), depth, np.float32)})["x"]
    return float(task.loss({"depth": jnp.zeros((1, 4, 256, 16))}, x)[0][0])

  assert loss(0.01) == pytest.approx(np.log(256))
  for depth in (0, 0.01):
    assert loss(depth, ignore_first_bin=True) == 0
  assert loss(0.1, ignore_first_bin=True) == pytest.approx(np.log(256))


def test_patches_keep_their_places():
  labels = np.full((1, 8, 8, 1), 3, np.float32)
  labels[0, 1, 6] = 9  # second patch, second row of it, third column
  ids = _task().inputs({"labels": labels})["x"]["depth"]
  assert ids.shape == (1, 4, 16)
  assert np.argwhere(np.asarray(ids) > 200).tolist() == [[0, 1, 6]]
  logits = {"depth": _spikes(ids)["depth"].astype(jnp.bfloat16)}
  out = _task().outputs(logits)["depth"]
  assert out.dtype == jnp.float32
  np.testing.assert_allclose(out, labels[..., 0], atol=HALF_BIN + 2e-6)


def test_pictures_order_depths_by_brightness_and_leave_holes_black():
  task = _task(max_depth=5.0)
  depth = np.float32([*HOLES, *np.linspace(0.001, 5, 200)])
  truth = task.truth({"labels": depth.reshape(1, 1, -1, 1)})
  picture = task.render(truth)
  assert picture.shape == (1, 1, len(depth), 3) and picture.dtype == np.uint8
  luma = picture[0, 0] @ np.array([0.2126, 0.7152, 0.0722])
  np.testing.assert_array_equal(picture[0, 0, :len(HOLES)], 0)
  assert (np.diff(luma[len(HOLES):]) < 0.25).all()  # but for 8 bits' rounding
  assert (np.diff(luma[len(HOLES)::20]) < -5).all()
  assert luma[len(HOLES):].min() > 30
  np.testing.assert_array_equal(  # Beyond the range nothing wraps around.
      task.render({"depth": np.float32([[[1e-4, 9]]])})[0, 0],
      picture[0, 0, [len(HOLES), -1]])


@pytest.mark.parametrize("change, options, message", [
    (dict(inputs={"semantics": (7, 16)}), {}, "depth"),
    (dict(outputs={"depth": (128, 16)}), {}, r"\(256, 16\).*\(128, 16\)"),
    ({}, dict(min_depth=10), "min_depth 10 .*max_depth 10.0"),
    ({}, dict(min_depth=-1), "min_depth = -1"),
    ({}, dict(max_depth=float("nan")), "max_depth = nan"),
    ({}, dict(max_dept=8), "max_depth"),
])
def test_fields_that_do_not_fit_are_named(change, options, message):
  with pytest.raises(ConfigError, match=message):
    tasks.make_task("depth", {**_fields(), **change}, **options)


@pytest.mark.parametrize("labels, message", [
    (np.full((1, 8, 8, 1), 3000, np.uint16), "uint16.*metres"),
    (np.zeros((1, 8, 8, 3), np.float32), "3 channels"),
    (np.zeros((1, 8, 4, 1), np.float32), "8x4"),
])
def test_labels_that_are_no_depths_are_refused(labels, message):
  with pytest.raises(ConfigError, match=message):
    _task().inputs({"labels": labels})


def test_the_mean_of_bins_is_that_of_their_centres():
  task = _task(bins=4, min_depth=1.0, max_depth=9.0)
  # Centres are 2, 4, 6 and 8 metres.
  probability_K = np.array([0.1, 0.2, 0.3, 0.4])
  logits = np.broadcast_to(
      np.log(probability_K)[None, None, :, None], (1, 4, 4, 16))
  got = task.outputs({"depth": jnp.asarray(logits)}, bins="mean")["depth"]
  np.testing.assert_allclose(got, 0.2 + 0.8 + 1.8 + 3.2, rtol=1e-6)
  with pytest.raises(ConfigError, match="bins = 'middle'; it must be one of"):
    task.outputs({"depth": jnp.asarray(logits)}, bins="middle")
