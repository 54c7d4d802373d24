"""Every published pair of configs trains a step of each stage.

Of `rooms`, tests/test_end_to_end trains the panoptic pair. The losses of the
other pairs are traced here, which tries config, batch and oracle on each other.

A config keeps its preprocessing strings, task, optimizer and schedule. It runs
on a made-up example; only the sizes are cut, as `--config.model.width=…` would
do.
"""

import importlib
import math

import jax
import numpy as np
import pytest
import tensorflow as tf

from pp import builder
from tests.trainers import tiny
from trainers.families.lm import LmFamily
from trainers.families.vqvae import VqvaeFamily
from uvim import files
from uvim.config import resolve

RES = 32
PATCH = 8
WORDS = 8
BATCH_SIZE = 8
# Pair of configs → the first loss of stage I.
FIRST_LOSSES = {
    "coco_panoptic": math.log(134) + math.log(100),
    "nyu_depth": math.log(256),
    "imagenet_colorization": None,  # The mean square of the colors.
}


def example(height=48, width=64):
  """One example with the features of every data set at once."""
  rng = np.random.default_rng(0)
  ids = np.zeros((height, width, 3), np.uint8)
  ids[:, :width // 2, 0] = 1
  ids[:, width // 2:, 0] = 2
  image = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
  depth = rng.uniform(1, 9, (height, width)).astype(np.float32)
  objects = {"id": tf.constant([1, 2]), "label": tf.constant([3, 4])}
  return {
      "image": tf.io.encode_jpeg(image),
      "panoptic_image": tf.constant(ids),
      "panoptic_objects": objects,
      "depth": tf.constant(depth),
      "image/id": tf.constant(7, tf.int64)}


def small(name):
  """The ConfigDict of a config file at sizes that compile in seconds."""
  config = importlib.import_module(f"configs.{name}").get_config()
  large = config.model.input_size[0]
  config.batch_size = BATCH_SIZE
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


def small_stage_ii(name, oracle):
  """The resolved config of stage II on a stage I checkpoint."""
  config = small(name)
  config.oracle.model_init = str(oracle)
  config.model_init = None
  return resolve(config)


def shrink_stage_i(model):
  model.update(
      input_size=(RES, RES), patch_size=(PATCH, PATCH), code_len=16, width=32,
      oracle_depth=1, base_model_depth=1, mlp_dim=32, num_heads=2,
      dict_size=WORDS, codeword_dim=8)
  model.inputs = model.outputs = {
      key: (classes, PATCH**2) for key, (classes, _) in model.inputs.items()}


def make_batch(config, raw=None):
  """A batch of one example many times, preprocessed for training.

  Args:
    config: gives the preprocessing.
    raw: the example; None: `example()`.
  """
  preprocess = builder.build(config.pp_train, config.pp_modules)
  if raw is None:
    raw = example()
  examples = [preprocess(raw, tf.constant([i, 0], tf.int64))
              for i in range(BATCH_SIZE)]
  batch = {"image/id": np.arange(BATCH_SIZE, dtype=np.uint32)}
  for key in ("image", "image_ctx", "labels"):
    if key in examples[0]:
      batch[key] = np.stack([one[key].numpy() for one in examples])
  return batch


def step(family, config, raw=None):
  """Takes two steps on one batch; returns (the first loss, the batch)."""
  batch = make_batch(config, raw)
  family.check_batch(batch)
  state, (log, _) = tiny.run(family, steps=2, mesh=[("data", 1)],
                             batches=lambda step: batch)
  assert math.isfinite(float(log["grad_norm"]))
  if isinstance(family, VqvaeFamily):
    # Biases start at 0: the loss has reached the heads, and then, through the
    # code, the oracle.
    for key in family.model.vit.outputs:
      for name in (f"head_{key}", f"embedding_{key}"):
        assert np.abs(state.params[name]["bias"]).max() > 0, name
  return float(log["loss"]), batch


@pytest.mark.parametrize("name", FIRST_LOSSES)
def test_both_stages_take_a_step(name, tmp_path):
  config = resolve(small(f"vqvae_{name}"))
  stage1 = VqvaeFamily(config)
  loss, batch = step(stage1, config)
  expected = FIRST_LOSSES[name] or np.square(batch["labels"]).mean()
  assert loss == pytest.approx(expected, rel=1e-4)

  tiny.save_stage_i(stage1, tmp_path / "one.npz")
  config = small_stage_ii(f"lm_{name}", tmp_path / "one.npz")
  loss, _ = step(LmFamily(config), config)
  assert loss == pytest.approx(math.log(WORDS + 1), rel=0.05)


def trace(family, raw=None):
  """The shape of a family's training loss on its own batch."""
  batch = make_batch(family.config, raw)
  family.check_batch(batch)
  params, extra = jax.eval_shape(family.init, jax.random.key(0))
  rngs_B = jax.random.split(jax.random.key(0), BATCH_SIZE)
  frozen = tiny.open_family(family).frozen
  loss, _ = jax.eval_shape(
      family.loss, params, extra, frozen, batch, rngs_B, 0)
  return loss.shape


@pytest.mark.parametrize("name", ["rooms_depth", "rooms_colorization"])
def test_a_pair_fits_itself(name, tmp_path):
  stage1 = VqvaeFamily(resolve(small(f"vqvae_{name}")))
  assert trace(stage1) == ()
  zeros = jax.tree.map(
      lambda x: np.zeros(x.shape, x.dtype), stage1.wanted_arrays())
  files.save_npz(tmp_path / "one.npz", zeros)
  config = small_stage_ii(f"lm_{name}", tmp_path / "one.npz")
  assert trace(LmFamily(config)) == ()
