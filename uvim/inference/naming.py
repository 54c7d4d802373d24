"""Names and numbers of predictions: distinct, and the same in a later run.

Layer 0: no imports but the standard library and the registry.
"""

import hashlib
import pathlib
from collections.abc import Collection, Iterable, Sequence

from uvim.registry import ConfigError

# A disk allows 255 bytes or fewer. The writer needs some for endings.
_MAX_NAME_BYTES = 120
# Numbers up to here are exact in every reader of JSON.
_END_OF_IDS = 2**53
# Numbers from a hash lie in the upper half: far from those of file names.
_FIRST_HASHED_ID = 2**52


def file_names(paths: Iterable[pathlib.Path],
               taken: Iterable[str] = ()) -> list[str]:
  """A name for the files of each image: its own, numbered if taken.

  Args:
    paths: images.
    taken: names that others have.
  """
  names = []
  # Some disks do not tell a from A.
  used = {name.lower() for name in taken}
  # The last number of each name, so that thousands of one name take no longer.
  last_number = {}
  for path in paths:
    stem = _shorten(path.stem)
    name = stem
    number = last_number.get(stem.lower(), 1)
    while name.lower() in used:
      number += 1
      name = f"{stem}_{number}"
    last_number[stem.lower()] = number
    used.add(name.lower())
    names.append(name)
  return names


def check_names(names: Sequence[str], num_images: int) -> None:
  """Raises a ConfigError unless each image has a name of its own.

  A name is a part of a file name, so it leads to no other folder.
  """
  if len(names) != num_images:
    raise ConfigError(f"{len(names)} names for {num_images} images.")
  seen = set()
  for name in names:
    is_plain = isinstance(name, str) and name not in ("", ".", "..")
    if not is_plain or any(mark in name for mark in "/\\\0"):
      raise ConfigError(f"names: {name!r}; allowed: a file name without an "
                        "ending and a folder.")
    if name in seen:
      raise ConfigError(f"names: {name!r} stands there twice.")
    seen.add(name)


def _shorten(stem: str) -> str:
  """The name, or its beginning and a hash of all of it."""
  encoded = stem.encode(errors="surrogateescape")
  if len(encoded) <= _MAX_NAME_BYTES:
    return stem
  # A character may be cut in two: what is left of it is dropped.
  start = encoded[:_MAX_NAME_BYTES - 9].decode(errors="ignore")
  return f"{start}_{_hash(stem) % 2**32:08x}"


def image_id(name: str, taken: Collection[int] = ()) -> int:
  """COCO's id of an image: a whole number that no other image has.

  It is the name's own number where it is one, such as 000000000139, and
  nobody else has it. Otherwise it follows from a hash of the name, so that it
  does not depend on the other images.

  Args:
    name: of the image's files.
    taken: the ids of other images.
  """
  is_number = name.isascii() and name.isdecimal() and len(name) <= 15
  if is_number and int(name) not in taken:
    return int(name)
  number = _FIRST_HASHED_ID + _hash(name) % _FIRST_HASHED_ID
  while number in taken:
    number += 1
    if number == _END_OF_IDS:
      number = _FIRST_HASHED_ID
  return number


def _hash(text: str) -> int:
  digest = hashlib.sha256(text.encode(errors="surrogateescape")).digest()
  return int.from_bytes(digest[:8], "big")
