"""Examples as arrays: those of the pipeline, without TensorFlow."""

import os
import subprocess
import sys

import numpy as np
import pytest

from evaluators import coco_panoptic
from pp import arrays, sources
from pp import stream as pipeline
from tests.trainers import cli
from tools import cache_arrays, evaluate
from trainers import main
from uvim.registry import ConfigError

SEED, AUGMENTATIONS = 5, 2


@pytest.fixture(scope="module")
def cached(tmp_path_factory, rooms_tiny_dir):
  """(config file, its config, 'arrays:DIR')."""
  folder = tmp_path_factory.mktemp("arrays")
  path = cli.write_config(
      folder, "vqvae", "config.train_split = 'train[:20]'\n"
      "config.zero_code.split = 'validation[:9]'\n"
      f"config.seed = {SEED}\nconfig.total_steps = 2\n"
      f"config.data_dir = {str(rooms_tiny_dir)!r}")
  argv = ["--config", str(path), "--augmentations", str(AUGMENTATIONS),
          "--out", str(folder / "out")]
  assert cache_arrays.main(argv) == cache_arrays.main(argv) == 0
  return path, evaluate.read_config("", str(path)), f"arrays:{folder / 'out'}"


def assert_same(ours, theirs):
  assert ours.keys() == theirs.keys()
  for key, value in theirs.items():
    assert ours[key].dtype == value.dtype and ours[key].shape == value.shape
    np.testing.assert_allclose(
        ours[key], value, atol=1 / 255 + 1e-6 if key == "image" else 0,
        err_msg=key)


def test_training_reads_what_the_pipeline_makes(cached):
  """The same order, augmentations and ids, after a restart too."""
  _, config, name = cached
  source = sources.make_source(
      config.dataset, config.train_split, config.data_dir)
  options = dict(batch_size=8, seed=SEED, start_step=1,
                 codes_per_image=AUGMENTATIONS)
  theirs = pipeline.train_batches(source, config.pp_train, **options)
  ours = arrays.train_batches(
      arrays.make_source(name, config.train_split), config.pp_train, **options)
  seen = []
  for _ in range(5):  # Of three epochs: the third has the first's pictures.
    batch = next(ours)
    assert_same(batch, next(theirs))
    seen += batch["image/id"].tolist()
  assert len(set(seen)) == 20
  # Each process reads its rows.
  half = next(arrays.train_batches(
      arrays.make_source(name, config.train_split), config.pp_train,
      process_index=1, process_count=2, **options))
  whole = next(arrays.train_batches(
      arrays.make_source(name, config.train_split), config.pp_train, **options))
  np.testing.assert_array_equal(half["labels"], whole["labels"][4:])


def test_evaluation_reads_what_the_pipeline_makes(cached):
  _, config, name = cached
  block = config.evals[0]
  theirs = sources.make_source(config.dataset, block.split, config.data_dir)
  ours = arrays.make_source(name, block.split)
  assert len(ours) == 9 and ours.categories == theirs.categories
  n, batches = arrays.eval_batches(ours, block.pp, batch_size=8)
  m, others = pipeline.eval_batches(theirs, block.pp, batch_size=8)
  assert n == m == 2
  for a, b in zip(batches(), others(), strict=True):
    assert_same(a, b)
  for index in (0, 8):
    assert coco_panoptic.make_truth(
        ours.example(index), ours.categories) == coco_panoptic.make_truth(
            theirs.example(index), theirs.categories)


RUN = """
import sys
for name in ("tensorflow", "tensorflow_datasets"):
  sys.modules[name] = None  # An import of it raises.
from trainers import main
from trainers.vqvae import VqvaeStage
sys.exit(main.command(VqvaeStage, "", sys.argv))
"""


def test_a_run_trains_and_is_scored_without_tensorflow(cached, tmp_path):
  path, _, name = cached
  done = subprocess.run(
      [sys.executable, "-c", RUN, "--config", str(path), "--workdir",
       str(tmp_path / "w"), f"--config.dataset={name}"],
      env=os.environ | {"PYTHONPATH": str(cli.CONFIGS.parent)},
      capture_output=True, text=True, timeout=300, check=False)
  assert done.returncode == 0, done.stderr
  assert "zero_code/PQ" in (tmp_path / "w/metrics.jsonl").read_text()


def test_what_is_not_there_is_told(cached, tmp_path, capsys):
  path, config, name = cached
  with pytest.raises(ConfigError, match="no split 'train'.*cache_arrays"):
    arrays.make_source(name, "train")
  source = arrays.make_source(name, config.train_split)
  with pytest.raises(ConfigError, match="preprocessing 'decode'"):
    arrays.train_batches(source, "decode", batch_size=8, seed=SEED)
  with pytest.raises(ConfigError, match="codes_per_image = 3.*with 2"):
    arrays.train_batches(source, config.pp_train, batch_size=8, seed=SEED,
                         codes_per_image=3)
  with pytest.raises(ConfigError, match="only splits of evaluators"):
    source.example(0)
  assert cache_arrays.main([
      "--config", str(path), "--augmentations", "3", "--out",
      name.removeprefix("arrays:")]) == main.EXIT_BAD_INPUT
  assert "augmentations = 2" in capsys.readouterr().err
