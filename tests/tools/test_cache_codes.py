"""Cached codes are the oracle's, for the augmentations that training sees."""

import dataclasses
import itertools
import json

import jax
import numpy as np
import pytest

from configs import lm_rooms_panoptic, vqvae_rooms_panoptic
from pp import stream
from tests.trainers import tiny
from tools import cache_codes
from trainers import step
from trainers.lm import LmStage
from trainers.vqvae import VqvaeStage
from uvim.config import resolve
from uvim.registry import ConfigError
from uvim.store import code_cache

ROUNDS, EXAMPLES, LENGTH = 2, 64, 36


@pytest.fixture(scope="module")
def config(tmp_path_factory, rooms_tiny_dir):
  """Stage II on rooms/tiny, with the checkpoint of an untrained oracle."""
  path = tmp_path_factory.mktemp("oracle") / "oracle.npz"
  stage_i = VqvaeStage(resolve(vqvae_rooms_panoptic.get_config("tiny")))
  tiny.save_stage_i(stage_i, path)
  config = lm_rooms_panoptic.get_config("tiny")
  config.data_dir = str(rooms_tiny_dir)
  config.oracle.model_init = str(path)
  config.model_init = None
  config.codes_per_image = ROUNDS
  return resolve(config)


@pytest.fixture(scope="module")
def cache(config, tmp_path_factory):
  return cache_codes.write(config, tmp_path_factory.mktemp("cache") / "codes")


@pytest.fixture(scope="module")
def stage(config, cache):
  return LmStage(dataclasses.replace(config, code_cache=str(cache)))


def batches(config, start, **kw):
  split = stream.open_tfds_split(
      config.dataset, config.train_split, config.data_dir)
  return split.train_batches(
      config.pp_train, batch_size=config.batch_size, seed=config.seed,
      start_step=start, codes_per_image=config.codes_per_image, **kw)


def test_training_with_a_cache_is_training_without(config, stage):
  """In both rounds, and when the first comes again in the third epoch."""
  assert stage.codes.shape == (ROUNDS, EXAMPLES, LENGTH)
  assert stage.codes.dtype == np.int16
  assert len(np.unique(stage.codes)) > 4
  assert (stage.codes[0] != stage.codes[1]).any()
  params, codebook = jax.jit(stage.init)(jax.random.key(0))
  loss = jax.jit(stage.loss)
  for start in (1, 9, 17):  # Eight steps are an epoch.
    asked, = itertools.islice(batches(config, start), 1)
    read, = itertools.islice(batches(config, start, codes=stage.codes), 1)
    stage.check_batch(read)
    np.testing.assert_array_equal(asked["image"], read["image"])
    assert "labels" in asked and "labels" not in read
    got = []
    for batch in (asked, read):
      batch = {k: v for k, v in batch.items() if k != "image/id"}
      rngs_B = step.example_rngs(jax.random.key(1), config.batch_size)
      got.append(loss(params, codebook, stage.frozen, batch, rngs_B))
    np.testing.assert_array_equal(got[0][1].counts_Q, got[1][1].counts_Q)
    np.testing.assert_allclose(got[0][0], got[1][0], rtol=1e-6)


def test_a_cache_of_another_run_is_refused(config, stage, cache):
  def refused(oracle=stage.frozen, path=cache, **changes):
    with pytest.raises(ConfigError, match="config.code_cache: ") as caught:
      code_cache.open_codes(
          str(path), dataclasses.replace(config, **changes), oracle)
    return str(caught.value)

  assert "seed: 0 → 1" in refused(seed=1)
  assert "codes_per_image: 2 → 3" in refused(codes_per_image=3)
  assert "pp_train: " in refused(pp_train="decode")
  other = jax.tree.map(np.array, jax.device_get(stage.frozen))
  other["params"]["pos_embedding_encoder"].ravel()[3] += 1e-3
  only = refused(oracle=other)
  assert "oracle_crc32: " in only and "seed" not in only
  assert "holds no finished cache" in refused(path=cache.parent)
  with pytest.raises(ConfigError, match="codes_per_image is None"):
    code_cache.describe(dataclasses.replace(
        config, codes_per_image=None), stage.frozen)


def test_a_run_that_was_stopped_goes_on(
    config, cache, tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(cache_codes, "_SAVE_EVERY", 20)
  made = cache_codes._codes

  def stops(*args, first, last):
    yield from itertools.islice(made(*args, first=first, last=last), 70)
    raise OSError("no space left")

  monkeypatch.setattr(cache_codes, "_codes", stops)
  with pytest.raises(ConfigError, match="no space left.*goes on"):
    cache_codes.write(config, tmp_path)
  with pytest.raises(ConfigError, match="no finished cache"):
    code_cache.open_codes(str(tmp_path), config, None)
  assert json.loads((tmp_path / "partial.json").read_text())["done"] == 60
  counts = []

  def goes_on(*args, first, last):
    counts.append(first)
    return made(*args, first=first, last=last)

  monkeypatch.setattr(cache_codes, "_codes", goes_on)
  cache_codes.write(config, tmp_path)
  assert counts == [56]  # The last whole batch before 60.
  names = sorted(path.name for path in tmp_path.iterdir())
  assert names == ["codes.npy", "header.json"]
  for name in names:
    assert (tmp_path / name).read_bytes() == (cache / name).read_bytes()
  capsys.readouterr()
  cache_codes.write(config, tmp_path)
  assert counts == [56] and "complete already" in capsys.readouterr().out
  with pytest.raises(ConfigError, match="seed: 0 → 4"):
    cache_codes.write(dataclasses.replace(config, seed=4), tmp_path)
