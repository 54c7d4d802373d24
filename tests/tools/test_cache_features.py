"""Cached features are the encoder's, and a run with them is one without."""

import dataclasses
import itertools
import json
import shutil

import jax
import numpy as np
import pytest

from configs import lm_rooms_panoptic, vqvae_rooms_panoptic
from pp import splits
from tests.trainers import tiny
from tools import cache_arrays, cache_codes, cache_features
from trainers import evaluation, loop, step
from trainers.families import make_family
from trainers.families.compiled import Compiled
from trainers.families.lm import LmFamily
from trainers.families.vqvae import VqvaeFamily
from trainers.inputs import open_inputs
from trainers.report import opening
from trainers.report.recorder import Recorder
from uvim import files, tree
from uvim.config import resolve
from uvim.learn import sharding
from uvim.registry import ConfigError
from uvim.store import (
  checkpoint,
  code_cache,
  example_cache,
  feature_cache,
)
from uvim.store.start_from import Store

ROUNDS, EXAMPLES, SHAPE = 2, 64, (36, 32)
ARRAY = feature_cache.CACHE.array_file


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
  """An encoder of noise, in our own names."""
  path = tmp_path_factory.mktemp("encoder") / "encoder.npz"
  family = VqvaeFamily(resolve(with_encoder(vqvae_rooms_panoptic, "-")))
  arrays = {"image_encoder": noise(family, seed=1)}
  files.save_npz(path, {"params": arrays})
  return path


def noise(family, seed):
  rng = np.random.default_rng(seed)
  shapes = jax.eval_shape(family.image_encoder.init, jax.random.key(0))

  def draw(spec):
    return np.float32(rng.normal(0, 0.3, spec.shape))

  return jax.tree.map(draw, shapes)


def with_encoder(module, path, data_dir=None):
  config = module.get_config(f"tiny,encoder={path}")
  config.codes_per_image = ROUNDS
  if data_dir is not None:
    config.data_dir = str(data_dir)
  return config


@pytest.fixture(scope="module")
def stage_i(weights, rooms_tiny_dir):
  config = with_encoder(vqvae_rooms_panoptic, weights, rooms_tiny_dir)
  return dataclasses.replace(resolve(config), evals=())


@pytest.fixture(scope="module")
def cache(stage_i, tmp_path_factory):
  folder = tmp_path_factory.mktemp("cache") / "features"
  return cache_features.write(stage_i, folder)


def with_cache(config, cache):
  return dataclasses.replace(config, feature_cache=str(cache))


def batches(config, family, opened, start=0):
  split = splits.open_split(
      config.dataset, config.train_split, config.data_dir)
  return split.train_batches(
      config.pp_train, batch_size=config.batch_size, seed=config.seed,
      start_step=start, codes_per_image=config.codes_per_image,
      cached=opened.cached, unused=family.unused_keys)


def loss_and_gradient(family, opened, extra):
  """The function (parameters, batch) → both, which is compiled once."""
  rngs_B = step.example_rngs(jax.random.key(1), 8)

  def loss(params, batch):
    return family.loss(params, extra, opened.frozen, batch, rngs_B, 0)[0]

  compiled = jax.jit(jax.value_and_grad(loss))

  def of_batch(params, batch):
    batch = {key: value for key, value in batch.items() if key != "image/id"}
    return compiled(params, batch)

  return of_batch


def start(family, opened):
  """Parameters as a new run has them, and `extra`."""
  params, extra = jax.jit(family.init)(jax.random.key(0))
  rng = np.random.default_rng(0)
  # Fresh heads are zero; then no gradient would reach the projections.
  params = jax.tree.map(
      lambda x: np.float32(rng.normal(0, 0.2, x.shape)), params)
  params["image_encoder"] = feature_cache.encoder_arrays(opened.initial)
  return params, extra


