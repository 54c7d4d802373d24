"""Records of TFRecord files: where each lies, and its bytes, checked.

A shuffle buffer makes the order depend on what was read before, so a resumed
run has to read it again. Here a scan of the files, done once, gives the place
of every record. Then any record is one seek away, and the order can be a pure
function of (seed, step).

A TFRecord file is a row of records: length uint64, checksum of the length
uint32, the bytes, their checksum uint32, all little-endian. The scan keeps the
checksums, so bytes that changed later do not fit.

Dimensions: N records of a split.
"""

import contextlib
import hashlib
import os
import struct
from collections.abc import Sequence
from concurrent import futures
from typing import NamedTuple

import google_crc32c
import numpy as np
import tensorflow as tf

from uvim import files
from uvim.registry import ConfigError

# A length and its checksum stand before the bytes, a checksum behind.
_HEADER_BYTES = 12
_FOOTER_BYTES = 4
# Columns of an index.
_OFFSET, _LENGTH, _CHECKSUM = range(3)
_INDEX_DTYPE = np.dtype("<i8")
_REMOTE_READS = 64  # At the same time, from an object store.
_AGAIN = "Copy or prepare this file again."


class Part(NamedTuple):
  """The records of one file that belong to a split.

  Attributes:
    path: of the file.
    first: number of the first of them in the file.
    num: how many there are.
    num_in_file: how many records the file should have.
  """
  path: str
  first: int
  num: int
  num_in_file: int


class Records:
  """The records of a split, in order."""

  def __init__(self, parts: Sequence[Part], folder: str):
    """Reads the index, or scans the files and writes it.

    Args:
      parts: of the split, in order; at least one record.
      folder: of the data set; the index goes there.

    Raises:
      ConfigError: a file is not there, is damaged, or has another number of
        records.
    """
    self._parts = tuple(parts)
    self._is_remote = _is_remote(folder)
    self._index_paths = _index_paths(parts, folder)
    # How many records lie in each file and those before it. This tells the
    # file of a record.
    self._ends = np.cumsum([part.num for part in parts])
    self._places_N3 = self._load_index()
    if self._places_N3 is None:
      self._places_N3 = self._make_index()

  def __len__(self) -> int:
    return len(self._places_N3)

  @property
  def num_bytes(self) -> int:
    """Size of all records together."""
    return int(self._places_N3[:, _LENGTH].sum())

  def checksum(self) -> str:
    """Stands for the bytes of all records and their order.

    It does not depend on names, folders, or how records are dealt to files.
    """
    return _hash(self._places_N3[:, _LENGTH:]).hex()[:32]

  def read(self, indices: Sequence[int]) -> list[bytes]:
    """The bytes of these records, in the order asked for.

    Raises:
      IndexError: for an index outside 0..N-1.
      ConfigError: a record cannot be read, or does not fit its checksum.
    """
    indices = np.asarray(indices, np.int64).tolist()
    if not self._is_remote or len(indices) == 1:
      return [self._read_one(index) for index in indices]
    # An object store answers each request after tens of milliseconds, but
    # many at once.
    with futures.ThreadPoolExecutor(_REMOTE_READS) as pool:
      return list(pool.map(self._read_one, indices))

  def _read_one(self, index: int) -> bytes:
    """The bytes of one record."""
    if not 0 <= index < len(self):
      raise IndexError(f"record {index} of {len(self)}")
    # "right": an index that equals an end belongs to the next file.
    file_number = int(np.searchsorted(self._ends, index, side="right"))
    part = self._parts[file_number]
    part_start = int(self._ends[file_number]) - part.num
    name = f"{part.path}: record {index - part_start + part.first}"
    offset, length, checksum = self._places_N3[index].tolist()
    try:
      # Opening the file each time needs no lock between threads and never
      # runs out of handles. It costs 1 % of decoding an image.
      with _open_file(part.path) as file:
        file.seek(offset - _HEADER_BYTES)
        stored = file.read(_HEADER_BYTES + length + _FOOTER_BYTES)
    except (OSError, tf.errors.OpError) as error:
      raise ConfigError(f"{name} cannot be read: {_reason(error)}.") from error
    content = stored[_HEADER_BYTES:_HEADER_BYTES + length]
    if len(content) == length and _checksum(content) == checksum:
      return content
    if _is_frame(stored, length, checksum):
      raise ConfigError(
          f"{name} does not fit its checksum: bits flipped. {_AGAIN}")
    # Not the record that the scan saw. The next start scans again.
    self._remove_index()
    raise ConfigError(
        f"{name} is not what it was when the file was opened first: the file "
        "was changed or cut. Its index is removed; start again.")

  # ── The index ───────────────────────────────────────────────────────────

  def _make_index(self) -> np.ndarray:
    """Scans the files: int64 [N, 3]; see `scan`."""
    places = []
    for part in self._parts:
      places_of_file = scan(part.path)
      if len(places_of_file) != part.num_in_file:
        raise ConfigError(
            f"{part.path}: holds {len(places_of_file)} records, "
            f"dataset_info.json says {part.num_in_file}. {_AGAIN}")
      # A sub-split such as train[4096:] has only a part of some files.
      places.append(places_of_file[part.first:part.first + part.num])
    places_N3 = np.concatenate(places)
    self._save_index(places_N3)
    return places_N3

  def _save_index(self, places_N3: np.ndarray) -> None:
    """Writes it to the first folder that permits it; none is fine too."""
    # The last row tells whether the others are as they were written.
    last_row = np.frombuffer(_hash(places_N3)[:24], _INDEX_DTYPE)
    content = np.concatenate([places_N3, last_row[None]])
    for path in self._index_paths:
      try:
        files.replace_file(path, lambda file: np.save(file, content))
      except OSError:
        continue
      return

  def _load_index(self) -> np.ndarray | None:
    """The index, left on disk; None where there is none that fits."""
    num_records = int(self._ends[-1])
    for path in self._index_paths:
      try:
        # Mapped, because a process looks up only a few places in each step.
        content = np.load(path, mmap_mode="r", allow_pickle=False)
      except (OSError, ValueError, EOFError):
        # It is absent, or damaged. Then the next one counts, or a new scan.
        continue
      if (content.shape != (num_records + 1, 3)
          or content.dtype != _INDEX_DTYPE):
        continue
      if content[-1].tobytes() == _hash(content[:-1])[:24]:
        return content[:-1]
    return None

  def _remove_index(self) -> None:
    for path in self._index_paths:
      with contextlib.suppress(OSError):
        os.unlink(path)


