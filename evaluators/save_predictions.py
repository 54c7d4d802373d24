"""Writes the predictions of a model to files, for other programs."""

import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from evaluators import base
from uvim import fields, files
from uvim.registry import ConfigError


class SavePredictions(base.Evaluator):
  """One file ID.npz per example, with every array predicted for it.

  The state is the number of examples. Their files are written at once, by
  `update`.
  """

  needs_truth = False
  checks = {"save_dir": fields.optional(fields.PATH)}

  def __init__(self, split: Any, *, save_dir: str | None = None):
    """Writes nothing yet.

    Args:
      split: see `base.Evaluator`.
      save_dir: folder for the files, made when it is not there. Files of an
        earlier run are replaced. Required.

    Raises:
      ConfigError: no save_dir.
    """
    super().__init__(split)
    if not save_dir:
      raise ConfigError("save_predictions: needs save_dir, the folder to write "
                        "to.")
    self._save_dir = pathlib.Path(save_dir)

  @classmethod
  def risks(cls, options: Mapping[str, Any]) -> list[str]:
    """See the base class."""
    return ["save_dir"] if options.get("save_dir") else []

  def initial(self) -> int:
    return 0

  def update(
      self,
      state: int,
      prediction: base.Prediction,
      truth: None,
  ) -> int:
    del truth
    # All processes have all predictions; one of them writes.
    if self.is_writer:
      arrays = {name: value for name, value in prediction.items()
                if name != "image/id"}
      # Zeros in front, so that files sort by id.
      file_name = f"{prediction['image/id']:012d}.npz"
      save_arrays(self._save_dir / file_name, arrays)
    return state + 1

  def merge(self, first: int, second: int) -> int:
    return first + second

  def result(self, state: int) -> dict[str, float]:
    return {"num_saved": float(state)}


def save_arrays(path: str | os.PathLike, arrays: Mapping[str, Any],
                write: Callable[..., Any] = np.savez_compressed) -> None:
  """Writes arrays to a .npz that is complete or, on an error, as it was.

  Args:
    path: of the file.
    arrays: name → numbers.
    write: how to write them: (open file, **arrays) → None.

  Raises:
    ValueError: a value that is no array of numbers.
  """
  plain = {name: _plain(name, value) for name, value in arrays.items()}
  # A crash midway must leave no half file.
  files.replace_file(path, lambda file: write(file, **plain))


def _plain(name: str, value: Any) -> np.ndarray:
  """An array that NumPy's format holds without pickling."""
  array = np.asarray(value)
  if array.dtype.kind == "V":  # bfloat16, which the format does not know.
    array = array.astype(np.float32)
  # Objects would be pickled, and reading a pickle can run foreign code.
  if array.dtype.hasobject:
    raise ValueError(f"save_predictions: {name!r} is no array of numbers.")
  return array
