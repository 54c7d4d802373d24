"""A name for a workdir that Orbax and TensorStore understand."""

import os
import tempfile
from typing import Any

from etils import epath

# Wildcards, and what TensorStore takes for a slash.
_MISREAD = frozenset("[]*?\\")


class Alias:
  """A folder under a name that Orbax can write to.

  Orbax looks for its own files by patterns that begin with the folder's path.
  In these, `[1]` stands for `1`, so nothing is found in a folder `lr[1]`, and
  the checkpoint stays in pieces; `a*` also finds what lies in a folder `ab`.
  TensorStore takes a backslash for a slash, and only names in UTF-8. Such a
  folder gets a link of another name.

  Attributes:
    path: for Orbax.
  """

  def __init__(self, folder: epath.Path):
    """Makes the link, if one is needed."""
    self.path = folder
    self._home = None
    name = os.fspath(folder)
    is_local = "://" not in name
    is_plain = _MISREAD.isdisjoint(name) and _is_utf8(name)
    if is_local and not is_plain:
      self._home = tempfile.TemporaryDirectory(prefix="uvim_")
      self.path = epath.Path(self._home.name) / folder.name
      os.symlink(folder, self.path)

  def __enter__(self) -> epath.Path:
    return self.path

  def __exit__(self, *exc: Any) -> None:
    self.remove()

  def remove(self) -> None:
    """Removes the link; the folder stays."""
    if self._home is not None:
      self._home.cleanup()


def _is_utf8(name: str) -> bool:
  """Whether a file's name is text; Python keeps other bytes as surrogates."""
  try:
    name.encode()
  except UnicodeEncodeError:
    return False
  return True