def scan(path: str) -> np.ndarray:
  """Offset, length and checksum of each record: int64 [n, 3].

  Only what stands around the bytes of the records is read.

  Raises:
    ConfigError: the file cannot be read, ends inside a record, or has a length
      that does not fit its checksum.
  """
  try:
    size = tf.io.gfile.stat(path).length
    with _open_file(path) as file:
      places = _scan(file, path, size)
  except (OSError, tf.errors.OpError) as error:
    raise _unreadable(path, error) from error
  return np.asarray(places, _INDEX_DTYPE).reshape(-1, 3)


def _scan(file, path: str, size: int) -> list[tuple[int, int, int]]:
  """(offset, length, checksum) of each record of an open file."""
  places = []
  header = file.read(_HEADER_BYTES)
  start = _HEADER_BYTES
  while header:
    name = f"{path}: cut short inside record {len(places)}"
    if len(header) < _HEADER_BYTES:
      raise ConfigError(f"{name} (has {size} bytes). {_AGAIN}")
    length, checksum = struct.unpack("<QI", header)
    if _checksum(header[:8]) != checksum:
      raise ConfigError(
          f"{path}: the length of record {len(places)} does not fit its "
          f"checksum: bits flipped. {_AGAIN}")
    end = start + length + _FOOTER_BYTES
    if end > size:
      raise ConfigError(f"{name} (needs {end} bytes, has {size}). {_AGAIN}")
    # Jumps over the bytes. The next header stands behind the checksum.
    file.seek(start + length)
    between = file.read(_FOOTER_BYTES + _HEADER_BYTES)
    places.append((start, length, _number(between[:_FOOTER_BYTES])))
    header = between[_FOOTER_BYTES:]
    start = end + _HEADER_BYTES
  return places


def _is_frame(stored: bytes, length: int, checksum: int) -> bool:
  """Whether length and checksum around a record are those of the index."""
  header = struct.pack("<Q", length)
  footer = struct.pack("<I", checksum)
  return stored.startswith(header) and stored.endswith(footer)


def _checksum(content: bytes) -> int:
  """CRC-32C as TFRecords store it: rotated by 15 bits, plus a constant."""
  crc = google_crc32c.value(content)
  rotated = crc >> 15 | crc << 17
  return rotated + 0xa282ead8 & 0xffffffff


def _number(four_bytes: bytes) -> int:
  return int.from_bytes(four_bytes, "little")


def _hash(array: np.ndarray) -> bytes:
  content = np.ascontiguousarray(array, _INDEX_DTYPE)
  return hashlib.sha256(content).digest()


def _is_remote(path: str) -> bool:
  """Whether a path lies in an object store, such as gs://."""
  return "://" in path


def _open_file(path: str):
  """A binary file; TF's file layer only where Python's cannot reach."""
  if _is_remote(path):
    return tf.io.gfile.GFile(path, "rb")
  return open(path, "rb")


def _index_paths(parts: Sequence[Part], folder: str) -> list[str]:
  """Where the index of these files may lie: beside the data, else the user's.

  The name depends on sizes and times of the files, so data that was written
  again does not meet a stale index.
  """
  digest = hashlib.sha256()
  for part in parts:
    facts = (os.path.basename(part.path), part.first, part.num,
             *_stat(part.path))
    digest.update(repr(facts).encode())
  name = f"{digest.hexdigest()[:24]}.npy"
  paths = []
  # In an object store nothing is written beside the data.
  if not _is_remote(folder):
    paths.append(os.path.join(folder, ".offsets", name))
  cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
  paths.append(os.path.join(cache, "uvim", "offsets", name))
  return paths


def _stat(path: str) -> tuple[int, ...]:
  """Size and times of a file, which change when its content does.

  Raises:
    ConfigError: it is not there.
  """
  try:
    if _is_remote(path):
      stat = tf.io.gfile.stat(path)
      return stat.length, stat.mtime_nsec
    stat = os.stat(path)
  except (OSError, tf.errors.OpError) as error:
    raise _unreadable(path, error) from error
  # Copying tools set the second time back, but nobody can set the third.
  return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _unreadable(path: str, error: Exception) -> ConfigError:
  return ConfigError(f"{path}: cannot be read: {_reason(error)}. {_AGAIN}")


def _reason(error: Exception) -> str:
  """What went wrong, in one line."""
  text = getattr(error, "strerror", None) or str(error)
  return text.strip().partition("\n")[0].rstrip(".")
