"""Where examples come from: random access to TFDS data sets on disk.

A shuffle buffer makes the order depend on what was read before, so a resumed
run has to read it again. Here a scan of the TFRecord headers, done once, gives
the place of every example. Then any example is one seek away, and the order
can be a pure function of (seed, step).

A TFRecord file is a row of records: length uint64, checksum of the length
uint32, the bytes, their checksum uint32.

Dimensions: N examples of the split.
"""

import hashlib
import os
import pathlib
import struct
from collections.abc import Sequence
from concurrent import futures
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from pp.builder import first_line
from uvim import categories as categories_lib
from uvim import files
from uvim.categories import Category
from uvim.registry import ConfigError

# A length and its checksum stand before the bytes, a checksum behind.
_HEADER_BYTES = 12
_FOOTER_BYTES = 4
# What `scan_records` can find its way in.
_FORMATS = ("tfrecord",)
_REMOTE_READS = 64  # At the same time, from an object store.


def default_data_dir(data_dir: str | os.PathLike | None = None) -> str:
  """`data_dir`, else $TFDS_DATA_DIR, else TFDS's own ~/tensorflow_datasets."""
  chosen = data_dir or os.environ.get("TFDS_DATA_DIR")
  if not chosen:
    chosen = "~/tensorflow_datasets"
  return os.path.expanduser(os.fspath(chosen))


def _is_remote(path: str) -> bool:
  """Whether a path lies in an object store, such as gs://."""
  return "://" in path


def _open_file(path: str):
  """A binary file; TF's file layer only where Python's cannot reach."""
  if _is_remote(path):
    return tf.io.gfile.GFile(path, "rb")
  return open(path, "rb")


def scan_records(path: str) -> np.ndarray:
  """Offsets and lengths of the records of one TFRecord file: int64 [n, 2].

  Only the headers are read.

  Raises:
    ConfigError: the file ends inside a record.
  """
  size = tf.io.gfile.stat(path).length
  places = []
  position = 0
  with _open_file(path) as file:
    while position < size:
      # Jumps over the content of the record before.
      file.seek(position)
      length = _record_length(file.read(_HEADER_BYTES))
      start = position + _HEADER_BYTES
      end = start + length + _FOOTER_BYTES
      if end > size:
        raise ConfigError(
            f"{path}: cut short inside record {len(places)} (needs {end} "
            f"bytes, has {size}). Copy or prepare this file again.")
      places.append((start, length))
      position = end
  return np.asarray(places, np.int64).reshape(-1, 2)


def _record_length(header: bytes) -> int:
  """Length of a record; 0 where the file ends inside the header.

  Then the record ends behind the file in any case.
  """
  if len(header) < 8:
    return 0
  # A little-endian uint64. Its checksum, in the last four bytes, is not
  # compared.
  return struct.unpack("<Q", header[:8])[0]


def _index_paths(instructions: Sequence[Any], folder: str) -> list[str]:
  """Where the index of these files may lie: beside the data, else the user's.

  The name depends on sizes and times of the files, so data that was written
  again never meets a stale index.
  """
  digest = hashlib.sha256()
  for item in instructions:
    stat = tf.io.gfile.stat(str(item.filename))
    facts = (os.path.basename(item.filename), item.skip, item.take,
             stat.length, stat.mtime_nsec)
    digest.update(repr(facts).encode())
  name = f"{digest.hexdigest()[:24]}.npy"
  paths = []
  # In an object store nothing is written beside the data.
  if not _is_remote(folder):
    paths.append(os.path.join(folder, ".offsets", name))
  cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
  paths.append(os.path.join(cache, "uvim", "offsets", name))
  return paths


def _save_index(paths: Sequence[str], places: np.ndarray) -> None:
  """Writes the index to the first folder that permits it; none is fine too."""
  for path in paths:
    try:
      files.replace_file(path, lambda file: np.save(file, places))
    except OSError:
      continue
    return


def _load_index(paths: Sequence[str], num_examples: int) -> np.ndarray | None:
  """The index, left on disk; None where there is none that fits."""
  for path in paths:
    try:
      # Mapped, because a process looks up only a few places in each step.
      places = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
      # It is absent, or damaged. Then the next one counts, or a new scan.
      continue
    if places.shape == (num_examples, 2) and places.dtype == np.int64:
      return places
  return None


def _make_index(instructions: Sequence[Any], folder: str) -> np.ndarray:
  """Offset and length of every example of a split, in order: int64 [N, 2]."""
  num_examples = sum(item.take for item in instructions)
  paths = _index_paths(instructions, folder)
  places = _load_index(paths, num_examples)
  if places is not None:
    return places
  parts = []
  for item in instructions:
    part = scan_records(str(item.filename))
    if len(part) != item.examples_in_shard:
      raise ConfigError(
          f"{item.filename}: holds {len(part)} records, dataset_info.json "
          f"says {item.examples_in_shard}. Copy or prepare it again.")
    # A sub-split such as train[4096:] has only a part of some files.
    parts.append(part[item.skip:item.skip + item.take])
  places = np.concatenate(parts)
  _save_index(paths, places)
  return places


