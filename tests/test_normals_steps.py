"""The shipped pair of configs for normals takes a step of each stage."""

import math

import numpy as np
import pytest
import tensorflow as tf

from pp import builder, rooms_render
from tests import test_config_steps as steps
from tests.trainers import tiny
from trainers.lm import LmStage
from trainers.vqvae import VqvaeStage
from uvim.config import resolve


def example():
  """A scene as `rooms` has it; made-up examples have no geometry."""
  scene = rooms_render.render(0, 5)
  return {"image": tf.constant(scene["image"]),
          "depth": tf.constant(scene["depth"][..., None]),
          "image/id": tf.constant(5, tf.int64)}


def test_both_stages_take_a_step(tmp_path, monkeypatch):
  monkeypatch.setattr(steps, "example", example)
  config = resolve(steps.small("vqvae_rooms_normals"))
  stage = VqvaeStage(config)
  loss, batch = steps.step(stage, config, monkeypatch)
  # Zero predictions: half the squared length of what is known.
  known = np.any(batch["labels"], -1).mean()
  assert known > 0.8 and loss == pytest.approx(known / 2, rel=1e-3)

  tiny.save_stage_i(stage, tmp_path / "one.npz")
  config = steps.small("lm_rooms_normals")
  config.oracle.model_init = str(tmp_path / "one.npz")
  config.model_init, config.lr_mults = None, ()
  config = resolve(config)
  loss, _ = steps.step(LmStage(config), config, monkeypatch)
  assert loss == pytest.approx(math.log(steps.WORDS + 1), rel=0.05)


def test_prediction_needs_no_truth():
  from configs import vqvae_rooms_normals as config
  *_, pp_predict = config.pp_strings(32)
  out = builder.build(pp_predict)({"image": example()["image"]})
  assert out["image"].shape == (32, 32, 3) and set(out) == {"image"}
