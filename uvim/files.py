"""Parameters in the published layout: a `.npz` with slash-joined names.

Nothing here reads or writes pickles.
"""

import os
import zipfile
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from uvim import registry, tree
from uvim.typing import PyTree

# The published names of the dictionary (uvim.codes.vq.Codebook).
CODEBOOK = "state"


def load(path: str | os.PathLike) -> dict[str, Any]:
  """Nested dicts of numpy arrays, {'params': …, 'state': …}.

  Args:
    path: local or gs://. The arrays of an older file may lack 'params/' or lie
      below 'opt/target/'.

  Raises:
    ConfigError: not readable, or arrays that need pickle.
  """
  path = epath.Path(os.fspath(path))
  try:
    with path.open("rb") as f:
      # An NpzFile is a mapping; anything else np.load gives is not.
      flat = dict(np.load(f, allow_pickle=False).items())
  except (zipfile.BadZipFile, EOFError, AttributeError, OSError, ValueError,
          RuntimeError) as e:
    raise registry.ConfigError(
        f"{path} is not a readable .npz of plain arrays: {e}.") from e
  # numpy knows no bfloat16 and writes it as two bytes of anything.
  flat = {name: x.view("bfloat16") if x.dtype == np.dtype("V2") else x
          for name, x in flat.items()}
  return tree.unflatten(_published_names(flat))


def save(path: str | os.PathLike, arrays: PyTree) -> None:
  """Writes a tree of arrays, atomically.

  Args:
    path: where; an existing file is replaced only when the new is complete.
    arrays: {'params': …, 'state': …} in the published layout.
  """
  path = epath.Path(os.fspath(path))
  flat = tree.flatten(jax.device_get(arrays))
  temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
  try:
    with temporary.open("wb") as f:
      np.savez(f, **flat)
    temporary.replace(path)
  finally:
    temporary.unlink(missing_ok=True)


def _published_names(flat: Mapping[str, Any]) -> dict[str, Any]:
  """Below 'params/', where older files have nothing or flax's optimizer."""
  state = {k: x for k, x in flat.items() if k.startswith(f"{CODEBOOK}/")}
  params = {k.removeprefix("opt/target/"): x for k, x in flat.items()
            if k.startswith("opt/target/")} or flat
  if any(k.startswith("params/") for k in params):
    return params | state
  return {f"params/{k}": x for k, x in params.items() if k not in state} | state
