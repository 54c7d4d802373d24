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
# How folders of unfinished files begin: useless to others, and to be gone on.
_WORK, _KEPT = ".prepare_", ".resume_"
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
  folder = lock.with_suffix("")
  with contextlib.suppress(OSError), open(lock) as file:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    print(f"Removing what a run that was stopped left in {folder.name}")
    shutil.rmtree(folder, ignore_errors=True)
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


def _kept_folder(data_dir: str, name: str, splits: Sequence[str],
                 digest: str) -> pathlib.Path:
  """Where unfinished files lie that a stopped run leaves to the next.

  Args:
    data_dir: on the same disk, so that moving finished files is a rename.
    name: of the data set.
    splits: that are written together; others have folders of their own.
    digest: of all that decides what is written.
  """
  name = f"{_KEPT}{name.replace('/', '.')}-{'+'.join(splits)}-{digest}"
  return pathlib.Path(data_dir) / name


@contextlib.contextmanager
def _alone_in(folder: pathlib.Path) -> Iterator[None]:
  """Makes a `_kept_folder`, which goes when the block ends without an error.

  So do those of the same splits with other digests.

  Raises:
    ConfigError: another run is in it.
  """
  folder.mkdir(parents=True, exist_ok=True)
  lock = pathlib.Path(f"{folder}.lock")
  with open(lock, "w") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise ConfigError(f"--name: another command writes the same to {folder}. "
                        "Wait for it.") from None
    prefix = folder.name.rpartition("-")[0]
    for other in folder.parent.glob(f"{prefix}-*.lock"):
      if other != lock:
        _remove_left_over(other)
    yield
    shutil.rmtree(folder)
    lock.unlink()


def _digest(*parts: Any) -> str:
  return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


class _Shards:
  """The files of a split, one after the other; those that are there stay."""

  def __init__(self, prefix: pathlib.Path, count: int, sample: list[bytes]):
    self.guess = count * sum(map(len, sample)) / len(sample)  # In bytes.
    num_shards = min(count, math.ceil(self.guess / _SHARD_BYTES))
    ends = [count * k // num_shards for k in range(num_shards + 1)]
    self._spans = [range(*pair) for pair in itertools.pairwise(ends)]
    self._paths = [
        prefix.with_name(f"{prefix.name}.tfrecord-{k:05d}-of-{num_shards:05d}")
        for k in range(num_shards)]
    self.lengths = [len(span) for span in self._spans]

  def num_bytes(self) -> int:
    """Of all records that are there."""
    # A record has a length of 8 bytes and two checksums of 4 around it.
    return sum(path.stat().st_size - 16 * count
               for path, count in zip(self._paths, self.lengths, strict=True)
               if path.is_file())

  def missing(self) -> list[int]:
    """Positions of the examples that are not written yet."""
    return [i for path, span in zip(self._paths, self._spans, strict=True)
            if not path.is_file() for i in span]

  def write(self, records: Iterator[bytes]) -> None:
    """Writes the records of the `missing` examples."""
    import tensorflow as tf
    for path, count in zip(self._paths, self.lengths, strict=True):
      if path.is_file():
        continue
      part = f"{path}.part"
      with tf.io.TFRecordWriter(part) as writer:
        for record in itertools.islice(records, count):
          writer.write(record)
      os.replace(part, path)
    next(records, None)  # The bar ends only when it sees the end.


def write(name: str, data_dir: str, splits: dict[str, Sequence[Any]], *,
          features: Any, make_example: Callable[[tuple[int, Any]], dict],
          extra_files: dict[str, str] | None = None) -> pathlib.Path:
  """Writes splits of a data set, all or none of them.

  Run again after it was stopped, it keeps the files that were complete.

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
    ConfigError: when the disk is too small, or another run writes the same.
  """
  import tensorflow_datasets as tfds

  def serialize(pair):
    return features.serialize_example(make_example(pair))

  samples = {split: _sample(serialize, items)
             for split, items in splits.items()}
  dataset, _, config = name.partition("/")
  folder = folder_of(name, data_dir)
  new = _kept_folder(data_dir, name, list(splits), _digest(
      features.to_json(), splits, samples, extra_files))
  shards = {split: _Shards(new / f"{dataset}-{split}", len(items),
                           samples[split]) for split, items in splits.items()}
  done = sum(x.num_bytes() for x in shards.values())
  if done:
    print(f"Going on where a run was stopped: {_amount(done)} are written")
  check_space(data_dir, sum(map(len, splits.values())),
              max(0, sum(x.guess for x in shards.values()) - done))
  with _alone_in(new):
    for split, items in splits.items():
      missing = shards[split].missing()
      records = passes.progress(
          passes.map_ahead(serialize, ((i, items[i]) for i in missing)),
          total=len(missing), desc=f"Writing {split}", unit="examples")
      shards[split].write(iter(records))
    tfds.folder_dataset.write_metadata(
        data_dir=new, features=features, version=version_of(name),
        check_data=False, split_infos=[
            tfds.core.SplitInfo(name=split, shard_lengths=x.lengths,
                                num_bytes=x.num_bytes())
            for split, x in shards.items()])
    if config:
      info = {**_read_info(new), "configName": config}
      (new / _INFO).write_text(json.dumps(info))
    for file_name, text in (extra_files or {}).items():
      (new / file_name).write_text(text)
    merge(new, folder, list(splits))
  return folder


def _sample(serialize: Callable[[tuple[int, Any]], bytes],
            items: Sequence[Any]) -> list[bytes]:
  """A few examples of a split: their size, and whether all is as it was."""
  step = max(1, len(items) // _SAMPLE)
  return [serialize((i, items[i]))
          for i in range(0, len(items), step)][:_SAMPLE]
