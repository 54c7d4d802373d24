"""Writes the preprocessed examples of a config as arrays, to train from.

  python -m tools.cache_arrays --config configs/NAME.py[:arg]
    [--config.field=value …] --augmentations K --out DIR

Where there is no TensorFlow, --config.dataset=arrays:DIR then trains and
evaluates from them, in the same order and with the same augmentations. There
are K of them for each example. Several configs may share DIR: what is there is
kept. pp/array_files.py tells what is written.

R augmentations of an example · N examples of a split
"""

import argparse
import os
import pathlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from pp import array_files
from pp.array_files import Header
from uvim import files, progress
from uvim.cli import app
from uvim.config import TrainConfig
from uvim.lock import Lock
from uvim.registry import ConfigError

Fields = Mapping[str, Any]
Batches = Iterable[Fields]

_BATCH_SIZE = 64


def write(config: TrainConfig, out: str | os.PathLike,
          augmentations: int) -> None:
  """Writes all splits that the config trains on or evaluates.

  Args:
    config: of any kind.
    out: DIR.
    augmentations: of each training example, ≥ 1; others have one.

  Raises:
    ConfigError: examples that cannot be read; arrays that are there already,
      of other data, another seed or number of augmentations; another process
      that writes to DIR.
  """
  out = pathlib.Path(out)
  with Lock(out / ".lock", f"--out {out}"):
    _write_all(config, out, augmentations)


def _write_all(config: TrainConfig, out: pathlib.Path, augmentations: int
               ) -> None:
  from pp import sources
  for split, pp in _evaluated(config):
    _write_examples(config, out, split, pp, None)
  _write_examples(
      config, out, config.train_split, config.pp_train, augmentations)
  # The evaluator 'mean' averages what the model says and needs no truth.
  scored_splits = set()
  for block in config.evals:
    if block.type != "mean":
      scored_splits.add(block.split)
  for split in scored_splits:
    source = sources.make_source(config.dataset, split, config.data_dir)
    folder = array_files.truth_of(out, split)
    _write_truth(source, folder)


def _evaluated(config: TrainConfig) -> list[tuple[str, str]]:
  """(split, preprocessing) of the evaluators and of the panel, each once."""
  pairs = [(block.split, block.pp) for block in config.evals]
  if config.val_split and config.pp_eval:
    pairs.append((config.val_split, config.pp_eval))
  each_once = dict.fromkeys(pairs)
  return list(each_once)


def _write_examples(config: TrainConfig, out: pathlib.Path, split_name: str,
                    pp: str, augmentations: int | None) -> None:
  """One split through one string; None: the one pass of an evaluation."""
  from pp import stream
  split = stream.open_tfds_split(config.dataset, split_name, config.data_dir)
  num_augmentations = augmentations or 1
  header = Header(
      data=split.fingerprint(),
      split=split_name,
      pp=pp,
      seed=config.seed,
      augmentations=num_augmentations,
      num_examples=split.num_examples,
      categories=[tuple(category) for category in split.categories],
      # Known when they are written.
      keys=[],
      checksum="")
  folder = array_files.folder_of(out, split_name, pp)
  _check_others(out, header)
  if _is_there(folder, header):
    return
  preprocess = split.make_preprocess(pp, config.pp_modules)
  if augmentations is None:
    one_pass = split.eval_batches(preprocess, batch_size=_BATCH_SIZE)
    batches = one_pass.start()
  else:
    batches = split.train_batches(
        preprocess,
        batch_size=_BATCH_SIZE,
        seed=config.seed,
        shuffle=False,
        codes_per_image=augmentations)
  folder.mkdir(parents=True, exist_ok=True)
  shape = (num_augmentations, split.num_examples)
  keys, checksums_RNK = _write_arrays(folder, batches, shape)
  files.replace_file(folder / array_files.CHECKSUMS,
                     lambda file: np.save(file, checksums_RNK))
  header = msgspec.structs.replace(
      header, keys=keys, checksum=array_files.hash_checksums(checksums_RNK))
  # Last: the header says that all is there.
  files.write_json(
      folder / array_files.HEADER, msgspec.to_builtins(header), indent=1)


def _check_others(out: pathlib.Path, header: Header) -> None:
  """Raises a ConfigError if the split is there, of other data."""
  for other in array_files.read_headers(out, header.split, "--out"):
    if other.data != header.data:
      raise ConfigError(
          f"--out {out} holds split {header.split!r} of other data "
          f"({_summary(other.data)}), now it is {_summary(header.data)}. "
          "Choose another folder.")


def _summary(data: Fields) -> str:
  """'mydata:1.0.0, 64 examples, checksum 0123…'."""
  return (f"{data.get('name')}:{data.get('version')}, "
          f"{data.get('num_examples')} examples, checksum "
          f"{data.get('checksum')}")


def _is_there(folder: pathlib.Path, header: Header) -> bool:
  """Whether the arrays are there; a ConfigError if they are of another run."""
  old = array_files.read_header(folder, "--out")
  if old is None:
    return False
  for key in ("seed", "augmentations"):
    before = getattr(old, key)
    now = getattr(header, key)
    if before != now:
      raise ConfigError(f"--out {folder} was written with {key} = {before!r},"
                        f" now it is {now!r}. Choose another folder.")
  # A file that is gone or was cut is an error here too, not only in training.
  array_files.Arrays(folder, old, "--out")
  return True


