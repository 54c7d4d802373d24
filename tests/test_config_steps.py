"""Every published pair of configs trains a step of each stage.

Of `rooms`, tests/test_end_to_end trains the panoptic pair; the losses of the
others are traced here, which tries config, batch and oracle on each other.

Its own preprocessing strings on a made-up example, its own task, optimizer and
schedule; only the sizes are cut, as `--config.model.width=…` would do.
"""

import importlib
import math

import jax
import numpy as np
import pytest
import tensorflow as tf

from pp import builder
from tests.trainers import tiny
from trainers.lm import LmStage
from trainers.vqvae import VqvaeStage
from uvim import files
from uvim.config import resolve

RES, PATCH, WORDS = 32, 8, 8
PAIRS = {
    "coco_panoptic": math.log(134) + math.log(100),
    "nyu_depth": math.log(256),
    "imagenet_colorization": None,  # The mean square of the colours.
}


def example(height=48, width=64):
  """One example with the features of every data set at once."""
  rng = np.random.default_rng(0)
  ids = np.zeros((height, width, 3), np.uint8)
  ids[:, : width // 2, 0] = 1
  ids[:, width // 2:, 0] = 2
  image = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
  return {
      "image": tf.io.encode_jpeg(image), "panoptic_image": tf.constant(ids),
      "panoptic_objects": {"id": tf.constant([1, 2]),
                           "label": tf.constant([3, 4])},
      "depth": tf.constant(
          rng.uniform(1, 9, (height, width)).astype(np.float32)),
      "image/id": tf.constant(7, tf.int64)}


def small(name):
  """The config at sizes that compile in seconds."""
  config = importlib.import_module(f"configs.{name}").get_config()
  large = config.model.input_size[0]
  config.batch_size = 8
  if "num_epochs" in config:
    del config.num_epochs
  config.total_steps = 20
  config.schedule.warmup_steps = 0
  for field in ("pp_train", "pp_eval"):
    config[field] = config[field].replace(f"({large}", f"({RES}")
  if name.startswith("lm"):
    shrink_stage_i(config.oracle.model)
    config.model.update(num_layers=1, num_heads=2, mlp_dim=32, emb_dim=32,
                        input_size=(RES, RES), patches=dict(size=(16, 16)))
  else:
    shrink_stage_i(config.model)
  return config


def shrink_stage_i(model):
  model.update(
      input_size=(RES, RES), patch_size=(PATCH, PATCH), code_len=16, width=32,
      oracle_depth=1, base_model_depth=1, mlp_dim=32, num_heads=2,
      dict_size=WORDS, codeword_dim=8)
  model.inputs = model.outputs = {
      key: (classes, PATCH**2) for key, (classes, _) in model.inputs.items()}


def make_batch(config, raw=None):
  """Eight times the example `raw`, or the made-up one, preprocessed."""
  preprocess = builder.build(config.pp_train, config.pp_modules)
  raw = example() if raw is None else raw
  rows = [preprocess(raw, tf.constant([i, 0], tf.int64)) for i in range(8)]
  keys = {"image", "image_ctx", "labels"} & set(rows[0])
  batch = {k: np.stack([row[k].numpy() for row in rows]) for k in keys}
  return batch | {"image/id": np.arange(8, dtype=np.uint32)}


def step(stage, config, monkeypatch, raw=None):
  batch = make_batch(config, raw)
  stage.check_batch(batch)
  monkeypatch.setattr(tiny, "batch", lambda step: batch)
  state, (log, _) = tiny.run(stage, steps=2, mesh=[("data", 1)])
  assert math.isfinite(float(log["grad_norm"]))
  # Biases start at 0: the loss has reached the heads, and then, through the
  # code, Ω.
  keys = getattr(stage.model, "outputs", ())  # Stage II has none.
  for name in (f"{part}_{key}" for key in keys
               for part in ("head", "embedding")):
    assert np.abs(state.params[name]["bias"]).max() > 0, name
  return float(log["loss"]), batch


@pytest.mark.parametrize("name", PAIRS)
def test_both_stages_take_a_step(name, tmp_path, monkeypatch):
  config = resolve(small(f"vqvae_{name}"))
  stage = VqvaeStage(config)
  loss, batch = step(stage, config, monkeypatch)
  expected = PAIRS[name] or np.square(batch["labels"]).mean()
  assert loss == pytest.approx(expected, rel=1e-4)

  tiny.save_stage_i(stage, tmp_path / "one.npz")
  config = small(f"lm_{name}")
  config.oracle.model_init = str(tmp_path / "one.npz")
  config.model_init = None
  config = resolve(config)
  loss, _ = step(LmStage(config), config, monkeypatch)
  assert loss == pytest.approx(math.log(WORDS + 1), rel=0.05)


def trace(stage):
  """The shape of a stage's loss on its own batch."""
  batch = make_batch(stage.config)
  stage.check_batch(batch)
  params, codebook = jax.eval_shape(stage.init, jax.random.key(0))
  rngs_B = jax.random.split(jax.random.key(0), 8)
  loss, _ = jax.eval_shape(
      stage.loss, params, codebook, stage.frozen, batch, rngs_B)
  return loss.shape


@pytest.mark.parametrize("name", ["rooms_depth", "rooms_colorization"])
def test_a_pair_fits_itself(name, tmp_path):
  stage = VqvaeStage(resolve(small(f"vqvae_{name}")))
  assert trace(stage) == ()
  files.save_npz(tmp_path / "one.npz", jax.tree.map(
      lambda x: np.zeros(x.shape, x.dtype), stage.wanted_arrays()))
  config = small(f"lm_{name}")
  config.oracle.model_init = str(tmp_path / "one.npz")
  config.model_init, config.lr_mults = None, ()
  assert trace(LmStage(resolve(config))) == ()
