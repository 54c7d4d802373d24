"""Finds TFDS data sets on disk, by names like 'mydata/config:1.0.0'."""

import os
import pathlib
import shlex
from typing import Any, NamedTuple

import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.core import dataset_builder, naming
from tensorflow_datasets.core.utils import version as tfds_version

from pp import features_file
from pp.builder import first_line
from uvim import categories as categories_lib
from uvim import files, finder
from uvim.categories import Category
from uvim.registry import ConfigError

# Two files describe a data set; TFDS opens none without them.
_DESCRIPTIONS = ("dataset_info.json", features_file.NAME)
# What `pp.records` can find its way in.
_FORMATS = ("tfrecord",)


class Name(NamedTuple):
  """The parts of a data set's name.

  Attributes:
    data_set: with its config, if any: 'mydata', 'mydata/config'.
    version: '1.0.0', or '' for the newest.
  """
  data_set: str
  version: str

  @property
  def is_rooms(self) -> bool:
    """Whether it is our own data set, in any config."""
    return self.data_set.split("/")[0] == "rooms"


def parse_name(dataset: str) -> Name:
  """Takes a name apart.

  Raises:
    ConfigError: nothing stands before or behind a colon.
  """
  data_set, colon, version = dataset.partition(":")
  if not data_set or bool(colon) != bool(version):
    raise ConfigError(f"dataset: {dataset!r}; allowed: a name like 'mydata', "
                      "'mydata/config' or 'mydata:1.0.0'.")
  return Name(data_set, version)


def default_data_dir(data_dir: str | os.PathLike | None = None) -> str:
  """`data_dir`, else $TFDS_DATA_DIR, else TFDS's own ~/tensorflow_datasets."""
  chosen = data_dir or os.environ.get("TFDS_DATA_DIR")
  return finder.expand(chosen or "~/tensorflow_datasets")


def open_builder(dataset: str, data_dir: str) -> Any:
  """The TFDS builder of a data set on disk.

  'rooms' is rendered on first use; others are made from their files alone.

  Args:
    dataset: its name.
    data_dir: TFDS's root folder.

  Raises:
    ConfigError: the data set or its version is not there, its description is
      damaged or names classes of others, or it is stored in a format without
      random access.
  """
  name = parse_name(dataset)
  _check_version(name, data_dir)
  try:
    builder = _open(name, data_dir)
  except (ConfigError, MemoryError):
    raise
  # TFDS raises a dozen kinds of errors for what is absent or damaged.
  except Exception as error:
    raise _why_not(name, data_dir, error) from error
  file_format = builder.info.file_format.value
  if file_format not in _FORMATS:
    raise ConfigError(
        f"dataset: {dataset!r} in {data_dir!r} is stored as {file_format!r}; "
        f"allowed: {', '.join(_FORMATS)}. Prepare it again with "
        "file_format='tfrecord'.")
  return builder


def _open(name: Name, data_dir: str) -> Any:
  """The builder; raises whatever TFDS does."""
  from pp.rooms import builder as rooms
  if name.is_rooms and name.version in ("", rooms.VERSION):
    _, slash, config = name.data_set.partition("/")
    return rooms.build(data_dir, config if slash else "default")
  folder = _find_folder(name, data_dir)
  if folder is None:
    raise _not_prepared(name.data_set, data_dir)
  # What is checked and what is opened must be one folder.
  try:
    features_file.check(folder, "dataset")
  except ConfigError as error:
    raise ConfigError(_with_remedy(error, _COPY)) from error
  return tfds.builder_from_directory(folder)


def _find_folder(name: Name, data_dir: str) -> str | None:
  """The folder of the newest version that fits, or None."""
  # TFDS allows only plain names, which stay in data_dir, and takes MyData for
  # my_data.
  tfds_name, options = naming.parse_builder_name_kwargs(name.data_set)
  folder = epath.Path(data_dir) / tfds_name.name
  config = options.pop("config", None)
  # Such as mydata/size=3, which no files can answer.
  if options:
    return None
  if config is None and not tfds_version.list_all_versions(folder):
    config = dataset_builder.load_default_config_name(folder)
  if config:
    folder /= config
  for version in reversed(tfds_version.list_all_versions(folder)):
    if version.match(name.version or "*.*.*"):
      return os.fspath(folder / str(version))
  return None


