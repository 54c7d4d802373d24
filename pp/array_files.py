"""Files of preprocessed examples: their names, headers, and checked rows.

tools.cache_arrays writes them, pp.arrays reads them:

  SPLIT-HASH/   one for each split and preprocessing string: header.json;
                KEY.npy [R, N, …], R augmentations of N examples; and
                checksums.npy uint32 [R, N, K], the CRC-32 of each row of each
                key, in the order of the header's `keys`.
  SPLIT-truth/  for evaluators: truth.json, the fingerprint of the data; and
                one NUMBER.npz with the features of each example except its
                image.

Images are kept as bytes, which changes a value by 1/255 at most. Integers are
kept in the smallest type that holds them.

Dimensions: B examples of a batch · N examples of the split · R augmentations of
an example · K keys.
"""

import hashlib
import pathlib
import re
import urllib.parse
import zlib
from collections.abc import Collection, Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from pp.batches import Batch
from pp.order import Plan
from uvim import files
from uvim.registry import ConfigError

HEADER = "header.json"
TRUTH = "truth.json"
CHECKSUMS = "checksums.npy"
IMAGES = ("image", "image_ctx")  # float32 in [−1, 1].

# Between the parts of a nested feature's name, as in 'panoptic_objects|id'.
SEPARATOR = "|"
_AGAIN = "Delete the folder, and write it again by tools.cache_arrays."

_Count = Annotated[int, Meta(ge=1)]


class Header(msgspec.Struct, frozen=True, kw_only=True):
  """What header.json says of a folder.

  Attributes:
    data: fingerprint of the split that the examples are from.
    split: its name.
    pp: the preprocessing string.
    seed: of the augmentations.
    augmentations: R.
    num_examples: N.
    categories: (id, name, isthing) in the order of the labels.
    keys: of the arrays.
    checksum: of checksums.npy; see `hash_checksums`.
  """
  data: dict[str, Any]
  split: str
  pp: str
  seed: int
  augmentations: _Count
  num_examples: _Count
  categories: list[tuple[int, str, bool]]
  keys: list[str]
  checksum: str


def folder_of(root: pathlib.Path, split: str, pp: str) -> pathlib.Path:
  """The folder of a split's examples, preprocessed by a string."""
  # A preprocessing string is too long for the name of a folder, so its hash
  # stands for it.
  digest = hashlib.sha256(f"{split}\n{pp}".encode()).hexdigest()[:10]
  return root / f"{_split_name(split)}-{digest}"


def truth_of(root: pathlib.Path, split: str) -> pathlib.Path:
  """The folder of a split's raw examples."""
  return root / f"{_split_name(split)}-truth"


def file_of(key: str) -> str:
  """Name of a key's array: 'image/id' → 'image%2Fid.npy'."""
  return f"{urllib.parse.quote(key, safe='')}.npy"


def _split_name(split: str) -> str:
  """'train[:20]' → 'train_-20_': no brackets and no colons."""
  return re.sub(r"[^\w.:]+", "_", split).replace(":", "-")


def read_header(folder: pathlib.Path, where: str) -> Header | None:
  """The header of a folder; None if there is none.

  Args:
    folder: from `folder_of`.
    where: starts the message.

  Raises:
    ConfigError: it is damaged, or of an older version.
  """
  path = folder / HEADER
  if not path.exists():
    return None
  content = files.load_json(path, where)
  try:
    return msgspec.convert(content, Header)
  except msgspec.ValidationError as error:
    raise ConfigError(
        f"{where}: {str(path)!r} is damaged, or from an older version: "
        f"{error}. {_AGAIN}") from error


def read_headers(root: pathlib.Path, split: str, where: str) -> list[Header]:
  """The headers of a split, one for each preprocessing string.

  Raises:
    ConfigError: one is damaged; they are of different data.
  """
  start = re.escape(_split_name(split))
  headers = []
  for folder in sorted(root.glob("*")):
    if not re.fullmatch(f"{start}-[0-9a-f]{{10}}", folder.name):
      continue
    header = read_header(folder, where)
    # Another split may have the same name for files.
    if header is not None and header.split == split:
      headers.append(header)
  for header in headers:
    if header.data != headers[0].data:
      raise ConfigError(
          f"{where}: split {split!r} was written from different data. Write it "
          "into an empty folder by tools.cache_arrays.")
  return headers


def split_names(root: pathlib.Path) -> list[str]:
  """The splits below a folder whose headers can be read, sorted."""
  names = set()
  for path in root.glob(f"*/{HEADER}"):
    content = files.read_json(path) or {}
    if "pp" in content:
      names.add(str(content.get("split")))
  return sorted(names)