class Source:
  """The examples of one split, in a fixed order 0..num_examples-1.

  Attributes:
    dataset: the TFDS name, as given.
    split: the split or sub-split, as given.
    num_examples: how many examples the split has.
    categories: panoptic categories in the order of the labels, or ().
    folder: the folder the files lie in.
  """

  def __init__(self, builder: Any, dataset: str, split: str, *,
               categories: Sequence[Category] = ()):
    """Opens the split; see `make_source`."""
    self.dataset = dataset
    self.split = split
    self.categories = tuple(categories)
    self.folder = str(builder.data_dir)
    self._features = builder.info.features
    # One instruction for each file that has examples of the split.
    info = _split_info(builder, dataset, split)
    instructions = [item for item in info.file_instructions if item.take]
    examples_in_files = [item.take for item in instructions]
    self.num_examples = sum(examples_in_files)
    if not self.num_examples:
      raise ConfigError(f"{dataset}: split {split!r} has no examples.")
    self._files = [str(item.filename) for item in instructions]
    # How many examples lie in each file and those before it. This tells the
    # file of an example.
    self._ends = np.cumsum(examples_in_files)
    self._places = _make_index(instructions, self.folder)
    # The ops decode the image, so that they need not decode all of it.
    self._decoders = {}
    features = dict(self._features.items())
    if isinstance(features.get("image"), tfds.features.Image):
      self._decoders["image"] = tfds.decode.SkipDecoding()

  def __len__(self) -> int:
    return self.num_examples

  def read(self, indices: Sequence[int]) -> list[bytes]:
    """Serialised examples at these positions, in the order asked for.

    Raises:
      IndexError: for an index outside 0..num_examples-1.
    """
    indices = np.asarray(indices, np.int64).tolist()
    if not _is_remote(self.folder) or len(indices) == 1:
      return [self._read_one(index) for index in indices]
    # An object store answers each request after tens of milliseconds, but
    # many at once.
    with futures.ThreadPoolExecutor(_REMOTE_READS) as pool:
      return list(pool.map(self._read_one, indices))

  def _read_one(self, index: int) -> bytes:
    """One serialised example."""
    if not 0 <= index < self.num_examples:
      raise IndexError(f"{self.dataset} {self.split}: example {index} of "
                       f"{self.num_examples}")
    # "right": an index that equals an end belongs to the next file.
    file_number = int(np.searchsorted(self._ends, index, side="right"))
    offset, length = self._places[index]
    # Opening the file each time needs no lock between threads and never runs
    # out of handles. It costs 1 % of decoding an image.
    with _open_file(self._files[file_number]) as file:
      file.seek(int(offset))
      return file.read(int(length))

  def parse(self, raw: tf.Tensor, index: tf.Tensor | int = -1
            ) -> dict[str, Any]:
    """One serialised example as a dict of tensors; works inside tf.data.

    'image' stays encoded, so an op can decode just the part it needs; the rest
    is decoded by the data set's own features. 'image/id' int64 is the data
    set's own where that is an integer, and `index` otherwise.

    Args:
      raw: scalar string tensor.
      index: position in the split.
    """
    data = dict(self._features.deserialize_example(
        raw, decoders=self._decoders))
    image_id = data.get("image/id")
    # Some data sets have no id, or a text.
    if image_id is None or not image_id.dtype.is_integer:
      image_id = index
    data["image/id"] = tf.cast(image_id, tf.int64)
    return data

  def tensors(self, index: int) -> dict[str, Any]:
    """Example `index` as `parse` gives it, outside tf.data.

    Raises:
      ConfigError: it cannot be read.
    """
    try:
      record = self.read([index])[0]
      return self.parse(tf.constant(record), index)
    except (OSError, tf.errors.OpError) as error:
      raise ConfigError(f"{self.dataset} {self.split}: example {index} cannot "
                        f"be read: {first_line(error)}") from error

  def example(self, index: int) -> dict[str, Any]:
    """Example `index` as a dict of numpy arrays; 'image' as encoded bytes.

    Raises:
      ConfigError: it cannot be read.
    """
    return tf.nest.map_structure(
        lambda tensor: tensor.numpy(), self.tensors(index))


