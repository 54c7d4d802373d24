"""The oracle's codes on disk, so that stage II need not ask the oracle.

A folder with `header.json`, all that the codes depend on, and `codes.npy`,
int16 or int32 [R, N, L]: R augmentations of N examples, codes of L words;
−1 where the example could not be read. The header is written last: without it
there is no cache, only the part of one.
"""

import dataclasses
import json
import logging
import pathlib
import zlib
from typing import Any

import numpy as np

from uvim import files, tree
from uvim.config import TrainConfig
from uvim.registry import ConfigError

HEADER = "header.json"
CODES = "codes.npy"
WHERE = "config.code_cache"
# Of the header: what a config does not tell. Caches of older versions lack it.
DATA = "data"  # Fingerprint of the split; see pp.splits.
CRC32 = "codes_crc32"  # Of the file of codes.

_BLOCK_BYTES = 1 << 20

log = logging.getLogger(__name__)


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
    if key in (DATA, CRC32) and not (key in old and key in new):
      continue
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
  header = read_header(folder, WHERE)
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
    codes = np.load(codes_file, mmap_mode="r", allow_pickle=False)
    crc32 = crc32_of(codes_file)
  except (OSError, ValueError, EOFError) as error:
    raise ConfigError(
        f"{WHERE}: {str(codes_file)!r} cannot be read: {error}.") from error
  if header.get(CRC32, crc32) != crc32:
    raise ConfigError(
        f"{WHERE}: {str(codes_file)!r} does not fit its checksum: bits "
        "flipped. Delete the folder and write it again by tools.cache_codes.")
  return codes


def read_header(folder: pathlib.Path, where: str) -> dict[str, Any] | None:
  """The header of a cache; None if there is none.

  Args:
    folder: of the cache.
    where: starts the message.

  Raises:
    ConfigError: it is damaged.
  """
  path = folder / HEADER
  if not path.exists():
    return None
  header = files.load_json(path, where)
  if not isinstance(header, dict):
    raise ConfigError(f"{where}: {str(path)!r} holds no JSON object.")
  return header


def check_data(path: str, data: dict[str, Any]) -> None:
  """Raises a ConfigError if a cache was written for other data.

  Args:
    path: the folder; a finished cache.
    data: fingerprint of the split that is trained on; see pp.splits.
  """
  header = read_header(pathlib.Path(path), WHERE)
  if DATA not in header:
    log.warning("%s: %s does not say for which data it was written.", WHERE,
                path)
    return
  if header[DATA] != data:
    raise ConfigError(
        f"{WHERE}: {path!r} was written for other data. Cache → this run: "
        f"{header[DATA]} → {data}")


def crc32_of(path: pathlib.Path) -> int:
  """CRC-32 of a file."""
  crc32 = 0
  with open(path, "rb") as file:
    while block := file.read(_BLOCK_BYTES):
      crc32 = zlib.crc32(block, crc32)
  return crc32
