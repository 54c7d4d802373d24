"""The oracle's codes on disk, so that stage II need not ask the oracle.

A folder with `header.json`, all that the codes depend on, and `codes.npy`,
int16 or int32 [R, N, L]: R augmentations of N examples, codes of L words;
−1 where the example could not be read. The header is written last: without it
there is no cache, only the part of one.
"""

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from uvim import files, tree
from uvim.config import TrainConfig
from uvim.registry import ConfigError

HEADER = "header.json"
CODES = "codes.npy"
WHERE = "config.code_cache"


def describe(config: TrainConfig, oracle: Any) -> dict[str, Any]:
  """What the codes of a stage II config depend on, as plain JSON.

  Args:
    config: of stage II, with `codes_per_image`.
    oracle: its arrays.

  Raises:
    ConfigError: without `codes_per_image` every epoch has codes of its own.
  """
  if config.codes_per_image is None:
    raise ConfigError(
        "config.codes_per_image is None; codes can be kept only where the "
        "augmentations repeat: after 1 epoch, 2 epochs, ….")
  model = dataclasses.asdict(config.oracle)
  del model["model_init"]  # The arrays count, not where they came from.
  depends_on = {
      "format": 1,
      "dataset": config.dataset,
      "train_split": config.train_split,
      "pp_train": config.pp_train,
      "pp_modules": config.pp_modules,
      "seed": config.seed,
      "codes_per_image": config.codes_per_image,
      "oracle": model,
      "oracle_crc32": tree.fingerprint(oracle),
  }
  # Through JSON and back, so that it equals what a file gives.
  text = json.dumps(depends_on, default=list)
  return json.loads(text)


def difference(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
  """'field: old → new' for all that differs."""
  lines = []
  for key in sorted({*old, *new}):
    before = old.get(key)
    after = new.get(key)
    if before != after:
      lines.append(f"{key}: {before!r} → {after!r}")
  return lines


def open_codes(path: str, config: TrainConfig, oracle: Any) -> np.ndarray:
  """The codes of a cache, int [R, N, L], mapped from disk.

  Args:
    path: the folder.
    config: of the run, as `describe` takes it.
    oracle: its arrays.

  Raises:
    ConfigError: no cache there, or one for another run; names what differs.
  """
  folder = pathlib.Path(path)
  header = files.read_json(folder / HEADER)
  if header is None:
    raise ConfigError(
        f"{WHERE}: {path!r} holds no finished cache ({HEADER}). To write one: "
        "python -m tools.cache_codes --config … --config.codes_per_image=… "
        f"--out {path}")
  differs = difference(header, describe(config, oracle))
  if differs:
    lines = "\n  ".join(differs)
    raise ConfigError(
        f"{WHERE}: {path!r} is for another run. Cache → this config:"
        f"\n  {lines}")
  codes_file = folder / CODES
  try:
    # Mapped: a cache may be larger than the memory.
    return np.load(codes_file, mmap_mode="r", allow_pickle=False)
  except (OSError, ValueError, EOFError) as error:
    raise ConfigError(
        f"{WHERE}: {str(codes_file)!r} cannot be read: {error}.") from error
