"""Arrays of a split on disk, in place of what a frozen network would compute.

A cache is a folder with `header.json`, which says all that its numbers depend
on, and an array [R, N, …]. The header is written last: without it there is no
cache, only a part of one.

R augmentations · N examples
"""

import dataclasses
import json
import logging
import pathlib
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from uvim import files
from uvim.config import TrainConfig
from uvim.registry import ConfigError

HEADER = "header.json"
# Key of the header: the fingerprint of the split; see pp.splits. A config does
# not tell it, and caches of older versions lack it.
DATA = "data"

_BLOCK_BYTES = 1 << 20

Header = dict[str, Any]
log = logging.getLogger(__name__)


class Stored(NamedTuple):
  """What a cache holds, mapped from disk.

  Attributes:
    array: [R, N, …].
    checksums: uint32 [R, N], the CRC-32 of each row; None: the file as a whole
      was checked.
  """
  array: np.ndarray
  checksums: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Cache:
  """A kind of cache.

  Attributes:
    what: what it holds, in the plural, such as 'features'. The array is in
      WHAT.npy.
    field: the config field that names the folder, such as 'feature_cache'.
    checks_rows: True: each row has a checksum, which is compared when the row
      is read. False: the file has one, which is compared when it is opened.
  """
  what: str
  field: str
  checks_rows: bool

  @property
  def where(self) -> str:
    """The field as messages name it."""
    return f"config.{self.field}"

  @property
  def tool(self) -> str:
    """The command that writes it."""
    return f"tools.cache_{self.what}"

  @property
  def array_file(self) -> str:
    """The name of the array's file."""
    return f"{self.what}.npy"

  @property
  def checksums_file(self) -> str:
    """The name of the file with the checksums of rows, if `checks_rows`."""
    return f"{self.what}_crc32.npy"

  @property
  def crc32_key(self) -> str:
    """The header's key for the checksum of `_checked_file`."""
    return f"{self.what}_crc32"

  @property
  def _checked_file(self) -> str:
    """The file whose checksum is in the header."""
    return self.checksums_file if self.checks_rows else self.array_file

  def describe(self, config: TrainConfig, more: Mapping[str, Any]) -> Header:
    """What the numbers depend on, as plain JSON.

    Args:
      config: with `codes_per_image`.
      more: what this kind depends on besides examples and augmentations.

    Raises:
      ConfigError: `codes_per_image` is None, so no epoch is like another.
    """
    if config.codes_per_image is None:
      raise ConfigError(
          f"config.codes_per_image is None; {self.what} can be kept only where "
          "the augmentations repeat: after 1 epoch, 2 epochs, ….")
    depends_on = {
        "format": 1,
        "pp_train": config.pp_train,
        "pp_modules": config.pp_modules,
        "seed": config.seed,
        "codes_per_image": config.codes_per_image,
        **more,
    }
    # Through JSON and back, so that it can equal what a file gives.
    text = json.dumps(depends_on, default=list)
    return json.loads(text)

  def difference(self, old: Header, new: Header) -> list[str]:
    """'key: old → new' for all keys that differ.

    Args:
      old: header of a cache.
      new: header of a run. Checksum and fingerprint count only if both have
        them.
    """
    lines = []
    for key in sorted({*old, *new}):
      may_lack = key in (DATA, self.crc32_key)
      if may_lack and not (key in old and key in new):
        continue
      before = old.get(key)
      after = new.get(key)
      if before != after:
        lines.append(f"{key}: {before!r} → {after!r}")
    return lines

  def open(self, path: str, header: Header) -> Stored:
    """The array of a cache, mapped from disk.

    Args:
      path: the folder.
      header: of the run, from `describe`.

    Raises:
      ConfigError: no finished cache there, a damaged one, or one for another
        run; names what differs.
    """
    folder = pathlib.Path(path)
    old = read_header(folder, self.where)
    if old is None:
      raise ConfigError(
          f"{self.where}: {path!r} holds no finished cache ({HEADER}). To "
          f"write one: python -m {self.tool} --config … "
          f"--config.codes_per_image=… --out {path}")
    differs = self.difference(old, header)
    if differs:
      raise ConfigError(
          f"{self.where}: {path!r} is for another run. Cache → this config: "
          f"{'; '.join(differs)}.")
    # Mapped: a cache may be larger than the memory.
    array = self._load(folder / self.array_file, mmap_mode="r")
    checksums = None
    self._check_file(folder, old)
    if self.checks_rows:
      checksums = self._load(folder / self.checksums_file)
      if checksums.shape != array.shape[:2]:
        raise ConfigError(
            f"{self.where}: {path!r} has {list(array.shape[:2])} rows and "
            f"{list(checksums.shape)} checksums; both must be alike.")
    return Stored(array, checksums)

  def _load(self, path: pathlib.Path, **options) -> np.ndarray:
    try:
      return np.load(path, allow_pickle=False, **options)
    except (OSError, ValueError, EOFError) as error:
      raise ConfigError(f"{self.where}: {str(path)!r} cannot be read: "
                        f"{error}.") from error

  def _check_file(self, folder: pathlib.Path, header: Header) -> None:
    """Raises a ConfigError unless the file fits the checksum in the header."""
    path = folder / self._checked_file
    try:
      crc32 = crc32_of(path)
    except OSError as error:
      raise ConfigError(f"{self.where}: {str(path)!r} cannot be read: "
                        f"{error}.") from error
    if header.get(self.crc32_key, crc32) != crc32:
      raise ConfigError(
          f"{self.where}: {str(path)!r} does not fit its checksum: bits "
          f"flipped. Delete the folder and write it again by {self.tool}.")

  def seal(self, folder: pathlib.Path, header: Header) -> None:
    """Writes checksums and header: the array is complete.

    Args:
      folder: of the cache.
      header: of the run, from `describe`, with its `DATA`.
    """
    if self.checks_rows:
      array = self._load(folder / self.array_file, mmap_mode="r")
      checksums = row_checksums(array)
      files.replace_file(folder / self.checksums_file,
                         lambda file: np.save(file, checksums))
    crc32 = crc32_of(folder / self._checked_file)
    header = {**header, self.crc32_key: crc32}
    files.write_json(folder / HEADER, header, indent=1)

  def check_data(self, path: str, data: Mapping[str, Any]) -> None:
    """Raises a ConfigError if a cache was written for other data.

    Args:
      path: the folder; a finished cache.
      data: fingerprint of the split that is trained on; see pp.splits.
    """
    header = read_header(pathlib.Path(path), self.where)
    if DATA not in header:
      log.warning("%s: %s does not say for which data it was written.",
                  self.where, path)
      return
    if header[DATA] != data:
      raise ConfigError(
          f"{self.where}: {path!r} was written for other data. Cache → this "
          f"run: {header[DATA]} → {data}")


def read_header(folder: pathlib.Path, where: str) -> Header | None:
  """The header of a cache; None if there is none.

  Args:
    folder: of the cache.
    where: the option or field that names the folder, for messages.

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


def row_checksums(array: np.ndarray) -> np.ndarray:
  """CRC-32 of the bytes of each row, uint32 [R, N] of an array [R, N, …]."""
  checksums = np.zeros(array.shape[:2], np.uint32)
  for place in np.ndindex(*checksums.shape):
    checksums[place] = zlib.crc32(np.ascontiguousarray(array[place]))
  return checksums


def crc32_of(path: pathlib.Path) -> int:
  """CRC-32 of a file."""
  crc32 = 0
  with open(path, "rb") as file:
    while block := file.read(_BLOCK_BYTES):
      crc32 = zlib.crc32(block, crc32)
  return crc32
