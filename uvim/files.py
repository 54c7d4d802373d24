"""Files that are complete or absent: JSON, text and `.npz`, written safely.

Every writer of the project goes through `replace_file`. Two readers of JSON:
`load_json` for a file that the user names, where damage is a mistake to be
told; `read_json` for files that a run keeps for itself, which may be damaged
without harm. Nothing here reads or writes pickles.
"""

import codecs
import collections
import contextlib
import errno
import json
import logging
import os
import uuid
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import jax
import numpy as np
from etils import epath
from numpy.lib import format as npy_format

from uvim import registry, tree
from uvim.typing import PyTree

# In the published layout: parameters below 'params/', what else a model needs
# (the codebook of a VQ model) below 'state/'.
PARAMS = "params"
STATE = "state"
# Where the oldest published files keep the parameters.
_OLD_PARAMS = "opt/target"

Path = str | os.PathLike
# `json` raises it for lists in lists in lists ….
_JSON_ERRORS = (ValueError, RecursionError)

log = logging.getLogger(__name__)


def replace_file(path: Path, write: Callable[[BinaryIO], Any]) -> None:
  """Writes a file under a temporary name, then renames it.

  A reader never sees half a file, and a file that was there stays as it was
  if anything goes wrong.

  Args:
    path: local or gs://. Missing parent folders of a local path are made.
    write: gets the open file.

  Raises:
    OSError: the file cannot be written.
  """
  path = epath.Path(os.fspath(path))
  # Beside the file, because a rename works only within a file system; under a
  # name that nobody else writes to, nor can have laid a link at.
  temporary = path.with_name(f".{uuid.uuid4().hex}.partial")
  path.parent.mkdir(parents=True, exist_ok=True)
  try:
    with temporary.open("wb") as file:
      write(file)
      file.flush()
      # Without it, a crash of the machine can leave a renamed, empty file.
      with contextlib.suppress(AttributeError, OSError, ValueError):
        os.fsync(file.fileno())
    temporary.replace(path)
  finally:
    with contextlib.suppress(OSError):
      temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
  """`replace_file` with these bytes."""
  replace_file(path, lambda file: file.write(content))


def write_text(path: Path, content: str) -> None:
  """`replace_file` with this text in UTF-8."""
  write_bytes(path, content.encode())


def write_json(
    path: Path,
    content: Any,
    *,
    indent: int | None = 2,
    default: Any = None,
) -> None:
  """`replace_file` with JSON; arguments as of `json.dumps`."""
  text = json.dumps(content, indent=indent, default=default)
  write_text(path, text + "\n")


def read_json(
    path: Path,
    kind: type = dict,
    *,
    sets_aside: bool = False,
) -> Any | None:
  """JSON that a run keeps for itself, or None where none can be read.

  A file that is there but damaged is named in a warning; nobody needs it so
  much that a run should end.

  Args:
    path: local or gs://.
    kind: what the content must be: dict or list.
    sets_aside: renames a damaged file to NAME.damaged, so that what is left of
      it survives the next `write_json`.
  """
  path = epath.Path(os.fspath(path))
  try:
    content = json.loads(path.read_bytes())
    problem = ""
    if not isinstance(content, kind):
      problem = f"holds no JSON {_JSON_NAMES[kind]}"
  except FileNotFoundError:
    return None
  except (OSError, *_JSON_ERRORS) as error:
    problem = f"cannot be read: {error}"
  if not problem:
    return content
  if sets_aside:
    aside = path.with_name(f"{path.name}.damaged")
    with contextlib.suppress(OSError):
      path.replace(aside)
      problem += f"; set aside as {aside.name}"
  log.warning("%s %s.", path, problem)
  return None


_JSON_NAMES = {dict: "object", list: "list"}


def load_json(path: Path, where: str) -> Any:
  """The content of a JSON file that the user names.

  UTF-8 with or without a byte order mark, UTF-16 and UTF-32 are read.

  Args:
    path: local or gs://.
    where: starts the message; the option or field that names the file.

  Raises:
    ConfigError: it cannot be read, is not JSON, or has an object with one key
      twice, of which `json` would silently drop the first.
  """
  content = _load_bytes(path, where)
  try:
    return json.loads(content, object_pairs_hook=_make_object)
  except UnicodeDecodeError as error:
    raise registry.ConfigError(
        f"{where}: {os.fspath(path)!r} is not text in UTF-8 (byte "
        f"{error.start}).") from error
  except _JSON_ERRORS as error:
    raise registry.ConfigError(
        f"{where}: {os.fspath(path)!r} is not JSON: {error}.") from error