def find_categories(dataset: str, folder: str) -> tuple[Category, ...]:
  """Panoptic categories: those beside the data, or of a known data set."""
  path = pathlib.Path(folder) / categories_lib.FILE_NAME
  if path.is_file():
    return categories_lib.load(path, "dataset")
  name = parse_name(dataset)
  if name.data_set == "coco/2017_panoptic":
    return categories_lib.coco_panoptic()
  if name.is_rooms:
    from pp.rooms import builder as rooms
    _, _, config = name.data_set.partition("/")
    return tuple(Category(*row) for row in rooms.categories_of(config))
  return ()


# ── What is not there ─────────────────────────────────────────────────────


def _versions(name: Name, data_dir: str) -> list[str]:
  """The versions on disk, oldest first."""
  folder = os.path.join(data_dir, name.data_set)
  return [str(version) for version in tfds_version.list_all_versions(folder)]


def _check_version(name: Name, data_dir: str) -> None:
  """Raises a ConfigError if only other versions are there."""
  known = _versions(name, data_dir)
  if name.is_rooms:
    from pp.rooms import builder as rooms
    # Those on disk, and the one that can be rendered.
    known = sorted({*known, rooms.VERSION})
  # TFDS finds the newest of '1.*.*'.
  if not name.version or "*" in name.version:
    return
  if known and name.version not in known:
    raise ConfigError(
        f"dataset: {name.data_set!r} has no version {name.version!r} in "
        f"data_dir {data_dir!r}; there are: {', '.join(known)}.")


def _why_not(name: Name, data_dir: str, error: Exception) -> Exception:
  """Why TFDS could not open a data set: it is damaged, or not there."""
  known = _versions(name, data_dir)
  version = name.version
  if known and not version:
    version = known[-1]
  folder = os.path.join(data_dir, name.data_set, version)
  if version not in known:
    # Such as a disk that is full, or that nobody may write to.
    if isinstance(error, OSError):
      return error
    return _not_prepared(name.data_set, data_dir)
  reason = ""
  for file_name in _DESCRIPTIONS:
    try:
      files.load_json(os.path.join(folder, file_name), "dataset")
    except ConfigError as problem:
      reason = reason or str(problem)
  reason = reason or f"dataset: {folder!r} is damaged: {first_line(error)}"
  remedy = _COPY
  if name.is_rooms:
    remedy = f"Delete {folder!r}, and it is rendered again."
  return ConfigError(_with_remedy(reason, remedy))


_COPY = "Copy it or prepare it again."


def _with_remedy(reason: Any, remedy: str) -> str:
  return f"{str(reason).rstrip('.')}. {remedy}"


# How to make a data set from files, by how its name begins.
_COMMANDS = {
    "nyu": "for NYU Depth V2 run `{} nyu --train DIR --validation DIR",
    "imagenet": "for a folder of images run `{} images --images DIR "
                "--split SPLIT",
}
_OTHER_COMMAND = (
    "for COCO-format panoptic files run `{} coco --images DIR --panoptic "
    "DIR --annotations JSON --split SPLIT")


def _not_prepared(name: str, data_dir: str) -> ConfigError:
  """The one message for data that is not there: where, and how to get it."""
  command = _OTHER_COMMAND
  # The message shows the command that fits the name best.
  for start, text in _COMMANDS.items():
    if name.startswith(start):
      command = text
  return ConfigError(
      f"dataset: {name!r} is not prepared in data_dir {data_dir!r}. "
      f"To get it: {command.format('python -m tools.prepare_data')} "
      f"--name {name} --data_dir {shlex.quote(data_dir)}` (--help tells what "
      "else it can read); for a data set "
      "that TFDS can download run `python -c \"import tensorflow_datasets as "
      f"tfds; tfds.builder({name!r}, data_dir={data_dir!r})"
      ".download_and_prepare()\"`; where it lies elsewhere, set data_dir or "
      "the environment variable TFDS_DATA_DIR.")