def _split_info(builder: Any, dataset: str, split: str) -> Any:
  """TFDS's description of a split or sub-split like 'train[10%:]'."""
  known = sorted(map(str, builder.info.splits))
  try:
    return builder.info.splits[split]
  # TFDS reports a slice outside the split with an assertion.
  except (KeyError, ValueError, AssertionError) as error:
    sizes = []
    for name in known:
      num_examples = builder.info.splits[name].num_examples
      sizes.append(f"{name} ({num_examples})")
    raise ConfigError(
        f"{dataset}: cannot read split {split!r}: {_first_sentence(error)} "
        f"Splits there: {', '.join(sizes) or 'none'}.") from error


def _first_sentence(error: BaseException) -> str:
  """The first line of an error's text, with a full stop."""
  # str() of a KeyError would put its text in quotes.
  text = str(error.args[0] if error.args else error).strip()
  if not text:
    return f"{type(error).__name__}."
  line = text.splitlines()[0]
  return f"{line.removesuffix('.')}."


# How to make a data set from files, by how its name begins.
_COMMANDS = {
    "nyu": "for NYU Depth V2 run `{} nyu --train DIR --validation DIR",
    "imagenet": "for a folder of images run `{} images --images DIR "
                "--split SPLIT",
}
_OTHER_COMMAND = (
    "for COCO-format panoptic files run `{} coco --images DIR --panoptic "
    "DIR --annotations JSON --split SPLIT")


def _not_prepared(dataset: str, data_dir: str) -> ConfigError:
  """The one message for data that is not there: where, and how to get it."""
  name = dataset.split(":")[0]
  command = _OTHER_COMMAND
  # The message shows the command that fits the name best.
  for start, text in _COMMANDS.items():
    if name.startswith(start):
      command = text
  return ConfigError(
      f"dataset: {dataset!r} is not prepared in data_dir {data_dir!r}. "
      f"To get it: {command.format('python -m tools.prepare_data')} "
      f"--name {name} --data_dir {data_dir}` (--help tells what else it can "
      "read); for a data set "
      "that TFDS can download run `python -c \"import tensorflow_datasets as "
      f"tfds; tfds.builder('{name}', data_dir='{data_dir}')"
      ".download_and_prepare()\"`; where it lies elsewhere, set data_dir or "
      "the environment variable TFDS_DATA_DIR.")


def _find_categories(dataset: str, folder: str) -> tuple[Category, ...]:
  """Panoptic categories: those beside the data, or of a known data set."""
  path = pathlib.Path(folder) / categories_lib.FILE_NAME
  if path.is_file():
    return categories_lib.load(path)
  if dataset.startswith("coco/2017_panoptic"):
    return categories_lib.coco_panoptic()
  if _is_rooms(dataset):
    from pp.rooms import builder as rooms
    return tuple(Category(*row) for row in rooms.CATEGORIES)
  return ()


def _is_rooms(dataset: str) -> bool:
  """Whether it is our own data set: 'rooms', 'rooms/CONFIG:VERSION', …"""
  name = dataset.split(":")[0]
  return name.split("/")[0] == "rooms"


def _open_builder(dataset: str, data_dir: str) -> Any:
  """The TFDS builder of a data set on disk, made from its files alone."""
  if _is_rooms(dataset):
    from pp.rooms import builder as rooms
    # 'rooms/CONFIG:VERSION': the name, a config and a version, if any.
    name = dataset.split(":")[0]
    config = name.partition("/")[2]
    if not config:
      return rooms.build(data_dir)
    return rooms.build(data_dir, config)
  try:
    return tfds.core.read_only_builder.builder_from_files(
        dataset, data_dir=data_dir)
  # The name may be malformed (ValueError) or simply absent.
  except (tfds.core.DatasetNotFoundError, ValueError) as error:
    raise _not_prepared(dataset, data_dir) from error


def make_source(dataset: str, split: str,
                data_dir: str | os.PathLike | None = None) -> Source:
  """Opens a data set on disk for random access.

  Args:
    dataset: a TFDS name: 'coco/2017_panoptic', 'rooms', 'mydata:1.0.0', …
      'rooms' is rendered on first use; nothing is ever downloaded.
    split: 'train', 'train[4096:]', 'validation[:16]', 'train[10%:]', …
    data_dir: TFDS's root folder; None means `default_data_dir()`.

  Raises:
    ConfigError: when the data set or split is not there, or is stored in a
      format without random access.
  """
  data_dir = default_data_dir(data_dir)
  builder = _open_builder(dataset, data_dir)
  file_format = builder.info.file_format.value
  if file_format not in _FORMATS:
    raise ConfigError(
        f"dataset: {dataset!r} in {data_dir!r} is stored as {file_format!r}; "
        f"allowed: {', '.join(_FORMATS)}. Prepare it again with "
        "file_format='tfrecord'.")
  categories = _find_categories(dataset, str(builder.data_dir))
  return Source(builder, dataset, split, categories=categories)
