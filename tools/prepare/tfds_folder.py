"""Folders of TFDS data sets: names, what is there, disk space, new splits."""

import contextlib
import fcntl
import hashlib
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from uvim import files
from uvim.registry import ConfigError

# TFDS and TensorFlow take seconds to import, so functions import them.

INFO_FILE = "dataset_info.json"

# Versions of the data sets that TFDS has too.
_VERSIONS = {"coco/2017_panoptic": "1.1.0", "imagenet2012": "5.1.0"}
_OTHER_VERSION = "1.0.0"
# How the name of a folder with unfinished files begins. No later run uses it.
_WORK_PREFIX = ".prepare_"


def version_of(name: str) -> str:
  """The version under which a data set is written."""
  return _VERSIONS.get(name, _OTHER_VERSION)


def folder_of(name: str, data_dir: str) -> pathlib.Path:
  """Where a data set lies below TFDS's root folder."""
  return pathlib.Path(data_dir) / name / version_of(name)


def check_names(name: str, splits: Sequence[str]) -> None:
  """Raises a ConfigError for names that TFDS or its file names do not allow."""
  if not re.fullmatch(r"[a-z][a-z0-9_]*(/\w+)?", name):
    raise ConfigError(
        f"--name: {name!r}; allowed: small letters, digits and _, with one "
        "optional part after a slash, like 'mydata' or 'mydata/panoptic'.")
  for split in splits:
    if not re.fullmatch(r"[A-Za-z]\w*", split):
      raise ConfigError(f"--split: {split!r}; allowed: a plain name like "
                        "'train' or 'validation'.")


def in_hash_order(items: Sequence[Any], name_of: Callable[[Any], str]
                  ) -> list[Any]:
  """The items, sorted by a hash of their names.

  This order is as good as shuffled, so the start of a split is like the rest
  of it. It is the same on every machine.
  """
  def hash_of_name(item):
    return hashlib.sha256(name_of(item).encode()).digest()

  return sorted(items, key=hash_of_name)


def read_info(folder: pathlib.Path) -> dict[str, Any] | None:
  """The content of dataset_info.json, or None if there is no such file.

  Raises:
    ConfigError: the file is damaged.
  """
  path = folder / INFO_FILE
  if not path.exists():
    return None
  info = files.load_json(path, "--name")
  splits = info.get("splits", []) if isinstance(info, dict) else None
  has_names = isinstance(splits, list) and all(
      isinstance(split, dict) and "name" in split for split in splits)
  if not has_names:
    raise ConfigError(f"--name: {str(path)!r} is damaged: it does not list the "
                      "splits of a data set. Choose another --name.")
  return info


def check_existing(folder: pathlib.Path, splits: Sequence[str], *,
                   overwrite: bool) -> None:
  """Checks that a data set which is there may be extended by these splits.

  Raises:
    ConfigError: it has one of them and `overwrite` is not set, or it is stored
      in another format.
  """
  info = read_info(folder)
  # A new data set takes any split.
  if info is None:
    return
  known = [item["name"] for item in info.get("splits", [])]
  # Other splits stay, so only these may collide.
  taken = [repr(split) for split in splits if split in known]
  if taken and not overwrite:
    raise ConfigError(
        f"--split: {', '.join(taken)} is already in {str(folder)!r} (splits: "
        f"{', '.join(known)}). Add --overwrite to replace it.")
  file_format = info.get("fileFormat", "tfrecord")
  if file_format != "tfrecord":
    raise ConfigError(
        f"--name: {str(folder)!r} is stored as {file_format!r}; splits are "
        "added to 'tfrecord' only. Choose another --name.")


def existing_features(folder: pathlib.Path) -> Any | None:
  """The tfds FeaturesDict of the data set that is there, or None."""
  if read_info(folder) is None:
    return None
  import tensorflow_datasets as tfds
  return tfds.features.FeaturesDict.from_config(str(folder))


def check_features(folder: pathlib.Path, features: Any) -> None:
  """Raises a ConfigError if the data set that is there has other features."""
  existing = existing_features(folder)
  # Compared as JSON, which names shapes, dtypes and encodings too.
  if existing is None or existing.to_json() == features.to_json():
    return
  raise ConfigError(
      f"--name: {str(folder)!r} has other features ({', '.join(existing)}) "
      f"than these files ({', '.join(features)}), or the same in another "
      "form. Choose another --name.")


