"""Runs with an image encoder: trained, and opened from their workdirs.

That they go on where they stopped: tests/tools/test_cache_features.py.
"""

import jax
import numpy as np
import pytest

from configs import lm_rooms_panoptic
from tests.test_seams import an_image, stage_i
from tools import cache_arrays
from trainers import loop
from uvim import files, tree
from uvim.config import resolve
from uvim.encoders import image_encoder
from uvim.inference.api import UViM
from uvim.registry import ConfigError
from uvim.store import checkpoint

# 4 × 4 tokens; the labels of `rooms` have 6 × 6.
ENCODER = dict(
    family="dinov2_reg4", depth=1, width=16, mlp_dim=16, num_heads=2,
    patch_size=(8, 8), input_size=(32, 32))


def with_small_images(config):
  """The same preprocessing, but images have the size of the encoder."""
  for block in (config, config.score):
    for name in ("pp_train", "pp_eval", "pp"):
      if name in block:
        block[name] = block[name].replace(
            "resize(48, antialias", "resize(32, antialias")
  return config


@pytest.fixture(scope="module")
def encoder_file(tmp_path_factory):
  """A checkpoint of such an encoder, and its arrays."""
  path = tmp_path_factory.mktemp("encoder") / "encoder.npz"
  encoder = image_encoder.make(ENCODER, "block")
  params = jax.device_get(encoder.init(jax.random.key(7)))
  files.save_npz(path, {"params": params})
  return path, params


@pytest.fixture(scope="module")
def data(rooms_tiny_dir, tmp_path_factory):
  """Fields that make a config read arrays of small images; see test_seams."""
  folder = tmp_path_factory.mktemp("arrays")
  config = with_small_images(stage_i({"data_dir": str(rooms_tiny_dir)}))
  cache_arrays.write(resolve(config), folder, augmentations=1)
  return {"dataset": f"arrays:{folder}"}


def stage_i_config(data, encoder_file):
  config = with_small_images(stage_i(data))
  config.model.image_encoder = dict(ENCODER)
  config.model_init = {"image_encoder": str(encoder_file)}
  config.wd = 0.1
  return config


def stage_ii_config(data, oracle, encoder_file):
  config = lm_rooms_panoptic.get_config("tiny")
  config.unlock()
  config.update(data)
  config.total_steps = config.log_eval_steps = config.checkpoint_steps = 2
  config.mesh = (("data", 1),)
  config.val_split = None
  config.evals = [("score", "mean")]
  config.score = dict(split="validation[:8]", pp=config.pp_eval, pred="loss",
                      log_steps=2)
  del config.uvim, config.oracle_code, config.zero_code
  config.oracle.model_init = str(oracle)
  config.oracle.model.image_encoder = dict(ENCODER)
  config.model.image_encoder = dict(ENCODER)
  config.model_init = {
      "image_encoder": str(encoder_file), "base_model": str(oracle)}
  return with_small_images(config)


def same_arrays(found, wanted):
  found = tree.flatten(found)
  for name, array in tree.flatten(wanted).items():
    np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_both_stages_train_and_predict(data, tmp_path, encoder_file):
  path, params = encoder_file
  first = stage_i_config(data, path)
  metrics = loop.train(resolve(first), tmp_path / "stage1")
  assert np.isfinite(metrics["score/loss"])
  saved = checkpoint.load_params(tmp_path / "stage1")
  same_arrays(saved["params"]["image_encoder"], params)

  second = stage_ii_config(data, tmp_path / "stage1", path)
  metrics = loop.train(resolve(second), tmp_path / "stage2")
  assert np.isfinite(metrics["score/loss"])
  saved = checkpoint.load_params(tmp_path / "stage2")
  same_arrays(saved["params"]["image_encoder"], params)

  uvim = UViM.from_checkpoint(tmp_path / "stage2")
  got = uvim.predict(an_image(), num_samples=2, temperature=1.0)
  assert got.outputs["panoptic"][0].shape == (2, 20, 30, 2)
  scored = uvim.log_prob(an_image(), got.codes)
  np.testing.assert_allclose(scored, got.logprob, atol=1e-3)
  # Stage I alone reads labels with the same eyes.
  code = uvim.encode(an_image(), np.ones((20, 30, 2), np.int32))
  assert code.shape == (1, uvim.code_len)

  bare = checkpoint.load_params(tmp_path / "stage1")
  files.save_npz(tmp_path / "bare.npz", bare)
  with pytest.raises(ConfigError, match="image_encoder.*workdir"):
    UViM.from_checkpoint(tmp_path / "bare.npz")
