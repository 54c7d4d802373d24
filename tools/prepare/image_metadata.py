"""Hugging Face's image folders: metadata.jsonl or metadata.csv beside images.

Each line, or row, names one file and may give its label.
"""

import csv
import json
import pathlib
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from tools.passes import raise_problems
from tools.prepare.file_folder import FileFolder
from uvim import files, schema
from uvim.registry import ConfigError

_CSV = "metadata.csv"
FILE_NAMES = ("metadata.jsonl", _CSV)


class _Row(msgspec.Struct):
  """What a line says of its image."""
  file_name: schema.TEXT
  label: Annotated[schema.TEXT | int | None, Meta(
      description="a text, a whole number or null")] = None


def read(folder: pathlib.Path) -> dict[pathlib.Path, str | None] | None:
  """The images that a folder's metadata name.

  Returns:
    Path below the folder → label, in the order of the file; None: the folder
    has no metadata.

  Raises:
    ConfigError: the file is damaged, or names files that are absent, twice or
      outside of the folder.
  """
  there = [name for name in FILE_NAMES if (folder / name).is_file()]
  if not there:
    return None
  path = folder / there[0]
  text = files.load_text(path, "--images")
  rows = []
  problems = []
  for number, item in _items(path, text):
    place = f"line {number}"
    try:
      row = schema.read_object(item, _Row, place)
    except ConfigError as error:
      problems.append(str(error))
      continue
    rows.append(row)
    if not FileFolder(folder, "--images").is_inside(row.file_name):
      problems.append(f"{place}.file_name: {row.file_name!r} leads out of the "
                      "folder.")
  raise_problems(problems, f"--images: {str(path)!r}")
  return _located(folder, path, rows)


def _items(path: pathlib.Path, text: str) -> Iterator[tuple[int, Any]]:
  """(number of its line, what it says) of each line that is not empty."""
  lines = text.splitlines()
  if path.name == _CSV:
    # Cells behind the last column get a name, which nothing reads.
    reader = csv.DictReader(lines, restkey="more")
    for row in reader:
      # An empty cell is no label.
      row["label"] = row.get("label") or None
      yield reader.line_num, row
    return
  for number, line in enumerate(lines, start=1):
    if not line.strip():
      continue
    try:
      yield number, json.loads(line)
    except (ValueError, RecursionError) as error:
      raise ConfigError(f"--images: {str(path)!r}: line {number} is not JSON: "
                        f"{error}.") from None


def _located(folder: pathlib.Path, path: pathlib.Path, rows: list[_Row]
             ) -> dict[pathlib.Path, str | None]:
  """Path below the folder → label."""
  paths, problems = FileFolder(folder, "--images").locate(rows, path.name)
  raise_problems(problems, f"--images: {str(path)!r}")
  labels = {}
  for image_path, row in zip(paths, rows, strict=True):
    label = None if row.label is None else str(row.label)
    labels[image_path.relative_to(folder)] = label
  return labels
