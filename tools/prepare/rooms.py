"""The reader of `rooms`, which renders scenes instead of reading files."""

import argparse
import dataclasses
import pathlib
from collections.abc import Callable
from typing import Self

from tools.prepare import reader, tfds_folder
from tools.prepare.writer import Target

# Name → about the size of all splits together, in bytes.
_NUM_BYTES = {"rooms": 140e6, "rooms/hard": 80e6, "rooms/clips": 160e6}


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
    parser.set_defaults(overwrite=False, checksums=None)
    parser.add_argument(
        "--name", choices=list(_NUM_BYTES), default="rooms",
        help="still images, hard ones or clips (default: %(default)s)")

  @classmethod
  def from_options(cls, options: argparse.Namespace) -> Self:
    return cls()

  def source_folders(self) -> list[pathlib.Path]:
    return []

  def prepare(self, target: Target) -> list[str]:
    from pp.rooms import builder
    _, _, config = target.name.partition("/")
    config = config or "default"
    tfds_builder = builder.Builder(config=config, data_dir=target.data_dir)
    if not tfds_builder.is_prepared():
      # The check is for new data only: what is there needs no space.
      tfds_folder.check_space(
          target.data_dir, tfds_builder.num_examples, _NUM_BYTES[target.name],
          free_bytes=self.free_bytes)
    builder.build(target.data_dir, config)
    return ["validation"]
