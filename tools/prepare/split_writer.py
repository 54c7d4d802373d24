"""Writes the splits of a data set as TFRecord files, in the order given.

TFDS's own writer keeps a given order only by sorting a whole split in memory;
otherwise it needs the space on disk twice. This writer puts the examples into
the files one by one, and TFDS reads the result.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import math
import os
import pathlib
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tools import passes
from tools.prepare import tfds_folder
from tools.prepare.writer import Found, MakeExample, Target
from uvim import files, progress

# How the name of a folder with unfinished files begins. It is private to this
# writer; the next run resumes from it.
_RESUME_PREFIX = ".resume_"
# Of a file that is being written.
_PARTIAL_SUFFIX = ".part"
# TFRecord: a length of 8 bytes and two checksums of 4 around each example.
_BYTES_AROUND_RECORD = 16

# (position in the split, item) → the serialized example.
Serialize = Callable[[tuple[int, Any]], bytes]


@dataclasses.dataclass(frozen=True)
class SplitWriter:
  """Writes splits in the order of their items.

  If a run is stopped, the next one keeps the files that were complete.

  Attributes:
    shard_bytes: size of one file, about.
    sample_size: how many examples of a split are measured first, to estimate
      the size of all.
    free_bytes: existing folder → free space of its disk.
    merge: moves the finished files; see `tfds_folder.merge`.
  """
  shard_bytes: int = 2**29
  sample_size: int = 16
  free_bytes: Callable[[pathlib.Path], int] = tfds_folder.free_bytes
  merge: Callable[..., None] = tfds_folder.merge

  def write(self, target: Target, found: Found, make_example: MakeExample,
            check_lock: tfds_folder.CheckLock) -> None:
    """Writes all splits or, after an error, none; see `Writer.write`.

    Raises:
      ConfigError: the disk is too small, or the lock was lost.
    """
    from pp.example_writer import with_sorted_features

    def serialize(numbered_item):
      position, item = numbered_item
      example = make_example(position, item)
      record = found.features.serialize_example(example)
      return with_sorted_features(record)

    samples = {}
    for name, items in found.splits.items():
      samples[name] = self._sample(serialize, items)
    new_folder = _resume_folder(target, found, samples)
    # Planned before anything is written, so that the space can be checked.
    splits = []
    for name, items in found.splits.items():
      splits.append(
          self._plan_split(target, new_folder, name, items, samples[name]))
    self._check_space(target, splits)
    _remove_other_sources(new_folder)
    new_folder.mkdir(parents=True, exist_ok=True)
    _remove_partial_files(new_folder)
    for split in splits:
      split.write(serialize, check_lock)
    _write_metadata(new_folder, target, found.features, splits)
    found.write_extra_files(new_folder)
    check_lock()
    self.merge(new_folder, target.folder, list(found.splits))
    # Only after success. After an error the folder stays, for the next run.
    shutil.rmtree(new_folder)

  def _sample(self, serialize: Serialize, items: Sequence[Any]) -> list[bytes]:
    """A few examples, spread over the split.

    They tell the size of all, and whether all is as it was when a run was
    stopped.
    """
    step = max(1, len(items) // self.sample_size)
    positions = range(0, len(items), step)
    sample = []
    # `step` is rounded down, so there may be more positions than wanted.
    for position in positions[:self.sample_size]:
      numbered_item = (position, items[position])
      sample.append(serialize(numbered_item))
    return sample

  def _plan_split(self, target: Target, folder: pathlib.Path, name: str,
                  items: Sequence[Any], sample: Sequence[bytes]) -> "_Split":
    count = len(items)
    sample_bytes = sum(map(len, sample))
    # A few records stand for all. The size decides how many files there are.
    num_bytes = count * sample_bytes / len(sample)
    num_shards = math.ceil(num_bytes / self.shard_bytes)
    # No file is without an example, however large the examples are.
    num_shards = min(num_shards, count)
    dataset, _, _ = target.name.partition("/")
    prefix = folder / f"{dataset}-{name}.tfrecord"
    shards = _plan_shards(prefix, count, num_shards)
    return _Split(name, items, num_bytes, shards)

  def _check_space(self, target: Target, splits: Sequence["_Split"]) -> None:
    num_examples = sum(len(split.items) for split in splits)
    num_bytes = sum(split.num_bytes for split in splits)
    num_written = sum(split.written_bytes() for split in splits)
    if num_written:
      print("Going on where a run was stopped: "
            f"{tfds_folder.readable_size(num_written)} are written")
    tfds_folder.check_space(
        target.data_dir, num_examples, max(0, num_bytes - num_written),
        free_bytes=self.free_bytes)


@dataclasses.dataclass(frozen=True)
class _Shard:
  """One file of a split. If it is there, it is complete.

  Attributes:
    path: where it is or will be.
    positions: which examples of the split it holds.
  """
  path: pathlib.Path
  positions: range

  def is_written(self) -> bool:
    return self.path.is_file()

  def written_bytes(self) -> int:
    """Size of the examples in the file; 0 if it is not there."""
    if not self.is_written():
      return 0
    file_bytes = self.path.stat().st_size
    return file_bytes - _BYTES_AROUND_RECORD * len(self.positions)

  def write(self, records: Iterator[bytes], check_lock: tfds_folder.CheckLock
            ) -> None:
    """Writes the file with the next of `records`."""
    import tensorflow as tf
    # TensorFlow opens the file itself, so `files.replace_file` cannot.
    # Under the final name there are only complete files; see the class. No
    # command that lost its lock writes to the file of another.
    partial_path = self.path.with_name(
        f"{self.path.name}.{uuid.uuid4().hex}{_PARTIAL_SUFFIX}")
    try:
      with tf.io.TFRecordWriter(str(partial_path)) as writer:
        for record in itertools.islice(records, len(self.positions)):
          writer.write(record)
      tfds_folder.flush(partial_path)
      check_lock()
      os.replace(partial_path, self.path)
    finally:
      # After an error; half a file is of no use and fills the disk.
      partial_path.unlink(missing_ok=True)


@dataclasses.dataclass(frozen=True)
class _Split:
  """The files of a split.

  Attributes:
    name: of the split.
    items: in the order to write.
    num_bytes: expected size of all examples.
    shards: the files, in the order of their examples.
  """
  name: str
  items: Sequence[Any]
  num_bytes: float
  shards: Sequence[_Shard]

  def written_bytes(self) -> int:
    """Size of the examples in the files that are there."""
    return sum(shard.written_bytes() for shard in self.shards)

  def write(self, serialize: Serialize, check_lock: tfds_folder.CheckLock
            ) -> None:
    """Writes the files that are not there."""
    # Files of a run that was stopped are complete, so they stay.
    missing_shards = [shard for shard in self.shards if not shard.is_written()]
    num_missing = sum(len(shard.positions) for shard in missing_shards)

    def numbered_items():
      for shard in missing_shards:
        for position in shard.positions:
          yield position, self.items[position]

    records = passes.map_in_threads(serialize, numbered_items())
    bar = progress.bar(
        records, total=num_missing, label=f"Writing {self.name}",
        unit="examples")
    # Closed after an error too, so that the message gets a line of its own.
    with contextlib.closing(bar):
      # All files take from one iterator, so that threads work ahead across
      # them.
      records = iter(bar)
      for shard in missing_shards:
        shard.write(records, check_lock)
      # The bar is full only when it sees that there are no more.
      next(records, None)


def _plan_shards(prefix: pathlib.Path, num_examples: int, num_shards: int
                 ) -> list[_Shard]:
  """Files of nearly equal numbers of examples, under TFDS's names."""
  shards = []
  for number in range(num_shards):
    # Whole numbers: the shards leave no gap and do not overlap.
    start = num_examples * number // num_shards
    stop = num_examples * (number + 1) // num_shards
    name = f"{prefix.name}-{number:05d}-of-{num_shards:05d}"
    shard = _Shard(prefix.with_name(name), range(start, stop))
    shards.append(shard)
  return shards


