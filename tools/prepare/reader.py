"""What a reader of raw files is, and the one path from files to a data set.

A reader knows one kind of raw files. It is one class in one file, such as
`images.py`, and one entry of `READERS` in `__main__.py`. A new reader derives
from `FileReader` and defines:

* `command`, `summary`: its name and its help on the command line;
* `add_options`, `from_options`: its options, and the reader made from them;
* `source_folders`: where its files lie;
* `split_names`: the splits it writes;
* `find`: the files, as a list of items for each split. One item becomes one
  example. It may be anything with a stable `repr`, such as a frozen dataclass;
* `problems`: what is wrong with one item. A reader that looks at all items
  together overrides `check` instead;
* `make_example`: the content of one item.

`FileReader.prepare` does the rest in this order: it checks the names, finds
the items, checks every item, and only then writes. So a mistake leaves nothing
on disk. `make_writer` chooses how the splits are written.
"""

import abc
import argparse
import pathlib
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from tools import passes
from tools.prepare import tfds_folder
from tools.prepare.split_writer import SplitWriter
from tools.prepare.writer import Found, Target, Writer
from uvim.registry import ConfigError


class Reader(abc.ABC):
  """One command of `python -m tools.prepare_data`."""

  command: ClassVar[str]
  summary: ClassVar[str]

  @classmethod
  @abc.abstractmethod
  def add_options(cls, parser: argparse.ArgumentParser) -> None:
    """Adds the options of this command to its parser.

    The parsed options include `name`, `overwrite` and `checksums`.
    """

  @classmethod
  @abc.abstractmethod
  def from_options(cls, options: argparse.Namespace) -> Self:
    """The reader that the parsed options describe. It reads no file."""

  @abc.abstractmethod
  def source_folders(self) -> list[pathlib.Path]:
    """The folders of the raw files; a list of checksums names files there."""

  @abc.abstractmethod
  def prepare(self, target: Target) -> list[str]:
    """Makes the data set; returns the splits to show on contact sheets.

    Raises:
      ConfigError: something is wrong with the options, the raw files or the
        target. Nothing is written then.
    """


class FileReader(Reader):
  """A reader of files; see the text of the module."""

  @classmethod
  def add_options(cls, parser: argparse.ArgumentParser) -> None:
    """Adds the options of every reader of files."""
    parser.add_argument("--overwrite", action="store_true",
                        help="replace a split that is there")
    parser.add_argument("--checksums", metavar="FILE",
                        help="list of checksums that the files must have")

  @abc.abstractmethod
  def split_names(self) -> list[str]:
    """The splits that this reader writes."""

  @abc.abstractmethod
  def find(self, target: Target) -> Found:
    """Finds the files and matches them; it does not open each of them.

    Raises:
      ConfigError: files are absent, do not match, or do not fit the data set
        that is there.
    """

  def problems(self, item: Any) -> list[str]:
    """What is wrong with one item, as sentences. Runs in threads."""
    raise NotImplementedError

  def check(self, found: Found) -> None:
    """Checks all items, before anything is written.

    Raises:
      ConfigError: one message for all problems.
    """
    passes.check_each(self.problems, found.all_items())

  @abc.abstractmethod
  def make_example(self, position: int, item: Any) -> dict[str, Any]:
    """What the features encode, for one item. Runs in threads.

    Args:
      position: place of the item in its split.
      item: an item of `find` that has no problems.

    Returns:
      Feature → value. Further keys are left out.
    """

  def make_writer(self) -> Writer:
    """The writer of the splits."""
    return SplitWriter()

  def prepare(self, target: Target, writer: Writer | None = None) -> list[str]:
    """See `Reader.prepare`; `writer` None means that of `make_writer`."""
    splits = self.split_names()
    tfds_folder.check_names(target.name, splits)
    writer = writer or self.make_writer()
    with tfds_folder.locked(target.name, target.data_dir) as check_lock:
      # The cheap checks come first, so that most mistakes show at once.
      tfds_folder.check_existing(
          target.folder, splits, overwrite=target.overwrite)
      found = self.find(target)
      # The whole pass comes before the first write: see the module's text.
      self.check(found)
      self._write(writer, target, found, check_lock)
    return splits

  def _write(self, writer: Writer, target: Target, found: Found,
             check_lock: tfds_folder.CheckLock) -> None:
    """Writes what was found; says in one line why the disk did not take it."""
    import tensorflow as tf

    def make_example(position, item):
      example = self.make_example(position, item)
      # A data set that is there may have fewer features.
      return {key: example[key] for key in found.features}

    try:
      writer.write(target, found, make_example, check_lock)
    except (OSError, tf.errors.OpError) as error:
      # Whoever took the data set over has removed the files of this command.
      check_lock()
      # An error of a raw file names it.
      if getattr(error, "filename", None):
        raise
      reason = getattr(error, "strerror", None) or error.message
      raise ConfigError(
          f"--data_dir: {target.data_dir!r} cannot be written: {reason}. No "
          "unfinished split is listed there; run the same command again."
      ) from error


def add_name_option(parser: argparse.ArgumentParser,
                    default: str | None = None) -> None:
  """Adds `--name`, which is required if it has no default."""
  # A name of a known data set is a good default; other readers have none.
  if default is None:
    parser.add_argument("--name", required=True, help="TFDS name to write")
  else:
    parser.add_argument("--name", default=default,
                        help="TFDS name to write (default: %(default)s)")


def add_split_option(parser: argparse.ArgumentParser) -> None:
  """Adds `--split`, for readers that write one split at a time."""
  parser.add_argument("--split", required=True,
                      help="split to write: train, validation, …")


def add_layout_options(
    parser: argparse.ArgumentParser,
    root: str,
    folder_of: Mapping[str, str],
) -> None:
  """Adds `--root` and `--split`, for a data set of a known layout.

  Args:
    parser: of the command.
    root: what lies in the folder.
    folder_of: split → the name of its folder.
  """
  parser.add_argument("--root", required=True, type=pathlib.Path,
                      help=f"folder with {root}")
  parser.add_argument("--split", required=True, choices=list(folder_of),
                      help="split to write")