def assert_same_training(plain, cached, starts, lacks):
  """Loss and gradient with a cache are those without, but for rounding."""
  family, cached_family = make_family(plain), make_family(cached)
  opened = tiny.open_family(family)
  cached_opened = tiny.open_family(cached_family)
  params, extra = start(family, opened)
  of_asked = loss_and_gradient(family, opened, extra)
  of_read = loss_and_gradient(cached_family, cached_opened, extra)
  for first in starts:
    asked, = itertools.islice(batches(plain, family, opened, first), 1)
    read, = itertools.islice(
        batches(cached, cached_family, cached_opened, first), 1)
    cached_family.check_batch(read)
    assert read["features"].dtype == np.float16
    assert set(asked) - set(read) == set(lacks)
    expected = of_asked(params, asked)
    got = of_read(params, read)
    np.testing.assert_allclose(got[0], expected[0], rtol=1e-3)
    assert not any(map(np.any, jax.tree.leaves(got[1]["image_encoder"])))
    sizes = jax.tree.map(lambda g: np.abs(g).max(), expected[1])
    errors = jax.tree.map(
        lambda a, b: np.abs(a - b).max(), got[1], expected[1])
    for size, error in zip(
        jax.tree.leaves(sizes), jax.tree.leaves(errors), strict=True):
      assert error <= 0.02 * size + 1e-5


def test_stage_i_trains_as_without_a_cache(stage_i, cache):
  """In both rounds, and when the first comes again in the third epoch."""
  stored = feature_cache.open_features(
      str(cache), stage_i, VqvaeFamily(stage_i).image_encoder, "image")
  assert stored.array.shape == (ROUNDS, EXAMPLES, *SHAPE)
  assert stored.array.dtype == np.float16
  assert (stored.array[0] != stored.array[1]).any()
  assert_same_training(stage_i, with_cache(stage_i, cache), (1, 9, 17),
                       lacks=["image"])


def test_an_encoder_beside_keeps_its_image(stage_i, cache):
  model = {**stage_i.model}
  model["image_encoder"] = {**model["image_encoder"], "beside": True}
  config = dataclasses.replace(stage_i, model=model)
  family = VqvaeFamily(with_cache(config, cache))
  assert family.unused_keys == ()
  # The same features serve.
  assert "features" in tiny.open_family(family).cached


@pytest.fixture(scope="module")
def stage_ii(weights, rooms_tiny_dir, tmp_path_factory):
  path = tmp_path_factory.mktemp("oracle") / "oracle.npz"
  oracle = resolve(with_encoder(vqvae_rooms_panoptic, weights))
  family = VqvaeFamily(oracle)
  # As in a real pair, both stages see with one encoder.
  tiny.save_stage_i(family, path, image_encoder=noise(family, seed=1))
  config = with_encoder(lm_rooms_panoptic, weights, rooms_tiny_dir)
  config.oracle.model_init = str(path)
  return resolve(config)


def test_stage_ii_reads_codes_and_features(stage_ii, tmp_path):
  codes = cache_codes.write(stage_ii, tmp_path / "codes")
  features = cache_features.write(stage_ii, tmp_path / "features")
  alone = with_cache(stage_ii, features)
  # The oracle still looks at image and labels.
  assert LmFamily(alone).unused_keys == ()
  assert_same_training(stage_ii, alone, (9,), lacks=[])
  both = dataclasses.replace(alone, code_cache=str(codes))
  assert_same_training(stage_ii, both, (9,), lacks=["image", "labels"])


def test_both_stages_read_the_same_features(stage_ii, cache, tmp_path):
  """Codes and stage II from the features that stage I wrote."""
  config = dataclasses.replace(
      stage_ii, pp_train=stage_i_pp(), code_cache=None)
  slow = cache_codes.write(config, tmp_path / "slow")
  with_features = with_cache(config, cache)
  quick = cache_codes.write(with_features, tmp_path / "quick")
  # Rounding to half precision may change a word here and there.
  same = read_codes(slow) == read_codes(quick)
  assert same.mean() > 0.98
  both = dataclasses.replace(with_features, code_cache=str(quick))
  opened = tiny.open_family(LmFamily(both))
  assert sorted(opened.cached) == ["code", "features"]


