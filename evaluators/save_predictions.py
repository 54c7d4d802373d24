"""Writes what the model predicts to files, to be looked at elsewhere."""

import os
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from evaluators import common
from uvim.registry import ConfigError


class Evaluator:
  """One file ID.npz per example, with every array predicted for it."""

  def __init__(self, predictions: Callable[[Any], Iterable[dict[str, Any]]],
               source: Any, *, save_dir: str | None = None):
    """Writes nothing yet.

    Args:
      predictions: `predictions(variables)` gives one dict of arrays for each
        example of the source; 'image/id' names the file (absent: its place).
      source: `.num_examples`.
      save_dir: folder for the files, made when it is not there. Files of an
        earlier run are replaced. Required.
    """
    if not save_dir:
      raise ConfigError("save_predictions: needs save_dir, the folder to write "
                        "to.")
    self._predictions = predictions
    self._source = source
    self._save_dir = pathlib.Path(save_dir)

  def run(self, variables: Any) -> Iterator[tuple[str, float]]:
    """Yields num_saved; process 0 writes."""
    count = 0
    predictions = common.numbered(
        self._predictions(variables), self._source.num_examples)
    for index, prediction in predictions:
      arrays = {k: v for k, v in prediction.items() if k != "image/id"}
      if jax.process_index() == 0:
        number = prediction.get("image/id", index)
        _save(self._save_dir / f"{number:012d}.npz", arrays)
      count += 1
    yield "num_saved", float(count)


def _save(path: pathlib.Path, arrays: dict[str, Any]) -> None:
  """Writes under another name first: a reader never sees half a file."""
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_suffix(".partial")
  with open(partial, "wb") as file:
    np.savez_compressed(file, **{k: _plain(k, v) for k, v in arrays.items()})
  os.replace(partial, path)


def _plain(name: str, value: Any) -> np.ndarray:
  """An array that NumPy's format holds without pickling."""
  array = np.asarray(value)
  if array.dtype.kind == "V":  # bfloat16, which the format does not know
    array = array.astype(np.float32)
  if array.dtype.hasobject:
    raise ValueError(f"save_predictions: {name!r} is no array of numbers.")
  return array
