"""Pre-training by DINO, through the one train loop."""

import shutil

import jax
import numpy as np
import pytest

from configs import dino_rooms
from tests.trainers import tiny
from trainers import loop
from trainers.families import make_family, open_checkpoint
from trainers.families.compiled import Compiled
from uvim import tree
from uvim.config import resolve
from uvim.registry import ConfigError
from uvim.store import checkpoint, start_from

MODEL = dict(
    input_size=(8, 8), patch_size=(4, 4), width=16, depth=1, mlp_dim=16,
    num_heads=2, local_crops_size=(4, 4), local_crops_number=2, out_dim=6,
    hidden_dim=8, bottleneck_dim=4, momentum_teacher=0.5,
    momentum_teacher_steps=20)
STEPS = 3
# Loss and norm of the gradient of the first steps.
GOLDEN = [[5.993483, 59.51611], [2.323987, 18.55637], [1.011103, 21.16786]]


def family(model=None, **changes):
  return make_family(resolve(dict(
      dataset="none", train_split="train", batch_size=8, pp_train="",
      model_name="dino", model=MODEL | (model or {}), lr=0.01, total_steps=20,
      optax_name="scale_by_adam") | changes))


@pytest.fixture(scope="module")
def trained():
  return tiny.run(family(), steps=STEPS, mesh=[("data", 1)])


def test_the_teacher_follows_the_student(trained):
  state, logs = trained
  student, teacher = state.params, state.extra["ema"]
  assert int(state.extra["state"]["updates"]) == STEPS
  center_K = state.extra["state"]["center"]
  assert np.abs(center_K).max() > 0
  np.testing.assert_allclose(
      logs[-1]["center_deviation"], center_K.std(), rtol=1e-4)
  for one, other in zip(jax.tree.leaves(student), jax.tree.leaves(teacher),
                        strict=True):
    assert np.isfinite(one).all() and np.isfinite(other).all()
  gap = np.abs(student["EmbedPatches"]["kernel"]
               - teacher["EmbedPatches"]["kernel"]).max()
  # With Adam, each step is as long as the step size.
  assert 0 < gap < STEPS * 0.01


def test_golden_steps(trained):
  _, logs = trained
  for found, (loss, norm) in zip(logs, GOLDEN, strict=True):
    np.testing.assert_allclose(found["loss"], loss, rtol=1e-4)
    np.testing.assert_allclose(found["grad_norm"], norm, rtol=1e-3)


def test_parts_and_devices_change_nothing(trained):
  state, logs = tiny.run(
      family(grad_accum_steps=2), steps=STEPS, mesh=[("data", 4)])
  for ours, theirs in zip(logs, trained[1], strict=True):
    np.testing.assert_allclose(ours["loss"], theirs["loss"], rtol=1e-4)
  np.testing.assert_allclose(
      state.extra["state"]["center"], trained[0].extra["state"]["center"],
      atol=1e-4)


def test_the_validation_loss_depends_on_ids_alone(trained):
  state, _ = trained
  model = family()
  variables = model.variables(state.params, state.extra, None)
  program = Compiled(model)
  batch = tiny.batch()
  first = np.asarray(program("loss")(variables, batch)["loss"])
  turned = {name: array[::-1] for name, array in batch.items()}
  again = np.asarray(program("loss")(variables, turned)["loss"])
  np.testing.assert_allclose(again, first[::-1], rtol=1e-4)
  other = np.asarray(program("loss", seed=1)(variables, batch)["loss"])
  assert np.abs(other - first).max() > 1e-4


def test_a_panel_shows_features_as_colors(trained):
  state, _ = trained
  model = family()
  variables = model.variables(state.params, state.extra, None)
  columns = model.panel(Compiled(model), variables, tiny.batch())
  assert list(columns) == ["image", "features"]
  for images in columns.values():
    assert images.shape == (8, 16, 16, 3)
    assert images.dtype == np.uint8
  patch = columns["features"][:, :4, :4]
  np.testing.assert_array_equal(patch, patch[:, :1, :1].repeat(4, 1)
                                .repeat(4, 2))
  assert len(np.unique(columns["features"])) > 10


def test_a_run_goes_on_and_gives_its_teacher(rooms_tiny_dir, tmp_path):
  config = dino_rooms.get_config("tiny")
  config.data_dir = str(rooms_tiny_dir)
  config.mesh = (("data", 1),)
  config = resolve(config)
  workdir = tmp_path / "run"
  metrics = loop.train(config, workdir)
  shutil.rmtree(workdir / "checkpoints" / "4")
  again = loop.train(config, workdir)
  assert again["val/loss"] == metrics["val/loss"]
  # What later runs and tools.evaluate read is the teacher.
  trained, variables = open_checkpoint(str(workdir), config)
  assert set(variables["state"]) == {"center", "updates"}
  arrays = tree.flatten(checkpoint.load_params(workdir)["params"])
  for name, array in tree.flatten(variables["params"]).items():
    np.testing.assert_array_equal(array, arrays[name])


def test_a_teacher_starts_where_its_student_does(trained):
  state, _ = trained
  kernel = np.full_like(state.params["EmbedPatches"]["kernel"], 0.25)
  state = jax.tree.map(jax.numpy.asarray, state)
  state = start_from.replace(state, {"params/EmbedPatches/kernel": kernel})
  for params in (state.params, state.extra["ema"]):
    np.testing.assert_array_equal(params["EmbedPatches"]["kernel"], kernel)


def test_a_mistake_is_named():
  with pytest.raises(ConfigError, match="config.task"):
    family(task="depth")
  batch = {"image": np.zeros((2, 18, 16, 3), np.float32)}
  with pytest.raises(ConfigError, match="multiple of config.model.patch_size"):
    family().check_batch(batch)