def _make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  """A JSON object, whose keys must differ."""
  content = dict(pairs)
  if len(content) < len(pairs):
    counts = collections.Counter(key for key, _ in pairs)
    twice, _ = counts.most_common(1)[0]
    raise ValueError(f"an object has the key {twice[:60]!r} twice")
  return content


def load_text(path: Path, where: str) -> str:
  """The text of a file that the user names, such as a list of names.

  Args:
    path: local or gs://. In UTF-8, or UTF-16 with a byte order mark.
    where: starts the message; the option or field that names the file.

  Raises:
    ConfigError: it cannot be read, or is in another encoding.
  """
  content = _load_bytes(path, where)
  encoding = "utf-8-sig"
  if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
    encoding = "utf-16"
  try:
    return content.decode(encoding)
  except UnicodeDecodeError as error:
    raise registry.ConfigError(
        f"{where}: {os.fspath(path)!r} is not text in UTF-8 (byte "
        f"{error.start}). Save it as UTF-8.") from error


def _load_bytes(path: Path, where: str) -> bytes:
  """The bytes of a file; a pipe or a device, which may never end, is none."""
  name = os.fspath(path)
  path = epath.Path(name)
  try:
    if not path.exists():
      raise FileNotFoundError(errno.ENOENT, "there is no such file")
    if not path.is_file():
      raise OSError(errno.EINVAL, "it is no file")
    return path.read_bytes()
  except OSError as error:
    reason = error.strerror or str(error)
    raise registry.ConfigError(
        f"{where}: {name!r} cannot be read: {reason}.") from error


def load_npz(path: Path) -> dict[str, Any]:
  """Nested dicts of numpy arrays, {'params': …, 'state': …}.

  Args:
    path: local or gs://. The arrays of an older file may lack 'params/' or lie
      below 'opt/target/'.

  Raises:
    ConfigError: not readable, far larger in memory than on disk, or arrays of
      anything but finite numbers.
  """
  path = epath.Path(os.fspath(path))
  try:
    with path.open("rb") as file:
      _check_table(file)
      # An NpzFile is a mapping; anything else np.load gives is not.
      flat = dict(np.load(file, allow_pickle=False).items())
  except registry.ConfigError as error:
    raise registry.ConfigError(f"{path}: {error}") from error
  # numpy and zipfile have many errors for damaged data: ValueError, KeyError,
  # TokenError, zlib.error, AttributeError, MemoryError, ….
  except Exception as error:  # noqa: BLE001
    raise registry.ConfigError(
        f"{path} is not a readable .npz of plain arrays: "
        f"{_npz_reason(error)}.") from error
  for name, array in flat.items():
    # numpy gives the bytes of a member that is no array.
    if not isinstance(array, np.ndarray):
      raise registry.ConfigError(f"{path}: {name} is no array.")
    # numpy knows no bfloat16 and writes it as two bytes of anything.
    if array.dtype == np.dtype("V2"):
      flat[name] = array = array.view("bfloat16")
    check_numbers(array, f"{path}: {name}")
  for name, array in _published_names(flat).items():
    if name.startswith(f"{PARAMS}/") and not _is_float(array):
      raise registry.ConfigError(
          f"{path}: {name} holds {array.dtype}; parameters are floating-point "
          "numbers.")
  return as_params(flat, path)


def as_params(flat: Mapping[str, Any], path: Path) -> dict[str, Any]:
  """Nested dicts {'params': …, 'state': …} of the arrays of a file by name.

  Args:
    flat: arrays by name; those that lack 'params/' or have an older name for
      it are parameters too.
    path: of the file, for messages.

  Raises:
    ConfigError: one name is both an array and a folder of arrays.
  """
  try:
    return tree.unflatten(_published_names(flat))
  except registry.ConfigError as error:
    raise registry.ConfigError(f"{path}: {error}") from error