def pack(key: str, value: np.ndarray) -> np.ndarray:
  """A value as it is stored: images as bytes, the rest as it is."""
  if key in IMAGES:
    # [-1, 1] becomes 0..255. Rounding moves a value by half a step at most,
    # which is 1/255.
    levels = np.round((value + 1) * 127.5)
    return np.clip(levels, 0, 255).astype(np.uint8)
  return value


def unpack(key: str, value: np.ndarray) -> np.ndarray:
  """A stored value as the models take it; undoes `pack`."""
  if key in IMAGES:
    return value.astype(np.float32) / np.float32(127.5) - 1
  # Ids stay as they are: an id may need all 64 bits.
  if key != "image/id" and np.issubdtype(value.dtype, np.integer):
    return value.astype(np.int32)
  # A copy: `value` may be a view of the file.
  return np.array(value)


def checksums_of(rows: np.ndarray) -> np.ndarray:
  """CRC-32 of each row of [B, …]: uint32 [B]."""
  return np.array([zlib.crc32(row.tobytes()) for row in rows], np.uint32)


def hash_checksums(checksums_RNK: np.ndarray) -> str:
  """Stands for all bytes of all arrays."""
  content = np.ascontiguousarray(checksums_RNK, "<u4")
  return hashlib.sha256(content).hexdigest()[:32]


class Arrays:
  """The arrays of one folder; every row that is read is checked."""

  def __init__(self, folder: pathlib.Path, header: Header, where: str):
    """Opens the files; reads no example.

    Raises:
      ConfigError: a file is absent, damaged, or of another shape.
    """
    self._folder = folder
    self._where = where
    shape = (header.augmentations, header.num_examples)
    # Mapped and not read: only rows that a batch asks for come into memory.
    self._arrays = {
        key: self._open(file_of(key), shape) for key in header.keys}
    self._checksums_RNK = self._open(CHECKSUMS, (*shape, len(header.keys)))
    if hash_checksums(self._checksums_RNK) != header.checksum:
      raise self._damaged(CHECKSUMS, f"does not fit {HEADER}")

  def batch(self, plan: Plan, unused: Collection[str] = ()) -> Batch:
    """The rows that a plan asks for.

    Args:
      plan: of the batch.
      unused: keys that are left out.

    Raises:
      ConfigError: a row does not fit its checksum.
    """
    batch = {}
    # Two arrays of numbers pick one [R, N] entry for each example.
    checksums_BK = self._checksums_RNK[plan.augmentation_B, plan.index_B]
    for place, (key, array) in enumerate(self._arrays.items()):
      if key in unused:
        continue
      stored = array[plan.augmentation_B, plan.index_B]
      is_bad_B = checksums_of(stored) != checksums_BK[:, place]
      if is_bad_B.any():
        index = plan.index_B[is_bad_B][0]
        raise self._damaged(
            file_of(key), f"example {index} does not fit its checksum")
      batch[key] = unpack(key, stored)
    return batch

  def _open(self, name: str, shape: Sequence[int]) -> np.ndarray:
    """An array [*shape, …], which stays on disk."""
    try:
      array = np.load(self._folder / name, mmap_mode="r", allow_pickle=False)
    # numpy has many kinds of errors for what is no array.
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told.
      reason = " ".join(str(error).split()).rstrip(".")
      raise self._damaged(name, f"cannot be read: {reason}") from error
    if not isinstance(array, np.ndarray) or array.shape[:len(shape)] != shape:
      raise self._damaged(name, f"holds no array of {list(shape)}")
    return array

  def _damaged(self, name: str, reason: str) -> ConfigError:
    path = self._folder / name
    return ConfigError(f"{self._where}: {str(path)!r} {reason}. {_AGAIN}")


def read_truth_data(folder: pathlib.Path) -> dict[str, Any] | None:
  """The fingerprint of the data that raw examples are from; None: unknown."""
  return files.read_json(folder / TRUTH)


def read_truth(path: pathlib.Path, where: str) -> dict[str, Any]:
  """The raw example of a NUMBER.npz, nested as its features were.

  Raises:
    ConfigError: it cannot be read.
  """
  try:
    # Opened here: numpy leaves a damaged file open.
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
      flat = dict(arrays.items())
  # numpy and zipfile have many kinds of errors for damaged files.
  except Exception as error:  # noqa: BLE001 - whatever it is, it is told.
    reason = " ".join(str(error).split()).rstrip(".")
    raise ConfigError(f"{where}: {str(path)!r} cannot be read: {reason}. "
                      f"{_AGAIN}") from error
  out: dict[str, Any] = {}
  for name, value in flat.items():
    # A .npz file is flat. This puts the parts of a nested feature back into
    # one dict.
    parent, _, key = name.rpartition(SEPARATOR)
    group = out.setdefault(parent, {}) if parent else out
    group[key] = value
  return out
