"""Checksums of a checkpoint's files, and what is wrong with these files.

Only what was saved counts: file managers, editors and network disks leave
files of their own in every folder, and a checkpoint is none the worse for it.
"""

import os
import zlib
from collections.abc import Iterator

from etils import epath

from uvim import files
from uvim.registry import ConfigError

# In the folder of a step.
CHECKSUMS = "checksums.json"
_ITEMS = ("state", "meta")
_ARRAY_METADATA = "state/array_metadatas"
# How much of a file is read at a time.
_CHUNK_BYTES = 1 << 24

# File → [size in bytes, CRC-32].
Digests = dict[str, list[int]]


def write(step_dir: epath.Path) -> None:
  """Keeps the checksums of what was saved in step_dir, complete or not at all.

  Raises:
    OSError: a file cannot be read or written.
  """
  files.write_json(step_dir / CHECKSUMS, _digests(step_dir), indent=None)


def damage(step_dir: epath.Path, beginning: str = "") -> str:
  """What is wrong with a checkpoint's files; '' if nothing.

  Other files than those that were saved do not matter: file managers and
  network disks leave some of their own.

  Args:
    step_dir: of the checkpoint.
    beginning: only files whose names below step_dir begin so are read.

  Raises:
    ConfigError: a file is whole, perhaps, but must not be read; to go back to
      an older checkpoint would be wrong.
  """
  expected = files.read_json(step_dir / CHECKSUMS)
  # Without the list nobody can tell whether the rest is whole.
  if not expected:
    return f"{CHECKSUMS} is missing, empty or damaged"
  for name, digest in sorted(expected.items()):
    if not name.startswith(beginning):
      continue
    try:
      found = _digest(step_dir / name)
    except PermissionError as error:
      raise ConfigError(
          f"{step_dir / name}: permission denied. Allow this user to read the "
          "checkpoint.") from error
    except OSError as error:
      return f"{name} cannot be read: {error}"
    if digest != found:
      return f"{name} is altered"
  return ""


def check_metadata(step_dir: epath.Path) -> None:
  """Refuses files that Orbax would take for its own descriptions of arrays.

  It reads all that begin with `process_`, such as an editor's `process_0~`.

  Raises:
    ConfigError: names such a file.
  """
  folder = step_dir / _ARRAY_METADATA
  # Object stores have no editors. Elsewhere `epath` hides what ends in `~`.
  if not os.path.isdir(folder):
    return
  ours = files.read_json(step_dir / CHECKSUMS) or {}
  for name in sorted(os.listdir(folder)):
    is_ours = f"{_ARRAY_METADATA}/{name}" in ours
    if name.startswith("process_") and not is_ours:
      raise ConfigError(f"{folder / name} is no part of this checkpoint, but "
                        "would be read with it. Move it away.")


def _files(folder: epath.Path) -> Iterator[epath.Path]:
  # epath has no recursive glob, for the sake of object stores.
  for path in folder.iterdir():
    # A file manager's, or one of NFS that is gone in a moment.
    if path.name.startswith("."):
      continue
    if path.is_dir():
      yield from _files(path)
    else:
      yield path


def _digests(step_dir: epath.Path) -> Digests:
  """The digests of what we saved, by names below step_dir."""
  digests = {}
  for item in _ITEMS:
    for path in _files(step_dir / item):
      name = path.relative_to(step_dir).as_posix()
      digests[name] = _digest(path)
  return digests


def _digest(path: epath.Path) -> list[int]:
  """[size in bytes, CRC-32] of a file, which may exceed the memory."""
  size = 0
  crc = 0
  with path.open("rb") as file:
    while chunk := file.read(_CHUNK_BYTES):
      size += len(chunk)
      crc = zlib.crc32(chunk, crc)
  return [size, crc]
