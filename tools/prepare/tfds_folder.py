"""Folders of TFDS data sets: names, what is there, disk space, new splits."""

import contextlib
import hashlib
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from uvim import files
from uvim.lock import Lock, Locked
from uvim.registry import ConfigError

# TFDS and TensorFlow take seconds to import, so functions import them.

INFO_FILE = "dataset_info.json"

# Versions of the data sets that TFDS has too.
_VERSIONS = {"coco/2017_panoptic": "1.1.0", "imagenet2012": "5.1.0"}
_OTHER_VERSION = "1.0.0"
# Raises `Locked` if the lock was lost.
CheckLock = Callable[[], None]

# How the names of a lock and of a folder with unfinished files begin. The next
# run removes the folder.
_WORK_PREFIX = ".prepare_"


def version_of(name: str) -> str:
  """The version under which a data set is written."""
  return _VERSIONS.get(name, _OTHER_VERSION)


def folder_of(name: str, data_dir: str) -> pathlib.Path:
  """Where a data set lies below TFDS's root folder."""
  return pathlib.Path(data_dir) / name / version_of(name)


def check_names(name: str, splits: Sequence[str]) -> None:
  """Raises a ConfigError for names that TFDS or its file names do not allow."""
  # ASCII: not every disk spells other letters as they came.
  if not re.fullmatch(r"[a-z][a-z0-9_]*(/\w+)?", name, re.ASCII):
    raise ConfigError(
        f"--name: {name!r}; allowed: small letters, digits and _, with one "
        "optional part after a slash, like 'mydata' or 'mydata/panoptic'.")
  for split in splits:
    # 'all' is TFDS's name for all splits together.
    is_plain = re.fullmatch(r"[A-Za-z]\w*", split, re.ASCII)
    if not is_plain or split == "all":
      raise ConfigError(f"--split: {split!r}; allowed: a plain name like "
                        "'train' or 'validation', but not 'all'.")


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
  if not _lists_splits(info):
    raise ConfigError(f"--name: {str(path)!r} is damaged: it does not list the "
                      "splits of a data set. Choose another --name.")
  return info


def _lists_splits(info: Any) -> bool:
  """Whether this is the description of a data set, with names of splits."""
  if not isinstance(info, dict) or not isinstance(info.get("name"), str):
    return False
  splits = info.get("splits", [])
  if not isinstance(splits, list):
    return False
  for split in splits:
    if not isinstance(split, dict) or not isinstance(split.get("name"), str):
      return False
  return True


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
  """The tfds FeaturesDict of the data set that is there, or None.

  Raises:
    ConfigError: its description is damaged, or names classes of others.
  """
  if read_info(folder) is None:
    return None
  import tensorflow_datasets as tfds

  from pp import features_file
  path = folder / features_file.NAME
  # Says what is wrong with a file that is absent, no JSON, or not to be read.
  features_file.check(folder, "--name")
  try:
    features = tfds.features.FeaturesDict.from_config(str(folder))
  # TFDS has many errors for JSON that does not describe features.
  except Exception as error:
    raise _no_features(path) from error
  if not isinstance(features, tfds.features.FeaturesDict):
    raise _no_features(path)
  return features