def _write_arrays(folder: pathlib.Path, batches: Batches,
                  shape: tuple[int, int]) -> tuple[list[str], np.ndarray]:
  """Fills one file [R, N, …] for each key.

  Args:
    folder: where the files go.
    batches: all examples of the first augmentation, then of the next, …
    shape: (R, N).

  Returns:
    (the keys, uint32 [R, N, K]: the checksum of each row of each key).
  """
  total = shape[0] * shape[1]
  num_batches = -(-total // _BATCH_SIZE)
  stored = {}
  checksums = {}
  num_done = 0
  watched_batches = progress.bar(
      batches, total=num_batches, label=folder.name, unit="batches")
  for batch in watched_batches:
    # The last batch may run over the end.
    batch_size = len(batch["image/id"])
    num_new = min(total - num_done, batch_size)
    end = num_done + num_new
    for key, values in _packed(batch).items():
      if key not in stored:
        stored[key] = _new_array(folder, key, shape, values)
        checksums[key] = np.zeros(total, np.uint32)
      # A view: what is written to it goes to the file.
      flat = stored[key].reshape(total, *values.shape[1:])
      rows = values[:num_new]
      flat[num_done:end] = rows
      checksums[key][num_done:end] = array_files.checksums_of(rows)
    num_done = end
    if num_done == total:  # The batches of training never end.
      break
  for array in stored.values():
    array.flush()
  checksums_MK = np.stack(list(checksums.values()), axis=-1)
  return list(stored), checksums_MK.reshape(*shape, len(stored))


def _new_array(folder: pathlib.Path, key: str, shape: tuple[int, int],
               values: np.ndarray) -> np.memmap:
  """The file [R, N, …] of a key, for values [B, …] like these."""
  path = folder / array_files.file_of(key)
  full_shape = (*shape, *values.shape[1:])
  array = np.lib.format.open_memmap(path, "w+", values.dtype, full_shape)
  # Claims the space now: on a full disk, a mapped page would kill the process.
  with open(path, "r+b") as file:
    os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
  return array


def _packed(batch: Fields) -> dict[str, np.ndarray]:
  """What is stored of a batch, in small types."""
  packed = {}
  for key, values in batch.items():
    if key.startswith("_"):
      continue
    if isinstance(values, Mapping):
      raise ConfigError(f"{key!r} holds several tensors. Leave it out with "
                        "keep(...) in the preprocessing string.")
    array = array_files.pack(key, np.asarray(values))
    packed[key] = _smaller(key, array)
  return packed


def _smaller(key: str, values: np.ndarray) -> np.ndarray:
  """Labels as int16; other values as they are."""
  if key == "image/id" or values.dtype not in (np.int32, np.int64):
    return values
  small = values.astype(np.int16)
  is_changed = small != values
  if is_changed.any():
    raise ConfigError(f"{key!r} has values beyond 16 bits: {values.min()} … "
                      f"{values.max()}.")
  return small


def _write_truth(source: Any, folder: pathlib.Path) -> None:
  """What evaluators look up of each raw example: its numbers, no image."""
  data = source.fingerprint()
  if array_files.read_truth_data(folder) != data:
    if any(folder.glob("*.npz")):
      raise ConfigError(f"--out: {str(folder)!r} holds examples of other data, "
                        "or of an older version. Delete it.")
    # First: a later call may go on only with examples of the same data.
    files.write_json(folder / array_files.TRUTH, data, indent=1)
  for index in range(source.num_examples):
    path = folder / f"{index}.npz"
    if not path.exists():
      example = source.example(index)
      _write_numbers(path, _numbers_of(example))


def _write_numbers(path: pathlib.Path, numbers: Fields) -> None:
  files.replace_file(
      path, lambda file: np.savez_compressed(file, **numbers))


def _numbers_of(example: Fields, prefix: str = "") -> dict[str, Any]:
  """The numeric features of an example, nested names joined to one."""
  numbers = {}
  for key, value in example.items():
    if isinstance(value, Mapping):
      inner_prefix = f"{prefix}{key}{array_files.SEPARATOR}"
      numbers |= _numbers_of(value, inner_prefix)
    elif np.asarray(value).dtype.kind in "biuf":
      numbers[prefix + key] = value
  return numbers


def main(argv: Sequence[str] | None = None) -> int:
  """The command; returns the exit code."""
  parser = app.make_parser("tools.cache_arrays", __doc__)
  add = parser.add_argument
  add("--config", required=True, help="configs/NAME.py[:argument]")
  add("--augmentations", type=int, required=True,
      help="of each training example")
  add("--out", required=True, help="the folder of the arrays")
  return app.run(parser, cache_arrays, argv, takes_overrides=True)


def cache_arrays(args: argparse.Namespace) -> None:
  """What the command does."""
  if args.augmentations < 1:
    raise ConfigError("--augmentations must be at least 1.")
  from trainers import config_file
  from uvim.config import resolve
  config_file.quiet_absl()  # TFDS warns of its own calls.
  fields = config_file.load_config(args.config, args.overrides)
  config = resolve(fields)
  write(config, args.out, args.augmentations)


if __name__ == "__main__":
  sys.exit(main())
