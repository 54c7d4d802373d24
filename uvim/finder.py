"""Paths: how they are written, and which files below a folder count.

The rule of `find_files`, for all commands:

* A file counts if its name has one of the wanted endings, in small or capital
  letters.
* Links count as what they lead to, files and folders alike. A folder that is
  reached twice, as links can make it, is searched once.
* What other programs leave does not count: names that begin with a dot
  (`.thumbs/`, `._photo.jpg`) and a few known folders (`__MACOSX`, `@eaDir`).
* What our commands wrote does not count: folders that hold the lists of `uvim
  predict`, and data sets with their contact sheets.
* Pipes, sockets and devices do not count: reading them may never end.
* The order is that of the paths as text, the same on every disk.

A file or folder that the user names is taken, whatever its own name is.

Layer 0: no imports but the standard library and the registry.
"""

import os
import pathlib
from collections.abc import Collection, Iterator

from uvim.registry import ConfigError

# The lists in a folder that `uvim predict` writes to; see
# `uvim.inference.export`.
OUTPUT_LISTS = ("predictions.json", "predictions.jsonl")
# Both lie in the folder of a TFDS data set.
_DATA_SET_FILES = ("dataset_info.json", "features.json")
# Folders that archives, servers and disks make for themselves.
_FOREIGN_FOLDERS = frozenset({
    "__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information",
    "lost+found"})


def expand(path: str | os.PathLike) -> str:
  """The path with `~` and `~user` replaced by the home folder.

  A shell does so only where the path begins an argument, not in `--out=~/x`.
  Addresses such as gs://… stay as they are.
  """
  path = os.fspath(path)
  if "://" in path:
    return path
  return os.path.expanduser(path)


def find_files(folder: str | os.PathLike,
               suffixes: Collection[str]) -> list[pathlib.Path]:
  """The files below a folder that the rule above counts.

  Args:
    folder: is searched with all folders in it.
    suffixes: the wanted endings with their dot, in small letters.

  Raises:
    ConfigError: the folder, or one in it, cannot be read.
  """
  folder = pathlib.Path(folder)
  wanted = tuple(suffixes)
  found = []
  try:
    for path in _walk(folder, set()):
      if path.name.lower().endswith(wanted) and path.is_file():
        found.append(path)
  except OSError as error:
    raise ConfigError(f"{error.filename or folder}: cannot be searched: "
                      f"{error.strerror or error}.") from error
  return sorted(found)


def _walk(folder: pathlib.Path, seen: set[tuple[int, int]],
          ) -> Iterator[pathlib.Path]:
  """All that is no folder, below `folder`."""
  stat = folder.stat()
  # Device and number are those of the folder itself, whichever link led here.
  identity = (stat.st_dev, stat.st_ino)
  if identity in seen:
    return
  seen.add(identity)
  # Sorted, so that of two ways to one folder always the same is taken.
  for path in sorted(folder.iterdir()):
    if path.name.startswith("."):
      continue
    if not path.is_dir():
      yield path
    elif path.name not in _FOREIGN_FOLDERS and not _is_output(path):
      yield from _walk(path, seen)


def _is_output(folder: pathlib.Path) -> bool:
  """Whether one of our commands wrote this folder."""
  is_prediction = any((folder / name).exists() for name in OUTPUT_LISTS)
  is_data_set = all((folder / name).exists() for name in _DATA_SET_FILES)
  return is_prediction or is_data_set


def check_file(path: str | os.PathLike, what: str = "file") -> None:
  """Raises a ConfigError unless the path leads to a file that ends.

  Args:
    path: as the user named it.
    what: what is expected there, for the message.
  """
  path = pathlib.Path(path)
  if not path.exists():
    raise ConfigError(f"{path}: there is no such {what}.")
  if not path.is_file():
    kind = "a folder" if path.is_dir() else "a pipe or device"
    raise ConfigError(f"{path}: is {kind}, not a {what}.")

