"""Cached codes are the oracle's, for the augmentations that training sees."""

import dataclasses
import itertools
import json
import shutil

import jax
import numpy as np
import pytest

from configs import lm_rooms_panoptic, vqvae_rooms_panoptic
from pp import stream
from tests.trainers import tiny
from tools import cache_codes
from trainers import step
from trainers.families.lm import LmFamily
from trainers.families.vqvae import VqvaeFamily
from uvim.config import resolve
from uvim.lock import Lock, Locked
from uvim.registry import ConfigError
from uvim.store import code_cache, example_cache

ROUNDS, EXAMPLES, LENGTH = 2, 64, 36


@pytest.fixture(scope="module")
def config(tmp_path_factory, rooms_tiny_dir):
  """Stage II on rooms/tiny, with the checkpoint of an untrained oracle."""
  path = tmp_path_factory.mktemp("oracle") / "oracle.npz"
  stage_i = VqvaeFamily(resolve(vqvae_rooms_panoptic.get_config("tiny")))
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
def family(config, cache):
  return LmFamily(dataclasses.replace(config, code_cache=str(cache)))


@pytest.fixture(scope="module")
def opened(family):
  """What the trainer reads: the oracle's arrays and the cached codes."""
  return tiny.open_family(family)


def batches(config, start, **kw):
  split = stream.open_tfds_split(
      config.dataset, config.train_split, config.data_dir)
  return split.train_batches(
      config.pp_train, batch_size=config.batch_size, seed=config.seed,
      start_step=start, codes_per_image=config.codes_per_image, **kw)


def test_training_with_a_cache_is_training_without(config, family, opened):
  """In both rounds, and when the first comes again in the third epoch."""
  codes, _ = opened.cached["code"]
  assert codes.shape == (ROUNDS, EXAMPLES, LENGTH)
  assert codes.dtype == np.int16
  assert len(np.unique(codes)) > 4
  assert (codes[0] != codes[1]).any()
  params, extra = jax.jit(family.init)(jax.random.key(0))
  loss = jax.jit(family.loss)
  for start in (1, 9, 17):  # Eight steps are an epoch.
    asked, = itertools.islice(batches(config, start), 1)
    read, = itertools.islice(batches(
        config, start, cached=opened.cached, unused=family.unused_keys), 1)
    family.check_batch(read)
    np.testing.assert_array_equal(asked["image"], read["image"])
    assert "labels" in asked and "labels" not in read
    got = []
    for batch in (asked, read):
      batch = {k: v for k, v in batch.items() if k != "image/id"}
      rngs_B = step.example_rngs(jax.random.key(1), config.batch_size)
      got.append(loss(params, extra, opened.frozen, batch, rngs_B, 0))
    np.testing.assert_array_equal(
        got[0][1].stats["counts"], got[1][1].stats["counts"])
    np.testing.assert_allclose(got[0][0], got[1][0], rtol=1e-6)


def test_a_cache_of_another_run_is_refused(config, opened, cache):
  def refused(oracle=opened.frozen, path=cache, **changes):
    with pytest.raises(ConfigError, match="config.code_cache: ") as caught:
      code_cache.open_codes(
          str(path), dataclasses.replace(config, **changes), oracle)
    return str(caught.value)

  assert "seed: 0 → 1" in refused(seed=1)
  assert "codes_per_image: 2 → 3" in refused(codes_per_image=3)
  assert "pp_train: " in refused(pp_train="decode")
  other = jax.tree.map(np.array, opened.frozen)
  other["params"]["pos_embedding_encoder"].ravel()[3] += 1e-3
  only = refused(oracle=other)
  assert "oracle_crc32: " in only and "seed" not in only
  assert "holds no finished cache" in refused(path=cache.parent)
  with pytest.raises(ConfigError, match="codes_per_image is None"):
    code_cache.describe(dataclasses.replace(
        config, codes_per_image=None), opened.frozen)


def test_a_cache_of_other_data_is_refused(config, cache, caplog, tmp_path):
  split = stream.open_tfds_split(
      config.dataset, config.train_split, config.data_dir)
  code_cache.CACHE.check_data(str(cache), split.fingerprint())
  other = {**split.fingerprint(), "checksum": "0"}
  with pytest.raises(ConfigError, match="was written for other data"):
    code_cache.CACHE.check_data(str(cache), other)
  # A cache of an older version cannot tell.
  header = json.loads((cache / example_cache.HEADER).read_text())
  del header[example_cache.DATA]
  (tmp_path / example_cache.HEADER).write_text(json.dumps(header))
  code_cache.CACHE.check_data(str(tmp_path), other)
  assert "does not say for which data" in caplog.text


def test_damaged_codes_are_named(config, opened, cache, tmp_path):
  def refused():
    with pytest.raises(ConfigError, match="config.code_cache: ") as caught:
      code_cache.open_codes(str(folder), config, opened.frozen)
    return str(caught.value)

  folder = tmp_path / "codes"
  shutil.copytree(cache, folder)
  path = folder / code_cache.CACHE.array_file
  sound = path.read_bytes()
  path.write_bytes(sound[:500] + bytes([sound[500] ^ 1]) + sound[501:])
  assert "codes.npy' does not fit its checksum" in refused()
  path.write_bytes(sound[:-1])
  assert "codes.npy' cannot be read" in refused()
  path.write_bytes(sound)
  code_cache.open_codes(str(folder), config, opened.frozen)
  (folder / example_cache.HEADER).write_text("{")
  assert "header.json' is not JSON" in refused()
  (folder / example_cache.HEADER).write_text("[]")
  assert "header.json' holds no JSON object" in refused()


