"""What every task has in common, so that no caller asks for its name."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uvim import tasks
from uvim.registry import ConfigError
from uvim.tasks import base

SIZE = (8, 12)
PATCH = (4, 4)
NUM_CLASSES = 6


def small_heads():
  """Task → channels or classes of each quantity, for every class once."""
  heads = {}
  seen = set()
  for name in tasks.TASKS:
    cls = tasks.task_class(name)
    if cls not in seen:
      seen.add(cls)
      is_real = issubclass(cls, base.RealTask)
      size = cls.label_channels if is_real else NUM_CLASSES
      heads[name] = dict.fromkeys(cls.keys, size)
  return heads


HEADS = small_heads()


def make(name, **options):
  heads = {key: (size, PATCH[0] * PATCH[1])
           for key, size in HEADS[name].items()}
  fields = dict(inputs=heads, outputs=heads, input_size=SIZE, patch_size=PATCH)
  return tasks.make_task(name, fields, **options)


def logits_of(name, batch=1):
  patches = (SIZE[0] // PATCH[0]) * (SIZE[1] // PATCH[1])
  rng = np.random.default_rng(0)
  shapes = {key: (batch, patches, size, PATCH[0] * PATCH[1])
            for key, size in HEADS[name].items()}
  return {key: jnp.float32(rng.normal(size=shape))
          for key, shape in shapes.items()}


@functools.cache
def outputs_of(name):
  """What a task makes of `logits_of`."""
  return jax.device_get(jax.jit(make(name).outputs)(logits_of(name)))


def test_the_released_names_are_names_of_the_same_tasks():
  for name in HEADS:
    released = f"proj.uvim.{name.removesuffix('_segmentation')}_task"
    if released in tasks.TASKS:
      assert tasks.task_class(released) is tasks.task_class(name)


@pytest.mark.parametrize("name", HEADS)
def test_a_task_is_recognised_by_its_outputs(name):
  assert tasks.task_of_outputs(sorted(HEADS[name])) == name
  assert tasks.task_of_outputs(sorted(HEADS[name], reverse=True)) == name


def test_unknown_outputs_are_of_no_task():
  message = "predicts edges is of no known task; known: .*semantics; depth"
  with pytest.raises(ConfigError, match=message):
    tasks.task_of_outputs(["edges"])
  # A task has all of its quantities.
  with pytest.raises(ConfigError, match="no known task"):
    tasks.task_of_outputs(["instances"])


@pytest.mark.parametrize("name", HEADS)
def test_the_label_spec_is_of_labels_that_the_task_takes(name):
  task = make(name)
  spec = task.label_spec(3)
  assert spec.shape[:3] == (3, *SIZE)
  encoded = jax.eval_shape(task.encode_labels, spec)
  assert sorted(encoded) == sorted(task.keys)
  encoded = jax.eval_shape(
      lambda labels: task.inputs({"labels": labels})["x"], spec)
  logits = jax.eval_shape(lambda: logits_of(name, 3))
  loss_B, _ = jax.eval_shape(task.loss, logits, encoded)
  assert loss_B.shape == (3,)


@pytest.mark.parametrize("name", HEADS)
def test_a_prediction_goes_back_to_the_image_and_into_a_file(name, tmp_path):
  task = make(name)
  image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
  outputs = outputs_of(name)
  assert tuple(outputs) == task.output_keys
  for key, output in outputs.items():
    output = task.to_image_size(output[0], image)
    assert output.shape[:2] == (20, 30)
    assert output.dtype == outputs[key].dtype
    path = tmp_path / key / f"a.{task.file_ending}"
    record = task.write(path, output)
    assert path.stat().st_size
    # A record is for a list, and only a task with a list has one.
    assert (record is None) == (task.list_file is None)
  assert task.render(outputs).shape == (1, *SIZE, 3)


@pytest.mark.parametrize("name", HEADS)
def test_a_file_that_cannot_be_written_is_one_line(name, tmp_path):
  task = make(name)
  (tmp_path / "folder").write_text("a file is here")
  output = outputs_of(name)[task.output_keys[0]]
  with pytest.raises(ConfigError, match="Cannot write .*folder/a"):
    task.write(tmp_path / "folder" / f"a.{task.file_ending}", output[0])


def test_options_of_predictions_are_checked_before_anything_is_computed():
  panoptic = make("panoptic_segmentation")
  color = make("colorization")
  assert list(panoptic.prediction_options()) == [
      "min_fraction", "instance_label"]
  assert list(color.prediction_options()) == ["full_luma"]
  tasks.check_prediction_options(panoptic, {"min_fraction": 0.5})
  tasks.check_prediction_options(color, {"full_luma": True})
  with pytest.raises(ConfigError, match="full_luma is an option of color"):
    tasks.check_prediction_options(panoptic, {"full_luma": True})
  with pytest.raises(ConfigError, match="an option of panoptic_segmentation"):
    tasks.check_prediction_options(color, {"min_fraction": 0.5})
  with pytest.raises(ConfigError, match="full_luma = 1; it must be True or"):
    tasks.check_prediction_options(color, {"full_luma": 1})
  with pytest.raises(ConfigError, match=r"min_fraction = 2; .*\[0, 1\)"):
    tasks.check_prediction_options(panoptic, {"min_fraction": 2})
  with pytest.raises(ConfigError, match="'min_fractoin'.*'min_fraction'"):
    tasks.check_prediction_options(panoptic, {"min_fractoin": 0.5})


@pytest.mark.parametrize("options, message", [
    (dict(max_dept=8), "task_options.max_dept' = 8.*'task_options.max_depth'"),
    (dict(max_depth="8"), "max_depth = '8'; it must be a number"),
    (dict(ignore_first_bin=1), "ignore_first_bin = 1; it must be True or"),
])
def test_task_options_are_checked(options, message):
  with pytest.raises(ConfigError, match=message):
    make("depth", **options)


@pytest.mark.parametrize("options, message", [
    (dict(min_depth=float("nan")), "min_depth = nan; it must be a number ≥ 0"),
    (dict(max_depth=float("inf")), "max_depth = inf; it must be a number ≥ 0"),
    # The same number in float32: the bins would have no width.
    (dict(min_depth=1.0, max_depth=1.0 + 1e-12), "0 <= min_depth < max_depth"),
])
def test_options_of_a_task_that_python_builds_are_checked(options, message):
  heads = {"depth": (NUM_CLASSES, 16)}
  with pytest.raises(ConfigError, match=message):
    tasks.task_class("depth")(
        inputs_spec=heads, outputs_spec=heads, input_size=SIZE,
        patch_size=PATCH, **options)


def test_an_option_of_a_resize_is_checked():
  color = make("colorization")
  with pytest.raises(ConfigError, match="full_luma = 'no'; it must be True"):
    color.to_image_size(np.zeros((4, 4, 3), np.float32),
                        np.zeros((8, 8, 3), np.uint8), full_luma="no")


@pytest.mark.parametrize("name", HEADS)
def test_agreement_is_highest_with_itself(name):
  task = make(name)
  outputs = jax.jit(task.outputs)(logits_of(name, batch=2))
  other = {key: x[::-1] for key, x in outputs.items()}
  agree = jax.jit(task.agreement)
  itself_B = agree(outputs, outputs)
  assert itself_B.shape == (2,) and (itself_B > agree(outputs, other)).all()
  np.testing.assert_allclose(
      agree(outputs, other), agree(other, outputs), atol=1e-6)


@pytest.mark.parametrize("name", HEADS)
def test_the_mean_of_equal_samples_is_one_of_them(name):
  task = make(name)
  assert task.has_mean == (task.num_categories is None)
  if task.has_mean:
    outputs = outputs_of(name)
    samples = {key: jnp.stack([x, x, x]) for key, x in outputs.items()}
    for key, mean in task.mean(samples).items():
      np.testing.assert_allclose(mean, outputs[key], atol=1e-5)