def _write_metadata(folder: pathlib.Path, target: Target, features: Any,
                    splits: Sequence[_Split]) -> None:
  """Writes what TFDS needs to read the files."""
  import tensorflow_datasets as tfds
  split_infos = []
  for split in splits:
    lengths = [len(shard.positions) for shard in split.shards]
    split_infos.append(tfds.core.SplitInfo(
        name=split.name, shard_lengths=lengths,
        num_bytes=split.written_bytes()))
  tfds.folder_dataset.write_metadata(
      data_dir=folder, features=features, check_data=False,
      version=tfds_folder.version_of(target.name), split_infos=split_infos)
  # `write_metadata` takes no config, so its name is put in afterwards.
  config = target.name.partition("/")[2]
  if config:
    info = tfds_folder.read_info(folder)
    info["configName"] = config
    files.write_json(folder / tfds_folder.INFO_FILE, info)


def _resume_folder(target: Target, found: Found,
                   samples: dict[str, list[bytes]]) -> pathlib.Path:
  """The folder of unfinished files, which a stopped run leaves to the next.

  Its name ends with a hash of all that decides what is written. So files of
  other sources are never resumed.
  """
  features = json.dumps(found.features.to_json(), sort_keys=True)
  content = repr((features, dict(found.splits), samples))
  digest = hashlib.sha256(content.encode()).hexdigest()
  name = target.name.replace("/", ".")
  splits = "+".join(found.splits)
  folder_name = f"{_RESUME_PREFIX}{name}-{splits}-{digest[:16]}"
  # It is on the same disk, so that moving a finished file is only a rename.
  return pathlib.Path(target.data_dir) / folder_name


def _remove_partial_files(folder: pathlib.Path) -> None:
  """Removes the half files that a killed run left in its folder."""
  for path in folder.glob(f"*{_PARTIAL_SUFFIX}"):
    path.unlink()


def _remove_other_sources(folder: pathlib.Path) -> None:
  """Removes the unfinished files of the same splits from other sources.

  The data set is locked, so no run uses them.
  """
  # The hash at the end is what differs between sources.
  name_and_splits = folder.name.rpartition("-")[0]
  for other_folder in folder.parent.glob(f"{name_and_splits}-*"):
    if other_folder != folder:
      print(f"Removing what a run that was stopped left in {other_folder.name}")
      shutil.rmtree(other_folder)
