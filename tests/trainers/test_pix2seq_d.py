"""Pix2Seq-D through the one train loop."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import pytest

from tests.trainers import tiny, tiny_pix2seq_d
from trainers.families import make_family
from trainers.families.compiled import Compiled
from trainers.step import make_init, make_train_step
from uvim.config import resolve
from uvim.diffusion import likelihood
from uvim.registry import ConfigError
from uvim.store import checkpoint

MODEL = dict(
    input_size=(16, 16), mask_size=(16, 16), num_classes=tiny.CLASSES,
    num_ids=tiny.INSTANCES, num_bits=6, input_scale=1.0, stem="small",
    resnet_width=4, resnet_blocks=(1, 1), encoder_dim=8, encoder_depth=1,
    encoder_mlp_dim=8, encoder_heads=2, mask_patch=2, fuse_dim=8, decoder_dim=4,
    channel_multipliers=(1, 1), bottom_dim=8, bottom_depth=1, bottom_heads=2,
    ema_decay=0.5)
STEPS = 2
# Loss and norm of the gradient of the first steps.
GOLDEN = [[2.079441, 0.139912], [2.063295, 0.137604]]


def family(model=None, **changes):
  return make_family(resolve(dict(
      task="panoptic_segmentation", dataset="none", train_split="train",
      batch_size=8, pp_train="", model_name="pix2seq_d",
      model=MODEL | (model or {}), lr=0.01, total_steps=20,
      optax_name="scale_by_adam") | changes))


@pytest.fixture(scope="module")
def trained():
  return tiny.run(family(), steps=STEPS)


@pytest.fixture(scope="module")
def predict():
  """A predictor of parameters of plain noise, whose masks are not all void."""
  model = family()
  shapes, _ = jax.eval_shape(model.init, jax.random.key(0))
  noise = tiny_pix2seq_d.noise(shapes, 0)
  compiled = Compiled(model)

  def run(name, batch, params=noise, **options):
    variables = model.variables(params, {}, None)
    outputs = compiled(name, **options)(variables, batch)
    return jax.tree.map(np.asarray, outputs)

  return run


def test_a_new_network_guesses_and_then_learns(trained):
  _, logs = trained
  # 3 bits for classes, 3 for ids: each softmax has 8 values. The weights of the
  # pixels have a mean of 1.
  np.testing.assert_allclose(logs[0]["loss"], np.log(8), rtol=1e-5)
  np.testing.assert_allclose(
      logs[1]["loss"],
      (logs[1]["loss_semantics"] + logs[1]["loss_instances"]) / 2, rtol=1e-5)
  assert logs[1]["loss"] < logs[0]["loss"]


def test_golden_steps(trained):
  _, logs = trained
  for found, (loss, norm) in zip(logs, GOLDEN, strict=True):
    np.testing.assert_allclose(found["loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(found["grad_norm"], norm, rtol=1e-3)


def test_predictions_take_the_average(trained):
  state, _ = trained
  assert int(state.extra["state"]["updates"]) == STEPS
  model = family()
  variables = tiny.variables(model, state)
  average = jax.tree.leaves(variables["params"])
  gaps = [np.abs(one - other).max() for one, other in
          zip(average, jax.tree.leaves(state.params), strict=True)]
  # With Adam, each step is as long as the step size.
  assert 0 < max(gaps) < STEPS * 0.01


class Steps(NamedTuple):
  """A run on one device, step by step."""
  run: Callable
  states: list
  logs: list


@pytest.fixture(scope="module")
def in_parts():
  """Two steps in two parts each, and one whose image is not finite."""
  model = family(grad_accum_steps=2, skip_bad_steps=1)
  init, tx, _ = make_init(model, model.config, model.config.total_steps)
  run = jax.jit(make_train_step(model, tx, epoch_steps=2))
  batches = [tiny.batch(step) for step in range(STEPS + 1)]
  batches[STEPS]["image"][3, 0, 0] = np.inf
  state = jax.jit(init)(jax.random.PRNGKey(0))
  states = []
  logs = []
  for batch in batches:
    state, log = run(state, None, batch)
    states.append(state)
    logs.append(log)
  return Steps(run, states, logs)


def assert_equal(state, other):
  jax.tree.map(np.testing.assert_array_equal, state, other)


def test_neither_parts_nor_devices_change_a_step(trained, in_parts):
  _, whole_logs = trained
  for ours, theirs in zip(in_parts.logs[:STEPS], whole_logs, strict=True):
    for name in ("loss", "loss_instances", "grad_norm"):
      np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-3)


def test_a_bad_step_leaves_the_average(in_parts):
  assert [int(log["bad"]) for log in in_parts.logs] == [0, 0, 1]
  *_, before, after = in_parts.states
  assert int(after.step) == STEPS + 1
  assert_equal(after.replace(step=before.step), before)


def test_the_average_survives_a_checkpoint(in_parts, tmp_path):
  first, second, _ = in_parts.states
  with checkpoint.Checkpointer(tmp_path) as checkpointer:
    checkpointer.save(1, first, {})
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=leaf.sharding), first)
    restored, _ = checkpointer.restore_latest(shapes)
  resumed, _ = in_parts.run(restored, None, tiny.batch(1))
  assert_equal(resumed, second)


def test_a_mask_depends_on_its_image_and_seed_alone(predict):
  batch = tiny.batch()
  turned = {name: array[::-1] for name, array in batch.items()}
  options = dict(num_steps=2, min_fraction=0.1)
  first = predict("predict", batch, seed=0, **options)["panoptic"]
  again = predict("predict", turned, seed=0, **options)["panoptic"]
  np.testing.assert_array_equal(again, first[::-1])
  other = predict("predict", batch, seed=1, **options)["panoptic"]
  assert (other != first).any()
  assert first.shape == (8, 16, 16, 2) and first.dtype == np.int32
  assert first.min() == 0
  assert first[..., 0].max() < tiny.CLASSES
  assert first[..., 1].max() < tiny.INSTANCES
  # No segment has 25 pixels or fewer.
  for mask in first.reshape(8, -1, 2):
    _, areas = np.unique(mask[mask[:, 0] > 0], axis=0, return_counts=True)
    assert (areas > 25).all()


def test_a_validation_scores_several_times(predict):
  batch = tiny.batch()
  outputs = predict("loss", batch)
  times = [name for name in outputs if name.startswith("loss_at/")]
  assert len(times) == 4
  np.testing.assert_allclose(
      outputs["loss"], np.mean([outputs[name] for name in times], axis=0),
      rtol=1e-5)
  # So a batch may be computed in parts.
  turned = {name: array[::-1] for name, array in batch.items()}
  again = predict("loss", turned)
  np.testing.assert_allclose(again["loss"], outputs["loss"][::-1], rtol=1e-4)


def test_the_bound_depends_on_image_and_seed_alone(predict):
  batch = tiny.batch()
  bits_B = predict("bound", batch, num_levels=64)["bits_per_pixel"]
  assert bits_B.shape == (8,) and (bits_B > 0).all()
  turned = {name: array[::-1] for name, array in batch.items()}
  again_B = predict("bound", turned, num_levels=64)["bits_per_pixel"]
  np.testing.assert_allclose(again_B, bits_B[::-1], rtol=1e-4)
  other_B = predict("bound", batch, num_levels=64, seed=1)["bits_per_pixel"]
  assert (other_B != bits_B).all()


def test_the_bound_of_a_model_that_says_nothing(predict):
  model = family()
  shapes, _ = jax.eval_shape(model.init, jax.random.key(0))
  params = jax.tree.map(lambda spec: np.zeros(spec.shape, spec.dtype), shapes)
  found = predict("bound", tiny.batch(), params, num_levels=64)
  # It takes each of the 6 bits for 0: the error is 1 at every level.
  nats = 0.5 * (np.exp(likelihood.MOST) - np.exp(likelihood.LEAST))
  np.testing.assert_allclose(
      found["bits_per_pixel"], 6 * nats / np.log(2), rtol=0.1)


@pytest.mark.parametrize("changes, message", [
    (dict(task="depth"), "config.task = 'depth'; Pix2Seq-D needs"),
    (dict(task=None), "config.task = None"),
    (dict(model=dict(num_bits=4)), "config.model.num_bits = 4"),
])
def test_a_mistake_is_named(changes, message):
  with pytest.raises(ConfigError, match=message):
    family(**changes)


def test_batches_are_checked():
  model = family()
  batch = tiny.batch()
  model.check_batch(batch)
  with pytest.raises(ConfigError, match="keep 'image' and 'labels'"):
    model.check_batch({"image": batch["image"]})
  large = np.zeros((8, 24, 16, 3), np.float32)
  with pytest.raises(ConfigError, match="input_size"):
    model.check_batch(batch | {"image": large})
  options = model.options("predict")
  assert {"num_steps", "time_difference", "sampler", "seed",
          "min_fraction"} == set(options)
  with pytest.raises(ConfigError, match="num_steps = 0"):
    model.check_options("predict", {"num_steps": 0}, "config.x.pred_kw")
