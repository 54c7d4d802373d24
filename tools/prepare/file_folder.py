"""A folder of files that a list names: found, and none outside of it."""

import dataclasses
import os
import pathlib
import unicodedata
from collections.abc import Sequence
from typing import Protocol

from uvim import schema
from uvim.registry import ConfigError


class Named(Protocol):
  """An entry of a list that names a file."""
  file_name: str


@dataclasses.dataclass(frozen=True)
class FileFolder:
  """A folder of files that a list names, such as one of a JSON file.

  Attributes:
    path: the folder.
    option: that names it, for the messages.
    allow_outside: whether the list may name files elsewhere.
  """
  path: pathlib.Path
  option: str
  allow_outside: bool = False

  def check(self) -> None:
    """Raises a ConfigError if there is no such folder."""
    if not self.path.is_dir():
      raise ConfigError(f"{self.option}: {str(self.path)!r} is not a folder.")

  def locate(self, entries: Sequence[Named], list_name: str
             ) -> tuple[list[pathlib.Path], list[str]]:
    """The files of a list's entries, and what is wrong with them.

    A name with accents is also found in the other of the two ways in which
    Unicode can spell them: macOS unpacks archives with the one that others do
    not type. One line says so.
    """
    paths = []
    problems = []
    respelled = []
    for position, entry in enumerate(entries):
      name = entry.file_name
      place = f"{list_name}[{position}].file_name"
      path = os.path.join(self.path, os.path.normpath(name))
      if not self.allow_outside and not self.is_inside(name):
        problems.append(
            f"{place}: {schema.shown(name)} leads out of {self.option}; add "
            "--allow_outside if it may.")
      elif not os.path.isfile(path):
        other_path = _in_other_spelling(self.path, name)
        if other_path:
          path = other_path
          respelled.append(name)
        else:
          problems.append(f"{place}: there is no file {path!r}.")
      paths.append(pathlib.Path(path))
    # Two names may lead to one file, as a.jpg and ./a.jpg do.
    texts = [str(path) for path in paths]
    problems += schema.repeats(texts, list_name, ".file_name")
    if respelled:
      print(f"{self.option}: {len(respelled):,} files are there with their "
            "accents in the other spelling of Unicode (NFC or NFD) than in the "
            f"list, and are taken; the first is {respelled[0]!r}.")
    return paths, problems

  def is_inside(self, name: str) -> bool:
    """Whether a name, as it is written, leads to a place in this folder."""
    path = pathlib.Path(os.path.normpath(name))
    if not path.is_absolute():
      return path.parts[:1] != (os.pardir,)
    # The folder may be named by a link.
    folders = {pathlib.Path(os.path.abspath(self.path)), self.path.resolve()}
    return not folders.isdisjoint(path.parents)


def _in_other_spelling(folder: pathlib.Path, name: str) -> str:
  """The file whose name has the same letters in other bytes, or ""."""
  for form in ("NFC", "NFD"):
    respelled = unicodedata.normalize(form, os.path.normpath(name))
    path = os.path.join(folder, respelled)
    if os.path.isfile(path):
      return path
  return ""
