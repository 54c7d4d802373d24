"""Arrays from `.safetensors` files, in which other projects publish weights.

The library checks that the header fits the file: offsets, sizes, types. This
code also checks that each name occurs once and can be printed.
"""

import json
import os
from typing import Any

import ml_dtypes
import numpy as np
from etils import epath

from uvim import files
from uvim.registry import ConfigError

# Names of types in such files.
_TYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000


def load(path: str | os.PathLike) -> dict[str, Any]:
  """The arrays of a file as {'params': {name: array}}.

  Args:
    path: local or gs://.

  Returns:
    float16 and bfloat16 come as float32, all other types as they are. Names
    with slashes become nested dicts, as everywhere.

  Raises:
    ConfigError: not readable, or arrays of anything but finite numbers.
  """
  # Not at the top: who trains from arrays need not have the library.
  import safetensors
  path = epath.Path(os.fspath(path))
  try:
    content = path.read_bytes()
    tensors = safetensors.deserialize(content)
    _check_names(content)
  # JSON nested too deep is a RecursionError.
  except (safetensors.SafetensorError, ValueError, RecursionError,
          OSError) as error:
    reason = " ".join(str(error).split()).rstrip(".")
    reason = reason.removeprefix("Error while deserializing: ")
    raise ConfigError(
        f"{path} is no readable .safetensors file: {reason}.") from error
  if not tensors:
    raise ConfigError(f"{path} holds no array.")
  arrays = {}
  for name, tensor in tensors:
    where = f"{path}: {name}"
    arrays[name] = _as_array(tensor, where)
    files.check_numbers(arrays[name], where)
  return files.as_params(arrays, path)


def read_notes(path: str | os.PathLike) -> dict[str, str]:
  """The texts that whoever wrote a file has put beside its arrays.

  Args:
    path: local or gs://. Only its header is read.

  Raises:
    ConfigError: the header is not readable.
  """
  path = epath.Path(os.fspath(path))
  try:
    with path.open("rb") as file:
      length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
      # The library allows no longer header either.
      header = json.loads(file.read(min(length, _MAX_HEADER_BYTES)))
      notes = header.get("__metadata__") or {}
      return {str(name): str(note) for name, note in notes.items()}
  except (ValueError, AttributeError, RecursionError, OSError) as error:
    raise ConfigError(
        f"{path} is no readable .safetensors file: its header is damaged."
    ) from error


def _check_names(content: bytes) -> None:
  """Refuses a name that occurs twice: one of its arrays would be lost.

  Raises:
    ValueError: such a name, or one that cannot be printed.
  """
  length = int.from_bytes(content[:_LENGTH_BYTES], "little")
  header = content[_LENGTH_BYTES:_LENGTH_BYTES + length]
  json.loads(header, object_pairs_hook=_distinct)


def _distinct(pairs):
  """A JSON object, if each of its names occurs once and can be printed."""
  names = {}
  for name, value in pairs:
    if name in names:
      raise ValueError(f"the name {name!r} occurs twice")
    if not name.isprintable() or not name:
      raise ValueError(f"the name {name!r} cannot be printed")
    names[name] = value
  return names


def _as_array(tensor, where) -> np.ndarray:
  dtype = _TYPES.get(tensor["dtype"])
  if dtype is None:
    raise ConfigError(f"{where} is of the type {tensor['dtype']}; allowed: "
                      f"{', '.join(_TYPES)}.")
  array = np.frombuffer(tensor["data"], dtype).reshape(tensor["shape"])
  if tensor["dtype"] in ("F16", "BF16"):
    return array.astype(np.float32)
  # A view of the file's bytes: read-only, and maybe not aligned in memory.
  return array
