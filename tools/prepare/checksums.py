"""Files against a list of checksums, as md5sum or sha256sum write it."""

import hashlib
import pathlib
import re
from collections.abc import Iterable, Sequence

from tools import passes
from uvim.registry import ConfigError

_KINDS = {32: "md5", 40: "sha1", 64: "sha256"}  # By the number of digits.
_LINE = re.compile(r"([0-9a-fA-F]+) [ *](.+)")


def check(list_path: pathlib.Path, folders: Iterable[pathlib.Path]) -> None:
  """Compares every listed file; those that are not listed are left alone.

  Args:
    list_path: text, a line 'CHECKSUM  NAME' per file.
    folders: where to look for NAME, after the folder of the list.

  Raises:
    ConfigError: the list cannot be read, or files are absent or differ.
  """
  places = [list_path.parent, *folders]
  passes.check_each(lambda item: _problems(*item, places), _read(list_path))


def _read(list_path: pathlib.Path) -> list[tuple[str, str]]:
  """(checksum, name) of each line."""
  try:
    lines = list_path.read_text().splitlines()
  except (OSError, ValueError) as error:
    raise ConfigError(f"--checksums: cannot read {str(list_path)!r}: "
                      f"{error}.") from error
  out = []
  for number, line in enumerate(lines, 1):
    found = _LINE.fullmatch(line)
    if found and len(found[1]) in _KINDS:
      out.append((found[1].lower(), found[2]))
    elif line.strip():
      raise ConfigError(
          f"--checksums: line {number} of {str(list_path)!r} is not 'CHECKSUM  "
          "NAME' as md5sum, sha1sum or sha256sum write it.")
  if not out:
    raise ConfigError(f"--checksums: {str(list_path)!r} names no file.")
  return out


def _problems(want: str, name: str, places: Sequence[pathlib.Path]
              ) -> list[str]:
  path = next((place / name for place in places if (place / name).is_file()),
              None)
  if path is None:
    return [f"{name}: not in {', '.join(map(str, places))}."]
  kind = _KINDS[len(want)]
  with open(path, "rb") as file:
    got = hashlib.file_digest(file, kind).hexdigest()
  if got == want:
    return []
  return [f"{name}: its {kind} is {got}, the list says {want}. Copy it again."]
