"""Writes predictions to files; a failure is a ConfigError of one line."""

import json
import os
from collections.abc import Callable, Mapping
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
  """
  members = []
  for key, value in content.items():
    # On one line; only a list below gets one line per item.
    text = json.dumps(value)
    if isinstance(value, list):
      items = ",\n".join(map(json.dumps, value))
      text = f"[\n{items}\n]"
    name = json.dumps(key)
    members.append(f"{name}: {text}")
  joined = ",\n".join(members)
  text = "{" + joined + "}\n"

  def write(file):
    file.write(text.encode())

  write_file(path, write)
