"""Examples as arrays: those of the stream, without TensorFlow."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from evaluators import coco_panoptic
from pp import array_files, splits
from tests.trainers import cli
from tools import cache_arrays
from trainers import config_file
from uvim.cli import app
from uvim.config import resolve
from uvim.lock import Lock
from uvim.registry import ConfigError

SEED = 5
AUGMENTATIONS = 2


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
  assert cache_arrays.main(argv) == 0
  assert cache_arrays.main(argv) == 0  # Nothing is left to do.
  config = resolve(config_file.load_config(str(path)))
  return path, config, f"arrays:{folder / 'out'}"


def assert_same(ours, theirs):
  assert ours.keys() == theirs.keys()
  for key, value in theirs.items():
    assert ours[key].dtype == value.dtype
    assert ours[key].shape == value.shape
    tolerance = 1 / 255 + 1e-6 if key == "image" else 0
    np.testing.assert_allclose(
        ours[key], value, atol=tolerance, err_msg=key)


def test_training_reads_what_the_stream_makes(cached):
  """The same order, augmentations and ids, after a restart too."""
  _, config, name = cached
  original = splits.open_split(
      config.dataset, config.train_split, config.data_dir)
  arrays = splits.open_split(name, config.train_split)
  options = dict(batch_size=8, seed=SEED, start_step=1,
                 codes_per_image=AUGMENTATIONS)
  theirs = original.train_batches(config.pp_train, **options)
  ours = arrays.train_batches(config.pp_train, **options)
  seen = []
  for _ in range(5):  # Of three epochs: the third has the first's images.
    batch = next(ours)
    assert_same(batch, next(theirs))
    seen += batch["image/id"].tolist()
  assert len(set(seen)) == 20
  # Each process reads its rows.
  half = next(arrays.train_batches(
      config.pp_train, process_index=1, process_count=2, **options))
  whole = next(arrays.train_batches(config.pp_train, **options))
  np.testing.assert_array_equal(half["labels"], whole["labels"][4:])


def test_evaluation_reads_what_the_stream_makes(cached):
  _, config, name = cached
  block = config.evals[0]
  original = splits.open_split(config.dataset, block.split, config.data_dir)
  arrays = splits.open_split(name, block.split)
  assert arrays.num_examples == 9
  assert arrays.categories == original.categories
  ours = arrays.eval_batches(block.pp, batch_size=8)
  theirs = original.eval_batches(block.pp, batch_size=8)
  assert ours.num_batches == theirs.num_batches == 2
  for batch, expected in zip(ours.start(), theirs.start(), strict=True):
    assert_same(batch, expected)
  for index in (0, 8):
    truth = coco_panoptic.make_truth(
        arrays.example(index), arrays.categories)
    assert truth == coco_panoptic.make_truth(
        original.example(index), original.categories)


def test_evaluation_reads_features_of_a_cache(cached):
  _, config, name = cached
  block = config.evals[0]
  features = np.arange(54, dtype=np.float32).reshape(1, 9, 2, 3)
  one_pass = splits.open_split(name, block.split).eval_batches(
      block.pp, batch_size=8, cached={"features": (features, None)})
  batches = list(one_pass.start())
  read = np.concatenate([batch["features"] for batch in batches])
  np.testing.assert_array_equal(read[:9], features[0])
  # As all of the padding is: the last example.
  np.testing.assert_array_equal(read[9:], features[0, [8] * 7])


RUN = """
import sys
for name in ("tensorflow", "tensorflow_datasets"):
  sys.modules[name] = None  # An import of it raises.
from trainers import main
sys.exit(main.main("vqvae", "", sys.argv[1:]))
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
    splits.open_split(name, "train")
  arrays = splits.open_split(name, config.train_split)
  with pytest.raises(ConfigError, match="preprocessing 'decode'"):
    arrays.train_batches("decode", batch_size=8, seed=SEED)
  with pytest.raises(ConfigError, match="codes_per_image = 3.*with 2"):
    arrays.train_batches(
        config.pp_train, batch_size=8, seed=SEED, codes_per_image=3)
  with pytest.raises(ConfigError, match="only splits of evaluators"):
    arrays.example(0)
  assert cache_arrays.main([
      "--config", str(path), "--augmentations", "3", "--out",
      name.removeprefix("arrays:")]) == app.EXIT_BAD_INPUT
  assert "augmentations = 2" in capsys.readouterr().err


def test_what_arrays_cannot_do_is_an_error(cached):
  """No argument is taken and then forgotten."""
  _, config, name = cached
  train = splits.open_split(name, config.train_split)
  options = dict(batch_size=8, seed=SEED)
  codes = np.zeros((2, 21, 4), np.int16)
  with pytest.raises(ConfigError, match="config.code_cache is for 21 examples"):
    train.train_batches(
        config.pp_train, cached={"code": (codes, None)}, **options)
  with pytest.raises(ConfigError, match="the string that the arrays"):
    train.train_batches(lambda data, seed: data, **options)
  with pytest.raises(ConfigError, match="on_bad_example.*'ignore'"):
    train.train_batches(
        config.pp_train, on_bad_example="ignore", **options)
  block = config.evals[0]
  evaluated = splits.open_split(name, block.split)
  with pytest.raises(ConfigError, match="with seed 0, not 1"):
    evaluated.eval_batches(block.pp, batch_size=8, seed=1)