def test_codes_from_features_of_another_encoder_are_refused(
    stage_ii, cache, tmp_path):
  wrong = tmp_path / "features"
  shutil.copytree(cache, wrong)
  header = json.loads((wrong / example_cache.HEADER).read_text())
  header["encoder_crc32"] += 1
  (wrong / example_cache.HEADER).write_text(json.dumps(header))
  config = dataclasses.replace(stage_ii, pp_train=stage_i_pp())
  with pytest.raises(ConfigError, match="an encoder with other parameters"):
    cache_codes.write(with_cache(config, wrong), tmp_path / "codes")


def stage_i_pp():
  return with_encoder(vqvae_rooms_panoptic, "-").pp_train


def read_codes(folder):
  return np.load(folder / code_cache.CACHE.array_file)


def test_features_of_another_run_are_refused(stage_i, cache, weights):
  def refused(path=cache, model=None, **changes):
    config = dataclasses.replace(stage_i, **changes)
    if model:
      block = {**config.model["image_encoder"], **model}
      config = dataclasses.replace(
          config, model={**config.model, "image_encoder": block})
    with pytest.raises(ConfigError, match="config.feature_cache") as caught:
      tiny.open_family(VqvaeFamily(with_cache(config, path)))
    return str(caught.value)

  assert "seed: 0 → 1" in refused(seed=1)
  assert "codes_per_image: 2 → 3" in refused(codes_per_image=3)
  assert "pp_train: " in refused(pp_train="decode")
  assert "frozen = False" in refused(model={"frozen": False})
  assert "encoder: " in refused(model={"dtype": "bfloat16"})
  assert "holds no finished cache" in refused(path=cache.parent)
  family = VqvaeFamily(stage_i)
  with pytest.raises(ConfigError, match="an encoder with other parameters"):
    feature_cache.check_params(str(cache), noise(family, seed=2))
  feature_cache.check_params(str(cache), noise(family, seed=1))


def test_other_weights_at_that_path_are_refused(stage_i, cache, tmp_path):
  family = VqvaeFamily(stage_i)
  path = tmp_path / "other.npz"
  files.save_npz(path, {"params": {"image_encoder": noise(family, seed=2)}})
  config = dataclasses.replace(
      stage_i, model_init={"image_encoder": str(path)})
  with pytest.raises(ConfigError, match="an encoder with other parameters"):
    tiny.open_family(VqvaeFamily(with_cache(config, cache)))


def test_a_flipped_bit_is_found_when_it_is_read(stage_i, cache, tmp_path):
  for name in (ARRAY, feature_cache.CACHE.checksums_file,
               example_cache.HEADER):
    (tmp_path / name).write_bytes((cache / name).read_bytes())
  content = bytearray((tmp_path / ARRAY).read_bytes())
  content[-1] ^= 1  # Of the last example.
  (tmp_path / ARRAY).write_bytes(content)
  config = with_cache(stage_i, tmp_path)
  family = VqvaeFamily(config)
  opened = tiny.open_family(family)
  with pytest.raises(ConfigError, match="example 63 of .* its checksum"):
    list(itertools.islice(batches(config, family, opened), 16))
  checksums = tmp_path / feature_cache.CACHE.checksums_file
  content = bytearray(checksums.read_bytes())
  content[-1] ^= 1
  checksums.write_bytes(content)
  with pytest.raises(ConfigError, match="features_crc32.npy' does not fit"):
    tiny.open_family(family)


def fail_after(count):
  """Makes so many rows, then the disk is full."""
  def make_features(part, encoder, params, first, end):
    rows = cache_features.encoder_features(part, encoder, params, first, end)
    yield from itertools.islice(rows, count)
    raise OSError("no space left")

  return make_features


def test_a_command_that_was_stopped_goes_on(stage_i, cache, tmp_path, capsys):
  with pytest.raises(ConfigError, match="no space left.*goes on"):
    cache_features.write(
        stage_i, tmp_path, make_features=fail_after(70), save_every=20)
  assert json.loads((tmp_path / "partial.json").read_text())["done"] == 60
  assert not (tmp_path / example_cache.HEADER).exists()
  capsys.readouterr()
  cache_features.write(stage_i, tmp_path)
  # 72 rows of 36 · 32 numbers of two bytes are missing.
  assert "128 examples need about" in capsys.readouterr().out
  for name in (ARRAY, example_cache.HEADER):
    assert (tmp_path / name).read_bytes() == (cache / name).read_bytes()
  cache_features.write(stage_i, tmp_path)
  assert "complete already" in capsys.readouterr().out