def test_only_stage_ii_has_codes_to_keep(config, tmp_path):
  with pytest.raises(ConfigError, match="kind 'vqvae'"):
    cache_codes.write(dataclasses.replace(config, kind="vqvae"), tmp_path)


def fail_after(count):
  """Makes so many codes, then the disk is full."""
  def make_codes(*args, first, end):
    codes = cache_codes.oracle_codes(*args, first=first, end=end)
    yield from itertools.islice(codes, count)
    raise OSError("no space left")

  return make_codes


def test_a_run_that_was_stopped_goes_on(config, cache, tmp_path, capsys):
  with pytest.raises(ConfigError, match="no space left.*goes on"):
    cache_codes.write(
        config, tmp_path, make_codes=fail_after(70), save_every=20)
  with pytest.raises(ConfigError, match="no finished cache"):
    code_cache.open_codes(str(tmp_path), config, None)
  assert json.loads((tmp_path / "partial.json").read_text())["done"] == 60
  counts = []

  def goes_on(*args, first, end):
    counts.append(first)
    return cache_codes.oracle_codes(*args, first=first, end=end)

  cache_codes.write(config, tmp_path, make_codes=goes_on)
  assert counts == [56]  # The last whole batch before 60.
  names = sorted(path.name for path in tmp_path.iterdir())
  assert names == ["codes.npy", "header.json"]
  for name in names:
    assert (tmp_path / name).read_bytes() == (cache / name).read_bytes()
  capsys.readouterr()
  cache_codes.write(config, tmp_path, make_codes=goes_on)
  assert counts == [56] and "complete already" in capsys.readouterr().out
  with pytest.raises(ConfigError, match="seed: 0 → 4"):
    cache_codes.write(dataclasses.replace(config, seed=4), tmp_path)


def test_what_another_command_has_begun_is_kept(config, cache, tmp_path):
  with pytest.raises(ConfigError, match="no space left"):
    cache_codes.write(
        config, tmp_path, make_codes=fail_after(20), save_every=10)
  before = (tmp_path / "codes.npy").read_bytes()
  with pytest.raises(ConfigError, match="(?s)another run.*seed: 0 → 4"):
    cache_codes.write(dataclasses.replace(config, seed=4), tmp_path)
  assert (tmp_path / "codes.npy").read_bytes() == before

  # Codes that are noted but not there are computed again.
  (tmp_path / "codes.npy").write_bytes(before[:-200])
  cache_codes.write(config, tmp_path)
  assert (tmp_path / "codes.npy").read_bytes() == (
      (cache / "codes.npy").read_bytes())


@pytest.mark.parametrize("content", [
    "", "{", "[1]", "{}", '{"done": 40}', '{"header": {}}',
    '{"header": {}, "done": "many"}', '{"header": {}, "done": 1e999}',
    '{"header": {}, "done": -1}', '{"header": {}, "done": null}',
    '{"header": "text", "done": 40}', '{"header": [1], "done": 40}'])
def test_a_damaged_note_counts_as_none(
    config, cache, tmp_path, content, caplog):
  expected = np.load(cache / "codes.npy")
  (tmp_path / "codes.npy").write_bytes(b"\1" * 100_000)
  (tmp_path / "partial.json").write_text(content)
  firsts = []

  def ready_codes(*args, first, end):
    firsts.append(first)
    return expected.reshape(-1, LENGTH)[first:end]

  cache_codes.write(config, tmp_path, make_codes=ready_codes)
  assert firsts == [0]
  assert str(tmp_path / "partial.json") in caplog.text
  assert caplog.text.count("WARNING") == 1
  np.testing.assert_array_equal(np.load(tmp_path / "codes.npy"), expected)
  assert not (tmp_path / "partial.json").exists()


def test_codes_of_nobody_knows_what_are_kept(config, tmp_path):
  (tmp_path / "codes.npy").write_bytes(b"precious")
  with pytest.raises(ConfigError, match="nothing that says what it is"):
    cache_codes.write(config, tmp_path)
  assert (tmp_path / "codes.npy").read_bytes() == b"precious"


@pytest.mark.parametrize("save_every", [10, 1000])
def test_a_command_that_lost_its_lock_does_not_finish(
    config, cache, tmp_path, save_every):
  expected = np.load(cache / "codes.npy").reshape(-1, LENGTH)

  def is_overtaken(*args, first, end):
    yield from expected[:5]
    (tmp_path / ".lock").write_text("of the next")
    yield from expected[5:]

  with pytest.raises(Locked, match="this process lost its lock"):
    cache_codes.write(
        config, tmp_path, make_codes=is_overtaken, save_every=save_every)
  assert not (tmp_path / "header.json").exists()
  assert json.loads((tmp_path / "partial.json").read_text())["done"] == 0
  assert (tmp_path / ".lock").read_text() == "of the next"


def test_two_commands_do_not_write_to_one_folder(config, tmp_path):
  with Lock(tmp_path / ".lock", "the first"):
    with pytest.raises(ConfigError, match="--out .* is in use by process"):
      cache_codes.write(config, tmp_path)
