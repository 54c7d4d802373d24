"""Writes the preprocessed examples of a config as arrays, to train from.

  python -m tools.cache_arrays --config configs/NAME.py[:arg]
    [--config.field=value …] --augmentations K --out DIR

Where there is no TensorFlow, --config.dataset=arrays:DIR then trains and
evaluates from them, in the same order and with the same augmentations, of which
there are K for each example. Several configs may share DIR: what is there is
kept. pp/arrays.py tells what is written.
"""

import argparse
import json
import os
import pathlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from pp import arrays
from tools import evaluate, passes
from trainers.main import quiet_tensorflow
from uvim.config import TrainConfig
from uvim.registry import ConfigError

EXIT_BAD_INPUT = 2
_BATCH = 64


def write(config: TrainConfig, out: str | os.PathLike,
          augmentations: int) -> None:
  """Writes all splits that the config trains on or evaluates.

  Args:
    config: of either stage.
    out: DIR.
    augmentations: of each training example, ≥ 1; others have one.

  Raises:
    ConfigError: examples that cannot be read; arrays that are there already,
      of another seed or number of augmentations.
  """
  from pp import sources
  blocks = [(block.split, block.pp) for block in config.evals]
  if config.val_split and config.pp_eval:
    blocks.append((config.val_split, config.pp_eval))
  for split, pp in dict.fromkeys(blocks):
    _write_part(config, out, split, pp, None)
  _write_part(config, out, config.train_split, config.pp_train, augmentations)
  for split in {x.split for x in config.evals if x.type != "mean"}:
    source = sources.make_source(config.dataset, split, config.data_dir)
    _write_truth(source, arrays.truth_of(out, split))


def _write_part(config, out, split, pp, augmentations: int | None) -> None:
  """One split through one string; None: the one pass of an evaluation."""
  from pp import stream
  source = stream.open_tfds_split(config.dataset, split, config.data_dir)
  header = {"dataset": config.dataset, "split": split, "pp": pp,
            "seed": config.seed, "augmentations": augmentations or 1,
            "num_examples": source.num_examples,
            "categories": [list(x) for x in source.categories]}
  folder = arrays.folder_of(out, split, pp)
  if _is_there(folder, header):
    return
  preprocess = source.make_preprocess(pp, config.pp_modules)
  if augmentations is None:
    batches = source.eval_batches(preprocess, batch_size=_BATCH).start()
  else:
    batches = source.train_batches(
        preprocess, batch_size=_BATCH, seed=config.seed, shuffle=False,
        codes_per_image=augmentations)
  folder.mkdir(parents=True, exist_ok=True)
  files = _write_rows(folder, batches,
                      (header["augmentations"], source.num_examples))
  new = folder / f".{arrays.HEADER}"
  new.write_text(json.dumps({**header, "files": files}, indent=1))
  os.replace(new, folder / arrays.HEADER)  # Last: it says that all is there.


def _is_there(folder: pathlib.Path, header: Mapping[str, Any]) -> bool:
  path = folder / arrays.HEADER
  if not path.exists():
    return False
  old = json.loads(path.read_text())
  for key, value in header.items():
    if old[key] != value:
      raise ConfigError(f"--out {folder} was written with {key} = {old[key]!r},"
                        f" now it is {value!r}. Choose another folder.")
  return True


def _write_rows(folder: pathlib.Path, stream: Iterable[Mapping[str, Any]],
                shape: tuple[int, int]) -> dict[str, str]:
  """Fills one file per key, [R, N, …]; returns key → file."""
  files, stores, total = {}, {}, shape[0] * shape[1]
  done = 0
  for batch in passes.progress(
      stream, total=-(-total // _BATCH), desc=folder.name, unit="batches"):
    rows = min(total - done, len(batch["image/id"]))
    for key, value in batch.items():
      if key.startswith("_"):
        continue
      value = _smaller(key, arrays.pack(key, np.asarray(value)))[:rows]
      if key not in stores:
        files[key] = f"{key.replace('/', '_')}.npy"
        stores[key] = np.lib.format.open_memmap(
            folder / files[key], "w+", value.dtype, (*shape, *value.shape[1:]))
      flat = stores[key].reshape(total, *value.shape[1:])
      flat[done:done + rows] = value
    done += rows
    if done == total:  # Those of training never end.
      break
  for store in stores.values():
    store.flush()
  return files


def _smaller(key: str, value: np.ndarray) -> np.ndarray:
  """Labels as int16."""
  if key == "image/id" or value.dtype not in (np.int32, np.int64):
    return value
  small = value.astype(np.int16)
  if (small != value).any():
    raise ConfigError(f"{key!r} has values beyond 16 bits: {value.min()} … "
                      f"{value.max()}.")
  return small


def _write_truth(source: Any, folder: pathlib.Path) -> None:
  """What evaluators look up of each raw example: its numbers, no picture."""
  folder.mkdir(parents=True, exist_ok=True)
  for index in range(source.num_examples):
    path = folder / f"{index}.npz"
    if path.exists():
      continue
    new = folder / ".partial.npz"
    np.savez_compressed(new, **_flat(source.example(index)))
    os.replace(new, path)


def _flat(example: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  out = {}
  for key, value in example.items():
    if isinstance(value, Mapping):
      out |= _flat(value, f"{prefix}{key}|")
    elif np.asarray(value).dtype.kind in "biuf":
      out[prefix + key] = value
  return out


def main(argv: Sequence[str] | None = None) -> int:
  """0, or 2 after a mistake that the message explains."""
  from absl import logging
  parser = argparse.ArgumentParser(
      prog="python -m tools.cache_arrays", description=__doc__,
      allow_abbrev=False,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--config", required=True)
  parser.add_argument("--augmentations", type=int, required=True)
  parser.add_argument("--out", required=True)
  args, overrides = parser.parse_known_args(argv)
  quiet_tensorflow()
  logging.set_verbosity(logging.ERROR)  # TFDS warns of its own calls.
  try:
    if args.augmentations < 1:
      raise ConfigError("--augmentations must be at least 1.")
    config = evaluate.read_config("", args.config, overrides)
    write(config, args.out, args.augmentations)
  except (ConfigError, OSError) as error:
    print(f"error: {error}", file=sys.stderr)
    return EXIT_BAD_INPUT
  return 0


if __name__ == "__main__":
  sys.exit(main())