def test_a_disk_that_is_too_small_is_refused(stage_i, tmp_path):
  config = dataclasses.replace(stage_i, codes_per_image=10**9)
  with pytest.raises(ConfigError, match="--out: .* need about .* are free"):
    cache_features.write(config, tmp_path)
  assert not list(tmp_path.glob("*.npy"))


def test_features_beyond_half_precision_are_refused(
    stage_i, weights, tmp_path):
  family = VqvaeFamily(stage_i)
  params = noise(family, seed=1)
  params["encoder"]["encoder_norm"]["scale"] *= np.float32(1e6)
  path = tmp_path / "large.npz"
  files.save_npz(path, {"params": {"image_encoder": params}})
  config = dataclasses.replace(
      stage_i, model_init={"image_encoder": str(path)})
  with pytest.raises(ConfigError, match="do not fit into float16"):
    cache_features.write(config, tmp_path / "out")


def test_a_config_without_a_frozen_encoder_is_refused(stage_i, tmp_path):
  model = {**stage_i.model, "image_encoder": None}
  plain = dataclasses.replace(stage_i, model=model, model_init=None)
  with pytest.raises(ConfigError, match="the model has no image_encoder"):
    cache_features.write(plain, tmp_path)
  with pytest.raises(ConfigError, match="codes_per_image is None; features"):
    cache_features.write(
        dataclasses.replace(stage_i, codes_per_image=None), tmp_path)
  assert not list(tmp_path.glob("*.npy"))


@pytest.fixture(scope="module")
def evaluated(stage_i):
  """`stage_i` with its evaluators, which see what the panels show."""
  config = vqvae_rooms_panoptic.get_config("tiny")
  evals = []
  for block in resolve(config).evals:
    evals.append(dataclasses.replace(
        block, split=stage_i.val_split, data_dir=stage_i.data_dir))
  return dataclasses.replace(stage_i, evals=tuple(evals))


def make_evaluations(config):
  family = VqvaeFamily(config)
  mesh = sharding.make_mesh(config.mesh)
  return evaluation.make_evaluations(config, family, Compiled(family), mesh)


def batches_of(item):
  return list(item.start_batches())


def test_evaluators_read_features_in_full_precision(evaluated, cache, weights):
  """They share one folder, and the features are what the encoder makes."""
  plain = make_evaluations(evaluated)
  assert not any(item.has_features for item in plain)
  made = make_evaluations(with_cache(evaluated, cache))
  assert len(made) == 3 and all(item.has_features for item in made)
  assert len(list(cache.glob("eval-*"))) == 1
  family = VqvaeFamily(evaluated)
  see = jax.jit(family.image_encoder.features)
  params = noise(family, seed=1)
  for asked, read in zip(
      batches_of(plain[0]), batches_of(made[0]), strict=True):
    features = read.pop("features")
    assert features.dtype == np.float32
    np.testing.assert_allclose(
        features, see(params, asked["image"]), rtol=1e-5, atol=1e-5)
    assert set(read) == set(asked)
  # Panels compile nothing new.
  panel = evaluation.panel_batch(
      evaluated, VqvaeFamily(with_cache(evaluated, cache)))
  assert panel["features"].shape == (evaluated.batch_size, *SHAPE)


def test_a_cache_without_the_evaluators_examples_still_serves(
    evaluated, cache, tmp_path):
  """As older versions wrote it; the run says for whom the encoder runs."""
  old = tmp_path / "old"
  shutil.copytree(cache, old, ignore=shutil.ignore_patterns("eval-*"))
  config = with_cache(evaluated, old)
  inputs = open_inputs(config, Store(), lambda: None)
  assert not any(item.has_features for item in inputs.evaluations)
  params, _ = jax.eval_shape(inputs.family.init, jax.random.key(0))
  lines = opening.describe(config, inputs, params, {})
  said, = (line for line in lines if line.startswith("  features"))
  assert "the encoder runs for val, oracle_code, zero_code" in said
  # What is missing is added.
  before = (old / ARRAY).stat().st_mtime_ns
  cache_features.write(evaluated, old)
  assert (old / ARRAY).stat().st_mtime_ns == before
  assert all(item.has_features for item in make_evaluations(config))


