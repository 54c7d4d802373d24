"""What is done in a folder of predictions: a file that grows line by line.

Line 1, the header, says what all predictions of the folder depend on. Then
come two kinds of lines: a name is given to an image; an image is done. A
process that is killed leaves at most half a line, which readers pass over.
"""

import json
import os
import pathlib
import threading
from collections.abc import Iterator
from typing import Any

import msgspec

from uvim import files
from uvim.registry import ConfigError

FILE_NAME = "predictions.jsonl"


class Header(msgspec.Struct, tag="header"):
  """What all predictions of the folder depend on."""
  depends_on: dict[str, Any]


class Named(msgspec.Struct, tag="named"):
  """An image has a name for its files, and an id.

  `path` is its absolute path, or its name where it has none.
  """
  name: str
  id: int
  path: str


class Done(msgspec.Struct, tag="done"):
  """The files of an image are written.

  Attributes:
    name: of its files.
    stamp: [bytes, time of the last change in ns] of the image's file; [] where
      it has none.
    image: its entry in `predictions.json`.
    records: for each sample, what the task's list needs to know.
  """
  name: str
  stamp: list[int]
  image: dict[str, Any]
  records: list[list[dict[str, Any]]]


class Journal:
  """The journal of one folder.

  Attributes:
    header: its first line; None before `load` and `start`.
    named: the images by name, in the order in which they got it.
    stamps: of the images that are done, by name.
  """

  def __init__(self, folder: pathlib.Path):
    """Touches no file yet."""
    self.path = folder / FILE_NAME
    self.header: Header | None = None
    self.named: dict[str, Named] = {}
    self.stamps: dict[str, list[int]] = {}
    # Where the line of each image that is done begins.
    self._places: dict[str, int] = {}
    self._lock = threading.Lock()

  def load(self) -> None:
    """Reads the file.

    Raises:
      ConfigError: its header is damaged.
    """
    with open(self.path, "rb") as file:
      place = 0
      for line in file:
        self._take(_decode(line), place)
        place += len(line)
    if self.header is None:
      raise ConfigError(f"{self.path}: its first line is damaged, so nobody "
                        "knows what made these predictions. Choose another "
                        "folder, or --overwrite.")

  def start(self, depends_on: dict[str, Any]) -> None:
    """Makes a new file; one that was there is replaced."""
    self.header = Header(depends_on)
    files.write_bytes(self.path, _encode(self.header))

  def append(self, *rows: Named | Done) -> None:
    """Adds lines and waits until they are on the disk; any thread may."""
    with self._lock, open(self.path, "ab+") as file:
      place = file.seek(0, os.SEEK_END)
      if _ends_in_half_a_line(file, place):
        file.write(b"\n")
        place += 1
      for row in rows:
        line = _encode(row)
        file.write(line)
        self._take(row, place)
        place += len(line)
      file.flush()
      os.fsync(file.fileno())

  def done(self) -> Iterator[tuple[Named, Done]]:
    """The images that are done, in the order in which they got names."""
    with open(self.path, "rb") as file:
      for name, named in self.named.items():
        if name in self._places:
          file.seek(self._places[name])
          yield named, _decode(file.readline())

  def _take(self, row: Header | Named | Done | None, place: int) -> None:
    if isinstance(row, Header) and place == 0:
      self.header = row
    elif isinstance(row, Named):
      self.named[row.name] = row
    elif isinstance(row, Done) and row.name in self.named:
      self.stamps[row.name] = row.stamp
      self._places[row.name] = place


def _encode(row: msgspec.Struct) -> bytes:
  # `json` and not msgspec.json: names of files may not be valid Unicode.
  content = {"type": row.__struct_config__.tag, **msgspec.structs.asdict(row)}
  return json.dumps(content).encode() + b"\n"


def _decode(line: bytes) -> Header | Named | Done | None:
  """The row of a line; None if the line is damaged."""
  try:
    return msgspec.convert(json.loads(line), Header | Named | Done)
  except (msgspec.MsgspecError, ValueError, RecursionError):
    return None


def _ends_in_half_a_line(file: Any, size: int) -> bool:
  if size == 0:
    return False
  file.seek(size - 1)
  return file.read(1) != b"\n"
