"""Adds splits to TFDS data sets on disk; what is there already stays.

TFDS's own writer keeps a given order only by sorting a whole split in memory,
and otherwise needs its space on disk twice. `write` puts the examples into
TFRecord files one by one, in the order given, and TFDS reads the result.
"""

import contextlib
import fcntl
import hashlib
import itertools
import json
import math
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tools import passes
from uvim.registry import ConfigError

# TFDS and TensorFlow take seconds to import: only after the files are checked.

# The versions of data sets that TFDS knows too.
_VERSIONS = {"coco/2017_panoptic": "1.1.0", "imagenet2012": "5.1.0"}
_INFO = "dataset_info.json"
_WORK = ".prepare_"  # How folders of unfinished files begin.
_SHARD_BYTES = 2**29
_SAMPLE = 16  # Examples whose size is measured to guess that of all.


def version_of(name: str) -> str:
  """The version under which a data set is written."""
  return _VERSIONS.get(name, "1.0.0")


def folder_of(name: str, data_dir: str) -> pathlib.Path:
  """Where a data set lies below TFDS's root folder."""
  return pathlib.Path(data_dir) / name / version_of(name)


def check_names(name: str, splits: Sequence[str]) -> None:
  """ConfigError for names that TFDS or the file names could not bear."""
  if not re.fullmatch(r"[a-z][a-z0-9_]*(/\w+)?", name):
    raise ConfigError(
        f"--name: {name!r}; allowed: small letters, digits and _, with one "
        "optional part after a slash, like 'mydata' or 'mydata/panoptic'.")
  for split in splits:
    if not re.fullmatch(r"[A-Za-z]\w*", split):
      raise ConfigError(f"--split: {split!r}; allowed: a plain name like "
                        "'train' or 'validation'.")


def spread(items: Sequence[Any], name: Callable[[Any], str]) -> list[Any]:
  """Items in the order of a hash of their names.

  As good as shuffled, so that the start of a split is like the rest of it, and
  the same on every machine.
  """
  def place(item):
    return hashlib.sha256(name(item).encode()).digest()
  return sorted(items, key=place)


def _read_info(folder: pathlib.Path) -> dict[str, Any] | None:
  path = folder / _INFO
  return json.loads(path.read_text()) if path.is_file() else None


def check_existing(folder: pathlib.Path, splits: Sequence[str], *,
                   overwrite: bool) -> bool:
  """Whether the data set is there already; it must bear to get these splits.

  Raises:
    ConfigError: when it has one of them and `overwrite` is not set, or when it
      is stored in another format.
  """
  info = _read_info(folder)
  if info is None:
    return False
  names = [item["name"] for item in info.get("splits", [])]
  there = [split for split in splits if split in names]
  if there and not overwrite:
    raise ConfigError(
        f"--split: {', '.join(map(repr, there))} is already in "
        f"{str(folder)!r} (splits: {', '.join(names)}). Add --overwrite to "
        "replace it.")
  kind = info.get("fileFormat", "tfrecord")
  if kind != "tfrecord":
    raise ConfigError(f"--name: {str(folder)!r} is stored as {kind!r}; splits "
                      "are added to 'tfrecord' only. Choose another --name.")
  return True


def existing_features(folder: pathlib.Path) -> Any:
  """The tfds FeaturesDict of a data set on disk."""
  import tensorflow_datasets as tfds
  return tfds.features.FeaturesDict.from_config(str(folder))


def check_features(folder: pathlib.Path, features: Any) -> None:
  """ConfigError when the data set on disk has other features."""
  there = existing_features(folder)
  if there.to_json() != features.to_json():
    raise ConfigError(
        f"--name: {str(folder)!r} has other features ({', '.join(there)}) "
        f"than these files ({', '.join(features)}), or the same in another "
        "form. Choose another --name.")


def _amount(num_bytes: float) -> str:
  if num_bytes < 1e9:
    return f"{num_bytes / 1e6:.0f} MB"
  return f"{num_bytes / 1e9:.1f} GB"


def check_space(data_dir: str, num_examples: int, num_bytes: float) -> None:
  """Says what the disk will have to hold; ConfigError when it cannot."""
  place = pathlib.Path(data_dir).absolute()
  while not place.exists():
    place = place.parent
  free = shutil.disk_usage(place).free
  need = (f"{num_examples:,} examples need about {_amount(num_bytes)}, "
          f"{_amount(free)} are free")
  if num_bytes > free:
    raise ConfigError(f"--data_dir: {data_dir!r}: {need}.")
  print(f"{need} in {data_dir}")


