"""The panoptic task: what it feeds, charges and returns."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from pp import builder
from uvim import palette, tasks
from uvim.categories import Category
from uvim.learn import sharding
from uvim.registry import ConfigError
from uvim.tasks import base, instances, panoptic

STAGE1 = ["stage1_panoptic_resize16", "stage1_panoptic_einsum9"]


def _fields(size=(16, 24), patch=(4, 8), classes=7, ids=5):
  area = patch[0] * patch[1]
  spec = {"semantics": (classes, area), "instances": (ids, area)}
  return dict(inputs=spec, outputs=spec, input_size=size, patch_size=patch)


def _task(**kw):
  return tasks.make_task("panoptic_segmentation", _fields(**kw))


def _spikes(task, labels):
  """Logits that say exactly `labels` [B,H,W,2]."""
  x = task.encode_labels(jnp.asarray(labels))
  return {
      key: 9.0 * jax.nn.one_hot(x[key], task.outputs_spec[key][0], axis=-2)
      for key in panoptic.KEYS
  }


def _oracle(semantics, instances, min_fraction):
  """The released recipe with a mask per instance, in float64."""
  ids = np.argmax(instances, -1)
  out = np.zeros((*ids.shape, 2), np.int64)
  for b in range(len(ids)):
    for i in range(instances.shape[-1]):
      mask = ids[b] == i
      if mask.sum() > min_fraction * mask.size:
        label = np.argmax(semantics[b][mask].astype(np.float64).sum(0))
        out[b][mask] = label, i
  return out


def test_patches_are_row_major_inside_and_out():
  image = np.arange(4 * 6).reshape(1, 4, 6)
  patches = base.patchify(image, (2, 3))
  np.testing.assert_array_equal(patches[0, 1], [3, 4, 5, 9, 10, 11])
  np.testing.assert_array_equal(patches[0, 2], [12, 13, 14, 18, 19, 20])
  np.testing.assert_array_equal(
      base.unpatchify(patches, (4, 6), (2, 3)), image)


def test_inputs_are_integers_and_context_prefers_image_ctx():
  task = _task()
  labels = np.zeros((2, 16, 24, 2), np.int32)
  labels[0, 1, 9] = 3, 4  # second patch, second row of it, second column
  batch = dict(labels=labels, image=np.zeros((2, 32, 48, 3)))
  inputs = task.inputs(batch)
  assert inputs["x"]["semantics"].shape == (2, 12, 32)
  assert inputs["x"]["semantics"][0, 1, 9] == 3
  assert inputs["x"]["instances"][0, 1, 9] == 4
  assert inputs["ctx"].shape == (2, 32, 48, 3)
  batch["image_ctx"] = np.zeros((2, 16, 24, 3))
  assert task.inputs(batch)["ctx"].shape == (2, 16, 24, 3)
  del batch["labels"]
  assert task.inputs(batch)["x"] is None


@pytest.mark.parametrize("name", STAGE1)
def test_loss_equals_the_released_one(fixtures, name):
  meta = json.loads((fixtures / f"{name}.json").read_text())
  params = np.load(fixtures / f"{name}_params.npz")
  out = np.load(fixtures / f"{name}_out.npz")
  task = tasks.make_task("panoptic_segmentation", meta["model"])
  x = task.inputs({"labels": jnp.asarray(params["batch/labels"])})["x"]
  logits = {k: jnp.asarray(out[f"logits/{k}"]) for k in panoptic.KEYS}
  loss, logs = task.loss(logits, x)
  assert loss.shape == (2,)
  for key, value in logs.items():
    np.testing.assert_allclose(
        value, out[f"loss/{key}"].mean((1, 2)), rtol=1e-5)
  np.testing.assert_allclose(loss.mean(), out["loss_total_mean"], rtol=1e-5)


def test_zero_heads_cost_9_503_per_labelled_pixel():
  task = _task(classes=134, ids=100)
  x = {k: jnp.zeros((2, 12, 32), jnp.int32) for k in panoptic.KEYS}
  x["semantics"] = x["semantics"].at[0, 0].set(-1)
  x["instances"] = x["instances"].at[0, 0].set(100)
  logits = {k: jnp.zeros((2, 12, task.outputs_spec[k][0], 32))
            for k in panoptic.KEYS}
  loss, _ = task.loss(logits, x)
  full = np.log(134) + np.log(100)
  np.testing.assert_allclose(loss, [full * 11 / 12, full], rtol=1e-6)
  np.testing.assert_allclose(full, 9.5030, atol=1e-4)


@pytest.mark.parametrize("name", STAGE1)
def test_predictions_equal_the_released_ones(fixtures, name):
  meta = json.loads((fixtures / f"{name}.json").read_text())
  out = np.load(fixtures / f"{name}_out.npz")
  task = tasks.make_task("panoptic_segmentation", meta["model"])
  logits = {k: jnp.asarray(out[f"logits/{k}"]) for k in panoptic.KEYS}
  keys = [k for k in out.files if k.startswith("pred/min_fraction=")]
  assert keys
  for key in keys:
    ours = task.outputs(logits, min_fraction=float(key.split("=")[1]))
    np.testing.assert_array_equal(ours["panoptic"], out[key])


def test_released_predictions_from_pixel_logits(fixtures):
  z = np.load(fixtures / "panoptic_predict.npz")
  logits = {k: base.patchify(z[k], (16, 16)).swapaxes(-1, -2)
            for k in panoptic.KEYS}
  keys = [k for k in z.files if k.startswith("out/min_fraction=")]
  assert len(keys) == 4
  for key in keys:
    ours = instances.panoptic_from_logits(
        jnp.asarray(logits["semantics"]), jnp.asarray(logits["instances"]),
        min_fraction=float(key.split("=")[1]))
    ours = base.unpatchify(ours, (64, 64), (16, 16))
    np.testing.assert_array_equal(ours, z[key])


@pytest.mark.parametrize("sum_logits", [
    instances.sum_logits_by_instance, instances.sum_by_scatter,
    instances.sum_by_matmul])
def test_all_ways_to_sum_logits_agree_with_a_loop(sum_logits):
  # The matmul runs on accelerators only, unless it is asked for by name.
  rng = np.random.default_rng(0)
  sem = rng.normal(size=(2, 16, 24, 7)).astype(np.float32)
  ins = rng.normal(size=(2, 16, 24, 5)).astype(np.float32)
  logits = {k: jnp.asarray(base.patchify(v, (4, 8)).swapaxes(-1, -2))
            for k, v in dict(semantics=sem, instances=ins).items()}
  ours = instances.panoptic_from_logits(
      **logits, min_fraction=0.2, sum_logits=sum_logits)
  ours = base.unpatchify(ours, (16, 24), (4, 8))
  np.testing.assert_array_equal(ours, _oracle(sem, ins, 0.2))
  assert (np.asarray(ours) == 0).all(-1).any()


def test_several_devices_share_the_images():
  """Each has its own images, and never the logits of all."""
  task = _task()
  rng = np.random.default_rng(0)
  logits = {}
  for key, size in task.outputs_spec.items():
    # Of integers, every sum is exact.
    logits[key] = rng.integers(-9, 9, (4, 12, *size)).astype(np.float32)
  want = jax.jit(task.outputs)(logits)["panoptic"]
  mesh = sharding.make_mesh([("data", 2)])
  with jax.set_mesh(mesh):
    split = jax.device_put(logits, sharding.batch_sharding(mesh))
    program = jax.jit(task.outputs).lower(split).compile()
    got = program(split)["panoptic"]
  np.testing.assert_array_equal(got, want)
  assert len(got.devices()) == 2
  assert "all-gather" not in program.as_text()


def test_outputs_undo_inputs():
  task = _task()
  rng = np.random.default_rng(0)
  ids = rng.integers(0, 5, (2, 16, 24))
  # One class per instance, as labels have.
  labels = np.stack([np.array([0, 3, 6, 3, 1])[ids], ids], -1)
  out = jax.jit(task.outputs)(_spikes(task, labels))
  np.testing.assert_array_equal(out["panoptic"], labels)


@pytest.mark.parametrize("area, kept", [(262, False), (263, True)])
def test_a_thousandth_of_512_squared_lies_between_262_and_263(area, kept):
  # Few classes keep the logits small; the rule depends on the size only.
  task = _task(size=(512, 512), patch=(16, 16), classes=3, ids=3)
  labels = np.zeros((1, 512, 512, 2), np.int32) + [1, 1]
  labels.reshape(-1, 2)[:area] = 2, 2
  out = task.outputs(_spikes(task, labels), min_fraction=0.001)["panoptic"]
  expected = [2, 2] if kept else [0, 0]
  np.testing.assert_array_equal(out[0, 0, 0], expected)
  np.testing.assert_array_equal(out[0, -1, -1], [1, 1])


def test_min_fraction_is_not_fooled_by_binary_fractions():
  assert instances.max_removed_area(0.29, 100) == 29
  assert instances.max_removed_area(0.001, 512 * 512) == 262
  assert instances.max_removed_area(0.0, 512 * 512) == 0


def test_logit_sum_and_majority_disagree_when_few_pixels_are_sure():
  task = _task(size=(2, 2), patch=(2, 2), classes=3, ids=2)
  sem = np.zeros((1, 1, 3, 4), np.float32)
  sem[0, 0, 1] = 1.0        # all four pixels lean to class 1 …
  sem[0, 0, 2, 0] = 9.0     # … but one is very sure of class 2
  ins = np.zeros((1, 1, 2, 4), np.float32)
  logits = dict(semantics=jnp.asarray(sem), instances=jnp.asarray(ins))
  by_sum = task.outputs(logits)["panoptic"]
  by_vote = task.outputs(logits, instance_label="majority")["panoptic"]
  assert (by_sum[..., 0] == 2).all()
  assert (by_vote[..., 0] == 1).all()
  by_pixel = task.outputs(logits, instance_label="pixel")["panoptic"]
  assert np.sort(by_pixel[..., 0].ravel()).tolist() == [1, 1, 1, 2]


def test_a_pixel_may_keep_its_class_in_any_instance():
  task = _task(size=(2, 4), patch=(2, 4), classes=3, ids=2)
  classes = np.array([[1, 1, 2, 0, 1, 1, 1, 2]])
  ids = np.array([[0, 0, 0, 0, 1, 1, 1, 1]])
  logits = dict(
      semantics=jax.nn.one_hot(classes, 3, axis=1)[:, None],
      instances=jax.nn.one_hot(ids, 2, axis=1)[:, None])

  def pairs(**options):
    out = task.outputs(logits, instance_label="pixel", **options)
    return [tuple(pair) for pair in out["panoptic"].reshape(-1, 2).tolist()]

  assert pairs() == [(1, 0), (1, 0), (2, 0), (0, 0),
                     (1, 1), (1, 1), (1, 1), (2, 1)]
  # A quarter of the image is two pixels: a segment needs more than that.
  assert pairs(min_fraction=0.25) == [(0, 0)] * 4 + [(1, 1)] * 3 + [(0, 0)]


@pytest.mark.parametrize("change, message", [
    (dict(input_size=(16, 20)), "multiple of"),
    (dict(inputs={"depth": (256, 32)}), "instances"),
    (dict(outputs={"semantics": (7, 32), "instances": (5, 16)}),
     "patches of 16 pixels"),
])
def test_fields_that_do_not_fit_are_named(change, message):
  with pytest.raises(ConfigError, match=message):
    tasks.make_task("panoptic_segmentation", {**_fields(), **change})


def test_unknown_names_show_the_known_ones():
  with pytest.raises(ConfigError, match="panoptic_segmentation"):
    tasks.make_task("panoptic_segmentatoin", _fields())
  with pytest.raises(ConfigError, match="min_depth"):
    tasks.make_task("panoptic_segmentation", _fields(), min_depth=0.1)
  with pytest.raises(ConfigError, match="logit_sum"):
    _task().outputs(_spikes(_task(), np.zeros((1, 16, 24, 2), np.int32)),
                    instance_label="logitsum")
  with pytest.raises(ConfigError, match="32x24"):
    _task().inputs({"labels": np.zeros((1, 32, 24, 2), np.int32)})


@pytest.mark.parametrize("options, message", [
    (dict(min_fraction=2), r"min_fraction = 2; .*\[0, 1\)"),
    (dict(min_fraction=1.0), r"min_fraction = 1.0"),
    (dict(min_fraction=-0.1), r"min_fraction = -0.1"),
    (dict(min_fraction=float("nan")), "min_fraction = nan"),
    (dict(instance_label=0), "instance_label = 0; .*logit_sum, majority"),
])
def test_options_out_of_their_range_are_one_line(options, message):
  task = _task()
  logits = _spikes(task, np.zeros((1, 16, 24, 2), np.int32))
  with pytest.raises(ConfigError, match=message) as error:
    task.outputs(logits, **options)
  assert "\n" not in str(error.value)


# Labels of one image.


def test_instances_are_numbered_as_the_op_does():
  make_canonical = builder.build("make_canonical")
  rng = np.random.default_rng(0)
  for _ in range(20):
    label = np.int32(rng.integers(0, 9, (13, 17, 2)))
    expected = make_canonical({"labels": builder.tf.constant(label)})["labels"]
    np.testing.assert_array_equal(panoptic.canonical_order(label), expected)


def test_a_label_of_any_size_becomes_one_of_the_models_size():
  label = np.zeros((32, 48, 2), np.int32)
  label[:, 24:] = 5, 70
  label[:, :24] = 3, 80
  small = _task().label_at(label, (16, 24))
  assert small.shape == (16, 24, 2) and small.dtype == np.int32
  np.testing.assert_array_equal(small[0, 0], [3, 1])  # The left one is first.
  np.testing.assert_array_equal(small[0, -1], [5, 2])
  with pytest.raises(ConfigError, match=r"shape \(3,\)"):
    _task().label_at([1, 2, 3], (16, 24))


# Files.


def _category(number):
  return Category(number, f"class {number}", True)


def test_files_in_cocos_format(tmp_path):
  output = np.zeros((4, 6, 2), np.int32)
  output[1:3, 2:5] = 2, 7
  output[3] = 1, 300
  categories = [_category(11), _category(22)]
  path = tmp_path / "deep" / "a.png"
  record = _task().write(path, output, categories)
  assert record == {"file_name": "a.png", "segments_info": [
      {"id": 1, "category_id": 11, "iscrowd": 0, "area": 6,
       "bbox": [0, 3, 6, 1]},
      {"id": 2, "category_id": 22, "iscrowd": 0, "area": 6,
       "bbox": [2, 1, 3, 2]}]}
  with Image.open(path) as file:
    ids = np.asarray(file)
  np.testing.assert_array_equal(ids[..., 0], [
      [0, 0, 0, 0, 0, 0], [0, 0, 2, 2, 2, 0], [0, 0, 2, 2, 2, 0],
      [1, 1, 1, 1, 1, 1]])
  assert not ids[..., 1:].any()
  images = [{"id": 5, "file_name": "a.jpg", "height": 4, "width": 6}]
  listed = tmp_path / "panoptic.json"
  _task().write_list(listed, images, [{"image_id": 5, **record}], categories)
  content = json.loads(listed.read_text())
  assert content["images"] == images
  assert content["annotations"] == [{"image_id": 5, **record}]
  assert content["categories"][1] == {
      "id": 22, "name": "class 22", "isthing": 1}
  # Without categories the class is its own id.
  record = _task().write(path, output)
  assert [x["category_id"] for x in record["segments_info"]] == [1, 2]
  with pytest.raises(ConfigError, match="Class 2 .* 1 categories"):
    _task().write(path, output, categories[:1])


@pytest.mark.parametrize("options", [
    {"min_fraction": float("nan")}, {"min_fraction": 1.0},
    {"min_fraction": -0.1}, {"min_fraction": "0.1"}, {"min_fraction": True},
    {"min_fraction": None}, {"instance_label": "mean"}])
def test_options_have_ranges_for_callers_from_python_too(options):
  name, = options
  message = rf"panoptic_from_logits\.{name} = .*; it must be"
  with pytest.raises(ConfigError, match=message):
    instances.panoptic_from_logits(
        jnp.ones((1, 4, 3, 2)), jnp.zeros((1, 4, 2, 2)), **options)


def test_a_class_has_its_color_in_every_image():
  pairs = np.zeros((2, 1, 4, 2), np.int32)
  # The lowest instance of a class has the color itself, whatever its number.
  pairs[0, 0] = [(3, 2), (3, 4), (1, 1), (0, 0)]
  pairs[1, 0] = [(1, 9), (3, 1), (-1, -1), (3, 1)]
  first, second = panoptic.render_panoptic(pairs)[:, 0]
  one, three = palette.class_color(1), palette.class_color(3)
  np.testing.assert_array_equal(first[[0, 2, 3]], [three, one, palette.VOID])
  assert (first[1] != three).any()
  np.testing.assert_array_equal(second, [one, three, palette.VOID, three])
