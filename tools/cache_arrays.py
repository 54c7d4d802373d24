"""Writes the preprocessed examples of a config as arrays, to train from.

  python -m tools.cache_arrays --config configs/NAME.py[:arg]
    [--config.field=value …] --augmentations K --out DIR

Where there is no TensorFlow, --config.dataset=arrays:DIR then trains and
evaluates from them, in the same order and with the same augmentations. There
are K of them for each example. Several configs may share DIR: what is there is
kept. pp/arrays.py tells what is written.

R augmentations of an example · N examples of a split
"""

import argparse
import os
import pathlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from pp import arrays
from uvim import files, progress
from uvim.cli import app
from uvim.config import TrainConfig
from uvim.registry import ConfigError

Fields = Mapping[str, Any]
Batches = Iterable[Fields]

_BATCH_SIZE = 64
# Between the parts of a nested feature's name, as pp/arrays.py reads it.
_SEPARATOR = "|"


def write(config: TrainConfig, out: str | os.PathLike,
          augmentations: int) -> None:
  """Writes all splits that the config trains on or evaluates.

  Args:
    config: of any kind.
    out: DIR.
    augmentations: of each training example, ≥ 1; others have one.

  Raises:
    ConfigError: examples that cannot be read; arrays that are there already,
      of another seed or number of augmentations.
  """
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
    folder = arrays.truth_of(out, split)
    _write_truth(source, folder)


def _evaluated(config: TrainConfig) -> list[tuple[str, str]]:
  """(split, preprocessing) of the evaluators and of the panel, each once."""
  pairs = [(block.split, block.pp) for block in config.evals]
  if config.val_split and config.pp_eval:
    pairs.append((config.val_split, config.pp_eval))
  each_once = dict.fromkeys(pairs)
  return list(each_once)


def _write_examples(config: TrainConfig, out, split_name: str, pp: str,
                    augmentations: int | None) -> None:
  """One split through one string; None: the one pass of an evaluation."""
  from pp import stream
  split = stream.open_tfds_split(config.dataset, split_name, config.data_dir)
  num_augmentations = augmentations or 1
  categories = [list(category) for category in split.categories]
  header = {
      "dataset": config.dataset,
      "split": split_name,
      "pp": pp,
      "seed": config.seed,
      "augmentations": num_augmentations,
      "num_examples": split.num_examples,
      "categories": categories,
  }
  folder = arrays.folder_of(out, split_name, pp)
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
  header["files"] = _write_arrays(folder, batches, shape)
  # Last: the header says that all is there.
  files.write_json(folder / arrays.HEADER, header, indent=1)


def _is_there(folder: pathlib.Path, header: Fields) -> bool:
  """Whether the arrays are there; a ConfigError if they are of another run."""
  old = files.read_json(folder / arrays.HEADER)
  if old is None:
    return False
  for key, value in header.items():
    if old[key] != value:
      raise ConfigError(f"--out {folder} was written with {key} = {old[key]!r},"
                        f" now it is {value!r}. Choose another folder.")
  return True


def _write_arrays(folder: pathlib.Path, batches: Batches,
                  shape: tuple[int, int]) -> dict[str, str]:
  """Fills one file [R, N, …] for each key.

  Args:
    folder: where the files go.
    batches: all examples of the first augmentation, then of the next, …
    shape: (R, N).

  Returns:
    key → name of its file.
  """
  total = shape[0] * shape[1]
  num_batches = -(-total // _BATCH_SIZE)
  stored = {}
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
      # A view: what is written to it goes to the file.
      flat = stored[key].reshape(total, *values.shape[1:])
      flat[num_done:end] = values[:num_new]
    num_done = end
    if num_done == total:  # The batches of training never end.
      break
  for array in stored.values():
    array.flush()
  return {key: _file_name(key) for key in stored}


def _new_array(folder: pathlib.Path, key: str, shape: tuple[int, int],
               values: np.ndarray) -> np.memmap:
  """The file [R, N, …] of a key, for values [B, …] like these."""
  path = folder / _file_name(key)
  full_shape = (*shape, *values.shape[1:])
  return np.lib.format.open_memmap(path, "w+", values.dtype, full_shape)


def _file_name(key: str) -> str:
  stem = key.replace("/", "_")
  return f"{stem}.npy"


def _packed(batch: Fields) -> dict[str, np.ndarray]:
  """What is stored of a batch, in small types."""
  packed = {}
  for key, values in batch.items():
    if not key.startswith("_"):
      array = arrays.pack(key, np.asarray(values))
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
      inner_prefix = f"{prefix}{key}{_SEPARATOR}"
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
