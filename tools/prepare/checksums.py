"""Compares files with a list of checksums, as md5sum or sha256sum write it."""

import hashlib
import pathlib
import re
from collections.abc import Iterable, Sequence

from tools import passes
from uvim import files
from uvim.registry import ConfigError

# Number of hexadecimal digits → algorithm.
_ALGORITHMS = {32: "md5", 40: "sha1", 64: "sha256"}
# A star marks a file that was read as binary.
_LINE = re.compile(r"([0-9a-fA-F]+) [ *](.+)")


def check(list_path: pathlib.Path, folders: Iterable[pathlib.Path]) -> None:
  """Compares every file that is listed. It ignores all other files.

  Args:
    list_path: a text with a line 'CHECKSUM  NAME' for each file.
    folders: where to look for NAME, after the folder of the list itself.

  Raises:
    ConfigError: the list is not readable, or files are absent or differ.
  """
  places = [list_path.parent, *folders]

  def find_problems(entry):
    return _problems(entry, places)

  # All files first, so one message names all that differ.
  passes.check_each(find_problems, _read_list(list_path))


def _read_list(list_path: pathlib.Path) -> list[tuple[str, str]]:
  """(checksum, name) of each line."""
  lines = files.load_text(list_path, "--checksums").splitlines()
  entries = []
  for number, line in enumerate(lines, 1):
    match = _LINE.fullmatch(line)
    # The length of a checksum tells its algorithm.
    if match and len(match[1]) in _ALGORITHMS:
      entries.append((match[1].lower(), match[2]))
    elif line.strip():
      raise ConfigError(
          f"--checksums: line {number} of {str(list_path)!r} is not 'CHECKSUM  "
          "NAME' as md5sum, sha1sum or sha256sum write it.")
  if not entries:
    raise ConfigError(f"--checksums: {str(list_path)!r} names no file.")
  return entries


def _problems(entry: tuple[str, str], places: Sequence[pathlib.Path]
              ) -> list[str]:
  """What is wrong with the file of one (checksum, name)."""
  expected, name = entry
  path = _first_file(name, places)
  if path is None:
    return [f"{name}: not in {', '.join(map(str, places))}."]
  algorithm = _ALGORITHMS[len(expected)]
  with open(path, "rb") as file:
    # Reads the file in pieces: it may be larger than the memory.
    actual = hashlib.file_digest(file, algorithm).hexdigest()
  if actual == expected:
    return []
  return [f"{name}: its {algorithm} is {actual}, the list says {expected}. "
          "Copy it again."]


def _first_file(name: str, places: Sequence[pathlib.Path]
                ) -> pathlib.Path | None:
  """The file of this name in the first folder that has one."""
  for place in places:
    path = place / name
    if path.is_file():
      return path
  return None