def readable_size(num_bytes: float) -> str:
  """A number of bytes for people, such as '12 MB'."""
  if num_bytes < 1e9:
    return f"{num_bytes / 1e6:.0f} MB"
  return f"{num_bytes / 1e9:.1f} GB"


def free_bytes(folder: pathlib.Path) -> int:
  """Free space of the disk that holds an existing folder."""
  return shutil.disk_usage(folder).free


def check_space(data_dir: str, num_examples: int, num_bytes: float, *,
                free_bytes: Callable[[pathlib.Path], int] = free_bytes) -> None:
  """Prints how much space the data needs.

  Args:
    data_dir: the folder to write to. It need not exist yet.
    num_examples: how many examples will be written.
    num_bytes: their size.
    free_bytes: existing folder → free space of its disk.

  Raises:
    ConfigError: the disk has less.
  """
  # The folder may not exist yet. Then its nearest parent tells the disk.
  existing = pathlib.Path(data_dir).absolute()
  while not existing.exists():
    existing = existing.parent
  num_free = free_bytes(existing)
  need = (f"{num_examples:,} examples need about {readable_size(num_bytes)}, "
          f"{readable_size(num_free)} are free")
  if num_bytes > num_free:
    raise ConfigError(f"--data_dir: {data_dir!r}: {need}.")
  print(f"{need} in {data_dir}")


@contextlib.contextmanager
def work_folder(data_dir: str) -> Iterator[str]:
  """A folder for unfinished files, which is removed at the end of the block.

  The folders of runs that were killed are removed too.
  """
  os.makedirs(data_dir, exist_ok=True)
  # A killed run cannot clean up, so the next one does.
  for lock_path in pathlib.Path(data_dir).glob(f"{_WORK_PREFIX}*.lock"):
    remove_if_abandoned(lock_path)
  # It is on the same disk, so that moving a finished file is only a rename.
  with tempfile.TemporaryDirectory(dir=data_dir, prefix=_WORK_PREFIX) as work:
    lock_path = pathlib.Path(f"{work}.lock")
    with open(lock_path, "w") as lock_file:
      # The system frees this lock if the process dies.
      fcntl.flock(lock_file, fcntl.LOCK_EX)
      try:
        yield work
      finally:
        lock_path.unlink()


def remove_if_abandoned(lock_path: pathlib.Path) -> None:
  """Removes the unfinished files beside a lock that no process holds.

  A process that is killed loses its locks, but its files stay.
  """
  folder = lock_path.with_suffix("")
  # Another process holds the lock, or has removed everything just now.
  with contextlib.suppress(OSError), open(lock_path) as lock_file:
    # Does not wait: an error means that the run is alive.
    fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    print(f"Removing what a run that was stopped left in {folder.name}")
    shutil.rmtree(folder, ignore_errors=True)
    lock_path.unlink()


def merge(new_folder: pathlib.Path, folder: pathlib.Path, splits: Sequence[str]
          ) -> None:
  """Moves the files of new splits to those of the data set that is there.

  dataset_info.json comes last, in one rename. No reader sees the splits before.

  Args:
    new_folder: a complete TFDS folder with only these splits.
    folder: the folder of the data set. It need not exist yet.
    splits: the new splits; they replace old ones of the same names.
  """
  folder.mkdir(parents=True, exist_ok=True)
  info = _merged_info(read_info(new_folder), read_info(folder), splits)
  new_shards = {path.name for path in new_folder.glob("*.tfrecord*")}
  # Data first, description last: until that is there, TFDS sees the old splits.
  for path in new_folder.iterdir():
    if path.name != INFO_FILE:
      os.replace(path, folder / path.name)
  files.write_json(folder / INFO_FILE, info)
  # A split that was replaced may have had another number of shards.
  for split in splits:
    for path in folder.glob(f"{info['name']}-{split}.tfrecord*"):
      if path.name not in new_shards:
        path.unlink()


def _merged_info(new_info: dict[str, Any], old_info: dict[str, Any] | None,
                 splits: Sequence[str]) -> dict[str, Any]:
  """The old description with the new splits."""
  if not old_info:
    return new_info
  old_splits = old_info.get("splits", [])
  kept = [item for item in old_splits if item["name"] not in splits]
  all_splits = kept + new_info["splits"]
  # All but the splits stays as it was.
  return {**old_info, "splits": all_splits}