def _no_features(path: pathlib.Path) -> ConfigError:
  return ConfigError(f"--name: {str(path)!r} is damaged: it does not describe "
                     "the features of a data set. Choose another --name.")


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
                option: str = "--data_dir",
                free_bytes: Callable[[pathlib.Path], int] = free_bytes) -> None:
  """Prints how much space the data needs.

  Args:
    data_dir: the folder to write to. It need not exist yet.
    num_examples: how many examples will be written.
    num_bytes: their size.
    option: of the command, which names the folder.
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
    raise ConfigError(f"{option}: {data_dir!r}: {need}.")
  print(f"{need} in {data_dir}")


@contextlib.contextmanager
def locked(name: str, data_dir: str) -> Iterator[CheckLock]:
  """One command prepares a data set at a time, of whatever splits.

  What killed commands left is removed first. If the block writes nothing, not
  even `data_dir` stays.

  Args:
    name: of the data set; see `check_names`.
    data_dir: TFDS's root folder. It need not exist yet.

  Yields:
    What raises `Locked` if another command has taken the data set over, as it
    does when this one slept.

  Raises:
    ConfigError: another command prepares the same data set.
  """
  root = pathlib.Path(data_dir).absolute()
  new_folders = [folder for folder in (root, *root.parents)
                 if not folder.exists()]
  work = _work_path(name, data_dir)
  lock_path = work.with_name(f"{work.name}.lock")
  try:
    with Lock(lock_path, f"--name {name!r} in {data_dir!r}") as lock:
      _remove_left_overs(work, folder_of(name, data_dir))
      yield lock.check
  finally:
    # From the inside out, as far as they are empty.
    for folder in new_folders:
      with contextlib.suppress(OSError):
        folder.rmdir()


def _remove_left_overs(work: pathlib.Path, folder: pathlib.Path) -> None:
  """Removes what a command that was killed left, while no other runs."""
  if work.exists():
    print(f"Removing what a run that was stopped left in {work.name}")
    shutil.rmtree(work)
  # Of `files.replace_file`.
  for path in folder.glob(".*.partial"):
    path.unlink()


def _work_path(name: str, data_dir: str) -> pathlib.Path:
  """The hidden folder of unfinished files."""
  # A name has no dots, so no two names share a folder.
  return pathlib.Path(data_dir) / (_WORK_PREFIX + name.replace("/", "."))


@contextlib.contextmanager
def work_folder(name: str, data_dir: str, check_lock: CheckLock
                ) -> Iterator[str]:
  """A folder for unfinished files, which is removed at the end of the block.

  The data set must be `locked`, which gives `check_lock`.
  """
  # It is on the same disk, so that moving a finished file is only a rename.
  work = _work_path(name, data_dir)
  work.mkdir(parents=True)
  try:
    yield str(work)
  finally:
    # A command that took the data set over has a folder of the same name.
    with contextlib.suppress(Locked):
      check_lock()
      shutil.rmtree(work)


def flush(path: pathlib.Path) -> None:
  """Waits until a file or a folder is on the disk.

  Without it, a rename may survive a crash of the machine and the content of
  the file may not.
  """
  handle = os.open(path, os.O_RDONLY)
  try:
    os.fsync(handle)
  finally:
    os.close(handle)


def merge(new_folder: pathlib.Path, folder: pathlib.Path, splits: Sequence[str]
          ) -> None:
  """Moves the files of new splits to those of the data set that is there.

  At each moment dataset_info.json lists complete splits only. A split that is
  replaced is not listed while its files are moved.

  Args:
    new_folder: a complete TFDS folder with only these splits.
    folder: the folder of the data set. It need not exist yet.
    splits: the new splits; they replace old ones of the same names.
  """
  folder.mkdir(parents=True, exist_ok=True)
  new_info = read_info(new_folder)
  old_info = read_info(folder)
  info = new_info
  if old_info is not None:
    kept_info = _without(old_info, splits)
    info = {**kept_info, "splits": kept_info["splits"] + new_info["splits"]}
    if kept_info != old_info:
      files.write_json(folder / INFO_FILE, kept_info)
  new_shards = {path.name for path in new_folder.glob("*.tfrecord*")}
  for path in new_folder.iterdir():
    if path.name != INFO_FILE:
      flush(path)
      os.replace(path, folder / path.name)
  flush(folder)
  files.write_json(folder / INFO_FILE, info)
  # A split that was replaced may have had another number of shards.
  for split in splits:
    for path in folder.glob(f"{info['name']}-{split}.tfrecord*"):
      if path.name not in new_shards:
        path.unlink()


def _without(info: dict[str, Any], splits: Sequence[str]) -> dict[str, Any]:
  """The description without some splits. All else stays as it was."""
  kept = [item for item in info.get("splits", [])
          if item["name"] not in splits]
  return {**info, "splits": kept}
