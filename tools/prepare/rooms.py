"""The reader of `rooms`, which renders scenes instead of reading files."""

import argparse
import dataclasses
import pathlib
from collections.abc import Callable
from typing import Self

from tools.prepare import reader, tfds_folder
from tools.prepare.writer import Target

_NAME = "rooms"
_CONFIG = "default"
_NUM_BYTES = 140e6  # About the size of all splits together.


@dataclasses.dataclass(frozen=True)
class RoomsReader(reader.Reader):
  """The procedural data set; see `pp.rooms`.

  Attributes:
    free_bytes: existing folder → free space of its disk.
  """
  free_bytes: Callable[[pathlib.Path], int] = tfds_folder.free_bytes

  command = "rooms"
  summary = "render the procedural data set"

  @classmethod
  def add_options(cls, parser: argparse.ArgumentParser) -> None:
    # The options that every command has, with the only values that fit here.
    parser.set_defaults(name=_NAME, overwrite=False, checksums=None)

  @classmethod
  def from_options(cls, options: argparse.Namespace) -> Self:
    return cls()

  def source_folders(self) -> list[pathlib.Path]:
    return []

  def prepare(self, target: Target) -> list[str]:
    from pp.rooms import builder
    tfds_builder = builder.Builder(data_dir=target.data_dir)
    if not tfds_builder.is_prepared():
      # The check is for new data only: what is there needs no space.
      num_examples = sum(builder.SIZES[_CONFIG].values())
      tfds_folder.check_space(target.data_dir, num_examples, _NUM_BYTES,
                              free_bytes=self.free_bytes)
    builder.build(target.data_dir, _CONFIG)
    return ["validation"]