@pytest.fixture
def copied(cached, tmp_path):
  """(config, 'arrays:DIR', folder of the training split) that may change."""
  _, config, name = cached
  root = tmp_path / "ü [1] x"
  shutil.copytree(name.removeprefix("arrays:"), root)
  folder = array_files.folder_of(root, config.train_split, config.pp_train)
  return config, f"arrays:{root}", folder


def read_all(config, name):
  """Two epochs of training, and the examples of an evaluator."""
  split = splits.open_split(name, config.train_split)
  batches = split.train_batches(config.pp_train, batch_size=8, seed=SEED)
  for _ in range(5):
    next(batches)
  block = config.evals[0]
  evaluated = splits.open_split(name, block.split)
  list(evaluated.eval_batches(block.pp, batch_size=8).start())
  for index in range(evaluated.num_examples):
    evaluated.example(index)


def test_fingerprint_is_that_of_the_data(cached, copied, tmp_path, monkeypatch):
  _, config, name = cached
  data = splits.open_split(
      config.dataset, config.train_split, config.data_dir).fingerprint()
  split = splits.open_split(name, config.train_split)
  assert split.fingerprint() == data
  whole = split.fingerprint(config.pp_train)
  assert whole == {**data, "arrays": whole["arrays"]}
  monkeypatch.setenv("HOME", str(tmp_path))
  monkeypatch.chdir(tmp_path)
  for spelled in (copied[1], f"{copied[1]}/", "arrays:~/ü [1] x",
                  "arrays:ü [1] x", "arrays:./ü [1] x"):
    moved = splits.open_split(spelled, config.train_split)
    assert moved.fingerprint(config.pp_train) == whole
  read_all(config, "arrays:~/ü [1] x")


def flip(path, position):
  content = bytearray(path.read_bytes())
  content[position] ^= 1
  path.write_bytes(content)


def test_every_flipped_bit_is_found(copied):
  config, name, folder = copied
  read_all(config, name)
  rng = np.random.default_rng(0)
  for path in sorted(folder.glob("*.npy")):
    sound = path.read_bytes()
    for position in rng.integers(128, len(sound), size=5):
      flip(path, int(position))
      with pytest.raises(ConfigError, match="does not fit") as caught:
        read_all(config, name)
      assert path.name in str(caught.value)
      path.write_bytes(sound)
  read_all(config, name)


@pytest.mark.parametrize("content", [None, b"", b"cut", b"\x93NUMPY\x01"])
def test_a_damaged_file_is_named(copied, content):
  config, name, folder = copied
  block = config.evals[0]
  truth = array_files.truth_of(folder.parent, block.split) / "3.npz"
  for path in [*sorted(folder.iterdir()), truth]:
    sound = path.read_bytes()
    path.write_bytes(sound[:-9] if content == b"cut" else content or b"")
    if content is None:
      path.unlink()
    with pytest.raises(ConfigError) as caught:
      read_all(config, name)
    if content is not None or path.suffix == ".npy":
      assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)
    path.write_bytes(sound)
  read_all(config, name)


@pytest.mark.parametrize("key,value", [
    ("data", None), ("num_examples", "20"), ("augmentations", 0),
    ("keys", {}), ("categories", [[1, "x"]])])
def test_a_header_of_another_kind_is_named(copied, key, value):
  config, name, folder = copied
  path = folder / array_files.HEADER
  header = json.loads(path.read_text())
  path.write_text(json.dumps({**header, key: value}))
  with pytest.raises(ConfigError, match=f"header.json.*{key}.*Delete"):
    read_all(config, name)
  del header[key]
  path.write_text(json.dumps(header))
  with pytest.raises(ConfigError, match=f"header.json.*{key}.*Delete"):
    read_all(config, name)


def test_a_folder_holds_a_split_of_one_data_set(cached, copied, capsys):
  config_path = cached[0]
  config, name, folder = copied
  argv = ["--config", str(config_path), "--augmentations", str(AUGMENTATIONS),
          "--out", str(folder.parent)]
  assert cache_arrays.main(argv) == 0

  truth = array_files.truth_of(folder.parent, config.evals[0].split)
  data = json.loads((truth / array_files.TRUTH).read_text())
  (truth / array_files.TRUTH).write_text(json.dumps({**data, "checksum": "0"}))
  with pytest.raises(ConfigError, match="not of the data that split"):
    read_all(config, name)
  assert cache_arrays.main(argv) == app.EXIT_BAD_INPUT
  assert "holds examples of other data" in capsys.readouterr().err

  header = json.loads((folder / array_files.HEADER).read_text())
  header["data"]["checksum"] = "0"
  (folder / array_files.HEADER).write_text(json.dumps(header))
  assert cache_arrays.main(argv) == app.EXIT_BAD_INPUT
  assert "of other data (rooms/tiny:1.1.0, 20" in capsys.readouterr().err


def test_two_processes_do_not_write_to_one_folder(cached, copied, capsys):
  config_path = cached[0]
  root = copied[2].parent
  with Lock(root / ".lock", "--out"):
    assert cache_arrays.main([
        "--config", str(config_path), "--augmentations", "2", "--out",
        str(root)]) == app.EXIT_BAD_INPUT
  assert f"--out {root} is in use by process" in capsys.readouterr().err
