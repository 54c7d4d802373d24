"""What a reader hands to a writer: the target, and what it found.

Two writers know how to make TFDS files of it: `split_writer.SplitWriter` keeps
the order of the reader, `builder_writer.BuilderWriter` leaves it to TFDS.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from tools.prepare import tfds_folder

# (position in the split, item) → what the features encode.
MakeExample = Callable[[int, Any], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Target:
  """The data set to write.

  Attributes:
    name: TFDS name, with an optional config after a slash.
    data_dir: TFDS's root folder.
    overwrite: whether a split that is there is replaced.
  """
  name: str
  data_dir: str
  overwrite: bool = False

  @property
  def folder(self) -> pathlib.Path:
    """The folder of the data set."""
    # It ends with the version.
    return tfds_folder.folder_of(self.name, self.data_dir)


@dataclasses.dataclass(frozen=True)
class Found:
  """What a reader found, ready to be checked and written.

  Attributes:
    splits: split → its items, in the order to write.
    features: tfds FeaturesDict of the data set.
    extra_files: name of a file beside the data → function that writes it.
  """
  splits: Mapping[str, Sequence[Any]]
  features: Any
  extra_files: Mapping[str, Callable[[pathlib.Path], Any]] = (
      dataclasses.field(default_factory=dict))

  def all_items(self) -> list[Any]:
    """The items of all splits together."""
    together = []
    for items in self.splits.values():
      together += items
    return together

  def write_extra_files(self, folder: pathlib.Path) -> None:
    """Writes the extra files into a folder."""
    for name, write_file in self.extra_files.items():
      write_file(folder / name)


class Writer(Protocol):
  """Writes splits beside those of a data set that are there."""

  def write(self, target: Target, found: Found, make_example: MakeExample,
            check_lock: tfds_folder.CheckLock) -> None:
    """Writes all of the splits or, after an error, none.

    Args:
      target: the data set, which is locked.
      found: the items of each split, and the features.
      make_example: (position, item) → what the features encode. It may run in
        threads.
      check_lock: is called before files get their final place; see
        `tfds_folder.locked`.
    """