def npz_shapes(path: Path) -> dict[str, tuple[int, ...]] | None:
  """The shapes of the arrays of a `.npz`, from their headers alone.

  Args:
    path: local.

  Returns:
    Shapes by the names that `load_npz` gives them; None: that will tell what
    is wrong with the file.
  """
  shapes = {}
  try:
    with zipfile.ZipFile(path) as archive:
      for name in archive.namelist():
        with archive.open(name) as member:
          shapes[name.removesuffix(".npy")] = _read_shape(member)
  # As many errors as in `load_npz`.
  except Exception:  # noqa: BLE001
    return None
  return _published_names(shapes)


def _read_shape(member: BinaryIO) -> tuple[int, ...]:
  version = npy_format.read_magic(member)
  shape, _, _ = _HEADER_READERS[version](member)
  return shape


_HEADER_READERS = {
    (1, 0): npy_format.read_array_header_1_0,
    (2, 0): npy_format.read_array_header_2_0,
}


def _check_table(file: BinaryIO) -> None:
  """Refuses arrays of one name, and a small file that would fill the memory.

  Parameters look random: compressed or not, they take about as much room on
  disk as in memory.
  """
  file.seek(0, os.SEEK_END)
  num_bytes = file.tell()
  file.seek(0)
  with zipfile.ZipFile(file) as archive:
    declared = sum(item.file_size for item in archive.infolist())
    # numpy leaves the ending out.
    names = [name.removesuffix(".npy") for name in archive.namelist()]
  file.seek(0)
  if not names:
    raise registry.ConfigError("it holds no array.")
  for name, count in collections.Counter(names).items():
    if count > 1:
      raise registry.ConfigError(f"it holds {count} arrays {name!r}.")
  if declared > _LARGEST_RATIO * num_bytes + _SMALL_BYTES:
    raise registry.ConfigError(
        f"its {num_bytes:,} bytes unpack to {declared:,}; parameters do not "
        f"shrink to less than 1 / {_LARGEST_RATIO}.")


# How many times larger than its file an .npz may be, and what is no matter.
_LARGEST_RATIO = 16
_SMALL_BYTES = 1 << 26


def _npz_reason(error: Exception) -> str:
  text = " ".join(str(error).split()) or type(error).__name__
  if "Header info length" in text:
    return "a header is too long"
  if "malformed node" in text:
    return "a header is damaged"
  # numpy advises a way to load them that would run what they hold.
  return "it holds Python objects" if "pickle" in text else text.rstrip(".")


def check_numbers(array: np.ndarray, where: str) -> None:
  """Raises a ConfigError for an array of anything but finite real numbers.

  Args:
    array: of any shape and dtype.
    where: starts the message; the file and the name of the array.
  """
  if array.dtype.kind not in "iub" and not _is_float(array):
    raise registry.ConfigError(
        f"{where} holds {array.dtype}; allowed: real numbers.")
  if _is_float(array) and not np.isfinite(array).all():
    num_bad = int(array.size - np.isfinite(array).sum())
    raise registry.ConfigError(
        f"{where} holds {num_bad:,} of {array.size:,} values that are NaN or "
        "infinite.")


def _is_float(array: np.ndarray) -> bool:
  # To numpy, bfloat16 is a type of another kind.
  return array.dtype.kind == "f" or array.dtype.name == "bfloat16"


def save_npz(path: Path, arrays: PyTree) -> None:
  """Writes a tree of arrays with slash-joined names.

  Args:
    path: where; an existing file is replaced only when the new is complete.
    arrays: {'params': …, 'state': …} in the published layout.
  """
  host_arrays = jax.device_get(arrays)
  flat = tree.flatten(host_arrays)
  replace_file(path, lambda file: np.savez(file, **flat))


def _published_names(flat: Mapping[str, Any]) -> dict[str, Any]:
  """Puts parameters below 'params/', where older files have other names."""
  state = {}
  old_params = {}
  others = {}
  for name, array in flat.items():
    if name.startswith(f"{STATE}/"):
      state[name] = array
    elif name.startswith(f"{_OLD_PARAMS}/"):
      old_params[name.removeprefix(f"{_OLD_PARAMS}/")] = array
    else:
      others[name] = array
  # Beside old parameters lies an optimizer, which nobody needs.
  params = old_params or others
  if any(name.startswith(f"{PARAMS}/") for name in params):
    return params | state
  named_params = {f"{PARAMS}/{name}": array for name, array in params.items()}
  return named_params | state
