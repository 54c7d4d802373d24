"""Writes predictions to files; a failure is a ConfigError of one line."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np

from uvim import files
from uvim.registry import ConfigError

Path = str | os.PathLike
WriteTo = Callable[[BinaryIO], Any]


def write_file(path: Path, write: WriteTo) -> None:
  """`files.replace_file`, for files that a user asked for.

  Raises:
    ConfigError: the file cannot be written: a full disk, no permission.
  """
  try:
    files.replace_file(path, write)
  except OSError as error:
    # Some OSErrors have no text from the system.
    reason = error.strerror or error
    raise ConfigError(f"Cannot write {path}: {reason}.") from error


def write_array(path: Path, array: np.ndarray) -> None:
  """Writes a `.npy` file."""
  def write(file):
    np.save(file, array)

  write_file(path, write)


def write_png(path: Path, array: np.ndarray) -> None:
  """Writes uint8 [H, W, 3] or [H, W], or uint16 [H, W], as a PNG."""
  # Imported here: only some tasks write images.
  from PIL import Image
  image = Image.fromarray(array)

  def write(file):
    image.save(file, "PNG")

  write_file(path, write)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
  """Writes a JSON object with one item of a list per line.

  So a code of 256 words is one line of text, not 256.

  Args:
    path: of the file.
    content: a value may be an iterator. Its items are taken one by one as the
      file is written, so that they need not fit into the memory together.
  """
  def write(file):
    for text in _json_texts(content):
      file.write(text.encode())

  write_file(path, write)


def _json_texts(content: Mapping[str, Any]) -> Iterator[str]:
  """The parts of the text of a JSON object."""
  yield "{"
  separator = ""
  for key, value in content.items():
    yield f"{separator}{json.dumps(key)}: "
    if isinstance(value, (list, Iterator)):
      yield from _list_texts(value)
    else:
      yield json.dumps(value)
    separator = ",\n"
  yield "}\n"


def _list_texts(items: Iterable[Any]) -> Iterator[str]:
  """The parts of the text of a JSON list, an item a line."""
  yield "[\n"
  separator = ""
  for item in items:
    yield separator + json.dumps(item)
    separator = ",\n"
  yield "\n]"