@pytest.mark.parametrize("key,said", [
    ("encoder_crc32", "encoder_crc32: "), ("pp_train", "pp_train: "),
    ("data", "data: ")])
def test_evaluated_features_of_another_run_are_refused(
    evaluated, cache, tmp_path, key, said):
  wrong = tmp_path / "features"
  shutil.copytree(cache, wrong)
  path, = wrong.glob(f"eval-*/{example_cache.HEADER}")
  header = json.loads(path.read_text())
  header[key] = "of another"
  path.write_text(json.dumps(header))
  with pytest.raises(ConfigError, match="config.feature_cache") as caught:
    make_evaluations(with_cache(evaluated, wrong))
  assert said in str(caught.value)


def test_a_flipped_bit_of_evaluated_features_is_found(
    evaluated, cache, tmp_path):
  wrong = tmp_path / "features"
  shutil.copytree(cache, wrong)
  path, = wrong.glob(f"eval-*/{ARRAY}")
  content = bytearray(path.read_bytes())
  content[-1] ^= 1  # Of the last example.
  path.write_bytes(content)
  made = make_evaluations(with_cache(evaluated, wrong))
  with pytest.raises(ConfigError, match="example 15 of .* its checksum"):
    batches_of(made[0])


class Stops(Recorder):
  """Ends a run after its third step."""

  def scalars(self, step, values, settings=None):
    super().scalars(step, values, settings)
    if step == 3:
      raise KeyboardInterrupt


def last_arrays(workdir):
  return tree.flatten(checkpoint.load_params(workdir))


def test_a_run_goes_on_as_if_it_had_not_stopped(
    stage_i, cache, weights, tmp_path):
  config = with_cache(stage_i, cache)
  config = dataclasses.replace(
      config, val_split=None, pp_eval=None, mesh=(("data", 1),))
  loop.train(config, tmp_path / "whole")
  stopped = tmp_path / "stopped"
  with pytest.raises(KeyboardInterrupt):
    loop.train(config, stopped, make_recorder=Stops)

  # The encoder is in the checkpoint by now. Features of another are noticed.
  other = tmp_path / "other"
  shutil.copytree(cache, other)
  header = json.loads((other / example_cache.HEADER).read_text())
  header["encoder_crc32"] += 1
  (other / example_cache.HEADER).write_text(json.dumps(header))
  with pytest.raises(ConfigError, match="an encoder with other parameters"):
    loop.train(with_cache(config, other), stopped)

  loop.train(config, stopped)
  expected = last_arrays(tmp_path / "whole")
  got = last_arrays(stopped)
  assert set(got) == set(expected)
  for name, array in expected.items():
    np.testing.assert_array_equal(got[name], array, err_msg=name)
  assert any(name.startswith("params/image_encoder/") for name in got)


def test_arrays_have_features_too(stage_i, tmp_path):
  """Without TensorFlow: arrays for the labels, a cache for the features."""
  folder = tmp_path / "arrays"
  config = dataclasses.replace(stage_i, val_split=None, pp_eval=None)
  cache_arrays.write(config, folder, ROUNDS)
  config = dataclasses.replace(config, dataset=f"arrays:{folder}")
  features = cache_features.write(config, tmp_path / "features")
  assert_same_training(config, with_cache(config, features), (9, 17),
                       lacks=["image"])
  # Those of the data set itself are of augmentations that may differ.
  split = splits.open_split(config.dataset, "train")
  plain = splits.open_split(
      stage_i.dataset, stage_i.train_split, stage_i.data_dir)
  check = feature_cache.CACHE.check_data
  check(str(features), split.fingerprint(config.pp_train))
  with pytest.raises(ConfigError, match="was written for other data"):
    check(str(features), plain.fingerprint(config.pp_train))
