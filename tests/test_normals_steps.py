"""The shipped pair of configs for normals fits itself, and takes a step."""

import jax
import numpy as np
import pytest
import tensorflow as tf

from pp import builder
from pp.rooms.render import render
from tests import test_config_steps as steps
from tests.trainers import tiny
from trainers.families.lm import LmFamily
from trainers.families.vqvae import VqvaeFamily
from uvim.config import resolve


def example():
  """A scene as `rooms` has it; made-up examples have no geometry."""
  scene = render(0, 5)
  return {
      "image": tf.constant(scene["image"]),
      "depth": tf.constant(scene["depth"][..., None]),
      "image/id": tf.constant(5, tf.int64),
  }


def test_the_pair_takes_a_step(tmp_path):
  raw = example()
  config = resolve(steps.small("vqvae_rooms_normals"))
  stage1 = VqvaeFamily(config)
  loss, batch = steps.step(stage1, config, raw)
  # Zero predictions: half the squared length of what is known.
  known = np.any(batch["labels"], -1).mean()
  assert known > 0.8
  assert loss == pytest.approx(known / 2, rel=1e-3)

  # Stage II sees nothing of a task but its codes. Its losses are traced, which
  # tries config, batch and oracle on each other, and not compiled.
  tiny.save_stage_i(stage1, tmp_path / "one.npz")
  config = steps.small_stage_ii("lm_rooms_normals", tmp_path / "one.npz")
  stage2 = LmFamily(config)
  assert steps.trace(stage2, raw) == ()
  params, extra = jax.eval_shape(stage2.init, jax.random.key(0))
  variables = stage2.variables(params, extra, tiny.open_family(stage2).frozen)
  loss = jax.eval_shape(
      stage2.eval_loss, variables, steps.make_batch(config, raw))
  assert loss["loss"].shape == (8,)


def test_prediction_needs_no_truth():
  from configs import vqvae_rooms_normals as config
  *_, pp_predict = config.pp_strings(32)
  out = builder.build(pp_predict)({"image": example()["image"]})
  assert out["image"].shape == (32, 32, 3) and set(out) == {"image"}