@contextlib.contextmanager
def work_folder(data_dir: str) -> Iterator[str]:
  """A folder for unfinished files that disappears with the block.

  And so do those of runs that were killed: they hold no lock any more.
  """
  os.makedirs(data_dir, exist_ok=True)
  for lock in pathlib.Path(data_dir).glob(f"{_WORK}*.lock"):
    _remove_left_over(lock)
  # On the same disk, so that moving the finished files is only a rename.
  with tempfile.TemporaryDirectory(dir=data_dir, prefix=_WORK) as work:
    lock = pathlib.Path(f"{work}.lock")
    with open(lock, "w") as file:
      fcntl.flock(file, fcntl.LOCK_EX)
      try:
        yield work
      finally:
        lock.unlink()


def _remove_left_over(lock: pathlib.Path) -> None:
  """The unfinished files of a run, unless it goes on."""
  with contextlib.suppress(OSError), open(lock) as file:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    print(f"Removing what a run that was stopped left in {lock.stem}")
    shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
    lock.unlink()


def merge(new: pathlib.Path, folder: pathlib.Path, splits: Sequence[str]
          ) -> None:
  """Moves the files of some splits beside those of the others.

  dataset_info.json goes last, in one rename: until then nobody sees the splits.
  """
  folder.mkdir(parents=True, exist_ok=True)
  info, old = _read_info(new), _read_info(folder)
  if old:
    kept = [x for x in old.get("splits", []) if x["name"] not in splits]
    info = {**old, "splits": kept + info["splits"]}
  shards = {path.name for path in new.glob("*.tfrecord*")}
  for path in new.iterdir():
    if path.name != _INFO:
      os.replace(path, folder / path.name)
  partial = new / "merged.json"
  partial.write_text(json.dumps(info, indent=2))
  os.replace(partial, folder / _INFO)
  for split in splits:
    for path in folder.glob(f"{info['name']}-{split}.tfrecord*"):
      if path.name not in shards:  # Left from another number of shards.
        path.unlink()


def _write_shards(prefix: pathlib.Path, records: Iterator[bytes], count: int,
                  num_shards: int) -> tuple[list[int], int]:
  """Writes `count` records; the lengths of the shards and their bytes."""
  import tensorflow as tf
  lengths, num_bytes = [], 0
  for shard in range(num_shards):
    first, last = (count * k // num_shards for k in (shard, shard + 1))
    lengths.append(last - first)
    path = f"{prefix}.tfrecord-{shard:05d}-of-{num_shards:05d}"
    with tf.io.TFRecordWriter(path) as writer:
      for record in itertools.islice(records, last - first):
        writer.write(record)
        num_bytes += len(record)
  next(records, None)  # The bar ends only when it sees the end.
  return lengths, num_bytes


def write(name: str, data_dir: str, splits: dict[str, Sequence[Any]], *,
          features: Any, make_example: Callable[[tuple[int, Any]], dict],
          extra_files: dict[str, str] | None = None) -> pathlib.Path:
  """Writes splits of a data set, all or none of them.

  Args:
    name: the TFDS name, with an optional config after a slash.
    data_dir: TFDS's root folder.
    splits: the items of each split, in the order to write.
    features: tfds FeaturesDict.
    make_example: (position, item) → what `features` encodes; runs in threads.
    extra_files: text by file name, to lie beside the data.

  Returns:
    The folder of the data set.

  Raises:
    ConfigError: when the disk is too small.
  """
  import tensorflow_datasets as tfds

  def serialize(pair):
    return features.serialize_example(make_example(pair))

  sizes = {split: _guess_bytes(serialize, items)
           for split, items in splits.items()}
  check_space(data_dir, sum(map(len, splits.values())), sum(sizes.values()))
  dataset, _, config = name.partition("/")
  folder, infos = folder_of(name, data_dir), []
  with work_folder(data_dir) as work:
    new = pathlib.Path(work)
    for split, items in splits.items():
      records = passes.progress(
          passes.map_ahead(serialize, enumerate(items)), total=len(items),
          desc=f"Writing {split}", unit="examples")
      lengths, num_bytes = _write_shards(
          new / f"{dataset}-{split}", iter(records), len(items),
          min(len(items), math.ceil(sizes[split] / _SHARD_BYTES)))
      infos.append(tfds.core.SplitInfo(
          name=split, shard_lengths=lengths, num_bytes=num_bytes))
    tfds.folder_dataset.write_metadata(
        data_dir=new, features=features, split_infos=infos,
        version=version_of(name), check_data=False)
    if config:
      info = {**_read_info(new), "configName": config}
      (new / _INFO).write_text(json.dumps(info))
    for file_name, text in (extra_files or {}).items():
      (new / file_name).write_text(text)
    merge(new, folder, list(splits))
  return folder


def _guess_bytes(serialize: Callable[[tuple[int, Any]], bytes],
                 items: Sequence[Any]) -> float:
  """The size of a split, from a few of its examples."""
  step = max(1, len(items) // _SAMPLE)
  sample = [(i, items[i]) for i in range(0, len(items), step)][:_SAMPLE]
  return sum(len(serialize(pair)) for pair in sample) / len(sample) * len(items)
